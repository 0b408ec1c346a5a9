"""A warm start for a vision encoder: learning to see findings where they are, from phantoms with maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BaseImageProcessor

from ..data.schema import OBSERVATIONS
from ..modeling_mambaxray.modeling_vision_mamba import VisionMambaModel


class FindingMapModel(nn.Module):
    """A vision Mamba with linear read-outs of the 14 observations: for every patch, and for the whole image.

    The image's read-out looks at the cls token alone, so that what the image shows gathers there.

    Attributes:
        encoder: the encoder that is trained; it has a cls token.
        map_weight: weight of the patches' loss beside the image's; most patches show nothing.
        patch_classifier: read-out of a patch.
        image_classifier: read-out of the image.
    """

    def __init__(self, encoder: VisionMambaModel, map_weight: float = 8.0):
        super().__init__()
        if not encoder.config.use_cls_token:
            raise ValueError("the encoder needs a cls token (use_cls_token=True) to gather what the image shows")
        self.encoder = encoder
        self.map_weight = map_weight
        self.patch_classifier = nn.Linear(encoder.config.hidden_size, len(OBSERVATIONS))
        self.image_classifier = nn.Linear(encoder.config.hidden_size, len(OBSERVATIONS))

    def forward(self, pixel_values: Tensor, present: Tensor, finding_maps: Tensor) -> dict[str, Tensor]:
        """Loss and image logits.

        Args:
            pixel_values: `(batch, channels, height, width)`.
            present: `(batch, 14)`, 1 where the image shows the observation.
            finding_maps: `(batch, patches, 14)`, 1 where the patch shows it, patches in raster order.
        """
        tokens = self.encoder(pixel_values).last_hidden_state
        middle = finding_maps.shape[1] // 2
        image_logits = self.image_classifier(tokens[:, middle])
        patch_logits = self.patch_classifier(torch.cat([tokens[:, :middle], tokens[:, middle + 1 :]], dim=1))
        image_loss = F.binary_cross_entropy_with_logits(image_logits, present)
        map_loss = F.binary_cross_entropy_with_logits(patch_logits, finding_maps)
        return {"loss": image_loss + self.map_weight * map_loss, "logits": image_logits}


@dataclass(frozen=True)
class FindingMapCollator:
    """Batches of `data.phantom_maps.make_mapped_phantoms` for a `FindingMapModel`.

    Attributes:
        image_processor: a `MambaXrayImageProcessor`.
    """

    image_processor: BaseImageProcessor

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`pixel_values`, `present` and `finding_maps` as `FindingMapModel.forward` takes them."""
        pixel_values = self.image_processor([row["images"][0] for row in rows], return_tensors="pt")["pixel_values"]
        maps = torch.tensor([row["finding_maps"] for row in rows], dtype=torch.float32)
        return {
            "pixel_values": pixel_values[:, 0],
            "present": torch.tensor([row["present"] for row in rows], dtype=torch.float32),
            "finding_maps": maps.view(len(rows), -1, len(OBSERVATIONS)),
        }


__all__ = ["FindingMapCollator", "FindingMapModel"]
