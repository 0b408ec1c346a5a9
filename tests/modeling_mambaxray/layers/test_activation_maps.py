"""Class activation maps: the papers' equations, known answers on every kind of encoder, regions and masked images."""

import numpy as np
import pytest
import torch
from tiny import VISION_CONFIGS
from tiny_classifier import tiny_classifier

from mambaxray.configuration.vision_tokens import patch_positions
from mambaxray.modeling_mambaxray.layers.activation_maps import (
    CAM_METHODS,
    class_activation_maps,
    combine_activations,
    masked_images,
    region_tokens,
    strongest_regions,
)
from mambaxray.modeling_mambaxray.layers.disease_queries import DiseaseQueriesOutput
from mambaxray.modeling_mambaxray.layers.views import encode_images


def reference(activations: np.ndarray, gradients: np.ndarray, method: str) -> np.ndarray:
    """One image's map `(P,)` from `(P, C)`, channel by channel and patch by patch, as the papers sum."""
    patches, channels = activations.shape
    out = np.zeros(patches)
    if method == "eigencam":
        centred = activations - activations.mean(axis=0)
        _, vectors = np.linalg.eigh(centred.T @ centred)
        out = centred @ vectors[:, -1]
        out *= np.sign(out[np.abs(out).argmax()])
    for channel in range(channels if method != "eigencam" else 0):
        a, g = activations[:, channel], gradients[:, channel]
        if method == "gradcam":
            out += sum(g) / patches * a
        elif method == "gradcam++":
            alphas = [0.0 if d == 0 else d**2 / (2 * d**2 + sum(a) * d**3) for d in g]
            out += sum(alpha * max(d, 0) for alpha, d in zip(alphas, g, strict=True)) * a
        elif method == "hirescam":
            out += g * a
        elif method == "xgradcam":
            out += sum(x / sum(a) * d for x, d in zip(a, g, strict=True)) * a
    out = np.maximum(out, 0)
    return (out - out.min()) / (out.max() - out.min())


@pytest.mark.parametrize("method", CAM_METHODS)
def test_each_method_is_its_papers_equation(method: str) -> None:
    torch.manual_seed(0)
    # As behind a ReLU, which the papers have in mind.
    activations = torch.rand(3, 9, 5, dtype=torch.float64)
    gradients = torch.randn(3, 9, 5, dtype=torch.float64)
    gradients[:, :2] = 0
    maps = combine_activations(activations, gradients, method)
    for found, a, g in zip(maps, activations.numpy(), gradients.numpy(), strict=True):
        assert np.allclose(found.numpy(), reference(a, g, method), atol=2e-5)


@pytest.mark.parametrize("method", CAM_METHODS)
def test_a_map_reaches_from_0_to_1_whatever_the_signs_and_scales(method: str) -> None:
    torch.manual_seed(1)
    for scale in (1e-3, 1.0, 1e3):
        maps = combine_activations(scale * torch.randn(4, 16, 6), torch.randn(4, 16, 6), method)
        assert maps.isfinite().all()
        assert maps.amin() == 0
        assert (maps.amax(dim=1) > 0.99).any()
        assert maps.amax() <= 1


@pytest.mark.parametrize("method", CAM_METHODS)
def test_a_map_without_contrast_is_0(method: str) -> None:
    flat = combine_activations(torch.ones(1, 9, 4), torch.ones(1, 9, 4), method)
    assert torch.equal(flat, torch.zeros(1, 9))
    assert torch.equal(combine_activations(torch.rand(1, 9, 4), torch.zeros(1, 9, 4), "gradcam"), torch.zeros(1, 9))


def test_a_principal_component_has_its_sign_by_what_stands_out() -> None:
    activations = torch.full((2, 16, 3), 1.0)
    activations[0, 5] += 2.0  # brighter than all others
    activations[1, 5] -= 2.0  # darker
    maps = combine_activations(activations, torch.zeros_like(activations), "eigencam")
    assert maps.argmax(dim=1).tolist() == [5, 5]
    assert maps[:, 5].tolist() == [1.0, 1.0]


def test_an_unknown_method_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="gradcam, gradcam\\+\\+, hirescam, xgradcam, eigencam, got 'scorecam'"):
        combine_activations(torch.rand(1, 4, 2), torch.rand(1, 4, 2), "scorecam")


def reads_one_token(model, position: int, monkeypatch) -> None:
    """Lets every logit be the sum of one visual token, times the number of the logit plus one."""

    def query(tokens, output_attentions=False):
        factors = torch.arange(1, model.config.num_labels + 1, dtype=tokens.dtype)
        return DiseaseQueriesOutput(logits=tokens[:, position].sum(dim=-1, keepdim=True) * factors)

    monkeypatch.setattr(model, "query_diseases", query)


