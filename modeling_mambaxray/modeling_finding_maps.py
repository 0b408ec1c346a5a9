"""A warm start for a vision encoder: learning to see findings where they are, from images with maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..configuration.vision_tokens import visual_width
from .modeling_vision_mamba import VisionMambaModel


class FindingMapModel(nn.Module):
    """A vision Mamba with a linear read-out that asks of every patch which observations it shows.

    Attributes:
        encoder: the encoder that is trained.
        num_observations: how many there are, 14 in CheXpert's list.
        presence_weight: weight of the second question beside the first: whether the image shows the observation
            anywhere, answered by the most certain patch. There a fracture counts as much as an effusion that fills
            half of the chest.
        classifier: the read-out of a patch.
    """

    def __init__(self, encoder: VisionMambaModel, presence_weight: float = 0.1, num_observations: int = 14):
        super().__init__()
        self.encoder = encoder
        self.presence_weight = presence_weight
        self.classifier = nn.Linear(visual_width(encoder.config), num_observations)

    def forward(self, pixel_values: Tensor, finding_maps: Tensor) -> dict[str, Tensor]:
        """Loss and logits `(batch, patches, observations)`.

        Args:
            pixel_values: `(batch, channels, height, width)`.
            finding_maps: `(batch, patches, observations)`, 1 where the patch shows it, patches in raster order.
        """
        tokens = self.encoder(pixel_values).last_hidden_state
        if self.encoder.config.use_cls_token:
            middle = finding_maps.shape[1] // 2
            tokens = torch.cat([tokens[:, :middle], tokens[:, middle + 1 :]], dim=1)
        logits = self.classifier(tokens)
        map_loss = F.binary_cross_entropy_with_logits(logits, finding_maps)
        presence_loss = F.binary_cross_entropy_with_logits(logits.amax(dim=1), finding_maps.amax(dim=1))
        # Sums over the observations: most patches show nothing, and means over all cells would be next to zero.
        loss = (map_loss + self.presence_weight * presence_loss) * logits.shape[-1]
        return {"loss": loss, "logits": logits}


__all__ = ["FindingMapModel"]
