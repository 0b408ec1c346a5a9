"""Saving in pieces, and loading in another dtype or spread over devices, as far as a CPU shows it."""

import json

import pytest
import torch
from tiny import IMAGE_TOKEN_ID, tiny_model

from mambaxray import MambaXrayForConditionalGeneration


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    model.save_pretrained(folder, max_shard_size="40KB")
    return folder


def logits(model):
    image = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    input_ids = torch.tensor([[1, *[IMAGE_TOKEN_ID] * model.config.num_image_tokens, 5, 6]])
    with torch.no_grad():
        return model(input_ids=input_ids, pixel_values=image).logits


def test_a_model_in_shards_loads_to_the_same(model, folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert len(set(index["weight_map"].values())) > 2
    loaded = MambaXrayForConditionalGeneration.from_pretrained(folder)
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_and_the_scans_rates_stay_whole(model, folder, dtype):
    loaded = MambaXrayForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    assert loaded.projector.weight.dtype == loaded.language_model.dtype == dtype
    rates = [value for name, value in loaded.named_parameters() if name.endswith((".A_log", ".D"))]
    assert rates
    assert {value.dtype for value in rates} == {torch.float32}
    expected, found = logits(model), logits(loaded).float()
    assert found.isfinite().all()
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_an_automatic_device_map_gives_the_same(model, folder):
    loaded = MambaXrayForConditionalGeneration.from_pretrained(folder, device_map="auto")
    assert torch.equal(logits(loaded.cpu() if loaded.device.type != "cpu" else loaded), logits(model))


def test_parts_can_be_put_on_devices_one_by_one(model, folder):
    parts = {name: "cpu" for name, _ in model.named_children()}
    loaded = MambaXrayForConditionalGeneration.from_pretrained(folder, device_map=parts)
    assert torch.equal(logits(loaded), logits(model))
