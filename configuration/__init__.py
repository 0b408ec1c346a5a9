"""Model configurations: plain data, one file per family.

The package by itself loads nothing, so that data sets take from it what they share with models (`observations`,
`study_inputs`) without transformers.
"""
