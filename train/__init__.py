"""Collators, training stages and checkpoint conversion."""
