"""Training with reports written at evaluation."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_training import phantom_processor, short_run, tiny_generator
from transformers import EarlyStoppingCallback, GenerationConfig, Trainer
from transformers.trainer_pt_utils import LabelSmoother

from mambaxray import MambaXrayForConditionalGeneration, ReportCollator, ReportTrainer
from mambaxray.data.phantoms import make_phantoms
from mambaxray.train.report_trainer import smoothing_term


@pytest.fixture(scope="module")
def studies():
    return make_phantoms(19, seed=1, image_size=32, splits={"train": 0.63, "validation": 0.37})


@pytest.fixture(scope="module")
def processor(studies):
    return phantom_processor(studies["train"]["report"])


def report_trainer(folder, studies, processor, model=None, **more):
    arguments = more.pop("arguments", {})
    defaults = {
        "model": model or tiny_generator(processor),
        "args": short_run(folder, per_device_eval_batch_size=3, **{"max_steps": 2} | arguments),
        "train_dataset": studies["train"],
        "eval_dataset": studies["validation"],
        "data_collator": ReportCollator(processor, max_report_length=9, for_generation=True),
        "processing_class": processor,
        "generation_config": GenerationConfig(max_new_tokens=5, do_sample=False),
    }
    return ReportTrainer(**defaults | more)


def test_metrics_see_the_reports_that_generate_writes_and_the_complete_references(tmp_path, studies, processor):
    seen = {}

    def compute_metrics(prediction):
        seen["hypotheses"], seen["references"] = prediction.predictions, prediction.label_ids
        return {"count": len(prediction.predictions)}

    trainer = report_trainer(tmp_path, studies, processor, compute_metrics=compute_metrics)
    assert trainer.evaluate()["eval_count"] == len(studies["validation"])
    # max_report_length cuts what is learned, not what is compared with.
    assert seen["references"] == studies["validation"]["report"]
    for study, hypothesis in zip(studies["validation"], seen["hypotheses"], strict=True):
        inputs = processor(images=[study["images"]])
        tokens = trainer.model.generate(**inputs, max_new_tokens=5, do_sample=False)
        length = inputs["input_ids"].shape[1]
        assert hypothesis == processor.post_process_image_text_to_text(tokens, prompt_length=length)[0]


def test_the_loss_at_evaluation_is_that_of_the_plain_trainer(tmp_path, studies, processor):
    losses = [
        report_trainer(tmp_path, studies, processor, compute_metrics=lambda _: {}).evaluate()["eval_loss"],
        Trainer(
            model=tiny_generator(processor),
            args=short_run(tmp_path, per_device_eval_batch_size=3),
            eval_dataset=studies["validation"],
            data_collator=ReportCollator(processor, max_report_length=9),
        ).evaluate()["eval_loss"],
    ]
    assert losses[0] == losses[1]


def test_without_metrics_no_report_is_written(tmp_path, studies, processor):
    collator = ReportCollator(processor, max_report_length=9)
    metrics = report_trainer(tmp_path, studies, processor, data_collator=collator).evaluate()
    assert metrics["eval_loss"] > 0
    with pytest.raises(ValueError, match="for_generation=True"):
        report_trainer(tmp_path, studies, processor, data_collator=collator, compute_metrics=lambda _: {}).evaluate()


def test_any_metric_chooses_the_checkpoint_and_stops_the_training(tmp_path, studies, processor):
    scores = iter([0.2, 0.9, 0.3, 0.1, 0.0])
    trainer = report_trainer(
        tmp_path,
        studies,
        processor,
        compute_metrics=lambda _: {"quality": next(scores)},
        arguments={
            "max_steps": 5,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
            "metric_for_best_model": "quality",
            "load_best_model_at_end": True,
        },
        callbacks=[EarlyStoppingCallback(2)],
    )
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    best = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-2")
    assert all(torch.equal(weight, best.state_dict()[name]) for name, weight in trainer.model.state_dict().items())


def test_smoothed_loss_is_that_of_the_smoothed_targets():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 7, 11), torch.randint(0, 11, (2, 7))
    labels[:, :3] = -100
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    expected = LabelSmoother(epsilon=0.1)({"logits": logits}, labels, shift_labels=True)
    torch.testing.assert_close(plain + smoothing_term(logits, labels, 0.1), expected)
    # 4 tokens of each report are supervised.
    torch.testing.assert_close(4 * plain + smoothing_term(logits, labels, 0.1, reduction="sum"), 4 * expected)


def test_label_smoothing_is_in_the_training_loss_only(tmp_path, studies, processor):
    losses, evaluated = [], []
    for factor in (0.0, 0.5):
        arguments = {"max_steps": 1, "logging_steps": 1, "label_smoothing_factor": factor}
        trainer = report_trainer(tmp_path, studies, processor, arguments=arguments)
        evaluated.append(trainer.evaluate()["eval_loss"])
        trainer.train()
        losses += [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] != losses[1]
    assert evaluated[0] == evaluated[1]


class _WithNamedLosses(MambaXrayForConditionalGeneration):
    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs["losses"] = {"consistency": torch.tensor(0.25), "reconstruction": outputs.loss.detach() * 2}
        return outputs


def test_named_losses_of_a_model_are_in_the_log(tmp_path, studies, processor):
    model = _WithNamedLosses(tiny_generator(processor).config)
    trainer = report_trainer(tmp_path, studies, processor, model=model, arguments={"logging_steps": 1})
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["consistency"] for entry in logs] == [0.25, 0.25]
    assert logs[0]["reconstruction"] > 0


def test_lora_on_the_decoder_trains_with_both_trainers_and_loads_again(tmp_path, studies, processor):
    base = tiny_generator(processor)
    base.save_pretrained(tmp_path / "base")
    config = LoraConfig(
        r=4,
        target_modules=r"language_model\..*\.(q_proj|v_proj)",
        modules_to_save=["projector", "layer_norm"],
        init_lora_weights=False,
    )
    plain = Trainer(
        model=get_peft_model(tiny_generator(processor), config),
        args=short_run(tmp_path / "plain", max_steps=2, learning_rate=1e-2),
        train_dataset=studies["train"],
        data_collator=ReportCollator(processor, max_report_length=9),
    )
    ours = report_trainer(
        tmp_path / "ours",
        studies,
        processor,
        model=get_peft_model(base, config),
        arguments={"learning_rate": 1e-2},
        compute_metrics=lambda prediction: {"count": len(prediction.predictions)},
    )
    inputs = processor(images=[studies["validation"][0]["images"]])
    for name, trainer in (("plain", plain), ("ours", ours)):
        trainer.train()
        trainer.save_model(str(tmp_path / name / "adapter"))
        assert not list((tmp_path / name / "adapter").glob("model*.safetensors"))
        loaded = PeftModel.from_pretrained(
            MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "base"), tmp_path / name / "adapter"
        ).eval()
        expected = trainer.model.eval()(**inputs).logits
        assert torch.equal(loaded(**inputs).logits, expected)
    assert ours.evaluate()["eval_count"] == len(studies["validation"])
