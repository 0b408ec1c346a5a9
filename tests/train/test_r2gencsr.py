"""R2GenCSR's backbone by recipe: a VMamba before a language model, put together and trained a step."""

import pytest
import torch
from golden_cases import load_case

from mambaxray import convert_checkpoint, load_recipe
from mambaxray.data.phantoms import make_study
from mambaxray.train.finetune import freeze, make_generator
from mambaxray.train.recipe import list_recipes

REPORTS = ["the heart is normal .", "the lungs are clear .", "there is a small effusion ."]
LANGUAGE_MODEL = (
    "{model_type: qwen2, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
    "num_key_value_heads: 1}"
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A classification checkpoint of VMamba, converted as docs/vmamba.md says."""
    folder = tmp_path_factory.mktemp("vmamba")
    weights = load_case("vmamba.csr_v3noz").tensors("weights")
    torch.save({"model": weights | {"classifier.head.weight": torch.ones(2, 32)}}, folder / "official.pth")
    convert_checkpoint(folder / "official.pth", "vmamba", folder / "model")
    return folder / "model"


@pytest.mark.parametrize("name", [name for name in list_recipes() if name.startswith("r2gencsr")])
def test_the_recipe_makes_a_generator_whose_encoder_and_projection_are_trained(name, encoder):
    recipe = load_recipe(
        name,
        [
            f"model.vision_encoder={encoder}",
            f"model.language_model={LANGUAGE_MODEL}",
            "model.language_model_dtype=null",
            "model.image_size=64",
        ],
    )
    model, processor = make_generator(recipe.model, REPORTS)
    freeze(model, recipe.model.freeze)
    assert model.config.vision_config.model_type == "vmamba"
    assert processor.num_image_tokens == model.config.num_image_tokens == 64
    batch = processor(images=make_study(0, image_size=64)["images"])
    output = model.train()(**batch, labels=batch["input_ids"].clamp(max=model.config.text_config.vocab_size - 1))
    output.loss.backward()
    trained = {key.split(".")[0] for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"vision_encoder", "projector", "layer_norm"}
