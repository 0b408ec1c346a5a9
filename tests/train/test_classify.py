"""The classify stage: by recipe, by the plain Trainer, in two processes that act as one; and what can't be."""

import json
import logging
import math
import os

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import VISION_CONFIGS, tiny_tokenizer
from tiny_training import short_run
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    BertConfig,
    BertModel,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Trainer,
)
from typer.testing import CliRunner

from mambaxray import (
    AMMRGClassificationConfig,
    AMMRGForDiseaseClassification,
    ClassificationCollator,
    DiseaseAwareForPreTraining,
    DiseaseAwarePreTrainingConfig,
    LabelPolicy,
    MambaXrayImageProcessor,
    load_recipe,
    run_recipe,
)
from mambaxray.cli import app
from mambaxray.data.phantoms import make_phantoms, make_study
from mambaxray.data.schema import OBSERVATIONS, study_features
from mambaxray.evaluation.classification import classification_metrics
from mambaxray.train.classify import balanced_weights, label_targets, labelled_splits
from mambaxray.train.named_losses import NamedLossTrainer
from mambaxray.train.processes import run_in_processes
from mambaxray.train.recipe import RecipeError, make_recipe
from mambaxray.train.recipe_classify import LabelsSection

SHORT = [
    "training.max_steps=4",
    *("training.eval_steps=2", "training.save_steps=2", "training.logging_steps=1"),
    *("training.per_device_train_batch_size=4", "training.report_to=[]", "training.disable_tqdm=true"),
    "data.options={num_studies: 30, image_size: 32}",
    "model.vision_encoder.image_size=32",
]
AMMRG = [*SHORT, "model.vision_encoder.hidden_size=24", "model.vision_encoder.num_hidden_layers=1"]
DISEASE_AWARE = [
    *SHORT,
    "model.vision_encoder.embed_dim=8",
    *(f"model.text_encoder.{name}=32" for name in ("hidden_size", "intermediate_size")),
    *("model.vocab_size=320", "model.text_encoder.num_hidden_layers=1"),
]


@pytest.fixture(scope="module")
def ammrg_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ammrg"
    return folder, run_recipe(load_recipe("ammrg_stage1_phantoms", AMMRG), folder)


@pytest.fixture(scope="module")
def disease_aware_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "disease-aware"
    return folder, run_recipe(load_recipe("disease_aware_stage1_phantoms", DISEASE_AWARE), folder)


# Runs


@pytest.mark.parametrize(
    ("run", "losses"),
    [("ammrg_run", ("classification", "orthogonality")), ("disease_aware_run", ("classification", "contrastive"))],
)
def test_a_run_logs_each_loss_and_leaves_scores_of_both_splits(run, losses, request):
    folder, result = request.getfixturevalue(run)
    logged = [entry for entry in result.history if "loss" in entry]
    assert len(logged) == 4
    for entry in logged:  # the recipes' weights are 1
        assert entry["loss"] == pytest.approx(sum(entry[name] for name in losses), rel=1e-4)
    assert 0 <= result.metrics["eval_AUROC_macro"] <= 1
    assert 0 <= result.metrics["eval_F1_macro"] <= 1
    saved = json.loads((folder / "classification.json").read_text())
    assert saved["labels"] == {"uncertain": "ignore", "blank": "negative"}
    assert list(saved["splits"]) == ["validation", "test", "test, thresholds of validation"]
    validation = saved["splits"]["validation"]
    assert list(validation["observations"]) == list(OBSERVATIONS)
    assert validation["auroc_macro"] == pytest.approx(result.metrics["eval_AUROC_macro"], abs=1e-6)
    assert {each["threshold"] for each in validation["observations"].values()} == {0.5}
    assert validation["studies"] == saved["splits"]["test"]["studies"] == 3
    tuned = saved["splits"]["test, thresholds of validation"]["observations"]
    assert {each["threshold"] for each in tuned.values()} != {0.5}
    table = (folder / "classification.md").read_text()
    assert "Uncertain labels: ignore. Blank labels: negative." in table
    assert table.count("| Pleural Effusion |") == 3


