"""Context that is left out at random, and sections asked for in turn: the same draws wherever they are made again."""

import pytest
import torch
from tiny_training import TINY, short_run, tiny_generator
from torch.utils.data import DataLoader
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer

from mambaxray import MambaXrayImageProcessor, MambaXrayProcessor, ReportCollator, make_phantoms
from mambaxray.train.finetune import make_generator, processor_options
from mambaxray.train.recipe import RecipeError, load_recipe
from mambaxray.train.run import run_recipe
from mambaxray.train.tokenizer import train_report_tokenizer
from mambaxray.train.varied_studies import EpochOfStudies, VariedStudies

PARTS = ("indication", "prior_images", "prior_report")


def rows(count=400):
    context = {"indication": "Cough.", "prior_images": ["x"], "prior_report": "Clear."}
    return [{"study_id": str(i), "report": "r", "findings": f"F{i}.", "impression": ""} | context for i in range(count)]


def kept(studies):
    return [tuple(part in study for part in PARTS) for study in studies]


def all_of(studies):
    return [studies[index] for index in range(len(studies))]


def test_each_part_is_left_out_at_the_rate_and_by_itself():
    studies = VariedStudies(rows(2000), context=PARTS, dropout=0.3, seed=1)
    shown = torch.tensor(kept(all_of(studies)), dtype=torch.float64)
    assert ((1 - shown.mean(dim=0)) - 0.3).abs().max() < 0.04
    assert torch.corrcoef(shown.T).fill_diagonal_(0).abs().max() < 0.08


def test_what_is_drawn_follows_from_seed_epoch_and_study_alone():
    first = VariedStudies(rows(), context=PARTS, dropout=0.5, seed=1)
    draws = kept(all_of(first))
    torch.manual_seed(99)
    again = VariedStudies(list(reversed(rows())), context=PARTS, dropout=0.5, seed=1)
    assert kept(reversed(all_of(again))) == draws
    first.epoch = 1
    assert kept(all_of(first)) != draws
    first.epoch = 0
    assert kept(all_of(first)) == draws
    assert kept(all_of(VariedStudies(rows(), context=PARTS, dropout=0.5, seed=2))) != draws


@pytest.mark.parametrize(("dropout", "shown"), [(0.0, True), (1.0, False)])
def test_the_ends_of_the_rate_are_exact(dropout, shown):
    assert set(kept(all_of(VariedStudies(rows(), context=PARTS, dropout=dropout)))) == {(shown,) * 3}


def test_an_impossible_rate_is_refused():
    with pytest.raises(ValueError, match=r"dropout must be from 0 to 1, got 1\.5"):
        VariedStudies(rows(), dropout=1.5)


def test_worker_processes_that_stay_see_the_next_epoch():
    studies = VariedStudies(rows(64), context=PARTS, dropout=0.5)
    loader = DataLoader(studies, batch_size=None, num_workers=1, persistent_workers=True, collate_fn=lambda row: row)
    for epoch in (0, 1):
        studies.epoch = epoch
        assert kept(loader) == kept(all_of(studies))


def test_a_study_asks_for_a_section_that_it_has():
    given = rows(300)
    for row in given[::2]:
        row["impression"] = "I."
    studies = all_of(VariedStudies(given, sections=["findings", "impression"], seed=3))
    assert {(s["section"], s["report"][0]) for s in studies[1::2]} == {("findings", "F")}
    asked = [s["section"] for s in studies[::2]]
    assert 0.35 < asked.count("impression") / len(asked) < 0.65
    assert {s["report"] for s in studies[::2] if s["section"] == "impression"} == {"I."}


def test_a_section_is_cleaned_as_the_reports_were_and_a_study_without_any_is_as_it_was():
    given = [rows(1)[0] | {"findings": "The LUNGS are clear."}, rows(1)[0] | {"findings": ""}]
    studies = VariedStudies(given, sections=["findings"], cleaning="mimic-cxr")
    assert studies[0]["report"] == "the lungs are clear ."
    assert (studies[1]["report"], "section" in studies[1]) == ("r", False)


# ------------------------------------------------------------------------------------------- in a Trainer


@pytest.fixture(scope="module")
def phantoms():
    return make_phantoms(16, seed=1, image_size=32, history=True, splits={"train": 0.75, "validation": 0.25})


