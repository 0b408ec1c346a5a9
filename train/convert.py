"""The authors' released checkpoints in our parameter names.

The key lists come from the released code's state_dict (MambaXray-VL, `models_mamba.py` and
`MambaXrayVL_DownStream.py`; EMRRG, `hybrid_decoder_layer.py`; VMamba, `vmamba.py`).
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from ..configuration.families import families_by_checkpoint, load
from ..modeling_mambaxray.layers.disease_queries import qformer_key

_DIRECTION_SUFFIXES = ("", "_b", "_c", "_c_b")

_ENCODER_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.(weight|bias)$", r"embeddings.patch_embeddings.\1"),
    (r"^norm_f\.(weight|bias)$", r"norm.\1"),
    (r"^layers\.(\d+)\.(norm[12]\.(?:weight|bias))$", r"layers.\1.\2"),
    (r"^layers\.(\d+)\.mixer\.(in_proj|out_proj)\.weight$", r"layers.\1.mixer.\2.weight"),
    (r"^layers\.(\d+)\.mlp\.w1\.(weight|bias)$", r"layers.\1.mlp.gate_proj.\2"),
    (r"^layers\.(\d+)\.mlp\.w2\.(weight|bias)$", r"layers.\1.mlp.up_proj.\2"),
    (r"^layers\.(\d+)\.mlp\.w3\.(weight|bias)$", r"layers.\1.mlp.down_proj.\2"),
    *(
        rename
        for k, s in enumerate(_DIRECTION_SUFFIXES)
        for rename in (
            (rf"^layers\.(\d+)\.mixer\.A{s}_log$", rf"layers.\1.mixer.directions.{k}.A_log"),
            (rf"^layers\.(\d+)\.mixer\.D{s}$", rf"layers.\1.mixer.directions.{k}.D"),
            (
                rf"^layers\.(\d+)\.mixer\.(conv1d|x_proj|dt_proj){s}\.(weight|bias)$",
                rf"layers.\1.mixer.directions.{k}.\2.\3",
            ),
        )
    ),
)
_PRETRAINING_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^pos_embed$", "position_embeddings"),
    (r"^dec_pos_embed$", "decoder_position_embeddings"),
    (r"^patch_embed\.proj\.(weight|bias)$", r"patch_embeddings.\1"),
    (r"^ar_token$", "query_token"),
    (r"^enc2dec\.(weight|bias)$", r"encoder_to_decoder.\1"),
    *((rf"^norm_{i + 1}\.(weight|bias)$", rf"feature_norms.{i}.\1") for i in range(4)),
    (r"^ar_norm\.(weight|bias)$", r"decoder_norm.\1"),
    (r"^ar_pred\.(weight|bias)$", r"prediction_head.\1"),
    (r"^dec_block\.(\d+)\.attn2\.q\.(weight|bias)$", r"decoder_layers.\1.attention.q_proj.\2"),
    (r"^dec_block\.(\d+)\.attn2\.kv\.(weight|bias)$", r"decoder_layers.\1.attention.kv_proj.\2"),
    (r"^dec_block\.(\d+)\.attn2\.proj\.(weight|bias)$", r"decoder_layers.\1.attention.out_proj.\2"),
    (r"^dec_block\.(\d+)\.norm2_1\.(weight|bias)$", r"decoder_layers.\1.query_norm.\2"),
    (r"^dec_block\.(\d+)\.norm2_2\.(weight|bias)$", r"decoder_layers.\1.feature_norm.\2"),
    (r"^dec_block\.(\d+)\.norm2\.(weight|bias)$", r"decoder_layers.\1.mlp_norm.\2"),
    (r"^dec_block\.(\d+)\.mlp\.(fc[12])\.(weight|bias)$", r"decoder_layers.\1.\2.\3"),
)
# VMamba's classification checkpoints of all public versions (`classification/models/vmamba.py`); the oldest ones say
# `proj`, `ln_1`, `self_attention` and `norm`.
_VMAMBA_BLOCK = r"^layers\.(\d+)\.blocks\.(\d+)\."
_SS2D = r"(?:op|self_attention)\."
_VMAMBA_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^patch_embed\.(?:0|proj)\.(weight|bias)$", r"embeddings.0.\1"),
    (r"^patch_embed\.(?:2|norm)\.(weight|bias)$", r"embeddings.1.\1"),
    (r"^patch_embed\.5\.(weight|bias)$", r"embeddings.3.\1"),
    (r"^patch_embed\.7\.(weight|bias)$", r"embeddings.4.\1"),
    (rf"{_VMAMBA_BLOCK}(?:norm|ln_1)\.(weight|bias)$", r"stages.\1.layers.\2.norm1.\3"),
    (rf"{_VMAMBA_BLOCK}norm2\.(weight|bias)$", r"stages.\1.layers.\2.norm2.\3"),
    (rf"{_VMAMBA_BLOCK}mlp\.(fc[12])\.(weight|bias)$", r"stages.\1.layers.\2.mlp.\3.\4"),
    (rf"{_VMAMBA_BLOCK}{_SS2D}(in_proj|conv2d|out_proj)\.(weight|bias)$", r"stages.\1.layers.\2.mixer.\3.\4"),
    (rf"{_VMAMBA_BLOCK}{_SS2D}out_norm\.(weight|bias)$", r"stages.\1.layers.\2.mixer.norm.\3"),
    (rf"{_VMAMBA_BLOCK}{_SS2D}x_proj_weight$", r"stages.\1.layers.\2.mixer.x_proj_weight"),
    (rf"{_VMAMBA_BLOCK}{_SS2D}dt_projs_(weight|bias)$", r"stages.\1.layers.\2.mixer.dt_proj_\3"),
    (rf"{_VMAMBA_BLOCK}{_SS2D}A_logs$", r"stages.\1.layers.\2.mixer.A_log"),
    (rf"{_VMAMBA_BLOCK}{_SS2D}Ds$", r"stages.\1.layers.\2.mixer.D"),
    (r"^layers\.(\d+)\.downsample\.1\.(weight|bias)$", r"stages.\1.downsample.0.\2"),
    (r"^layers\.(\d+)\.downsample\.3\.(weight|bias)$", r"stages.\1.downsample.1.\2"),
    (r"^layers\.(\d+)\.downsample\.(reduction|norm)\.(weight|bias)$", r"stages.\1.downsample.\2.\3"),
    (r"^(?:classifier\.)?norm\.(weight|bias)$", r"norm.\1"),
)
_CONTRASTIVE_PREFIXES = {
    "text_encoder.": "text_encoder.",
    "vision_proj.": "visual_projection.",
    "text_proj.": "text_projection.",
    "logit_scale": "logit_scale",
}
_DOWNSTREAM_PREFIXES = {
    "llama_proj.": "projector.",
    "layer_norm.": "layer_norm.",
    "llama_model.": "language_model.",
}
_HOPFIELD_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^association_core\.([qkv])_proj_(weight|bias)$", r"\1_proj.\2"),
    (r"^association_core\.out_proj\.(weight|bias)$", r"out_proj.\1"),
    (r"^norm_state_pattern\.(weight|bias)$", r"state_norm.\1"),
    (r"^norm_stored_pattern\.(weight|bias)$", r"key_norm.\1"),
    (r"^norm_pattern_projection\.(weight|bias)$", r"value_norm.\1"),
)
_AMMRG_PREFIXES = {
    "Qformer_proj.": "qformer_projection.",
    "output_proj.": "output_projection.",
    "HopfieldLayers.hopfield.": "associations.visual.",
    "R_HopfieldLayers.hopfield.": "associations.report.",
}
_CROSS_ATTENTION_RENAMES = tuple(
    (rf"^llama_model\.model\.layers\.(\d+)\.self_attn\.cross_attn_{theirs}$", rf"cross_attention.layers.\1.{ours}")
    for theirs, ours in (
        (r"kv_proj\.(weight|bias)", r"kv_proj.\2"),
        (r"gate_proj\.0\.(weight|bias)", r"gate.\2"),
        (r"warm_up_gate", "gate.warm_up"),
    )
)


def vision_mamba_key(official: str) -> str | None:
    """Our name of a vision Mamba parameter, or None when the official name is not one of the encoder's."""
    return _rename(official, _ENCODER_RENAMES)


