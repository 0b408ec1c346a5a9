"""Collators, and the plain Trainer with them: a study goes in, a lower loss comes out."""

import pytest
import torch
from tiny import tiny_config
from transformers import Trainer, TrainingArguments

from mambaxray import (
    MambaXrayForConditionalGeneration,
    MambaXrayImageProcessor,
    MambaXrayProcessor,
)
from mambaxray.data.phantoms import make_phantoms
from mambaxray.train.collator import ReportCollator
from mambaxray.train.tokenizer import train_report_tokenizer

SIZE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def studies():
    return make_phantoms(24, seed=1, image_size=32, splits={"train": 0.75, "test": 0.25})


@pytest.fixture(scope="module")
def processor(studies):
    tokenizer = train_report_tokenizer(studies["train"]["report"], vocab_size=320)
    return MambaXrayProcessor(MambaXrayImageProcessor(size=SIZE), tokenizer, num_image_tokens=5)


def model_for(processor):
    config = tiny_config()
    config.text_config.vocab_size, config.image_token_id = len(processor.tokenizer), processor.image_token_id
    torch.manual_seed(0)
    return MambaXrayForConditionalGeneration(config)


def test_only_the_report_and_its_end_are_supervised(studies, processor):
    rows = [studies["train"][0], studies["train"][1]]
    batch = ReportCollator(processor)(rows)
    for row, labels in zip(rows, batch["labels"], strict=True):
        supervised = labels[labels != -100]
        assert supervised[-1] == processor.tokenizer.eos_token_id
        assert processor.tokenizer.decode(supervised[:-1]) == row["report"]


def test_long_reports_are_cut(studies, processor):
    batch = ReportCollator(processor, max_report_length=7)([studies["train"][0]])
    assert (batch["labels"] != -100).sum() == 7


def arguments(folder, **more):
    return TrainingArguments(
        str(folder), per_device_train_batch_size=6, remove_unused_columns=False, report_to=[], seed=0, **more
    )


def test_the_plain_trainer_lowers_the_loss_and_saves_a_model_that_loads(tmp_path, studies, processor):
    trainer = Trainer(
        model=model_for(processor),
        args=arguments(tmp_path, max_steps=15, learning_rate=1e-2, save_strategy="no"),
        train_dataset=studies["train"],
        eval_dataset=studies["test"],
        data_collator=ReportCollator(processor),
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert after < 0.8 * before
    trainer.save_model(str(tmp_path / "saved"))
    inputs = processor(images=studies["test"][0]["images"])
    loaded = type(trainer.model).from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded(**inputs).logits, trainer.model.eval()(**inputs).logits)


def test_training_resumed_from_a_checkpoint_ends_with_the_same_weights(tmp_path, studies, processor):
    weights = []
    for resumed in (False, True):
        folder = tmp_path / str(resumed)

        def trainer(steps, folder=folder):
            return Trainer(
                model=model_for(processor),
                args=arguments(folder, max_steps=steps, save_steps=3, lr_scheduler_type="constant"),
                train_dataset=studies["train"],
                data_collator=ReportCollator(processor),
            )

        if resumed:
            trainer(3).train()
        final = trainer(6)
        final.train(resume_from_checkpoint=resumed)
        weights.append(final.model.state_dict())
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_rows_of_a_two_column_table_are_studies_and_others_are_named(processor, studies):
    row = studies["train"][0]
    two_columns = [{"image": row["images"][0], "report": row["report"]}]
    batch = ReportCollator(processor)(two_columns)
    assert torch.equal(batch["input_ids"], ReportCollator(processor)([row])["input_ids"])
    with pytest.raises(ValueError, match=r"its keys are img, report.*load_studies"):
        ReportCollator(processor)([{"img": row["images"][0], "report": "x"}])
    with pytest.raises(ValueError, match="no report to learn from"):
        ReportCollator(processor)([{"image": row["images"][0], "report": None}])
