"""Batches for the warm start of a vision encoder (`modeling_finding_maps.py`), from phantoms with maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BaseImageProcessor

from ..data.schema import OBSERVATIONS


@dataclass(frozen=True)
class FindingMapCollator:
    """Batches of `data.phantoms.make_mapped_phantoms` for a `FindingMapModel`.

    Attributes:
        image_processor: a `MambaXrayImageProcessor`.
    """

    image_processor: BaseImageProcessor

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`pixel_values` and `finding_maps` as `FindingMapModel.forward` takes them."""
        pixel_values = self.image_processor([row["images"][0] for row in rows], return_tensors="pt")["pixel_values"]
        maps = torch.tensor([row["finding_maps"] for row in rows], dtype=torch.float32)
        return {
            "pixel_values": pixel_values[:, 0],
            "finding_maps": maps.view(len(rows), -1, len(OBSERVATIONS)),
        }


__all__ = ["FindingMapCollator"]
