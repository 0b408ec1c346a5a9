"""From a checkpoint file that the authors released to a folder that `from_pretrained` loads.

Sizes are read off the weights. What they do not determine (number of heads, tokenizer, the frozen language model)
comes from the model that the stage was trained with.
"""

import argparse
import logging
import math
import pathlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    VisionTextDualEncoderProcessor,
)

from ..configuration.configuration_mambaxray_dual_encoder import MambaXrayDualEncoderConfig
from ..configuration.configuration_mambaxray_pretraining import MambaXrayPreTrainingConfig
from ..configuration.configuration_vision_mamba import VisionMambaConfig
from ..configuration.configuration_vmamba import VMambaConfig
from ..configuration.families import Family, families_by_checkpoint
from ..configuration.sub_configs import configuration_fields
from ..data.whole_file import require_free_folder
from ..modeling_mambaxray.layers.study_memories import StudyMemoriesMixin
from ..modeling_mambaxray.layers.unattributed_memory import UnattributedMemory
from ..modeling_mambaxray.modeling_mambaxray import MambaXrayForConditionalGeneration
from ..modeling_mambaxray.modeling_mambaxray_dual_encoder import MambaXrayDualEncoder
from ..modeling_mambaxray.modeling_mambaxray_pretraining import MambaXrayForPreTraining
from ..modeling_mambaxray.modeling_vision_mamba import VisionMambaModel
from ..modeling_mambaxray.modeling_vmamba import VMambaModel
from ..modeling_mambaxray.parts.vision_encoder import load_vision_encoder
from ..processing.image_processing_mambaxray import MambaXrayImageProcessor
from .convert import convert_state_dict
from .released_memories import read_pickled_memory

_logger = logging.getLogger(__name__)
# The stages of this package, and what the authors call their checkpoints.
_STAGES = {"contrast": "contrastive", "finetune": "downstream"}

# What the authors' files hold besides tensors and plain data: the settings of the run. A plain dict stands in for
# Lightning's and yacs', whose packages are not needed to read it.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    OrderedDict,
    pathlib.PosixPath,
    *(
        (OrderedDict, name)
        for name in (
            "pytorch_lightning.utilities.parsing.AttributeDict",
            "lightning_fabric.utilities.data.AttributeDict",
            "lightning.pytorch.utilities.parsing.AttributeDict",
            "lightning.fabric.utilities.data.AttributeDict",
            "yacs.config.CfgNode",
        )
    ),
]


class CheckpointError(ValueError):
    """A checkpoint that is not what its stage's checkpoints are."""


