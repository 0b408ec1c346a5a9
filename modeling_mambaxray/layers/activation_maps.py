"""Where a classifier sees an observation: class activation maps over an encoder's patches, and the regions they keep.

The maps are those of the visual tokens that the disease queries read, so one backward pass through the queries gives
them, whatever the encoder is; which tokens are patches `configuration/vision_tokens.py` knows. pytorch-grad-cam, which
has the same five, can't be imported without torchvision.

Shapes in this file: N images, T visual tokens, P patches, C width of the tokens, S side of the grid of patches.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ...configuration.vision_tokens import patch_positions
from .views import encode_images, mean_over_views

_EPSILON = 1e-7


def _grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Selvaraju et al., ICCV 2017, equations 1 and 2: a channel's weight is its mean gradient."""
    return (activations * gradients.mean(dim=1, keepdim=True)).sum(dim=-1)


def _grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Chattopadhay et al., WACV 2018, equations 5 and 19: a channel's weight is a weighted sum of its positive
    gradients, with the higher derivatives of an exponential of the logit."""
    squares = gradients.square()
    total = activations.sum(dim=1, keepdim=True)
    share = squares / _away_from_zero(2 * squares + total * squares * gradients)
    weights = (share * gradients.relu()).sum(dim=1, keepdim=True)
    return (activations * weights).sum(dim=-1)


def _hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Draelos and Carin, arXiv 2011.08891: every patch has a gradient of its own."""
    return (activations * gradients).sum(dim=-1)


def _x_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Fu et al., BMVC 2020 (XGrad-CAM): gradients are averaged with each patch's share of the channel's activation.

    Where a channel's activations cancel out, which they can't behind the ReLU that the paper has in mind, the shares
    are large.
    """
    share = activations / _away_from_zero(activations.sum(dim=1, keepdim=True))
    return (activations * (share * gradients).sum(dim=1, keepdim=True)).sum(dim=-1)


def _eigen_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Muhammad and Yeasin, IJCNN 2020: the projection on the first principal component, whatever the class.

    A principal component has no sign. Here the patch that is furthest from the mean is on the positive side, so that
    what stands out is bright, and not what surrounds it.
    """
    centred = activations - activations.mean(dim=1, keepdim=True)
    _, _, components = torch.linalg.svd(centred, full_matrices=False)
    projection = (centred @ components[:, :1].mT).squeeze(-1)
    furthest = projection.gather(1, projection.abs().argmax(dim=1, keepdim=True))
    return projection * furthest.sign()


_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": _grad_cam,
    "gradcam++": _grad_cam_plus_plus,
    "hirescam": _hires_cam,
    "xgradcam": _x_grad_cam,
    "eigencam": _eigen_cam,
}
CAM_METHODS = tuple(_METHODS)


def _away_from_zero(values: Tensor) -> Tensor:
    """The same, but nothing closer to 0 than what can be divided by."""
    return torch.where(values < 0, values.clamp(max=-_EPSILON), values.clamp(min=_EPSILON))


def combine_activations(activations: Tensor, gradients: Tensor, method: str) -> Tensor:
    """One map per image from the activations of its patches and the gradients of a logit with respect to them.

    Negative evidence is cut off, and each map is then stretched to reach from 0 to 1; a map without any contrast is 0
    everywhere.

    Args:
        activations: `(N, P, C)`.
        gradients: `(N, P, C)`; without influence on "eigencam".
        method: one of `CAM_METHODS`.

    Returns:
        `(N, P)` in float32.

    Raises:
        ValueError: the method is unknown.
    """
    if method not in _METHODS:
        raise ValueError(f"the activation map must be one of {', '.join(CAM_METHODS)}, got {method!r}")
    maps = _METHODS[method](activations.float(), gradients.float()).relu()
    lowest = maps.amin(dim=1, keepdim=True)
    return (maps - lowest) / (maps.amax(dim=1, keepdim=True) - lowest).clamp(min=_EPSILON)


def class_activation_maps(
    model: PreTrainedModel,
    image_tokens: Tensor,
    targets: Sequence[int] | Tensor,
    views_per_study: int | Tensor = 1,
    method: str = "gradcam",
) -> Tensor:
    """Maps of where in each image the logit of an observation of its study comes from.

    Args:
        model: a stage-1 classifier (`DiseaseClassificationModel`), in evaluation mode.
        image_tokens: visual tokens of each view, `(N, T, C)`, as `encode_images` gives them.
        targets: the observation of each study, by its position among the logits, `(studies,)`.
        views_per_study: views of each study, as `present_views` gives it.
        method: one of `CAM_METHODS`.

    Returns:
        `(N, S, S)` in float32, each from 0 to 1.

    Raises:
        ValueError: the method is unknown, a target is no position of a logit, or the tokens form no square of patches.

    Source: AM-MRG, section III-C and table IX.
    """
    patches = patch_positions(model.vision_encoder.config)
    with torch.enable_grad():
        tokens = image_tokens.detach().requires_grad_()
        logits = model.query_diseases(mean_over_views(tokens, views_per_study)).logits
        chosen = torch.as_tensor(targets, device=logits.device)
        if chosen.shape != logits.shape[:1] or ((chosen < 0) | (chosen >= logits.shape[1])).any():
            raise ValueError(
                f"targets must be one position of {logits.shape[1]} logits for each of {len(logits)} studies, got "
                f"{chosen.tolist()}"
            )
        # A study's logit depends on its own tokens only, so the gradient of the sum holds that of each.
        (gradients,) = torch.autograd.grad(logits.gather(1, chosen.unsqueeze(1)).sum(), tokens)
    maps = combine_activations(image_tokens.detach()[:, patches], gradients[:, patches], method)
    side = round(len(patches) ** 0.5)
    return maps.unflatten(1, (side, side))


def strongest_regions(maps: Tensor, threshold: float, most: int) -> Tensor:
    """The patches that stand for an observation: those above a threshold, and of many the strongest.

    Args:
        maps: `(N, S, S)`, from 0 to 1.
        threshold: patches must be above it; the paper's tau.
        most: patches of an image that are kept, the most; the paper keeps 6.

    Returns:
        `(N, S, S)` bool.

    Source: AM-MRG, section III-C.
    """
    flat = maps.flatten(1)
    # Stable, so that equal patches are taken in the order of the grid.
    order = flat.argsort(dim=1, descending=True, stable=True)[:, :most]
    strongest = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True)
    return (strongest & (flat > threshold)).view_as(maps)


def masked_images(images: Tensor, regions: Tensor) -> Tensor:
    """Images of which only regions are left, `x' = m x` on the normalised pixels: all else becomes their mean, 0.

    Args:
        images: `(N, channels, height, width)`.
        regions: `(N, S, S)` bool.

    Source: AM-MRG, equation 1.
    """
    mask = F.interpolate(regions.unsqueeze(1).to(images.dtype), size=images.shape[-2:], mode="nearest")
    return images * mask


@torch.no_grad()
def region_tokens(model: PreTrainedModel, images: Tensor, regions: Tensor) -> Tensor:
    """Tokens of the masked images at their regions, image by image in the order of the grid, `(regions, C)`.

    Args:
        model: as in `class_activation_maps`.
        images: `(N, channels, height, width)`.
        regions: `(N, S, S)` bool.
    """
    patches = patch_positions(model.vision_encoder.config)
    tokens = encode_images(model.vision_encoder, masked_images(images, regions))
    return tokens[:, patches][regions.flatten(1)]


__all__ = [
    "CAM_METHODS",
    "class_activation_maps",
    "combine_activations",
    "masked_images",
    "region_tokens",
    "strongest_regions",
]
