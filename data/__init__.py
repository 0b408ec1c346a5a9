"""Data sets in one schema.

`schema` is what every study looks like. Readers turn a data set into it (`annotation_json`, `chexpert_plus`, `iu_xray`,
`mimic_cxr`), `prepare` writes it to a folder and `prepared` reads that, `studies` loads whatever names studies, and
`phantoms` draws studies. Imports `processing` and below; `evaluation`, `train` and the command line import it.
"""