def read_checkpoint(file: str | Path) -> dict[str, Tensor]:
    """The weights in a file of the authors, `{"model": weights, …}`, or in one of weights alone.

    Nothing in the file is run: only tensors, plain data and settings are read.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is not a checkpoint, or holds objects that could run code.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is absent; give the checkpoint's file")
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is not a checkpoint makes torch's reader fail in any way
        # torch's own message advises to read it without this care.
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it holds {foreign[1]}, which could run code"
            if foreign
            else f"torch can't read it ({type(error).__name__})"
        )
        raise CheckpointError(f"{file} is refused: {reason}") from error
    weights = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(w, Tensor) for w in weights.values()):
        raise CheckpointError(f"{file} holds no weights: expected a dict of tensors, or one under 'model'")
    return dict(weights)


def convert_checkpoint(
    checkpoint: str | Path,
    stage: str,
    output: str | Path,
    *,
    text_model: str | None = None,
    vision_encoder: str | None = None,
    options: Mapping[str, Any] | None = None,
    memories: Mapping[str, str | Path] | None = None,
) -> PreTrainedModel:
    """Writes a released checkpoint as a model folder, with the processors that go with it.

    Args:
        checkpoint: the authors' file.
        stage: the stage that left it, `"pretrain"`, `"contrast"` or `"finetune"` (the authors' names for the last two,
            `"contrastive"` and `"downstream"`, do as well, and so does the `checkpoint` of any family); or `"emrrg"`,
            of which the hybrid layers are taken. Its adapters are not, nor biases that its language model's family does
            not have, and a warning says so: the released code computes with them what no other code does, so the
            result can be trained further. `"ammrg"` is AM-MRG's stage 2. `"vmamba"` is a classification checkpoint of
            VMamba's authors, of which the encoder is taken.
        output: folder for the model.
        text_model: folder or Hub id of the text encoder (contrast) or language model (finetune, emrrg, ammrg) that the
            stage was trained with. Needed for the latter, whose files hold neither the language model nor its
            tokenizer; the saved model refers to it and does not copy it;
            without it the contrast stage's text encoder is taken for a BERT with 64 channels per head, and no
            tokenizer is written.
        vision_encoder: for a finetune, emrrg or ammrg checkpoint whose vision encoder was frozen, and so is not in the
            file: the folder or Hub id of that encoder, such as a converted contrast checkpoint.
        options: fields of a report generator's configuration that the weights do not tell, where they are not the
            released ones, such as `query_attention_heads` of an ammrg checkpoint.
        memories: for systems that look up memories, the authors' pickled arrays by name (`visual`, `report`), see
            `read_pickled_memory`. They do not say which studies they are of, and a warning says so; without them the
            model needs memories (`mambaxray memory build`) before it writes reports.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: keys are unknown or missing, with a list of them, or shapes do not fit.
        FileNotFoundError: there is no such file.
        PickledMemoryError: a memory's file holds anything else than arrays of numbers.
        ValueError: the stage is unknown, or something is needed or of no use.
    """
    known = families_by_checkpoint()
    kind = _STAGES.get(stage, stage)
    if kind not in known:
        names = {kind: stage for stage, kind in _STAGES.items()}
        raise ValueError(f"unknown stage {stage!r}; choose from {', '.join(names.get(name, name) for name in known)}")
    family = known[kind]
    is_generator = family.stage == "finetune"
    if vision_encoder is not None and not is_generator:
        raise ValueError(f"a checkpoint of stage {stage!r} holds its own vision encoder; leave vision_encoder out")
    if text_model is not None and family.processor is None:
        raise ValueError(f"a checkpoint of stage {stage!r} knows no text; leave text_model out")
    if (options or memories) and not is_generator:
        raise ValueError(f"a checkpoint of stage {stage!r} takes no options and no memories")
    if text_model is None and is_generator:
        raise ValueError(
            f"a checkpoint of stage {stage!r} does not hold its language model: give the folder or Hub id as "
            "text_model (--text-model)"
        )
    output = Path(output)
    require_free_folder(output)
    official = read_checkpoint(checkpoint)
    try:
        weights = convert_state_dict(official, kind)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    if stage == "pretrain":
        model: PreTrainedModel = MambaXrayForPreTraining(_pretraining_config(weights, checkpoint))
        _load(model, weights, checkpoint)
        image_size = model.config.image_size
    elif kind == "vmamba":
        model = VMambaModel(_vmamba_config(weights, checkpoint))
        _load(model, weights, checkpoint)
        image_size = model.config.image_size
    elif kind == "contrastive":
        text_config = (
            _bert_config(weights, checkpoint) if text_model is None else AutoConfig.from_pretrained(text_model)
        )
        width = _shape(weights, "visual_projection.weight", checkpoint)[0]
        vision_config = _vision_config(weights, "vision_encoder.", checkpoint)
        model = MambaXrayDualEncoder(MambaXrayDualEncoderConfig(vision_config, text_config, projection_dim=width))
        _load(model, weights, checkpoint)
        image_size = vision_config.image_size
    else:
        _warn_of_what_is_lost(official, checkpoint)
        model = _report_generator(family, weights, checkpoint, str(text_model), vision_encoder, options or {})
        _add_memories(model, memories or {})
        image_size = model.config.vision_config.image_size
    image_processor = MambaXrayImageProcessor(size={"height": image_size, "width": image_size})
    if is_generator:
        tokenizer = AutoTokenizer.from_pretrained(text_model)
        processor = family.processor_class(image_processor, tokenizer, num_image_tokens=model.config.num_image_tokens)
        model.config.image_token_id = processor.image_token_id
        processor.save_pretrained(output)
    elif text_model is not None:
        tokenizer = AutoTokenizer.from_pretrained(text_model)
        VisionTextDualEncoderProcessor(image_processor, tokenizer).save_pretrained(output)
    else:
        image_processor.save_pretrained(output)
    model.eval().save_pretrained(output)
    return model


def _report_generator(
    family: Family,
    weights: dict[str, Tensor],
    checkpoint: str | Path,
    text_model: str,
    vision_encoder: str | None,
    chosen: Mapping[str, Any],
) -> MambaXrayForConditionalGeneration:
    has_encoder = any(name.startswith("vision_encoder.") for name in weights)
    if has_encoder == (vision_encoder is not None):
        raise ValueError(
            f"{checkpoint} holds a vision encoder of its own; leave vision_encoder out"
            if has_encoder
            else f"the vision encoder of {checkpoint} was frozen and is not in the file: give its folder or Hub id as "
            "vision_encoder, such as the converted contrastive checkpoint"
        )
    encoder = (
        VisionMambaModel(_vision_config(weights, "vision_encoder.", checkpoint))
        if vision_encoder is None
        else load_vision_encoder(vision_encoder)
    )
    if unknown := sorted(chosen.keys() - configuration_fields(family.config_class)):
        raise ValueError(f"{family.config_class.model_type} has no field {', '.join(unknown)}")
    try:
        model_class, options = family.model_class.for_released_weights(weights)
    except KeyError as error:
        raise CheckpointError(f"{checkpoint} lacks 1 weights: {error.args[0]}") from error
    model = model_class.from_encoder_decoder_pretrained(encoder, text_model, **options | dict(chosen))
    weights = {name: w for name, w in weights.items() if not _is_foreign_bias(name, model)}
    frozen = [] if has_encoder else ["vision_encoder."]
    # Layers of a language model that were changed were trained, and are in the file; the others were not.
    if model_class is not MambaXrayForConditionalGeneration or not any(
        name.startswith("language_model.") for name in weights
    ):
        frozen.append("language_model.")
    _load(model, weights, checkpoint, tuple(frozen))
    if "language_model." in frozen:
        # Its licence may forbid to pass it on: the saved model refers to where it came from.
        model.freeze_language_model()
    return model


def _add_memories(model: MambaXrayForConditionalGeneration, files: Mapping[str, str | Path]) -> None:
    if files and not isinstance(model, StudyMemoriesMixin):
        raise ValueError(f"{type(model).__name__} looks up no memories; leave {', '.join(files)} out")
    if files:
        memories = {name: UnattributedMemory(read_pickled_memory(file), str(file)) for name, file in files.items()}
        model.set_unattributed_memories(memories)
    elif names := ", ".join(model.memory_vectors):
        _logger.warning("the checkpoint holds no memories: before it writes reports, the model needs %s", names)


def _warn_of_what_is_lost(official: Mapping[str, Tensor], checkpoint: str | Path) -> None:
    if any(".mixer.lora_X." in name for name in official):
        _logger.warning(
            "%s holds adapters that the released code adds to the output of the last block's mixer, in every block; "
            "they are left out, so reports will not be the authors'",
            checkpoint,
        )


def _is_foreign_bias(name: str, model: PreTrainedModel) -> bool:
    """Whether this is a bias that the released hybrid layers have and the language model's family has not."""
    is_foreign = re.search(r"\.self_attn\.[qkv]_proj\.bias$", name) is not None and name not in model.state_dict()
    if is_foreign:
        _logger.warning("%s is left out: a %s model has no such bias", name, model.config.text_config.model_type)
    return is_foreign


