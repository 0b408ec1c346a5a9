"""Bidirectional learning by recipe: what is logged and saved, resuming, random cuts, and further parts."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, BertConfig, BertModel, TrainerState

from mambaxray import BidirectionalForConditionalGeneration, MambaXrayImageProcessor, load_recipe, run_recipe
from mambaxray.train.recipe import RecipeError
from mambaxray.train.tokenizer import train_report_tokenizer
from mambaxray.train.varied_studies import EpochOfStudies, VariedStudies

TINY = [
    "data.options={num_studies: 30, image_size: 48}",
    "model.options.text_encoder_config={model_type: bert, hidden_size: 16, intermediate_size: 16, "
    "num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 96}",
    "model.options.image_decoder_sizes={decoder_hidden_size: 16, decoder_num_hidden_layers: 1, "
    "decoder_num_attention_heads: 2, decoder_intermediate_size: 16}",
    "model.vision_encoder={model_type: vit_mae, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, "
    "num_attention_heads: 2, image_size: 32, patch_size: 16}",
    "model.language_model={model_type: llama, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, "
    "num_attention_heads: 2}",
    "model.crop_from=40",
    "model.vocab_size=320",
    "model.max_report_length=20",
    "model.freeze=[language_model]",
    "generation.max_new_tokens=5",
    "training.per_device_train_batch_size=4",
    "training.max_steps=8",
    "training.warmup_steps=0",
    "training.lr_scheduler_type=constant",
    "training.eval_steps=4",
    "training.save_steps=4",
    "training.logging_steps=1",
]
TRAINING_PARTS = {"text_encoder", "text_mapper", "inverse_mapper", "image_decoder"}


def parts(file):
    with safe_open(file, "pt") as weights:
        return {name.partition(".")[0] for name in list(weights.keys())}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the recipe, of eight steps."""
    return run_recipe(load_recipe("bidirectional_phantoms", TINY), tmp_path_factory.mktemp("run")).model_dir.parent


def history(folder, name):
    return [entry[name] for entry in json.loads((folder / "result.json").read_text())["history"] if name in entry]


def test_each_loss_the_norms_and_the_control_are_in_the_log(run):
    for name in ("report", "text_to_vision", "reconstruction", "visual_embedding_norm", "generated_embedding_norm"):
        assert len(history(run, name)) == 8
        assert len(history(run, f"eval_{name}")) == 3  # at two steps and at the end
    assert len(history(run, "eval_text_to_vision_shuffled")) == 3
    assert history(run, "text_to_vision_shuffled") == []
    losses = [history(run, name) for name in ("report", "text_to_vision", "reconstruction")]
    total = [sum(values) for values in zip(*losses, strict=True)]
    assert history(run, "loss") == pytest.approx(total, rel=1e-4)


def test_checkpoints_keep_what_only_training_needs_and_the_model_does_not_unless_it_is_asked_to(run, tmp_path):
    assert parts(run / "checkpoints" / "checkpoint-8" / "model.safetensors") >= TRAINING_PARTS
    assert not parts(run / "model" / "model.safetensors") & TRAINING_PARTS
    assert AutoModelForImageTextToText.from_pretrained(run / "model").text_encoder is None
    steps = ["training.max_steps=1", "training.eval_strategy=no", "training.save_strategy=no", "metrics=null"]
    recipe = load_recipe("bidirectional_phantoms", [*TINY, *steps, "model.save_training_parts=true"])
    whole = run_recipe(recipe, tmp_path / "whole")
    assert parts(whole.model_dir / "model.safetensors") >= TRAINING_PARTS
    assert AutoModelForImageTextToText.from_pretrained(whole.model_dir).text_encoder is not None


def test_a_resumed_run_ends_with_the_same_weights_and_losses(run, tmp_path):
    # 24 studies in batches of 4: step 4 lies in the first epoch, and the cuts of the second are others.
    run_recipe(load_recipe("bidirectional_phantoms", [*TINY, "training.max_steps=4"]), tmp_path / "run")
    run_recipe(load_recipe("bidirectional_phantoms", TINY), tmp_path / "run")
    assert history(tmp_path / "run", "text_to_vision") == history(run, "text_to_vision")
    straight, resumed = (
        load_file(folder / "checkpoints" / "checkpoint-8" / "model.safetensors") for folder in (run, tmp_path / "run")
    )
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    loaded = AutoModelForImageTextToText.from_pretrained(run / "checkpoints" / "checkpoint-8").state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in straight.items())