def test_the_models_of_runs_load_with_their_processors(ammrg_run, disease_aware_run):
    study = make_study(3, image_size=32)
    for (_, result), processor_class in ((ammrg_run, AutoImageProcessor), (disease_aware_run, AutoProcessor)):
        model = AutoModel.from_pretrained(result.model_dir).eval()
        processor = processor_class.from_pretrained(result.model_dir)
        image_processor = getattr(processor, "image_processor", processor)
        output = model(**ClassificationCollator(image_processor, getattr(processor, "tokenizer", None))([study]))
        assert output.logits.isfinite().all()
        assert len(model.config.positive_weights) == 14
        assert result.trained_parameters == sum(
            weight.numel() for name, weight in model.named_parameters() if not name.startswith("text_encoder.")
        )


def test_a_run_goes_on_from_the_model_of_another(ammrg_run, tmp_path):
    _, result = ammrg_run
    overrides = [*SHORT[:-1], "training.max_steps=1", f"model={{checkpoint: {result.model_dir}}}"]
    again = run_recipe(load_recipe("ammrg_stage1_phantoms", overrides), tmp_path)
    assert again.steps == 1
    assert (tmp_path / "classification.md").is_file()


def test_the_command_trains_and_begins_again(tmp_path):
    arguments = ["classify", "--recipe", "ammrg_stage1_phantoms", "--output", str(tmp_path / "run"), *AMMRG]
    arguments.append("training.max_steps=1")
    for more in ([], ["--restart"]):
        result = CliRunner().invoke(app, [*arguments, *more])
        assert result.exit_code == 0, result.output
        assert "disease_queries" in result.output
        assert "eval_AUROC_macro" in result.output
    wrong = CliRunner().invoke(app, ["contrast", *arguments[1:]])
    assert wrong.exit_code != 0
    assert "run mambaxray classify" in " ".join(wrong.output.split())