def _load(
    model: PreTrainedModel, weights: dict[str, Tensor], checkpoint: str | Path, frozen: tuple[str, ...] = ()
) -> None:
    """Puts the weights into the model, all of them and nothing less, but for parts that were frozen."""
    expected = model.state_dict()
    missing = [name for name in expected if name not in weights and not (frozen and name.startswith(frozen))]
    if missing:
        raise CheckpointError(f"{checkpoint} lacks {len(missing)} weights: {', '.join(missing)}")
    unknown = [name for name in weights if name not in expected]
    if unknown:
        raise CheckpointError(f"{checkpoint} holds {len(unknown)} weights that do not belong: {', '.join(unknown)}")
    wrong = [
        f"{name} {tuple(weight.shape)}, not {tuple(expected[name].shape)}"
        for name, weight in weights.items()
        if weight.shape != expected[name].shape
    ]
    if wrong:
        raise CheckpointError(f"{checkpoint} holds {len(wrong)} weights of other shapes: {'; '.join(wrong)}")
    model.load_state_dict(weights, strict=False)


def _shape(weights: Mapping[str, Tensor], name: str, checkpoint: str | Path) -> torch.Size:
    if name not in weights:
        raise CheckpointError(f"{checkpoint} lacks 1 weights: {name}")
    return weights[name].shape


