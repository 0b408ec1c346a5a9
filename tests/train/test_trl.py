"""TRL's trainers, as they are, with our generators: log-probabilities, prompts, masks, references, adapters."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import (
    IMAGE_TOKEN_ID,
    TEXT_CONFIGS,
    VISION_CONFIGS,
    VOCABULARY,
    tiny_emrrg,
    tiny_tokenizer,
    with_large_weights,
)
from transformers import CohereConfig, GraniteConfig, ModernBertDecoderConfig, PhiConfig

from mambaxray import (
    MambaXrayConfig,
    MambaXrayForConditionalGeneration,
    MambaXrayImageProcessor,
    MambaXrayProcessor,
)
from mambaxray.modeling_mambaxray.layers.decoder_head import HeadRulesError

pytest.importorskip("trl", reason="TRL is not installed: pip install mambaxray[rl]")

from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.utils import add_fused_lm_head

QUESTIONS = ["What ?", "Is there effusion or edema ?"]
REPORTS = ["The heart is normal .", "No effusion . The heart is large ."]
WORDS = (
    "Human: <Img> </Img> Assistant: Generate a comprehensive and detailed diagnosis report for this chest xray image."
)
WORDS += " What ? Is there effusion or edema The heart is normal . No large clear lungs are left right small"
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _gemma2():
    config = TEXT_CONFIGS["gemma2"]()
    config.final_logit_softcapping = 2.0
    return config


DECODERS = TEXT_CONFIGS | {
    "gemma2": _gemma2,
    "phi": lambda: PhiConfig(**SIZES, **TOKENS),
    "granite": lambda: GraniteConfig(**SIZES, **TOKENS, logits_scaling=3.0),
    "cohere": lambda: CohereConfig(**SIZES, **TOKENS, logit_scale=0.25),
}


# Each trainer with each system, and with and without adapters; all of it in the slow suite.
BOTH_WAYS = pytest.mark.parametrize(
    ("decoder", "adapter"),
    [
        pytest.param("llama", False, id="llama-whole"),
        pytest.param("emrrg", True, id="emrrg-lora"),
        pytest.param("llama", True, id="llama-lora", marks=pytest.mark.slow),
        pytest.param("emrrg", False, id="emrrg-whole", marks=pytest.mark.slow),
    ],
)


def _model(decoder: str) -> MambaXrayForConditionalGeneration:
    if decoder == "emrrg":
        return tiny_emrrg()
    torch.manual_seed(0)
    config = MambaXrayConfig(VISION_CONFIGS["vision_mamba"](), DECODERS[decoder](), image_token_id=IMAGE_TOKEN_ID)
    model = with_large_weights(MambaXrayForConditionalGeneration(config).eval())
    head = model.get_output_embeddings()
    if head.bias is not None:
        torch.nn.init.normal_(head.bias)
    return model


def _processor(model: MambaXrayForConditionalGeneration) -> MambaXrayProcessor:
    words = WORDS.split()
    spare = [f"word{index}" for index in range(VOCABULARY - 4 - len(dict.fromkeys(words)))]
    image_processor = MambaXrayImageProcessor(size={"height": 32, "width": 32})
    tokenizer = tiny_tokenizer(" ".join([*words, *spare]))
    processor = MambaXrayProcessor(image_processor, tokenizer, num_image_tokens=model.config.num_image_tokens)
    assert processor.image_token_id == IMAGE_TOKEN_ID
    return processor


def _image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32), dtype=np.uint8))


STUDIES = [[_image(0), _image(1)], [_image(2)]]
"""Two views and one, which is padded with a missing one."""


def _rows(**columns: list) -> Dataset:
    features = {name: [{"role": Value("string"), "content": Value("string")}] for name in ("prompt", *columns)}
    rows = {name: [[{"role": "assistant", "content": text}] for text in texts] for name, texts in columns.items()}
    rows |= {"prompt": [[{"role": "user", "content": text}] for text in QUESTIONS], "images": STUDIES}
    return Dataset.from_dict(rows, features=Features(features | {"images": List(ImageFeature())}))


def _arguments(folder: Path, **options: object) -> dict[str, object]:
    return {
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    } | options


def _adapter() -> LoraConfig:
    return LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def _saved(model: MambaXrayForConditionalGeneration, folder: Path) -> MambaXrayForConditionalGeneration:
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder)


def _own_log_probs(model: MambaXrayForConditionalGeneration, batch: dict) -> torch.Tensor:
    logits = model(**batch).logits.float()[:, :-1]
    return logits.log_softmax(-1).gather(-1, batch["input_ids"].clamp(max=VOCABULARY - 1)[:, 1:, None]).squeeze(-1)


def _batch(processor: MambaXrayProcessor, indices: list[int]) -> dict:
    studies, questions, reports = ([each[index] for index in indices] for each in (STUDIES, QUESTIONS, REPORTS))
    return dict(processor(studies, questions, reports))


# The head


@pytest.mark.parametrize("decoder", [*DECODERS, "emrrg"])
def test_fused_head_gives_the_log_probabilities_of_the_models_own_logits(decoder: str) -> None:
    model = _model(decoder)
    batch = _batch(_processor(model), [0, 1])
    labels = batch.pop("labels")
    with torch.no_grad():
        own = _own_log_probs(model, batch)
        patched = copy.deepcopy(model)
        add_fused_lm_head(patched, outputs=("log_probs", "entropy"))
        fused = patched(**batch, labels=labels, fused_lm_head=True)
    is_report = labels[:, 1:] != -100
    torch.testing.assert_close(fused.log_probs[is_report], own[is_report], rtol=1e-5, atol=1e-5)
    # The cap, scale and bias of the decoders that have them are large enough to be missed.
    plain = model.base_model(**batch).last_hidden_state[:, :-1] @ model.get_output_embeddings().weight.T
    differs = not torch.allclose(plain, model(**batch).logits[:, :-1], rtol=1e-3)
    assert differs == (decoder in ("gemma2", "phi", "granite", "cohere"))


@pytest.mark.parametrize("decoder", ["llama", "emrrg"])
def test_log_probabilities_are_those_of_a_study_alone(decoder: str) -> None:
    """With the masks that TRL carries, neither a missing view nor a shorter prompt counts."""
    model = _model(decoder)
    processor = _processor(model)
    add_fused_lm_head(model)
    with torch.no_grad():
        together = model(**_batch(processor, [0, 1]), fused_lm_head=True).log_probs
        for index in (0, 1):
            alone_batch = _batch(processor, [index])
            alone = model(**alone_batch, fused_lm_head=True).log_probs[0]
            supervised = alone_batch["labels"][0, 1:] != -100
            length = int(alone_batch["attention_mask"].sum()) - 1
            torch.testing.assert_close(together[index, :length][supervised], alone[supervised], rtol=1e-4, atol=1e-5)
            assert supervised.sum() == len(REPORTS[index].split()) + 1


def test_decoder_with_another_head_is_refused_by_name() -> None:
    torch.manual_seed(0)
    text_config = ModernBertDecoderConfig(**SIZES, **TOKENS, cls_token_id=1, sep_token_id=2)
    config = MambaXrayConfig(VISION_CONFIGS["vision_mamba"](), text_config, image_token_id=IMAGE_TOKEN_ID)
    model = MambaXrayForConditionalGeneration(config).eval()
    batch = _batch(_processor(model), [0, 1])
    assert torch.isfinite(model(**batch).loss)
    add_fused_lm_head(model)
    with pytest.raises(HeadRulesError, match="ModernBertDecoderForCausalLM does not work with trainers"):
        model(**batch, fused_lm_head=True)


# Supervised fine-tuning


@BOTH_WAYS
def test_sft_learns_what_our_own_collator_gives(decoder: str, adapter: bool, tmp_path: Path) -> None:
    model = _model(decoder)
    processor = _processor(model)
    with torch.no_grad():
        expected = model(**_batch(processor, [0, 1])).loss.item()
    trainer = SFTTrainer(
        model,
        SFTConfig(**_arguments(tmp_path), max_length=None),
        train_dataset=_rows(completion=REPORTS),
        processing_class=processor,
        peft_config=_adapter() if adapter else None,
    )
    collated = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    own = _batch(processor, [0, 1])
    for name in ("input_ids", "attention_mask", "labels", "pixel_values", "pixel_attention_mask"):
        assert torch.equal(collated[name], own[name]), name
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed) == adapter


def test_sft_of_whole_conversations(tmp_path: Path) -> None:
    model = _model("llama")
    processor = _processor(model)
    rows = [
        {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": report}],
            "images": study,
        }
        for question, report, study in zip(QUESTIONS, REPORTS, STUDIES, strict=True)
    ]
    trainer = SFTTrainer(
        model,
        SFTConfig(**_arguments(tmp_path), max_length=256),
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
    )
    collated = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    # The conversation is tokenized as one text, and TRL learns all of it.
    ids, present = collated["input_ids"], collated["attention_mask"] == 1
    assert (ids == IMAGE_TOKEN_ID).sum(1).tolist() == [processor.num_image_tokens] * 2
    assert [row[mask][[0, -1]].tolist() for row, mask in zip(ids, present, strict=True)] == [[1, 2]] * 2
    assert present[:, 0].all()
    assert torch.equal(collated["labels"], ids.masked_fill(~present, -100))
    assert collated["pixel_attention_mask"].tolist() == [[True, True], [True, False]]
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["loss"])


# Preferences


@BOTH_WAYS
def test_dpo_starts_from_its_reference(decoder: str, adapter: bool, tmp_path: Path) -> None:
    model = _saved(_model(decoder), tmp_path / "model")
    trainer = DPOTrainer(
        model,
        args=DPOConfig(**_arguments(tmp_path, max_steps=2), max_length=None),
        train_dataset=_rows(chosen=REPORTS, rejected=REPORTS[::-1]),
        processing_class=_processor(model),
        peft_config=_adapter() if adapter else None,
    )
    assert (trainer.ref_model is None) == adapter
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-5)
    assert second["loss"] != pytest.approx(math.log(2), abs=1e-7)


# Rewards


def _words(prompts: list, completions: list, completion_ids: list, **columns: list) -> list[float]:
    """Some reward that differs within a group."""
    return [float(sum(ids) % 7) + index % 2 for index, ids in enumerate(completion_ids)]


def _grpo(
    model: MambaXrayForConditionalGeneration, folder: Path, rewards: object = _words, adapter: bool = False, **options
) -> GRPOTrainer:
    arguments = _arguments(folder, per_device_train_batch_size=4, max_steps=2)
    arguments |= {"num_generations": 2, "max_completion_length": 4} | options
    return GRPOTrainer(
        model,
        reward_funcs=rewards,
        args=GRPOConfig(**arguments),
        train_dataset=_rows(),
        processing_class=_processor(model),
        peft_config=_adapter() if adapter else None,
    )


@BOTH_WAYS
@pytest.mark.parametrize("beta", [pytest.param(0.0, marks=pytest.mark.slow), 0.04])
def test_grpo_trains(decoder: str, adapter: bool, beta: float, tmp_path: Path) -> None:
    model = _saved(_model(decoder), tmp_path / "model")
    trainer = _grpo(model, tmp_path, adapter=adapter, beta=beta)
    assert (trainer.ref_model is None) == (adapter or beta == 0)
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert math.isfinite(first["loss"])
    assert any(
        not torch.equal(value, before[name]) for name, value in trainer.model.named_parameters() if name in before
    )
    if beta:
        # The policy is its own reference until it has learned something.
        assert first["kl"] == pytest.approx(0, abs=1e-6)
        assert second["kl"] > 1e-6


def test_grpo_prompts_are_unpadded_and_generate_as_each_study_alone(tmp_path: Path) -> None:
    model = _model("llama")
    processor = _processor(model)
    alone = []
    for study, question in zip(STUDIES, QUESTIONS, strict=True):
        inputs = processor([study], [question])
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
        alone.append(ids[: ids.index(2) + 1] if 2 in ids else ids)
    seen: dict[str, list[int]] = {}

    def reward(prompts: list, completions: list, completion_ids: list, **columns: list) -> list[float]:
        for prompt, ids in zip(prompts, completion_ids, strict=True):
            seen[prompt[0]["content"][-1]["text"]] = ids
        return _words(prompts, completions, completion_ids)

    trainer = _grpo(model, tmp_path, reward, max_steps=1, top_k=1)
    prompts = [[{"role": "user", "content": [{"type": "text", "text": question}]}] for question in QUESTIONS]
    for prompt, study in zip(prompts, STUDIES, strict=True):
        prompt[0]["content"][:0] = [{"type": "image", "image": view} for view in study]
    ids, _, fields = trainer._tokenize_prompts(prompts)
    assert ids == [processor([STUDIES[0]], [question])["input_ids"][0].tolist() for question in QUESTIONS]
    assert fields["pixel_values"].shape == (2, 2, 3, 32, 32)
    assert fields["pixel_attention_mask"].tolist() == [[True, True], [True, False]]
    trainer.train()
    assert [seen[question] for question in QUESTIONS] == alone


def test_grpo_text_prompts_are_unpadded(tmp_path: Path) -> None:
    trainer = _grpo(_model("llama"), tmp_path)
    ids, _, fields = trainer._tokenize_prompts(QUESTIONS)
    assert [len(row) for row in ids] == [1 + len(question.split()) for question in QUESTIONS]
    assert fields == {}


def test_grpo_log_probabilities_see_the_missing_view(tmp_path: Path) -> None:
    """What is scored is the model's own: a view that a study lacks, and the padding of its prompt, do not count."""
    model = _model("llama")
    processor = _processor(model)
    trainer = _grpo(model, tmp_path)
    batch = processor(STUDIES, QUESTIONS)
    completion = torch.tensor([[5, 6, 2], [7, 2, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    with torch.no_grad():
        scored, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([batch["input_ids"], completion], 1),
            torch.cat([batch["attention_mask"], mask], 1),
            3,
            batch_size=1,
            pixel_values=batch["pixel_values"],
            pixel_attention_mask=batch["pixel_attention_mask"],
            num_images=[2, 1],
        )
        for index, (study, question) in enumerate(zip(STUDIES, QUESTIONS, strict=True)):
            alone = processor([study], [question])
            length = int(mask[index].sum())
            alone["input_ids"] = torch.cat([alone["input_ids"], completion[index : index + 1, :length]], 1)
            alone["attention_mask"] = torch.ones_like(alone["input_ids"])
            own = _own_log_probs(model, alone)[0, -length:]
            torch.testing.assert_close(scored[index, :length], own, rtol=1e-4, atol=1e-5)


def test_reference_is_reloaded_together_with_a_part_saved_by_reference(tmp_path: Path) -> None:
    source = _model("llama")
    source.language_model.save_pretrained(tmp_path / "llama")
    model = MambaXrayForConditionalGeneration.from_encoder_decoder_pretrained(
        source.vision_encoder, str(tmp_path / "llama"), image_token_id=IMAGE_TOKEN_ID
    )
    model.freeze_language_model()
    model = _saved(model, tmp_path / "model")
    trainer = _grpo(model, tmp_path, beta=0.04, max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert torch.equal(trainer.ref_model.get_output_embeddings().weight, source.get_output_embeddings().weight)


@pytest.mark.slow
def test_reference_keeps_the_dtypes_of_the_parts_when_asked_to(tmp_path: Path) -> None:
    model = _model("llama")
    model.language_model.to(torch.bfloat16)
    model = _saved(model, tmp_path / "model")
    trainer = _grpo(model, tmp_path, beta=0.04, max_steps=1, model_init_kwargs={"dtype": "auto"})
    assert trainer.ref_model.language_model.dtype == torch.bfloat16
    assert trainer.ref_model.projector.weight.dtype == torch.float32
    trainer.train()
    assert trainer.state.log_history[0]["kl"] == 0


@pytest.mark.slow
def test_grpo_splits_a_generation_over_several_steps(tmp_path: Path) -> None:
    model = _saved(_model("llama"), tmp_path / "model")
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_iterations": 2}
    trainer = _grpo(model, tmp_path, beta=0.04, max_steps=3, gradient_checkpointing=True, **options)
    trainer.train()
    kl = [entry["kl"] for entry in trainer.state.log_history[:3]]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert min(kl[1:]) > 1e-6


def test_model_that_was_never_saved_has_no_reference_to_reload(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Repo id must"):
        _grpo(_model("llama"), tmp_path, beta=0.04)