def test_the_saved_processor_cuts_the_middle(run):
    processor = AutoProcessor.from_pretrained(run / "model")
    assert processor.image_processor.do_center_crop
    assert processor.max_text_length == 96  # the text encoder's positions
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90)).astype(np.uint8))
    middle = MambaXrayImageProcessor(size={"shortest_edge": 40}, do_center_crop=True, crop_size=32)
    pixels = processor.prepare_studies([{"images": [picture]}])["pixel_values"]
    assert torch.equal(pixels, middle(picture, return_tensors="pt")["pixel_values"])


# Random cuts


def studies():
    return [{"images": ["a", "b"], "report": "r"}, {"images": ["c"], "report": "s"}]


def positions(seed=0, epoch=0):
    varied = VariedStudies(studies(), random_crop=True, seed=seed)
    EpochOfStudies(varied).on_epoch_begin(None, TrainerState(epoch=epoch + 0.5), None)
    return [row["crop_positions"] for row in varied]


def test_a_random_cut_is_the_same_in_an_epoch_and_another_one_in_the_next():
    first = positions()
    assert [len(row) for row in first] == [2, 1]
    shares = [share for row in first for position in row for share in position]
    assert len(set(shares)) == 6
    assert all(0 <= share <= 1 for share in shares)
    assert positions() == first
    assert first not in (positions(seed=1), positions(epoch=1))
    assert "crop_positions" not in VariedStudies(studies())[0]


# Recipes


def test_a_part_by_name_brings_its_weights_and_its_tokenizer(tmp_path):
    tokenizer = train_report_tokenizer(["the heart is large"] * 10, 280)
    tokenizer.save_pretrained(tmp_path / "text")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes), add_pooling_layer=False)
    encoder.save_pretrained(tmp_path / "text")
    without = [each for each in TINY if not each.startswith("model.options.text_encoder_config")]
    overrides = [*without, "model.options={}", f"model.parts.text_encoder={tmp_path / 'text'}"]
    overrides += ["training.max_steps=1", "training.eval_strategy=no", "metrics=null"]
    overrides += ["training.learning_rate=0.0", "model.save_training_parts=true"]
    folder = run_recipe(load_recipe("bidirectional_phantoms", overrides), tmp_path / "run").model_dir
    model = BidirectionalForConditionalGeneration.from_pretrained(folder)
    for name, weight in encoder.state_dict().items():
        assert torch.equal(model.text_encoder.state_dict()[name], weight), name
    found = AutoProcessor.from_pretrained(folder).text_tokenizer
    assert found.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("model.parts={memory: here}", RecipeError, "model.parts: bidirectional_rrg takes no memory"),
        ("model.parts={text_encoder: ./nowhere}", FileNotFoundError, "model.parts.text_encoder=./nowhere"),
        ("model.options.image_decoder={decoder_hidden_size: 4}", RecipeError, "has no field image_decoder"),
        ("model.crop_from=null", RecipeError, "model.random_crop needs model.crop_from"),
    ],
)
def test_a_recipe_that_can_not_be_followed_says_which_key(tmp_path, override, error, message):
    with pytest.raises(error, match=message):
        run_recipe(load_recipe("bidirectional_phantoms", [*TINY, override]), tmp_path / "run")


def test_the_papers_recipes_name_its_values():
    for name, epochs in (("bidirectional_mimic", 5), ("bidirectional_iu", 2)):
        recipe = load_recipe(name)
        assert recipe.training["num_train_epochs"] == epochs
        assert recipe.training["metric_for_best_model"] == "Bleu_4"
        assert recipe.model.freeze == ["language_model"]
        assert recipe.model.parts == {
            "text_encoder": "Salesforce/blip-image-captioning-base",
            "image_decoder": "facebook/vit-mae-large",
        }
