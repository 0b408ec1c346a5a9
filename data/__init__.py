"""Data sets in one schema, and the phantom data set."""
