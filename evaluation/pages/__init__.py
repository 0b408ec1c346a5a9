"""The HTML pages that people look at: what a model wrote, what it scored, where it looked.

Each page is one self-contained file without scripts, rendered by `rendering` from a Jinja template in `templates/`
(autoescape is on: every text is data, whatever it holds). `report_page`, `evaluation_page`, `attention_page` and
`table_page` are the pages; `scores`, `studies`, `marks` and `charts` prepare the parts that they share, and
`patch_predictions` draws what a pre-training model sees and predicts. Imports `evaluation` and the folders below it;
`train` and the command line import it, the rest of `evaluation` does not.
"""