def _encoder_sizes(
    weights: Mapping[str, Tensor], prefix: str, patches: str, num_patches: int, checkpoint: str | Path
) -> dict[str, Any]:
    """The fields of a `VisionMambaConfig` that follow from the weights."""
    hidden, channels, patch, _ = _shape(weights, f"{prefix}{patches}.weight", checkpoint)
    layer = f"{prefix}layers.0."
    direction = f"{layer}mixer.directions.0."
    grid = math.isqrt(num_patches)
    if grid**2 != num_patches:
        raise CheckpointError(f"{checkpoint} has positions for {num_patches} patches, which do not form a square")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": _count(weights, f"{prefix}layers."),
        "intermediate_size": _shape(weights, f"{layer}mlp.gate_proj.weight", checkpoint)[0],
        "image_size": grid * patch,
        "patch_size": patch,
        "num_channels": channels,
        "state_size": _shape(weights, f"{direction}A_log", checkpoint)[1],
        "conv_kernel": _shape(weights, f"{direction}conv1d.weight", checkpoint)[2],
        "time_step_rank": _shape(weights, f"{direction}dt_proj.weight", checkpoint)[1],
    }


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules there are below a prefix."""
    return 1 + max(
        (int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix)), default=-1
    )


def _vision_config(weights: Mapping[str, Tensor], prefix: str, checkpoint: str | Path) -> VisionMambaConfig:
    num_patches = _shape(weights, f"{prefix}embeddings.position_embeddings", checkpoint)[1] - 1
    patches = "embeddings.patch_embeddings"
    return VisionMambaConfig(**_encoder_sizes(weights, prefix, patches, num_patches, checkpoint))


def _vmamba_config(weights: Mapping[str, Tensor], checkpoint: str | Path) -> VMambaConfig:
    """Image size and drop path, not in the weights, are the defaults; the public checkpoints are of 224 px."""
    first = "stages.0.layers.0."
    projection = _shape(weights, "embeddings.0.weight", checkpoint)
    is_linear = "embeddings.3.weight" not in weights
    width = projection[0] if is_linear else _shape(weights, "embeddings.3.weight", checkpoint)[0]
    inner, rank = _shape(weights, f"{first}mixer.dt_proj_weight", checkpoint)[1:]
    has_mlp = f"{first}mlp.fc1.weight" in weights
    return VMambaConfig(
        patch_size=projection[2] if is_linear else 4,
        num_channels=projection[1],
        embed_dim=width,
        depths=[_count(weights, f"stages.{stage}.layers.") for stage in range(_count(weights, "stages."))],
        patch_embedding="linear" if is_linear else "convolutional",
        downsampling="patch_merging" if "stages.0.downsample.reduction.weight" in weights else "convolutional",
        state_size=_shape(weights, f"{first}mixer.A_log", checkpoint)[1],
        ssm_ratio=inner / width,
        conv_kernel=_shape(weights, f"{first}mixer.conv2d.weight", checkpoint)[2],
        use_conv_bias=f"{first}mixer.conv2d.bias" in weights,
        use_gate=_shape(weights, f"{first}mixer.in_proj.weight", checkpoint)[0] == 2 * inner,
        time_step_rank=None if rank == math.ceil(width / 16) else rank,
        mlp_ratio=_shape(weights, f"{first}mlp.fc1.weight", checkpoint)[0] / width if has_mlp else 0.0,
    )


def _pretraining_config(weights: Mapping[str, Tensor], checkpoint: str | Path) -> MambaXrayPreTrainingConfig:
    num_patches = _shape(weights, "position_embeddings", checkpoint)[1]
    sizes = _encoder_sizes(weights, "", "patch_embeddings", num_patches, checkpoint)
    width = _shape(weights, "query_token", checkpoint)[2]
    return MambaXrayPreTrainingConfig(decoder_hidden_size=width, **sizes)


def _bert_config(weights: Mapping[str, Tensor], checkpoint: str | Path) -> PreTrainedConfig:
    embeddings = "text_encoder.embeddings."
    vocabulary, hidden = _shape(weights, f"{embeddings}word_embeddings.weight", checkpoint)
    if hidden % 64:
        raise ValueError(
            f"the text encoder of {checkpoint} has {hidden} channels, so its number of heads is not known: give the "
            "folder or Hub id of the model that it was made of as text_model"
        )
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=_count(weights, "text_encoder.encoder.layer."),
        num_attention_heads=hidden // 64,
        intermediate_size=_shape(weights, "text_encoder.encoder.layer.0.intermediate.dense.weight", checkpoint)[0],
        max_position_embeddings=_shape(weights, f"{embeddings}position_embeddings.weight", checkpoint)[0],
        type_vocab_size=_shape(weights, f"{embeddings}token_type_embeddings.weight", checkpoint)[0],
    )


__all__ = ["CheckpointError", "convert_checkpoint", "read_checkpoint"]
