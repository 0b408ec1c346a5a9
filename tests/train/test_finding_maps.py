"""The encoder's warm start on phantoms with maps."""

import pytest
import torch

from mambaxray import MambaXrayImageProcessor, VisionMambaConfig, VisionMambaModel
from mambaxray.data.phantoms import make_mapped_phantoms
from mambaxray.modeling_mambaxray.modeling_finding_maps import FindingMapModel
from mambaxray.train.finding_maps import FindingMapCollator


@pytest.fixture(scope="module")
def batch():
    rows = make_mapped_phantoms(8, image_size=64, grid_size=4)
    return FindingMapCollator(MambaXrayImageProcessor(size={"height": 64, "width": 64}))(list(rows))


def make_model(**changes):
    torch.manual_seed(0)
    config = VisionMambaConfig(
        hidden_size=32, num_hidden_layers=1, image_size=64, state_size=4, initializer_range=0.2, **changes
    )
    return FindingMapModel(VisionMambaModel(config))


def test_a_batch_has_images_and_a_map_per_patch(batch):
    assert batch["pixel_values"].shape == (8, 3, 64, 64)
    assert batch["finding_maps"].shape == (8, 16, 14)


def test_a_batch_can_be_learned_by_heart(batch):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        output = model(**batch)
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
        losses.append(output["loss"].item())
    assert losses[-1] < 0.25 * losses[0]
    predicted = model(**batch)["logits"] > 0
    shown = batch["finding_maps"].bool()
    assert predicted[shown].float().mean() > 0.9
    assert predicted[~shown].float().mean() < 0.05


@pytest.mark.parametrize("use_cls_token", [True, False])
def test_maps_are_compared_with_the_patches_they_belong_to(batch, use_cls_token):
    model = make_model(use_cls_token=use_cls_token)
    tokens = model.encoder(batch["pixel_values"]).last_hidden_state
    patches = torch.cat([tokens[:, :8], tokens[:, -8:]], dim=1)  # 16 patches, perhaps around a cls token
    logits = model.classifier(patches)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
    of_patches = cross_entropy(logits, batch["finding_maps"])
    of_images = cross_entropy(logits.max(dim=1).values, batch["finding_maps"].max(dim=1).values)
    torch.testing.assert_close(model(**batch)["loss"], 14 * (of_patches + 0.1 * of_images))
