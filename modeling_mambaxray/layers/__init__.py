"""Bricks that several systems share.

`disease_queries` has learned queries, one per disease, that attend to visual tokens (AM-MRG's Q-Former, the
disease-aware tokens of the dual-stage system); `hopfield` recalls from a bank of memories in the graph; `study_memory`
is such a bank as an artefact in a folder of its own, of training studies only, `study_memories` gives a model several
of them by name, and `unattributed_memory` is one of studies that nobody can name; `exemplar_retriever` finds the
nearest studies of one, by what `retrieval_keys` makes of them; `disease_visual_fusion` makes one token of diseases and
image; `report_encoder` turns reports into vectors; `views` encodes the views of a study, `pixel_shape` checks an
encoder's input, `state_space` starts its scans, `frozen_parts` keeps parts as they are used; `hybrid_attention` adds
cross-attention to a decoder's layers, `contrastive` compares studies and reports over all processes.

Of the report generator, `given_inputs` checks what a study hands it, `image_features` is what a system makes of a
study, `image_placeholders` puts that into a prompt, `decoder_interface` says what a decoder takes and `decoder_head`
what its head may be, `weighted_losses` and `model_outputs` are what comes out.

A brick knows nothing of the systems that use it, and imports other bricks, `ops` and `hub` only.
"""