def test_a_frozen_encoder_and_a_text_encoder_from_elsewhere_stay_as_they_were(tmp_path):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(VISION_CONFIGS["vmamba"]())
    encoder.save_pretrained(tmp_path / "encoder")
    text = BertConfig(vocab_size=60, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertModel(text).save_pretrained(tmp_path / "bert")
    tiny_tokenizer(" ".join(f"word{number}" for number in range(50))).save_pretrained(tmp_path / "bert")
    overrides = [
        *SHORT[:-1],
        f"model.vision_encoder={tmp_path / 'encoder'}",
        f"model.text_encoder={tmp_path / 'bert'}",
        "model.freeze=[vision_encoder]",
        "training.max_steps=2",
    ]
    result = run_recipe(load_recipe("disease_aware_stage1_phantoms", overrides), tmp_path / "run")
    model = AutoModel.from_pretrained(result.model_dir)
    for name, weight in encoder.state_dict().items():
        assert torch.equal(model.vision_encoder.state_dict()[name], weight), name
    assert model.config.separate_parts.keys() == {"text_encoder"}
    assert str(tmp_path) not in (result.model_dir / "config.json").read_text()


# Labels


def labelled(values, report="The lungs are clear."):
    study = make_study(0, image_size=32) | {"report": report}
    return study | {"labels": dict.fromkeys(OBSERVATIONS) | values}


def test_balanced_weights_are_negatives_by_positives_and_1_where_one_is_missing():
    nan = math.nan
    targets = np.array([[1, 0, 1, nan], [0, 0, 1, nan], [0, 0, nan, nan], [nan, 0, 1, nan]])
    assert balanced_weights(targets) == [2.0, 1.0, 1.0, 1.0]


def test_a_recipes_policies_reach_the_collator_the_weights_and_the_scores(tmp_path):
    overrides = ["labels={uncertain: positive, blank: ignore, positive_weights: balanced}", "training.max_steps=1"]
    result = run_recipe(load_recipe("ammrg_stage1_phantoms", [*AMMRG, *overrides]), tmp_path)
    train = make_phantoms(30, image_size=32)["train"]
    targets = label_targets(train, LabelPolicy("positive", "ignore"))
    assert AutoModel.from_pretrained(result.model_dir).config.positive_weights == balanced_weights(targets)
    assert json.loads((tmp_path / "classification.json").read_text())["labels"]["uncertain"] == "positive"


def test_labels_that_are_missing_are_refused_read_or_ignored(caplog):
    studies = [labelled({"Edema": 1}), labelled({}, "There is a large right pleural effusion. No pneumothorax.")]
    splits = {"train": Dataset.from_list(studies, features=study_features())}
    with pytest.raises(RecipeError, match=r"1 of 2 train studies have no label at all\. labels.unlabelled=read"):
        labelled_splits(splits, LabelsSection())
    ignored = labelled_splits(splits, LabelsSection(unlabelled="ignore"))
    assert np.isnan(label_targets(ignored["train"], LabelPolicy())[1]).all()
    with caplog.at_level(logging.INFO):
        read = labelled_splits(splits, LabelsSection(unlabelled="read"))["train"]
    assert "labels of 1 studies are read from their reports" in caplog.text
    assert read[0]["labels"]["Edema"] == 1
    assert (read[1]["labels"]["Pleural Effusion"], read[1]["labels"]["Pneumothorax"]) == (1, 0)
    assert read.column_names == splits["train"].column_names
    assert read[1]["images"][0].size == (32, 32)


# What can't be


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": {"uncertain": "maybe"}}, "labels.uncertain must be one of ignore, positive, negative, got 'maybe'"),
        ({"labels": {"blank": "positive"}}, "labels.blank must be one of negative, ignore, got 'positive'"),
        ({"labels": {"unlabelled": "drop"}}, "labels.unlabelled must be refuse, ignore or read, got 'drop'"),
        ({"labels": {"positive_weights": "auto"}}, "labels.positive_weights must be balanced or null, got 'auto'"),
        ({"labels": {"uncertian": "ignore"}}, "unknown key labels.uncertian; did you mean uncertain"),
        ({"model": {"system": "ammrg_classification"}}, "give model.checkpoint, or model.vision_encoder"),
        ({"model": {"checkpoint": "a", "vision_encoder": "b"}}, "so model.vision_encoder can't be given too"),
        ({"model": {"checkpoint": "a", "qformer": "b"}}, "which model.qformer can't change"),
        ({"model": {"vision_encoder": {"hidden_size": 8}}}, "configuration without model_type"),
    ],
)
def test_what_a_recipe_cannot_say_is_named(values, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe({"stage": "classify", "model": {"checkpoint": "a"}} | values)


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (
            "ammrg",
            ["model.system=mambaxray"],
            "model.system must be one of ammrg_classification, disease_aware",
        ),
        ("ammrg", ["model.options={query_layers: 2}"], "ammrg_classification has no field query_layers"),
        ("ammrg", ["model.options={query_hidden_size: 30}"], "model.options: query_hidden_size 30 must be a multiple"),
        ("ammrg", ["model.text_encoder={model_type: bert}"], "ammrg_classification takes no reports: leave"),
        ("ammrg", ["model.qformer=no/such/folder"], "model.qformer=no/such/folder: no.*give model.qformer"),
        ("ammrg", ["model.freeze=[decoder]"], "model.freeze: the model has no part 'decoder'; the model's parts are"),
        ("disease_aware", ["model.text_encoder=null"], "disease_aware_pretraining needs model.text_encoder"),
        ("disease_aware", ["model.options.projection_dim=0"], "model.options: projection_dim must be a positive"),
    ],
)
def test_parts_that_do_not_fit_are_named(recipe, overrides, message, tmp_path):
    common = AMMRG if recipe == "ammrg" else DISEASE_AWARE
    with pytest.raises((RecipeError, FileNotFoundError), match=message):
        run_recipe(load_recipe(f"{recipe}_stage1_phantoms", [*common, *overrides]), tmp_path)


def test_a_qformer_of_another_shape_and_queries_that_are_none_are_refused(tmp_path):
    Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, encoder_hidden_size=24
        )
    ).save_pretrained(tmp_path / "qformer")
    given = f"model.qformer={tmp_path / 'qformer'}"
    with pytest.raises(RecipeError, match=r"model.qformer: .* of .*qformer is"):
        run_recipe(load_recipe("ammrg_stage1_phantoms", [*AMMRG, given]), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"model\.qformer: a Q-Former's weights need queries with self-attention"):
        run_recipe(load_recipe("disease_aware_stage1_phantoms", [*DISEASE_AWARE, given]), tmp_path / "run")


# With the Trainer alone


