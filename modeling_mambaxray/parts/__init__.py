"""The pre-trained parts that a model is put together from: building around them, and loading them from wherever an
earlier stage left them.

Models build themselves with these. `vision_encoder` imports the models of earlier stages, to load them.
"""
