"""What a model writes for many studies, and what that is worth.

`evaluate_model` writes and scores the reports of a data set; `scoring` computes the metrics (`caption_metrics`,
`clinical` on the findings of `labeler`, `radeval_metrics`), `statistics` their intervals, `honesty` and `baselines`
what they hide, `comparison` the difference of two systems, `published` the papers' numbers, `attention` where a model
looks. `pages/` shows all of it. Imports `data` and below; `train` and the command line import it.
"""
