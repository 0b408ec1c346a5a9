"""Saving, loading and publishing: the code that a repository carries, parts that are saved by reference, dtypes,
private memories, and the pre-trained parts that a model is put together from, also those that an earlier stage saved.

Models mix these in. Nothing here computes with a model; `vision_encoder` alone imports models, to load them.
"""
