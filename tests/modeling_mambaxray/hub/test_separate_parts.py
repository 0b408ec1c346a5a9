"""Models saved without the parts that they were put together from."""

import itertools
import json
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny import IMAGE_TOKEN_ID, VISION_CONFIGS, tiny_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BertConfig,
    BitsAndBytesConfig,
    LlamaConfig,
    Trainer,
    TrainingArguments,
)

from mambaxray import MambaXrayForConditionalGeneration
from mambaxray.modeling_mambaxray.hub.local_parts import read_local_parts
from mambaxray.modeling_mambaxray.hub.separate_parts import PartChangedError, PartNotFoundError, PartReference
from mambaxray.modeling_mambaxray.hub.tensor_digests import tensor_digests


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
    assert loaded.config.separate_parts == {}
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
    with pytest.raises(PartNotFoundError, match=rf"{decoder}.*language_model=FOLDER"):
        MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", language_model=str(tmp_path / "moved"))
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_another_language_model_in_its_place_is_refused(tmp_path, decoder):
    model = put_together(decoder)
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    save_language_model(decoder, seed=7)
    with pytest.raises(PartChangedError, match=str(decoder)):
        MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")


def test_the_saved_model_tells_no_path_and_a_copy_without_the_notes_asks_for_the_part(tmp_path, decoder):
    model = put_together(decoder)
    model.vision_encoder.config.name_or_path = str(tmp_path / "encoder")
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    entry = config["separate_parts"]["language_model"]
    assert (entry["source"], entry["dtype"]) == (None, "float32")
    assert entry["fingerprint"].startswith("sha256:")
    assert [path for path in uploaded_files(tmp_path / "model") if str(tmp_path).encode() in path.read_bytes()] == []
    shutil.copytree(tmp_path / "model", tmp_path / "copy", ignore=shutil.ignore_patterns(".cache"))
    with pytest.raises(PartNotFoundError, match=r"language_model=FOLDER"):
        MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "copy")
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "copy", language_model=decoder)
    assert torch.equal(logits_of(loaded), logits_of(model))


def uploaded_files(folder):
    """What the Hub's client takes of a folder."""
    return [folder / path for path in filter_repo_objects(files_of(folder), ignore_patterns=DEFAULT_IGNORE_PATTERNS)]


def files_of(folder):
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def test_notes_of_an_earlier_save_in_the_same_folder_go_when_the_part_is_saved(tmp_path, decoder):
    model = put_together(decoder)
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    assert read_local_parts(tmp_path / "model") == {"language_model": str(decoder)}
    model.language_model_reference = None
    model.save_pretrained(tmp_path / "model")
    assert read_local_parts(tmp_path / "model") == {}


def test_a_part_that_the_model_holds_is_not_taken_from_elsewhere(tmp_path, decoder):
    put_together(decoder).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"holds its language_model: leave language_model=.* out"):
        MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model", language_model=str(decoder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_changed_row_of_a_large_embedding_comes_back(tmp_path, dtype):
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=4000
    )
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(tmp_path / "decoder")
    model = put_together(tmp_path / "decoder")
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[1234] += 1
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    assert [n for n in saved_names(tmp_path / "model") if n.startswith("language_model")] == [
        "language_model.model.embed_tokens.weight"
    ]
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.get_input_embeddings().weight, embeddings)
    assert loaded.get_input_embeddings().weight.dtype == dtype


def test_a_changed_embedding_that_is_also_the_output_stays_so(tmp_path):
    # The output's weights in the source are the old ones.
    save_language_model(tmp_path / "decoder", "gpt2")
    model = put_together(tmp_path / "decoder")
    with torch.no_grad():
        model.get_input_embeddings().weight[7] += 1
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert torch.equal(logits_of(loaded), logits_of(model))


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.copy_(weight.nextafter(torch.tensor(torch.inf))),
        lambda weight: weight.view(-1)[3].neg_(),
        lambda weight: weight.copy_(weight.flip(0)),
    ],
)
def test_the_smallest_change_is_a_change(change):
    weight = torch.randn(5, 7, dtype=torch.float64)
    before = tensor_digests({"weight": weight})
    assert tensor_digests({"weight": weight.clone()}) == before
    change(weight)
    assert tensor_digests({"weight": weight}) != before


def test_digests_are_of_values_dtype_and_shape_not_of_the_layout_in_memory():
    weight = torch.randn(4, 6).bfloat16()
    expected = tensor_digests({"a": weight})["a"]
    assert tensor_digests({"a": weight.T.contiguous().T})["a"] == expected
    assert tensor_digests({"a": weight.view(6, 4)})["a"] != expected
    assert tensor_digests({"a": weight.view(torch.int16)})["a"] != expected
    zeros = {"scalar": torch.tensor(1.0), "empty": torch.empty(0, 3), "other": torch.empty(0, 4)}
    assert len(set(tensor_digests(zeros).values())) == 3


