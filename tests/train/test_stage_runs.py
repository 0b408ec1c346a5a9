"""Stages 1 and 2 as runs of recipes: from folders and studies, on the command line, and into the next stage."""

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, ViTMAEForPreTraining
from typer.testing import CliRunner

from mambaxray import MambaXrayForConditionalGeneration, MambaXrayForPreTraining, load_recipe, run_recipe
from mambaxray.cli import app
from mambaxray.data.image_folder import load_images
from mambaxray.data.phantoms import make_study
from mambaxray.train.pretrain import make_trainer
from mambaxray.train.processes import run_in_processes
from mambaxray.train.recipe import RecipeError
from mambaxray.train.run import read_result, training_arguments

SHORT = [
    "training.per_device_train_batch_size=4",
    "training.max_steps=4",
    "training.eval_steps=2",
    "training.save_steps=2",
    "training.logging_steps=1",
]
STUDIES = ["data.options={num_studies: 30, image_size: 32}"]
PRETRAIN = [*SHORT, "picture_every=2", "model.config.image_size=32", "model.config.patch_size=4"]
CONTRAST = [*SHORT, *STUDIES, "model.text_encoder.num_hidden_layers=1", "model.vocab_size=320"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "train" / "below").mkdir(parents=True)
    for number in range(10):
        place = folder / "train" / ("below" if number % 2 else "")
        make_study(number)["images"][0].resize((40, 40)).save(place / f"{number}.png")
    (folder / "metadata.csv").write_text("patient,sex\n1,f\n")
    return folder


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage1")
    return folder, run_recipe(load_recipe("pretrain_phantoms", [*PRETRAIN, *STUDIES]), folder)


def test_a_pretraining_run_leaves_model_pictures_and_losses(stage_1):
    folder, result = stage_1
    assert result.steps == 4
    assert result.metrics["eval_loss"] > 0
    assert isinstance(AutoModel.from_pretrained(result.model_dir), MambaXrayForPreTraining)
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == ["step-000002.png", "step-000004.png"]


def test_stages_2_and_3_go_on_with_what_the_one_before_left(stage_1, tmp_path):
    _, first = stage_1
    chosen = [f"model.vision_encoder={first.model_dir}", "model.image_size=48"]
    second = run_recipe(load_recipe("contrast_phantoms", [*CONTRAST, *chosen]), tmp_path / "2")
    assert {"eval_loss", "eval_image_to_text_recall@1", "eval_text_to_image_recall@10"} <= second.metrics.keys()
    processor = AutoProcessor.from_pretrained(second.model_dir)
    assert processor.image_processor.size == {"height": 48, "width": 48}
    assert processor.tokenizer.pad_token is not None
    chosen = [f"model.vision_encoder={second.model_dir}", "generation.max_new_tokens=3", "model.vocab_size=320"]
    third = run_recipe(load_recipe("finetune_phantoms", [*SHORT, *STUDIES, *chosen]), tmp_path / "3")
    model = MambaXrayForConditionalGeneration.from_pretrained(third.model_dir)
    assert model.config.vision_config.image_size == 48
    begun = {}
    again = run_recipe(
        load_recipe("contrast_phantoms", [*SHORT, *STUDIES, f"model={{checkpoint: {second.model_dir}}}"]),
        tmp_path / "again",
        on_start=lambda model: begun.update({name: tensor.clone() for name, tensor in model.state_dict().items()}),
    )
    left, trained = (AutoModel.from_pretrained(run.model_dir).state_dict() for run in (second, again))
    assert begun.keys() == left.keys()
    assert [name for name, tensor in left.items() if not torch.equal(begun[name], tensor)] == []
    assert [name for name, tensor in left.items() if not torch.equal(trained[name], tensor)] != []


@pytest.mark.parametrize("streaming", [False, True])
def test_pretraining_on_a_folder_of_pictures(pictures, tmp_path, streaming):
    data = ["data.source=null", "data.options={}", f"data.folders=[{pictures}]"]
    data += ["data.streaming=true", "training.eval_strategy=no"] if streaming else ["data.validation_share=0.2"]
    recipe = load_recipe("pretrain_phantoms", [*PRETRAIN, *data, "training.save_steps=4"])
    result = run_recipe(recipe, tmp_path)
    assert result.steps == 4
    assert bool(result.metrics) is not streaming
    # Killed after its last step.
    (tmp_path / "result.json").unlink()
    assert run_recipe(recipe, tmp_path).steps == 4


@pytest.mark.parametrize("streaming", [False, True])
def test_pretraining_on_folders_takes_no_more_pictures_than_the_recipe_says(pictures, tmp_path, streaming):
    data = ["data.source=null", "data.options={}", f"data.folders=[{pictures}]", "data.max_train=3"]
    data += ["data.streaming=true"] if streaming else ["data.validation_share=0.5", "data.max_validation=2"]
    data += ["training.eval_strategy=no"]
    recipe = load_recipe("pretrain_phantoms", [*PRETRAIN, *data])
    trainer = make_trainer(recipe, training_arguments(recipe, tmp_path), tmp_path)
    assert len(list(trainer.train_dataset)) == 3
    assert streaming or len(trainer.eval_dataset) == 2
    with pytest.raises(RecipeError, match=r"data\.options are for data\.source"):
        run_recipe(load_recipe("pretrain_phantoms", [*PRETRAIN, *data, "data.options={num_studies: 9}"]), tmp_path)


