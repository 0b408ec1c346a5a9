"""Models saved without the language model that they were put together from."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny import IMAGE_TOKEN_ID, VISION_CONFIGS, tiny_model
from transformers import AutoModel, AutoModelForImageTextToText, BitsAndBytesConfig, Trainer, TrainingArguments

from mambaxray import MambaXrayForConditionalGeneration
from mambaxray.modeling_mambaxray.separate_language_model import (
    LanguageModelChangedError,
    LanguageModelNotFoundError,
)


def save_language_model(folder, text="llama", seed=0, dtype=torch.float32):
    model = tiny_model(text=text, seed=seed).language_model
    model.to(dtype).save_pretrained(folder)


@pytest.fixture
def decoder(tmp_path):
    save_language_model(tmp_path / "decoder")
    return tmp_path / "decoder"


def put_together(decoder, vision="vision_mamba", **text_kwargs):
    torch.manual_seed(1)
    return MambaXrayForConditionalGeneration.from_encoder_decoder_pretrained(
        AutoModel.from_config(VISION_CONFIGS[vision]()),
        str(decoder),
        image_token_id=IMAGE_TOKEN_ID,
        text_kwargs=text_kwargs,
    )


def inputs_for(model):
    generator = torch.Generator().manual_seed(0)
    tokens = model.config.num_image_tokens
    ids = torch.tensor([[1, *[IMAGE_TOKEN_ID] * tokens, 5, 6, 7, 2]])
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32, generator=generator)}


def logits_of(model):
    with torch.no_grad():
        return model.eval()(**inputs_for(model)).logits


def saved_names(folder):
    names = set()
    for file in folder.glob("*.safetensors"):
        names |= load_file(file).keys()
    return names


def parts(names):
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("text", ["llama", "gemma2", "gpt2", "opt"])
@pytest.mark.parametrize("vision", ["vision_mamba", "swin"])
def test_a_frozen_language_model_is_left_out_and_comes_back_with_equal_logits(tmp_path, vision, text):
    # gemma2, gpt2 and opt tie their output to their input embeddings.
    save_language_model(tmp_path / "decoder", text)
    model = put_together(tmp_path / "decoder", vision)
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    assert parts(saved_names(tmp_path / "model")) == {"vision_encoder", "projector", "layer_norm"}
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert torch.equal(logits_of(loaded), logits_of(model))
    output, embeddings = loaded.get_output_embeddings(), loaded.get_input_embeddings()
    assert (output.weight is embeddings.weight) == loaded.config.text_config.tie_word_embeddings


def test_it_comes_back_in_a_fresh_process_through_the_auto_class(tmp_path, decoder):
    model = put_together(decoder)
    model.freeze_language_model()
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path / "model")
    torch.save({"inputs": inputs_for(model), "logits": logits_of(model)}, tmp_path / "expected.pt")
    code = (
        "import sys, torch, mambaxray\n"
        "from transformers import AutoModelForImageTextToText\n"
        "expected = torch.load(sys.argv[2], weights_only=True)\n"
        "model = AutoModelForImageTextToText.from_pretrained(sys.argv[1]).eval()\n"
        "with torch.no_grad(): logits = model(**expected['inputs']).logits\n"
        "assert torch.equal(logits, expected['logits'])\n"
        "assert model.generation_config.max_new_tokens == 7\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "expected.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_was_loaded_can_be_saved_again_the_same_way(tmp_path, decoder):
    model = put_together(decoder)
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "first")
    again = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    assert saved_names(tmp_path / "second") == saved_names(tmp_path / "first")
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "second")
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_shards_come_back(tmp_path, decoder):
    model = put_together(decoder)
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_each_part_keeps_its_number_format(tmp_path):
    save_language_model(tmp_path / "decoder", dtype=torch.bfloat16)
    model = put_together(tmp_path / "decoder", dtype=torch.bfloat16)
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert (loaded.language_model.dtype, loaded.projector.weight.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(logits_of(loaded), logits_of(model))
    wanted = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float64)
    assert {parameter.dtype for parameter in wanted.parameters()} == {torch.float64}


def test_another_number_format_is_no_change(tmp_path, decoder):
    model = put_together(decoder)
    model.freeze_language_model()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    assert "language_model" not in parts(saved_names(tmp_path / "model"))
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    weights = loaded.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_everything_is_saved_when_the_reference_is_dropped(tmp_path, decoder):
    model = put_together(decoder)
    model.freeze_language_model()
    model.language_model_reference = None
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(decoder)
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert loaded.config.language_model_source is None
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_a_language_model_in_training_is_saved(tmp_path, decoder):
    model = put_together(decoder)
    model.save_pretrained(tmp_path / "model")
    assert "language_model" in parts(saved_names(tmp_path / "model"))
    model.freeze_language_model()
    model.unfreeze_language_model()
    model.save_pretrained(tmp_path / "again")
    assert saved_names(tmp_path / "again") == saved_names(tmp_path / "model")


def test_only_the_layers_that_were_trained_are_saved(tmp_path, decoder):
    model = put_together(decoder)
    model.freeze_language_model()
    last = model.language_model.model.layers[-1]
    last.requires_grad_(True)
    with torch.no_grad():
        last.mlp.up_proj.weight.add_(0.1)
    model.save_pretrained(tmp_path / "model")
    of_language_model = {name for name in saved_names(tmp_path / "model") if name.startswith("language_model")}
    assert of_language_model == {f"language_model.model.layers.1.{name}" for name, _ in last.named_parameters()}
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_a_change_is_saved_even_where_nothing_is_marked_as_trained(tmp_path, decoder):
    config = LoraConfig(target_modules=r"language_model\..*q_proj", init_lora_weights=False)
    merged = get_peft_model(put_together(decoder), config).merge_and_unload()
    merged.requires_grad_(False)
    merged.save_pretrained(tmp_path / "model")
    names = {name for name in saved_names(tmp_path / "model") if name.startswith("language_model")}
    assert len(names) == 2
    assert all("q_proj" in name for name in names)
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert torch.equal(logits_of(loaded), logits_of(merged))


def test_an_absent_language_model_is_named_and_a_copy_elsewhere_is_taken(tmp_path, decoder):
    model = put_together(decoder)
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    decoder.rename(tmp_path / "moved")
    with pytest.raises(LanguageModelNotFoundError, match=rf"{decoder}.*language_model=FOLDER"):
        MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", language_model=str(tmp_path / "moved"))
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_another_language_model_in_its_place_is_refused(tmp_path, decoder):
    model = put_together(decoder)
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    save_language_model(decoder, seed=7)
    with pytest.raises(LanguageModelChangedError, match=str(decoder)):
        MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")


def test_a_revision_is_kept(tmp_path, decoder):
    model = put_together(decoder, revision="v1.2")
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["language_model_source"] == str(decoder)
    assert config["language_model_revision"] == "v1.2"


def test_adapters_on_a_model_without_its_language_model_load(tmp_path, decoder):
    base = put_together(decoder)
    base.freeze_language_model()
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = base.config.name_or_path = str(tmp_path / "base")
    config = LoraConfig(
        target_modules=r"language_model\..*q_proj", modules_to_save=["projector"], init_lora_weights=False
    )
    adapted = get_peft_model(base, config)
    adapted.save_pretrained(tmp_path / "adapter")
    fresh = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "base")
    assert torch.equal(logits_of(PeftModel.from_pretrained(fresh, tmp_path / "adapter")), logits_of(adapted))
    assert torch.equal(logits_of(AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter")), logits_of(adapted))


def test_the_plain_trainer_saves_small_checkpoints_and_resumes_from_them(tmp_path, decoder):
    row = inputs_for(put_together(decoder))
    row = {"input_ids": row["input_ids"][0], "pixel_values": row["pixel_values"][0], "labels": row["input_ids"][0]}
    row["labels"] = row["labels"].masked_fill(row["labels"] == IMAGE_TOKEN_ID, -100)

    def trained(folder, steps, resume):
        model = put_together(decoder)
        model.freeze_language_model()
        arguments = TrainingArguments(
            str(tmp_path / folder),
            max_steps=steps,
            save_steps=2,
            lr_scheduler_type="constant",
            remove_unused_columns=False,
            use_cpu=True,
            report_to=[],
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=[row] * 8)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model

    straight = trained("straight", 4, resume=False)
    trained("resumed", 2, resume=False)
    assert "language_model" not in parts(saved_names(tmp_path / "resumed" / "checkpoint-2"))
    resumed = trained("resumed", 4, resume=True)
    assert torch.equal(logits_of(resumed), logits_of(straight))
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "resumed" / "checkpoint-4")
    assert torch.equal(logits_of(loaded), logits_of(straight))


@pytest.mark.parametrize("bits", [4, 8])
def test_only_the_language_model_is_quantized_and_its_weights_are_still_left_out(tmp_path, decoder, bits):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    quantization = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    model = put_together(decoder, quantization_config=quantization, device_map={"": "cpu"})
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    assert "language_model" not in parts(saved_names(tmp_path / "model"))
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model", quantization_config=quantization)
    assert type(loaded.projector) is torch.nn.Linear
    assert torch.equal(logits_of(loaded), logits_of(model))
    loaded.save_pretrained(tmp_path / "again")
    assert saved_names(tmp_path / "again") == saved_names(tmp_path / "model")
    # What was saved refers to the weights as they are published.
    plain = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert not torch.equal(logits_of(plain), logits_of(model))
