"""A drawing of what a pre-training model sees, its targets and its predictions."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import PreTrainedModel, ViTMAEForPreTraining

from ...modeling_mambaxray.modeling_mambaxray_pretraining import MambaXrayForPreTraining

_CAPTIONS = ("input", "target", "prediction", "prediction, patch contrast of the input")
_CAPTION_HEIGHT = 14
_GAP = 4
_BACKGROUND = 128
# Normalised pixels beyond this many standard deviations are drawn black or white.
_DEVIATIONS = 2.5


@dataclass(frozen=True)
class PatchPrediction:
    """Images `(batch, channels, height, width)` of one forward pass; patches that do not apply are 0 in them.

    Attributes:
        inputs: what the model reads; for a masked autoencoder the patches that are left.
        targets: what is to be predicted, in the model's normalised pixels.
        predictions: what is predicted.
        restored: the prediction with mean and contrast of the true patch, for the eye.
    """

    inputs: Tensor
    targets: Tensor
    predictions: Tensor
    restored: Tensor


@torch.no_grad()
def predict_patches(model: PreTrainedModel, pixel_values: Tensor) -> PatchPrediction:
    """Runs a `MambaXrayForPreTraining` or a `ViTMAEForPreTraining` on images; the random state stays as it is.

    Args:
        model: either model; its mode is kept.
        pixel_values: `(batch, channels, height, width)`.

    Raises:
        TypeError: the model is neither.
    """
    pixel_values = pixel_values.to(model.device)
    was_training = model.training
    model.eval()
    try:
        if isinstance(model, MambaXrayForPreTraining):
            patches = model.patchify(pixel_values.float())
            predicted = model(pixel_values, return_loss=False).logits.float()
            unknown = patches.new_ones(patches.shape[:2], dtype=torch.bool)
            unknown[:, : -predicted.shape[1]] = False
            predicted = torch.cat([torch.zeros_like(patches[:, : -predicted.shape[1]]), predicted], dim=1)
            shown, normalised = torch.ones_like(unknown), True
        elif isinstance(model, ViTMAEForPreTraining):
            patches = model.patchify(pixel_values.float())
            generator = torch.Generator().manual_seed(0)
            noise = torch.rand(patches.shape[:2], generator=generator).to(patches)
            output = model(pixel_values, noise=noise)
            predicted, unknown = output.logits.float(), output.mask.bool()
            shown, normalised = ~unknown, model.config.norm_pix_loss
        else:
            raise TypeError(
                f"{type(model).__name__} predicts no patches; give a MambaXrayForPreTraining or a ViTMAEForPreTraining"
            )
    finally:
        model.train(was_training)
    targets, restored = patches, predicted
    if normalised:
        mean = patches.mean(dim=-1, keepdim=True)
        deviation = (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        targets, restored = (patches - mean) / deviation, predicted * deviation + mean
    parts = ((patches, shown), (targets, unknown), (predicted, unknown), (restored, unknown))
    return PatchPrediction(*(model.unpatchify(part * mask[..., None]).cpu() for part, mask in parts))


def draw_patches(prediction: PatchPrediction) -> Image.Image:
    """A grey drawing, one row per image: input, target, prediction, and the prediction made readable."""
    count, _, height, width = prediction.inputs.shape
    sheet = Image.new("L", (4 * (width + _GAP) - _GAP, _CAPTION_HEIGHT + count * (height + _GAP)), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for column, caption in enumerate(_CAPTIONS):
        shortened = caption
        while shortened and pen.textlength(shortened) > width:
            shortened = shortened[:-1]
        pen.text((column * (width + _GAP), 1), shortened, fill=255)
    for row in range(count):
        original = prediction.inputs[row].mean(dim=0)
        lowest, highest = original.min().item(), original.max().item()
        columns = (
            (prediction.inputs, lowest, highest),
            (prediction.targets, -_DEVIATIONS, _DEVIATIONS),
            (prediction.predictions, -_DEVIATIONS, _DEVIATIONS),
            (prediction.restored, lowest, highest),
        )
        for column, (images, low, high) in enumerate(columns):
            grey = (images[row].mean(dim=0) - low) / max(high - low, 1e-6)
            pixels = (grey.clamp(0, 1) * 255).round().numpy().astype(np.uint8)
            place = (column * (width + _GAP), _CAPTION_HEIGHT + row * (height + _GAP))
            sheet.paste(Image.fromarray(pixels), place)
    return sheet


__all__ = ["PatchPrediction", "draw_patches", "predict_patches"]
