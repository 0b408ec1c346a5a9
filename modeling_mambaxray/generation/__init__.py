"""Writing reports: what is the report generator's own in `generate`, batches of studies, continuous generation with its
searches and its cache, and the `image-to-text` pipeline.

It calls a model through the interface of the report generator and imports no model; models import from it what they
generate with, and the pipeline.
"""
