"""Which tokens a vision encoder makes of an image: how many, and which of them are patches.

One place for all families of encoders. `register_vision_family` adds one from outside the package.
"""

import math
from collections.abc import Callable

from transformers import PreTrainedConfig

from .configuration_vision_mamba import VisionMambaConfig
from .configuration_vmamba import VMambaConfig

PatchPositions = Callable[[PreTrainedConfig], tuple[int, list[int]]]
"""From an encoder's configuration to the length of its `last_hidden_state`, and the positions in it that are patches,
in the order of the rows of a square grid. The other positions are `cls` and the like."""

_FAMILIES: dict[str, PatchPositions] = {}


def register_vision_family(model_type: str, positions: PatchPositions) -> None:
    """Makes a family of vision encoders known, by its configuration's `model_type`.

    Args:
        model_type: the family's; one that is known already is replaced.
        positions: from a configuration to the length of `last_hidden_state` for one image, and the positions in it that
            are patches, by the rows of a square grid.
    """
    _FAMILIES[model_type] = positions


def count_visual_tokens(vision_config: PreTrainedConfig) -> int:
    """Length of the token sequence that a vision encoder makes of one image.

    Raises:
        ValueError: the encoder's family is not known here; `num_visual_tokens` must then be given.
    """
    return _positions(vision_config)[0]


def patch_positions(vision_config: PreTrainedConfig) -> list[int]:
    """Which of an image's visual tokens are patches, in the order of a square grid's rows; the others are cls and such.

    Raises:
        ValueError: the encoder's family is not known here, or its patches form no square.
    """
    positions = _positions(vision_config)[1]
    if math.isqrt(len(positions)) ** 2 != len(positions):
        raise ValueError(f"the {len(positions)} patches of a {vision_config.model_type} encoder form no square")
    return positions


def visual_width(vision_config: PreTrainedConfig) -> int:
    """Size of each visual token: the encoder's `hidden_size`, or that of its last stage."""
    width = getattr(vision_config, "hidden_size", None)
    return int(vision_config.hidden_sizes[-1] if width is None else width)


def _positions(vision_config: PreTrainedConfig) -> tuple[int, list[int]]:
    family = _FAMILIES.get(vision_config.model_type)
    if family is None:
        raise ValueError(
            f"the number of tokens that a {vision_config.model_type!r} vision encoder makes of an image is not known; "
            "give num_visual_tokens, the length of its last_hidden_state, or make the family known with "
            "register_vision_family"
        )
    return family(vision_config)


def _vision_mamba(config: VisionMambaConfig) -> tuple[int, list[int]]:
    positions = list(range(config.num_tokens))
    if config.use_cls_token:
        del positions[(config.num_tokens - 1) // 2]
    return config.num_tokens, positions


def _vmamba(config: VMambaConfig) -> tuple[int, list[int]]:
    return config.num_tokens, list(range(config.num_tokens))


def _behind(leading: int) -> PatchPositions:
    """The ViT family: some tokens, then the patches."""

    def positions(config: PreTrainedConfig) -> tuple[int, list[int]]:
        count = leading + (config.image_size // config.patch_size) ** 2
        return count, list(range(leading, count))

    return positions


def _hierarchical(config: PreTrainedConfig) -> tuple[int, list[int]]:
    """Encoders that halve the grid of patches after each stage but the last."""
    stride = config.patch_size * 2 ** (len(config.depths) - 1)
    count = (config.image_size // stride) ** 2
    return count, list(range(count))


def _feature_map(rounded_up: bool) -> PatchPositions:
    """Convolutional encoders, whose last feature map, row by row, is the sequence of tokens."""

    def positions(config: PreTrainedConfig) -> tuple[int, list[int]]:
        side = getattr(config, "image_size", None)
        if not isinstance(side, int):
            raise ValueError(
                f"a {config.model_type} encoder takes images of any size, and its configuration names none: give "
                "image_size, or set encoder.config.image_size"
            )
        # A stem of stride 4 (a ConvNeXt's patch size), and half the size behind each stage but the first.
        stem = getattr(config, "patch_size", 4)
        stride = stem * 2 ** (len(config.depths) - 1 + int(getattr(config, "downsample_in_first_stage", False)))
        side = -(-side // stride) if rounded_up else side // stride
        return side**2, list(range(side**2))

    return positions


register_vision_family(VisionMambaConfig.model_type, _vision_mamba)
register_vision_family(VMambaConfig.model_type, _vmamba)
for _name in ("vit", "vit_mae", "vit_msn", "beit", "clip_vision_model", "dinov2"):
    register_vision_family(_name, _behind(1))
for _name in ("siglip_vision_model", "ijepa"):
    register_vision_family(_name, _behind(0))
register_vision_family("deit", _behind(2))
for _name in ("swin", "swinv2"):
    register_vision_family(_name, _hierarchical)
for _name in ("convnext", "convnextv2"):
    register_vision_family(_name, _feature_map(rounded_up=False))
register_vision_family("resnet", _feature_map(rounded_up=True))

__all__ = ["PatchPositions", "count_visual_tokens", "patch_positions", "register_vision_family", "visual_width"]
