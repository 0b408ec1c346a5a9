"""Bricks that several systems share.

`disease_queries` has learned queries, one per disease, that attend to visual tokens (AM-MRG's Q-Former, the
disease-aware tokens of the dual-stage system); `hopfield` recalls from a bank of memories in the graph; `study_memory`
is such a bank as an artefact in a folder of its own, of training studies only, `study_memories` gives a model several
of them by name, and `unattributed_memory` is one of studies that nobody can name; `exemplar_retriever` finds the nearest
studies of one; `report_encoder` turns reports into vectors; `views` encodes the views of a study, `pixel_shape` checks
an encoder's input, `hybrid_attention` adds cross-attention to a decoder's layers, `contrastive` compares studies and
reports over all processes, and `image_features` is what a system makes of a study. A brick knows nothing of the systems
that use it, and imports `ops` and other bricks only.
"""