def test_whatever_dtype_each_part_has_comes_back_without_the_decoder_and_with_it(tmp_path):
    for encoder, decoder_dtype in itertools.product((torch.float32, torch.bfloat16), repeat=2):
        folder = tmp_path / f"{encoder}-{decoder_dtype}"
        save_language_model(folder / "decoder", dtype=decoder_dtype)
        AutoModel.from_config(VISION_CONFIGS["vision_mamba"]()).save_pretrained(folder / "encoder")
        model = MambaXrayForConditionalGeneration.from_encoder_decoder_pretrained(
            str(folder / "encoder"), str(folder / "decoder"), vision_kwargs={"dtype": encoder}
        )
        assert (model.vision_encoder.dtype, model.language_model.dtype) == (encoder, decoder_dtype)
        for whole in (False, True):
            model.freeze_language_model()
            if whole:
                model.language_model_reference = None
            model.save_pretrained(folder / str(whole))
            loaded = MambaXrayForConditionalGeneration.from_pretrained(folder / str(whole))
            assert dtypes_of(loaded) == dtypes_of(model)
            weights = loaded.state_dict()
            assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
            assert loaded.config.text_config.dtype == decoder_dtype
            for option in ("dtype", "torch_dtype"):
                other = AutoModelForImageTextToText.from_pretrained(folder / str(whole), **{option: torch.float64})
                assert set(dtypes_of(other).values()) == {torch.float64}


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_what_a_part_computes_at_its_start_is_in_its_own_dtype(tmp_path, dtypes):
    # Gemma scales its embeddings by a buffer that is not saved; in the other part's dtype it would be rounded.
    save_language_model(tmp_path / "decoder", "gemma2", dtype=dtypes[1])
    AutoModel.from_config(VISION_CONFIGS["vision_mamba"]()).save_pretrained(tmp_path / "encoder")
    model = MambaXrayForConditionalGeneration.from_encoder_decoder_pretrained(
        str(tmp_path / "encoder"), str(tmp_path / "decoder"), vision_kwargs={"dtype": dtypes[0]}
    )
    expected = buffers_of(model)
    assert expected["language_model.model.embed_tokens.embed_scale"].dtype == dtypes[1]
    for whole in (False, True):
        model.freeze_language_model()
        if whole:
            model.language_model_reference = None
        model.save_pretrained(tmp_path / str(whole))
        found = buffers_of(MambaXrayForConditionalGeneration.from_pretrained(tmp_path / str(whole)))
        assert found.keys() == expected.keys()
        assert all(found[name].dtype == buffer.dtype for name, buffer in expected.items())
        assert all(torch.equal(found[name], buffer) for name, buffer in expected.items())


def buffers_of(model):
    return dict(model.named_buffers())


def dtypes_of(model):
    return {name: tensor.dtype for name, tensor in model.state_dict().items()}


def test_a_model_loaded_in_another_dtype_is_saved_as_it_is_then(tmp_path):
    save_language_model(tmp_path / "decoder", dtype=torch.bfloat16)
    model = put_together(tmp_path / "decoder")
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    wide = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float64)
    wide.save_pretrained(tmp_path / "wide")
    # What the cast gives is also what loading the source so gives.
    assert "language_model" not in parts(saved_names(tmp_path / "wide"))
    again = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "wide")
    assert dtypes_of(again) == dtypes_of(wide)
    assert all(torch.equal(weight, wide.state_dict()[name]) for name, weight in again.state_dict().items())


def test_digits_that_a_cast_has_lost_do_not_come_back(tmp_path, decoder):
    model = put_together(decoder)
    model.freeze_language_model()
    # There and back loses digits that the source has.
    model.to(torch.bfloat16).to(torch.float32).save_pretrained(tmp_path / "model")
    assert "language_model" in parts(saved_names(tmp_path / "model"))
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_all_is_saved_when_the_source_is_gone_and_the_dtype_another(tmp_path, decoder, caplog):
    model = put_together(decoder)
    model.freeze_language_model()
    shutil.rmtree(decoder)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    assert "can't be loaded" in caplog.text
    weights = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_what_an_earlier_version_saved_loads_and_says_that_it_is_not_checked(tmp_path, decoder, caplog):
    model = put_together(decoder)
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / ".cache")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    del config["separate_parts"]
    config |= {
        "language_model_source": str(decoder),
        "language_model_revision": None,
        "language_model_fingerprint": "0123456789abcdef",
    }
    file.write_text(json.dumps(config))
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert torch.equal(logits_of(loaded), logits_of(model))
    assert "saved by an earlier version" in caplog.text
    loaded.save_pretrained(tmp_path / "again")
    text = (tmp_path / "again" / "config.json").read_text()
    assert "language_model_" not in text
    assert str(tmp_path) not in text


class WithMoreParts(MambaXrayForConditionalGeneration):
    """A system with a frozen text encoder and a head that only training needs."""

    separate_parts = {"language_model": "AutoModelForCausalLM", "text_encoder": "AutoModel"}
    training_only_parts = ("reconstructor",)

    def __init__(self, config):
        super().__init__(config)
        self.text_encoder = AutoModel.from_config(TEXT_ENCODER)
        self.reconstructor = torch.nn.Linear(4, 4)
        self.post_init()


