"""Saving, loading and publishing: the code that a repository carries, parts that are saved by reference, dtypes and
private memories.

Models and bricks mix these in. Nothing here computes with a model or imports one.
"""