def test_a_masked_autoencoder_is_pretrained_from_the_command_line(pictures, tmp_path):
    config = "{hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2, image_size: 32, "
    config += (
        "model_type: vit_mae, decoder_hidden_size: 16, decoder_intermediate_size: 16, decoder_num_hidden_layers: 1, "
    )
    config += "decoder_num_attention_heads: 2, norm_pix_loss: true}"
    overrides = ["training.bf16=false", "training.dataloader_num_workers=0", "training.gradient_accumulation_steps=1"]
    overrides += [
        f"data.folders=[{pictures}]",
        "data.validation_share=0.2",
        f"model.config={config}",
        "picture_every=2",
    ]
    output = tmp_path / "run"
    result = CliRunner().invoke(
        app, ["pretrain", "--recipe", "mae_base_pretrain", "--output", str(output), *SHORT, *overrides]
    )
    assert result.exit_code == 0, result.output
    assert "eval_loss" in result.output
    assert isinstance(ViTMAEForPreTraining.from_pretrained(output / "model"), ViTMAEForPreTraining)
    assert (output / "pictures" / "step-000004.png").is_file()


def test_a_masked_autoencoder_that_is_resumed_ends_with_the_same_weights(pictures, tmp_path):
    config = "{model_type: vit_mae, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, image_size: 32, "
    config += "num_attention_heads: 2, decoder_hidden_size: 16, decoder_intermediate_size: 16, "
    config += "decoder_num_hidden_layers: 1, decoder_num_attention_heads: 2}"
    overrides = [*PRETRAIN, "data.source=null", "data.options={}", f"data.folders=[{pictures}]", "picture_every=null"]
    overrides += [f"model.config={config}", "training.lr_scheduler_type=constant", "training.warmup_steps=0"]
    overrides += ["training.eval_strategy=no", "training.save_strategy=steps", "training.save_steps=2"]
    straight = run_recipe(load_recipe("pretrain_phantoms", overrides), tmp_path / "straight")
    run_recipe(load_recipe("pretrain_phantoms", [*overrides, "training.max_steps=2"]), tmp_path / "resumed")
    resumed = run_recipe(load_recipe("pretrain_phantoms", overrides), tmp_path / "resumed")
    first, second = (ViTMAEForPreTraining.from_pretrained(run.model_dir).state_dict() for run in (straight, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_of_one_study_has_nothing_to_be_compared_with(tmp_path):
    recipe = load_recipe("contrast_phantoms", ["data.max_train=1", "data.options.num_studies=20"])
    with pytest.raises(RecipeError, match="needs two or more: there are 1 training studies"):
        run_recipe(recipe, tmp_path)


def test_data_without_validation_studies_is_told_in_the_recipes_words(tmp_path):
    table = tmp_path / "one.csv"
    Image.linear_gradient("L").save(tmp_path / "a.png")
    table.write_text("image,report,split\na.png,Clear.,train\n")
    with pytest.raises(RecipeError, match=r"training\.eval_strategy is steps: give training\.eval_strategy=no"):
        run_recipe(load_recipe("finetune_phantoms", [f"data.source={table}", "data.options={}"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folders_are_read_whole_and_only_their_pictures(pictures):
    rows = load_images([pictures])
    assert rows.column_names == ["image"]
    assert len(rows) == 10
    assert len(list(load_images([pictures, pictures / "train" / "below"], streaming=True))) == 10  # each once


def test_folders_without_pictures_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*absent"):
        load_images([tmp_path / "absent"])
    with pytest.raises(FileNotFoundError, match="no images below"):
        load_images([tmp_path])
    with pytest.raises(ValueError, match="at least one folder"):
        load_images([])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.folders=[a]"], "data.source and data.folders exclude each other"),
        (["data.streaming=true"], "data.streaming is for data.folders"),
        (["data.source=null", "data.folders=[a]", "data.streaming=true", "data.validation_share=0.1"], "no share"),
        (["data.validation_share=1.0"], "below 1, got 1.0"),
        (["model.checkpoint=a"], "one of them"),
        (["model.config={hidden_size: 3}"], "without model_type"),
        (["picture_every=0"], "picture_every must be positive"),
    ],
)
def test_what_a_pretraining_recipe_cannot_say_is_named(overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("pretrain_phantoms", overrides)


def test_a_stream_needs_a_number_of_steps(pictures, tmp_path):
    data = ["data.source=null", f"data.folders=[{pictures}]", "data.streaming=true", "training.eval_strategy=no"]
    with pytest.raises((RecipeError, ValueError), match="max_steps"):
        run_recipe(load_recipe("pretrain_phantoms", [*PRETRAIN, *data, "training.max_steps=-1"]), tmp_path)


def run_both(folder, processes):
    """Stages 1 and 2, each with batches of 8 over all processes."""
    share = [f"training.per_device_train_batch_size={8 // processes}", "training.per_device_eval_batch_size=1"]
    share += ["model.text_encoder.hidden_dropout_prob=0.0", "model.text_encoder.attention_probs_dropout_prob=0.0"]
    run_recipe(load_recipe("pretrain_phantoms", [*PRETRAIN, *STUDIES, *share[:2]]), folder / "1")
    run_recipe(load_recipe("contrast_phantoms", [*CONTRAST, *share]), folder / "2")


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(tmp_path):
    for processes in (1, 2):
        run_in_processes(run_both, (tmp_path / str(processes), processes), processes)
    for stage in ("1", "2"):
        one, two = (read_result(tmp_path / processes / stage) for processes in ("1", "2"))
        losses = [[float(entry["loss"]) for entry in run.history if "loss" in entry] for run in (one, two)]
        assert losses[1] == pytest.approx(losses[0], abs=1e-3)
        shared = {name for name in one.metrics if "recall" in name or (stage == "1" and name == "eval_loss")}
        assert shared
        for name in shared:
            assert two.metrics[name] == pytest.approx(one.metrics[name], abs=1e-3)
        assert (tmp_path / "2" / "1" / "pictures" / "step-000004.png").is_file()