TEXT_ENCODER = BertConfig(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20
)


@pytest.fixture
def with_more_parts(tmp_path, decoder):
    AutoModel.from_config(TEXT_ENCODER).to(torch.bfloat16).save_pretrained(tmp_path / "text")
    model = WithMoreParts(put_together(decoder).config).eval()
    for name, source in (("language_model", decoder), ("text_encoder", tmp_path / "text")):
        auto_class = getattr(transformers, WithMoreParts.separate_parts[name])
        setattr(model, name, auto_class.from_pretrained(source))
        model.part_references[name] = PartReference.of(getattr(model, name), str(source))
        model.freeze_part(name)
    return model


def test_a_system_names_its_own_separate_parts(tmp_path, with_more_parts):
    model = with_more_parts
    model.save_pretrained(tmp_path / "model")
    assert parts(saved_names(tmp_path / "model")) == {"vision_encoder", "projector", "layer_norm"}
    loaded = WithMoreParts.from_pretrained(tmp_path / "model")
    assert loaded.text_encoder.dtype == torch.bfloat16
    weights = loaded.state_dict()
    expected = {name: weight for name, weight in model.state_dict().items() if not name.startswith("reconstructor")}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in expected.items())
    (tmp_path / "text").rename(tmp_path / "moved")
    with pytest.raises(PartNotFoundError, match="text_encoder=FOLDER"):
        WithMoreParts.from_pretrained(tmp_path / "model")
    WithMoreParts.from_pretrained(tmp_path / "model", text_encoder=tmp_path / "moved")
    loaded.unfreeze_part("text_encoder")
    loaded.save_pretrained(tmp_path / "trained")
    assert "text_encoder" in parts(saved_names(tmp_path / "trained"))
    with pytest.raises(ValueError, match=r"no part 'decoder'.*text_encoder"):
        loaded.freeze_part("decoder")


def test_what_only_training_needs_is_in_checkpoints_only_unless_asked_for(tmp_path, with_more_parts, caplog):
    model = with_more_parts
    model.save_pretrained(tmp_path / "model")
    loaded = WithMoreParts.from_pretrained(tmp_path / "model")
    assert loaded.reconstructor is None
    assert "without its reconstructor" in caplog.text
    assert torch.equal(logits_of(loaded), logits_of(model))
    inputs = inputs_for(model)
    assert loaded.generate(**inputs, max_new_tokens=2).shape[1] <= inputs["input_ids"].shape[1] + 2
    model.save_pretrained(tmp_path / "asked", save_training_parts=True)
    model.save_pretrained(tmp_path / "checkpoint-10")
    for folder in ("asked", "checkpoint-10"):
        again = WithMoreParts.from_pretrained(tmp_path / folder)
        assert torch.equal(again.reconstructor.weight, model.reconstructor.weight)


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


def test_training_goes_on_with_what_only_training_needs(tmp_path, with_more_parts):
    row = inputs_for(with_more_parts)
    row = {name: tensor[0] for name, tensor in row.items()}
    row["labels"] = row["input_ids"].masked_fill(row["input_ids"] == IMAGE_TOKEN_ID, -100)
    options = {"save_steps": 1, "remove_unused_columns": False, "use_cpu": True, "report_to": []}

    def trainer(steps):
        arguments = TrainingArguments(str(tmp_path / "run"), max_steps=steps, **options)
        return Trainer(model=with_more_parts, args=arguments, train_dataset=[row] * 8)

    trainer(1).train()
    expected = with_more_parts.reconstructor.weight.clone()
    torch.nn.init.zeros_(with_more_parts.reconstructor.weight)
    resumed = trainer(1)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(with_more_parts.reconstructor.weight, expected)
    resumed.save_model(str(tmp_path / "model"))
    assert "reconstructor" not in parts(saved_names(tmp_path / "model"))


@pytest.mark.parametrize("bits", [4, 8])
def test_only_the_language_model_is_quantized_and_its_weights_are_still_left_out(tmp_path, decoder, bits):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    # Blocks of 64 numbers are quantized together, and its kernels for the CPU take none smaller.
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes, vocab_size=48)).save_pretrained(decoder)
    quantization = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    model = put_together(decoder, quantization_config=quantization, device_map={"": "cpu"})
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    assert "language_model" not in parts(saved_names(tmp_path / "model"))
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "model", quantization_config=quantization)
    assert type(loaded.projector) is torch.nn.Linear
    # Its kernels for the CPU pack the weights anew in the first forward pass, so this comes before it.
    loaded.save_pretrained(tmp_path / "again")
    assert saved_names(tmp_path / "again") == saved_names(tmp_path / "model")
    assert torch.equal(logits_of(loaded), logits_of(model))
    # What was saved refers to the weights as they are published.
    plain = MambaXrayForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert not torch.equal(logits_of(plain), logits_of(model))
