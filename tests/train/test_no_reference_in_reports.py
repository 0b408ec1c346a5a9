"""A word planted in the references is in no generated report, whichever way reports are written and scored."""

import functools

import pytest
from tiny_training import phantom_processor, short_run, tiny_generator
from transformers import GenerationConfig, Seq2SeqTrainer, Seq2SeqTrainingArguments

from mambaxray import (
    ImageToTextPipeline,
    ReportCollator,
    ReportTrainer,
    evaluate_model,
    generate_predictions,
)
from mambaxray.data.phantoms import make_phantoms

PLANTED = "zyzzyva"


@pytest.fixture(scope="module")
def studies():
    phantoms = make_phantoms(4, seed=1, image_size=32, splits={"test": 1.0})["test"]
    return phantoms.map(lambda study: {"report": f"{PLANTED} {study['report']}"})


@pytest.fixture(scope="module")
def processor(studies):
    return phantom_processor([*studies["report"], PLANTED])


@pytest.fixture
def model(processor):
    return tiny_generator(processor).eval()


def write_with_report_trainer(model, processor, studies, folder):
    seen = []
    trainer = ReportTrainer(
        model=model,
        args=short_run(folder),
        eval_dataset=studies,
        data_collator=ReportCollator(processor, for_generation=True),
        processing_class=processor,
        generation_config=GenerationConfig(max_new_tokens=20, do_sample=False),
        compute_metrics=lambda prediction: seen.extend(prediction.predictions) or {},
    )
    trainer.evaluate()
    return seen


def write_with_generate_predictions(model, processor, studies, folder):
    done = generate_predictions(model, processor, studies, output=folder / "p.jsonl", max_new_tokens=20)
    return [prediction.report for prediction in done]


def write_with_evaluate_model(model, processor, studies, folder):
    options = {"scoring": {"metrics": ["ROUGE_L"], "ci": False}, "max_new_tokens": 20}
    return [prediction.report for prediction in evaluate_model(model, processor, studies, **options).predictions]


def write_with_pipeline(model, processor, studies, folder):
    pipeline = ImageToTextPipeline(model, processor)
    return [pipeline([study["images"]], max_new_tokens=20)[0][0]["generated_text"] for study in studies]


WAYS = [write_with_report_trainer, write_with_generate_predictions, write_with_evaluate_model, write_with_pipeline]


@pytest.mark.parametrize("write", WAYS)
def test_the_planted_word_is_in_no_report_and_in_nothing_that_generates_it(
    write, model, processor, studies, tmp_path, monkeypatch
):
    planted = set(processor.tokenizer(f" {PLANTED}", add_special_tokens=False)["input_ids"])
    seen = []
    forward = type(model).forward

    @functools.wraps(forward)  # whose arguments transformers looks at
    def watched(self, *arguments, **inputs):
        # Steps behind the prompt may come as embeddings of what was generated.
        if inputs.get("labels") is None and inputs.get("input_ids") is not None:
            seen.append(inputs["input_ids"])
        return forward(self, *arguments, **inputs)

    monkeypatch.setattr(type(model), "forward", watched)
    reports = write(model, processor, studies, tmp_path)
    assert len(reports) == len(studies)
    assert not [report for report in reports if PLANTED in report]
    prompts = [ids for ids in seen if ids.shape[1] > 1]
    assert prompts
    assert not any(planted <= set(row.tolist()) for ids in prompts for row in ids)


def test_a_training_batch_holds_the_planted_word(processor, studies):
    """Else the test above could not fail."""
    batch = ReportCollator(processor)(list(studies))
    planted = set(processor.tokenizer(f" {PLANTED}", add_special_tokens=False)["input_ids"])
    assert all(planted <= set(row.tolist()) for row in batch["input_ids"])


def test_seq2seq_trainer_is_refused_since_it_would_generate_behind_the_reference(model, processor, studies, tmp_path):
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path), predict_with_generate=True, remove_unused_columns=False, report_to=[], use_cpu=True
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments,
        eval_dataset=studies,
        data_collator=ReportCollator(processor),
        processing_class=processor,
        compute_metrics=lambda prediction: {},
    )
    with pytest.raises(ValueError, match="use ReportTrainer in place of Seq2SeqTrainer"):
        trainer.evaluate(max_new_tokens=20)
