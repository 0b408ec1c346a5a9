"""Reports for many studies at once: batches of studies, continuous generation with its searches and its cache, and the
`image-to-text` pipeline.

It calls a model through the interface of the report generator and imports no model; models import the pipeline from it.
"""