def plain_model(name, vocabulary=60):
    torch.manual_seed(0)
    queries = {"query_hidden_size": 16, "query_attention_heads": 2, "query_dropout": 0.0}
    if name == "ammrg":
        sizes = {"query_hidden_layers": 2, "query_intermediate_size": 16, "encoder_hidden_size": 24}
        return AMMRGForDiseaseClassification(
            AMMRGClassificationConfig(VISION_CONFIGS["vision_mamba"](), **queries, **sizes)
        )
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": vocabulary, "max_position_embeddings": 256}
    vision = VISION_CONFIGS["vmamba"]()
    vision.drop_path_rate = 0.0
    return DiseaseAwareForPreTraining(DiseaseAwarePreTrainingConfig(vision, BertConfig(**text), **queries))


def plain_parts(name, studies):
    tokenizer = tiny_tokenizer(" ".join(studies["report"])) if name == "disease_aware" else None
    image_processor = MambaXrayImageProcessor(size={"height": 32, "width": 32})
    collator = ClassificationCollator(image_processor, tokenizer)
    return plain_model(name, 0 if tokenizer is None else len(tokenizer)), collator


@pytest.mark.parametrize("name", ["ammrg", "disease_aware"])
def test_the_plain_trainer_learns_to_tell_observations(name, tmp_path):
    studies = make_phantoms(8, seed=1, image_size=32, splits={"train": 1.0})["train"]
    model, collator = plain_parts(name, studies)
    trainer = Trainer(
        model=model,
        args=short_run(tmp_path, max_steps=30, learning_rate=1e-2, per_device_train_batch_size=8),
        train_dataset=studies,
        eval_dataset=studies,
        data_collator=collator,
        compute_metrics=classification_metrics,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.9 * before["eval_loss"]
    assert after["eval_AUROC_macro"] > before["eval_AUROC_macro"] + 0.1
    predictions = trainer.predict(studies)
    assert predictions.predictions.shape == predictions.label_ids.shape == (8, 14)


# Several processes


def train_steps(folder, name):
    """Three steps on batches of 8 over all processes; the first writes losses and weights' sums."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    studies = make_phantoms(24, seed=1, image_size=32, splits={"train": 1.0})["train"]
    model, collator = plain_parts(name, studies)
    # Processes with different numbers of known labels.
    collator = ClassificationCollator(collator.image_processor, collator.tokenizer, policy=LabelPolicy(blank="ignore"))
    arguments = short_run(
        folder,
        max_steps=3,
        per_device_train_batch_size=8 // processes,
        ddp_backend="gloo" if processes > 1 else None,
        logging_steps=1,
        learning_rate=1e-3,
        train_sampling_strategy="sequential",
        ddp_timeout=120,
        ddp_find_unused_parameters=False,
    )
    trainer = NamedLossTrainer(model=model, args=arguments, train_dataset=studies, data_collator=collator)
    trainer.train()
    if trainer.is_world_process_zero():
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        weights = {name: weight.double().abs().sum().item() for name, weight in model.named_parameters()}
        (folder / f"{processes}.json").write_text(json.dumps({"history": history, "weights": weights}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ammrg", "disease_aware"])
def test_two_processes_learn_as_one_with_the_negatives_and_labels_of_both(name, tmp_path):
    for processes in (1, 2):
        run_in_processes(train_steps, (tmp_path, name), processes)
    one, two = (json.loads((tmp_path / f"{processes}.json").read_text()) for processes in (1, 2))
    for entry, expected in zip(two["history"], one["history"], strict=True):
        assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        names = entry.keys() & {"classification", "orthogonality", "contrastive"}
        assert len(names) == 2
        for loss in names:
            assert entry[loss] == pytest.approx(expected[loss], rel=1e-4), loss
    for part, weight in one["weights"].items():
        # Keys have no use for a bias: its gradient is rounding.
        assert two["weights"][part] == pytest.approx(weight, rel=1e-4, abs=1e-6), part


def test_named_losses_at_evaluation_add_up_to_the_loss_whatever_the_batches(tmp_path):
    """Of three studies in batches of two, the last one is alone in its batch."""
    recipe = load_recipe(
        "ammrg_stage1_phantoms", [*AMMRG, "training.max_steps=2", "training.per_device_eval_batch_size=2"]
    )
    metrics = run_recipe(recipe, tmp_path).metrics
    named = metrics["eval_classification"] + metrics["eval_orthogonality"]
    assert named == pytest.approx(metrics["eval_loss"], rel=1e-5)
