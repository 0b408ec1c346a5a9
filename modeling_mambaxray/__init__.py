"""Models, one `modeling_<family>.py` per family, and nothing else at this level.

What they are made of lies below: `ops/` (kernels), `hub/` (saving and publishing), `layers/` (bricks that families
share), `generation/` (writing reports), each of which imports from those before it only, and `parts/` (the pre-trained
parts that a model is put together from, models of earlier stages among them). This package imports `configuration`
only; everything to the right of it in design order (processing, data, evaluation, train) may import it.
"""