@pytest.mark.parametrize("method", CAM_METHODS)
@pytest.mark.parametrize("vision", list(VISION_CONFIGS))
def test_the_map_of_a_logit_that_reads_one_patch_peaks_there(vision: str, method: str, monkeypatch) -> None:
    model = tiny_classifier(vision)
    positions = patch_positions(model.vision_encoder.config)
    side = round(len(positions) ** 0.5)
    row, column = side - 1, 0
    read = positions[row * side + column]
    torch.manual_seed(0)
    tokens = encode_images(model.vision_encoder, torch.randn(2, 3, 32, 32)).detach()
    # Weak everywhere but at the patch, and at what is no patch, such as cls.
    tokens = 0.01 * torch.rand_like(tokens)
    others = sorted({*range(tokens.shape[1])} - {*positions})
    tokens[:, others] = 50.0
    tokens[:, read] = 5.0 + torch.rand_like(tokens[:, read])
    reads_one_token(model, read, monkeypatch)
    maps = class_activation_maps(model, tokens, [3, 0], method=method)
    assert maps.shape == (2, side, side)
    for found in maps:
        assert divmod(int(found.argmax()), side) == (row, column)
        assert found.flatten().sort().values[-2] < 0.1


@pytest.mark.parametrize("vision", list(VISION_CONFIGS))
def test_a_real_classifier_has_another_map_for_another_observation(vision: str) -> None:
    model = tiny_classifier(vision)
    torch.manual_seed(0)
    tokens = encode_images(model.vision_encoder, torch.randn(1, 3, 32, 32))
    first, second = (class_activation_maps(model, tokens, [target]) for target in (2, 9))
    assert not torch.equal(first, second)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_maps_of_several_studies_are_those_of_each_alone_and_every_view_has_its_own() -> None:
    model = tiny_classifier()
    torch.manual_seed(0)
    tokens = encode_images(model.vision_encoder, torch.randn(3, 3, 32, 32)).detach()
    together = class_activation_maps(model, tokens, [1, 4], torch.tensor([1, 2]))
    alone = [class_activation_maps(model, tokens[:1], [1]), class_activation_maps(model, tokens[1:], [4], 2)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert not torch.allclose(together[1], together[2])


def test_a_target_that_is_no_logit_is_refused() -> None:
    model = tiny_classifier()
    tokens = torch.rand(2, 5, 24)
    for targets in ([0], [0, 14], [-1, 0]):
        with pytest.raises(ValueError, match="one position of 14 logits for each of 2 studies"):
            class_activation_maps(model, tokens, targets)


def test_of_many_regions_above_the_threshold_the_strongest_are_kept() -> None:
    maps = torch.tensor([[[0.0, 0.9, 0.5], [0.8, 0.51, 0.7], [1.0, 0.6, 0.2]], [[0.0] * 3] * 3])
    kept = strongest_regions(maps, 0.5, 4)
    assert kept[0].nonzero().tolist() == [[0, 1], [1, 0], [1, 2], [2, 0]]
    assert not kept[1].any()
    assert strongest_regions(maps, 0.5, 20)[0].sum() == 6  # 0.5 itself is not above the threshold
    assert strongest_regions(torch.ones(1, 2, 2), 0.5, 3)[0].tolist() == [[True, True], [True, False]]


def test_a_masked_image_keeps_the_pixels_of_its_regions_alone() -> None:
    images = torch.randn(1, 3, 6, 6)
    regions = torch.tensor([[[False, False, True], [False, False, False], [True, False, False]]])
    masked = masked_images(images, regions)
    assert torch.equal(masked[..., :2, 4:], images[..., :2, 4:])
    assert torch.equal(masked[..., 4:, :2], images[..., 4:, :2])
    assert masked.count_nonzero() == 2 * 3 * 4


@pytest.mark.parametrize("vision", list(VISION_CONFIGS))
def test_region_tokens_are_those_of_the_masked_image_at_its_regions(vision: str) -> None:
    model = tiny_classifier(vision)
    positions = patch_positions(model.vision_encoder.config)
    side = round(len(positions) ** 0.5)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    regions = torch.zeros(2, side, side, dtype=torch.bool)
    regions[0, 0, 1] = regions[0, side - 1, 0] = regions[1, 1, 1] = True
    with torch.no_grad():
        tokens = encode_images(model.vision_encoder, masked_images(images, regions))
    expected = [tokens[0, positions[1]], tokens[0, positions[(side - 1) * side]], tokens[1, positions[side + 1]]]
    found = region_tokens(model, images, regions)
    assert torch.equal(found, torch.stack(expected))
    assert not found.requires_grad
