"""A system from outside the package does all that ours do (`tests/support/outside_system`)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from outside_system import QueryConfig, QueryForConditionalGeneration, QueryProcessor, SeenStudies
from tiny import VISION_CONFIGS, tiny_model
from tiny_training import TINY
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

import mambaxray
from mambaxray import (
    evaluate_model,
    explain_report,
    load_recipe,
    make_phantoms,
    push_folder,
    run_recipe,
)
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.evaluation.pages.attention_page import write_attention_page
from mambaxray.modeling_mambaxray.generation.continuous_generation import generate_continuously

SUPPORT = Path(__file__).parent / "support"
OVERRIDES = [*TINY, "model.system=outside_query", "model.options={num_queries: 2, loss_weights: {findings: 0.5}}"]
OVERRIDES += ["plugins=[outside_system]", "data.options={num_studies: 24, image_size: 32}"]


@pytest.fixture(scope="module")
def studies():
    return make_phantoms(24, image_size=32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside") / "run"
    return folder, run_recipe(load_recipe("finetune_phantoms", OVERRIDES), folder)


@pytest.fixture(scope="module")
def trained(run):
    """The trained model with a memory of two studies and large weights, so that the image decides what is written."""
    model = AutoModelForImageTextToText.from_pretrained(run[1].model_dir).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "A_log" not in name:
                parameter.mul_(4.0)
    model.study_memory = SeenStudies(["seen-1", "seen-2"], torch.randn(2, model.config.vision_config.hidden_size))
    return model, AutoProcessor.from_pretrained(run[1].model_dir)


def test_it_trains_by_recipe_and_logs_each_loss(run):
    _, result = run
    entries = [entry for entry in result.history if "loss" in entry]
    assert len(entries) == 4
    for entry in entries:
        assert entry["loss"] == pytest.approx(entry["report"] + 0.5 * entry["findings"], rel=1e-3)
    config = AutoConfig.from_pretrained(result.model_dir)
    assert type(config) is QueryConfig
    assert (config.num_queries, config.num_image_tokens) == (2, config.visual_sequence_length + 2)


def test_training_that_was_interrupted_ends_with_the_same_weights(run, tmp_path):
    _, result = run
    recipe = load_recipe("finetune_phantoms", OVERRIDES)

    class Killed(Exception):
        pass

    def kill(model):
        calls = []
        model.register_forward_pre_hook(lambda *_: calls.append(1) or _stop_at(calls))

    def _stop_at(calls):
        if len(calls) > 4 and any((tmp_path / "run" / "checkpoints").glob("checkpoint-2/complete.json")):
            raise Killed

    with pytest.raises(Killed):
        run_recipe(recipe, tmp_path / "run", on_start=kill)
    resumed = run_recipe(recipe, tmp_path / "run")
    expected = AutoModel.from_pretrained(result.model_dir).state_dict()
    weights = AutoModel.from_pretrained(resumed.model_dir).state_dict()
    assert [name for name, tensor in expected.items() if not torch.equal(weights[name], tensor)] == []


def test_everything_that_is_not_given_starts_as_its_class_says(trained):
    model, _ = trained
    encoder, decoder = AutoModel.from_config(VISION_CONFIGS["swin"]()), model.language_model
    torch.manual_seed(0)
    built = QueryForConditionalGeneration.from_encoder_decoder_pretrained(encoder, decoder, num_queries=3)
    assert built.queries.shape == (3, encoder.config.hidden_size)
    assert 0.01 < built.queries.std() < 0.03
    assert torch.equal(built.scale, torch.tensor([encoder.config.hidden_size**-0.5]))
    assert not any(parameter.is_meta for parameter in built.parameters())
    assert built.language_model is decoder


@pytest.mark.parametrize("options", [{"num_beams": 3}, {}])
def test_it_generates_continuously_what_generate_writes(trained, studies, options):
    model, processor = trained
    prepared = [dict(processor.prepare_studies([study])) for study in studies["test"]]
    settings = {"max_new_tokens": 6, "do_sample": False, **options}
    found = {}
    written = dict(
        generate_continuously(
            model, prepared, batch_size=2, on_evidence=lambda position, e: found.update({position: e}), **settings
        )
    )
    for position, inputs in enumerate(prepared):
        plain = model.generate(**inputs, **settings, return_dict_in_generate=True)
        tokens = plain.sequences[0, inputs["input_ids"].shape[1] :]
        assert torch.equal(written[position], tokens)
        (expected,) = plain.evidence
        assert [each.to_dict() for each in found[position]] == [each.to_dict() for each in expected]


def test_what_tells_of_the_reference_reaches_training_only(trained, studies):
    _, processor = trained
    row = studies["train"][0]
    assert "finding_labels" not in processor.prepare_studies([row])
    labels = processor.prepare_studies([row], with_reports=True)["finding_labels"]
    assert labels.shape == (1, len(OBSERVATIONS))
    seen = {}

    class Spy(QueryProcessor):
        def prompt_for(self, study, instruction=None):
            seen.update(study)
            return super().prompt_for(study, instruction)

    spy = Spy(processor.image_processor, processor.tokenizer, processor.num_image_tokens)
    spy.prepare_studies([row], with_reports=True)
    assert not seen.keys() & {"report", "findings", "impression", "labels"}


def test_the_prompt_says_the_view_in_training_generation_and_pipeline(trained, studies):
    model, processor = trained
    row = studies["test"][0]
    expected = f"{processor.instruction} Views: {', '.join(row['views'])}."
    assert expected in processor.prompt_for(row)
    prompts = [processor.prepare_studies([row])["input_ids"]]
    prompts.append(processor.prepare_studies([row], with_reports=True, include_prompt=True)["prompt_input_ids"])
    reporter = pipeline("image-to-text", model=model, processor=processor)
    prompts.append(reporter.preprocess({"images": row["images"], "views": row["views"]})["input_ids"])
    assert all(torch.equal(prompt, prompts[0]) for prompt in prompts)


def test_it_evaluates_with_its_evidence_in_the_predictions(trained, studies, tmp_path):
    model, processor = trained
    output = tmp_path / "predictions.jsonl"
    done = evaluate_model(
        model,
        processor,
        studies["test"],
        output=output,
        evidence=True,
        max_new_tokens=6,
        scoring={"metrics": ["BLEU"]},
    )
    assert len(done.predictions) == len(studies["test"])
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert all(line["evidence"].keys() == set(OBSERVATIONS) for line in lines)
    first = lines[0]["evidence"]["Edema"]
    assert 0 <= first["probability"] <= 1
    assert first["studies"][0]["study_id"] in ("seen-1", "seen-2")


def test_it_is_explained_with_its_evidence_on_the_page(trained, studies, tmp_path):
    model, processor = trained
    explanation = explain_report(model, processor, studies["test"][0]["images"], max_new_tokens=6, min_new_tokens=6)
    assert [each.observation for each in explanation.evidence] == list(OBSERVATIONS)
    page = write_attention_page(tmp_path / "page.html", explanation, title="t", summary="s").read_text()
    assert "Evidence" in page
    assert all(text in page for text in ("Pleural Effusion", explanation.evidence[0].studies[0].study_id))


def test_it_saves_reloads_and_pushes_without_its_memory(trained, studies, tmp_path, hub):
    model, processor = trained
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval()
    assert loaded.study_memory.study_ids == ["seen-1", "seen-2"]
    inputs = processor.prepare_studies([studies["test"][0]])
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    push_folder(tmp_path / "model", "me/outside", examples=False)
    model.push_to_hub("me/by-itself")
    for files in (hub.files("me/outside"), hub.files("me/by-itself")):
        assert "model.safetensors" in files
        assert not any("memory" in name or b"seen-1" in content for name, content in files.items())
    assert b"Query tokens, as an example" in hub.files("me/outside")["README.md"]


def test_the_command_line_takes_it_as_a_plugin(trained, tmp_path, studies):
    model, processor = trained
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    studies["test"][0]["images"][0].save(tmp_path / "xray.png")
    (tmp_path / "outside_system.py").write_text((SUPPORT / "outside_system" / "__init__.py").read_text())
    command = [sys.executable, "-m", "mambaxray.cli", "--plugin", "outside_system", "generate", "xray.png"]
    command += ["--model", "model", "--output", "reports.jsonl", "--evidence", "--max-new-tokens", "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "reports.jsonl").read_text().splitlines()
    assert json.loads(line)["evidence"].keys() == set(OBSERVATIONS)


def test_a_misspelt_or_foreign_argument_is_refused_by_name(trained, studies):
    model, processor = trained
    inputs = processor.prepare_studies([studies["train"][0]], with_reports=True)
    with pytest.raises(TypeError, match="view_masks"):
        model(**inputs, view_masks=inputs["view_mask"])
    plain = tiny_model()
    with pytest.raises(TypeError, match="MambaXrayForConditionalGeneration takes no finding_labels"):
        plain.get_image_features(torch.rand(1, 3, 32, 32), finding_labels=torch.zeros(1, 14))
    with pytest.raises(ValueError, match="view_masks"):
        model.generate(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"], view_masks=1)
    with pytest.raises(ValueError, match=r"finding_labels must be \(batch, 14\), got \(1, 3\)"):
        model.get_image_features(inputs["pixel_values"], finding_labels=torch.zeros(1, 3))


def test_a_name_that_is_taken_is_refused():
    taken = mambaxray.Family(config="outside_system:QueryConfig", model="somebody_else:Model")
    with pytest.raises(ValueError, match=r"'outside_query' is taken by outside_system:Query"):
        mambaxray.register_family(taken)
