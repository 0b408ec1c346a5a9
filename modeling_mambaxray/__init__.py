"""Models, one `modeling_<family>.py` per family, and nothing else at this level.

What they are made of lies below: `layers/` (bricks that families share), `ops/` (kernels), `generation/` (reports for
many studies at once) and `hub/` (saving, loading and publishing). This package imports `configuration` only; everything
to the right of it in design order (processing, data, evaluation, train) may import it.
"""
