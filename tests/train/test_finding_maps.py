"""The encoder's warm start on phantoms with maps."""

import pytest
import torch

from mambaxray import MambaXrayImageProcessor, VisionMambaConfig, VisionMambaModel
from mambaxray.data.phantom_maps import make_mapped_phantoms
from mambaxray.train.finding_maps import FindingMapCollator, FindingMapModel


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


def test_a_batch_has_images_labels_and_a_map_per_patch(batch):
    assert batch["pixel_values"].shape == (8, 3, 64, 64)
    assert batch["present"].shape == (8, 14)
    assert batch["finding_maps"].shape == (8, 16, 14)


def test_a_batch_can_be_learned_by_heart(batch):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        output = model(**batch)
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
        losses.append(output["loss"].item())
    assert losses[-1] < 0.25 * losses[0]
    predicted = model(**batch)["logits"] > 0
    assert (predicted == batch["present"].bool()).float().mean() > 0.9


def test_maps_are_compared_with_the_patches_they_belong_to(batch):
    model = make_model()
    tokens = model.encoder(batch["pixel_values"]).last_hidden_state
    patches = torch.cat([tokens[:, :8], tokens[:, 9:]], dim=1)  # 16 patches around the cls token
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        model.patch_classifier(patches), batch["finding_maps"]
    )
    with_maps = model(**batch)["loss"]
    model.map_weight = 0.0
    torch.testing.assert_close(with_maps - model(**batch)["loss"], 8 * expected)


def test_an_encoder_without_cls_token_is_refused():
    with pytest.raises(ValueError, match="use_cls_token=True"):
        make_model(use_cls_token=False)
