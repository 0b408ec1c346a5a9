"""From one embedding per patch back to an image."""

import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoder


class ImageDecoder(nn.Module):
    """ViT-MAE's decoder where no patch is masked, so that all embeddings are given, in order.

    The decoder expects a `cls` embedding before the patches; a learned one takes its place, so that the image is made
    of the patches' embeddings alone.

    Args:
        config: of the decoder, whose `hidden_size` is the embeddings'.
        decoder: one with weights of its own, such as that of a pre-trained ViT-MAE.

    Raises:
        ValueError: that decoder is for other embeddings or patches.
    """

    def __init__(self, config: ViTMAEConfig, decoder: ViTMAEDecoder | None = None):
        super().__init__()
        self.num_patches = (config.image_size // config.patch_size) ** 2
        self.patch_size, self.num_channels = config.patch_size, config.num_channels
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.decoder = ViTMAEDecoder(config, self.num_patches) if decoder is None else decoder
        needed = (config.hidden_size, self.num_patches, config.patch_size**2 * config.num_channels)
        positions = self.decoder.decoder_pos_embed.shape[1] - 1
        found = (self.decoder.decoder_embed.in_features, positions, self.decoder.decoder_pred.out_features)
        if found != needed:
            raise ValueError(
                "the image decoder takes embeddings of width {} of {} patches and makes {} values of each; the vision "
                "encoder needs {}, {} and {}".format(*found, *needed)
            )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Images `(images, channels, height, width)` of embeddings `(images, patches, hidden)`, row by row."""
        count = len(embeddings)
        embeddings = embeddings.to(self.cls_token.dtype)
        order = torch.arange(self.num_patches, device=embeddings.device).expand(count, -1)
        hidden_states = torch.cat([self.cls_token.expand(count, -1, -1), embeddings], dim=1)
        return self._image(self.decoder(hidden_states, order).logits)

    def _image(self, patches: Tensor) -> Tensor:
        """Patches `(images, patches, height * width * channels)`, channels last, as images."""
        side = round(self.num_patches**0.5)
        grid = patches.unflatten(2, (self.patch_size, self.patch_size, self.num_channels)).unflatten(1, (side, side))
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def load_image_decoder(name_or_path: str) -> ViTMAEDecoder:
    """The decoder of a pre-trained `ViTMAEForPreTraining`, from a folder or the Hub; its `config` names its sizes."""
    return ViTMAEForPreTraining.from_pretrained(name_or_path).decoder


__all__ = ["ImageDecoder", "load_image_decoder"]