def vmamba_key(official: str) -> str | None:
    """Our name of a VMamba parameter, or None when the official name is not one of the encoder's."""
    return _rename(official, _VMAMBA_RENAMES)


def pretraining_key(official: str) -> str | None:
    """Our name of a parameter of stage 1, or None when the official name is unknown."""
    layer = vision_mamba_key(official) if official.startswith("layers.") else None
    return layer or _rename(official, _PRETRAINING_RENAMES)


def contrastive_key(official: str) -> str | None:
    """Our name of a dual encoder's parameter (stage 2), or None when the official name is unknown."""
    return _key_of_parts(official, _CONTRASTIVE_PREFIXES)


def downstream_key(official: str) -> str | None:
    """Our name of a report generator's parameter (stage 3), or None when the official name is unknown."""
    return _key_of_parts(official, _DOWNSTREAM_PREFIXES)


def convert_hopfield(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `Hopfield` of hflayers (AM-MRG's memories) as those of a `HopfieldAssociation`.

    Args:
        weights: by their names within the module, such as `association_core.q_proj_weight`. What else a `HopfieldLayer`
            has, the memories (`lookup_weights`), is not part of it.

    Raises:
        ValueError: a name is unknown.
    """
    converted = {
        _rename(name, _HOPFIELD_RENAMES): (name, weight) for name, weight in _with_split_biases(weights).items()
    }
    if None in converted:
        raise ValueError(f"{converted[None][0]} is not a weight of a Hopfield association")
    return {key: weight for key, (_, weight) in converted.items() if key is not None}


def _with_split_biases(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The biases of queries, keys and values of a `Hopfield` each by itself, as their weights are."""
    split: dict[str, Tensor] = {}
    for name, weight in weights.items():
        core, separator, last = name.rpartition("association_core.")
        if separator and last == "in_proj_bias":
            names = [f"{core}{separator}{part}_proj_" for part in "qkv"]
            if missing := [f"{part}weight" for part in names if f"{part}weight" not in weights]:
                raise ValueError(f"{name} is there without {', '.join(missing)}")
            biases = weight.split([len(weights[f"{part}weight"]) for part in names])
            split |= {f"{part}bias": bias for part, bias in zip(names, biases, strict=True)}
        else:
            split[name] = weight
    return split


def ammrg_key(official: str) -> str | None:
    """Our name of a parameter of AM-MRG's stage 2, or None when the official name is unknown."""
    if official == "disease_tokens":
        return "disease_queries.queries"
    if official.startswith("Qformer.bert."):
        key = qformer_key(official)
        return None if key is None else f"disease_queries.qformer.{key}"
    for prefix, ours in _AMMRG_PREFIXES.items():
        if official.startswith(prefix):
            rest = official.removeprefix(prefix)
            key = _rename(rest, _HOPFIELD_RENAMES) if ours.startswith("associations.") else rest
            return None if key is None else ours + key
    return downstream_key(official)


def emrrg_key(official: str) -> str | None:
    """Our name of a parameter of EMRRG, or None when the official name is unknown."""
    return _rename(official, _CROSS_ATTENTION_RENAMES) or downstream_key(official)


def _key_of_parts(official: str, prefixes: Mapping[str, str]) -> str | None:
    if official.startswith("visual_encoder."):
        key = vision_mamba_key(official.removeprefix("visual_encoder."))
        return None if key is None else f"vision_encoder.{key}"
    for prefix, ours in prefixes.items():
        if official.startswith(prefix):
            return ours + official.removeprefix(prefix)
    return None


def _rename(official: str, renames: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in renames:
        renamed, count = re.subn(pattern, replacement, official)
        if count:
            return renamed
    return None


def convert_state_dict(state_dict: Mapping[str, Tensor], stage: str) -> dict[str, Tensor]:
    """Renames an official state dict.

    Args:
        state_dict: parameters under their official names.
        stage: `"encoder"` (the vision Mamba alone), `"pretrain"` (stage 1), `"contrastive"` (stage 2), `"downstream"`
            (stage 3: encoder, projection, decoder), `"emrrg"` (stage 3 with hybrid layers), `"ammrg"` (AM-MRG's stage
            2), `"vmamba"` (VMamba's classification checkpoints, of which the head is left out), or the `checkpoint` of
            another family.

    Raises:
        ValueError: the stage or some keys are unknown; the message lists them.
    """
    key_map: Callable[[str], str | None] = vision_mamba_key
    left_out = None
    if stage != "encoder":
        known = families_by_checkpoint()
        if stage not in known:
            raise ValueError(f"unknown stage {stage!r}; choose from {', '.join(['encoder', *known])}")
        key_map, left_out = load(known[stage].key_map or ""), known[stage].left_out
    state_dict = _with_split_biases(state_dict)
    keys = {
        official: key_map(official) for official in state_dict if left_out is None or not re.match(left_out, official)
    }
    unknown = [official for official, ours in keys.items() if ours is None]
    if unknown:
        raise ValueError(f"{len(unknown)} keys are not those of stage {stage!r}: {', '.join(unknown)}")
    converted = {ours: state_dict[official] for official, ours in keys.items() if ours is not None}
    if "disease_queries.queries" in converted:
        # Ours have no axis for the batch.
        converted["disease_queries.queries"] = converted["disease_queries.queries"].squeeze(0)
    if "logit_scale" in converted:
        # A scalar there; sharded training (FSDP2) takes no parameters without a dimension.
        converted["logit_scale"] = converted["logit_scale"].reshape(1)
    return converted


__all__ = [
    "ammrg_key",
    "contrastive_key",
    "convert_hopfield",
    "convert_state_dict",
    "downstream_key",
    "emrrg_key",
    "pretraining_key",
    "vision_mamba_key",
    "vmamba_key",
]