@pytest.fixture(scope="module")
def processor(phantoms):
    tokenizer = train_report_tokenizer(list(phantoms["train"]["report"]), vocab_size=320)
    image_processor = MambaXrayImageProcessor(size={"height": 32, "width": 32})
    return MambaXrayProcessor(image_processor, tokenizer, num_image_tokens=5, context=PARTS)


def trainer_of(folder, phantoms, processor, **arguments):
    model = tiny_generator(processor)
    model.take_prior_images(processor.prior_image_token_id)
    studies = VariedStudies(phantoms["train"], context=processor.context, dropout=0.5, seed=0)
    return Trainer(
        model=model,
        args=short_run(folder, per_device_train_batch_size=4, logging_steps=1, **arguments),
        train_dataset=studies,
        data_collator=ReportCollator(processor, max_report_length=9),
        callbacks=[EpochOfStudies(studies)],
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_resumed_run_draws_what_the_uninterrupted_one_did(tmp_path, phantoms, processor):
    whole = trainer_of(tmp_path / "whole", phantoms, processor, max_steps=7)
    whole.train()
    # Stopped in the middle of the second epoch, which has three steps.
    begun = {"save_strategy": "steps", "save_steps": 4, "max_steps": 4, "lr_scheduler_type": "constant"}
    trainer_of(tmp_path / "part", phantoms, processor, **begun).train()
    rest = trainer_of(tmp_path / "part", phantoms, processor, max_steps=7, lr_scheduler_type="constant")
    rest.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-4"))
    constant = trainer_of(tmp_path / "constant", phantoms, processor, max_steps=7, lr_scheduler_type="constant")
    constant.train()
    assert losses(rest) == losses(constant)
    assert len(losses(whole)) == 7


# ------------------------------------------------------------------------------------------- in a recipe

PRIOR = [
    *(each for each in TINY if not each.startswith("data.options")),
    "data.options={num_studies: 40, image_size: 32, history: true}",
]


def test_a_recipe_trains_evaluates_and_saves_a_model_that_takes_priors(tmp_path):
    recipe = load_recipe("finetune_phantoms_prior", [*PRIOR, "sections=[findings, impression]"])
    result = run_recipe(recipe, tmp_path / "run")
    assert "eval_F1_micro_14_uncertain-negative" in result.metrics
    processor = AutoProcessor.from_pretrained(result.model_dir)
    model = AutoModelForImageTextToText.from_pretrained(result.model_dir)
    assert processor.context == list(PARTS)
    assert [*processor.section_instructions] == ["findings", "impression"]
    study = make_phantoms(2, seed=9, image_size=32, history=True, splits={"train": 1.0})["train"][1]
    inputs = processor.prepare_studies([study | {"section": "impression"}])
    assert "prior_pixel_values" in inputs
    model.generate(**inputs, max_new_tokens=3)


def test_a_model_without_context_gets_it_from_a_recipe(tmp_path):
    plain = run_recipe(load_recipe("finetune_phantoms", TINY), tmp_path / "plain")
    recipe = load_recipe("finetune_phantoms_prior", [*PRIOR, f"model={{checkpoint: {plain.model_dir}}}"])
    model, processor = make_generator(recipe.model, (), processor_options(recipe))
    study = make_phantoms(2, seed=9, image_size=32, history=True, splits={"train": 1.0})["train"][1]
    assert model(**processor.prepare_studies([study], with_reports=True)).loss.isfinite()
    run_recipe(recipe, tmp_path / "prior")


def test_a_recipe_whose_data_shows_no_priors_is_refused(tmp_path):
    recipe = load_recipe("finetune_phantoms_prior", TINY)
    with pytest.raises(RecipeError, match=r"names prior_images, prior_report, which the data does not show"):
        run_recipe(recipe, tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("context.parts=[prior]", "unknown key context.parts.prior"),
        ("context.dropout=2.0", r"context\.dropout must be from 0 to 1"),
        ("context.max_prior_report_length=0", r"context\.max_prior_report_length must be positive"),
        ("sections=[lungs]", r"unknown key sections\.lungs; known: findings"),
    ],
)
def test_impossible_recipes_are_refused(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("finetune_phantoms_prior", [override])
