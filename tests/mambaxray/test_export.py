"""Exported folders: all weights in them, and what vLLM's transformers backend asks of them, as far as it can be seen
without vLLM."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from fresh_environment import FreshEnvironment
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from tiny import tiny_emrrg, tiny_model
from transformers import (
    AttentionInterface,
    AutoModelForImageTextToText,
    AutoProcessor,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from typer.testing import CliRunner

from mambaxray import MambaXrayForConditionalGeneration, MambaXrayProcessor
from mambaxray.cli import app
from mambaxray.export import ExportError, export_model
from mambaxray.modeling_mambaxray.modeling_mambaxray import MambaXrayModel


@pytest.fixture(scope="module")
def referring(
    model: MambaXrayForConditionalGeneration, processor: MambaXrayProcessor, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model whose language model is left out, and where that is."""
    folder = tmp_path_factory.mktemp("referring")
    model.language_model.save_pretrained(folder / "llama")
    made = MambaXrayForConditionalGeneration.from_encoder_decoder_pretrained(
        model.vision_encoder, str(folder / "llama"), image_token_id=model.config.image_token_id
    )
    made.freeze_language_model()
    made.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def exported(referring: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(referring / "model", tmp_path_factory.mktemp("exported") / "served")


@pytest.fixture(scope="module")
def inputs(processor: MambaXrayProcessor, pictures: list[Path]) -> dict[str, torch.Tensor]:
    return dict(processor([Image.open(picture).convert("L") for picture in pictures[:2]]))


def _logits(model: MambaXrayForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def test_all_weights_are_in_the_folder_and_it_refers_to_no_other(
    referring: Path, exported: Path, inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert not any("layers.0.self_attn" in name for name in load_file(referring / "model" / "model.safetensors"))
    elsewhere = shutil.copytree(exported, tmp_path / "elsewhere")
    text = (elsewhere / "config.json").read_text()
    assert json.loads(text)["separate_parts"] == {}
    assert str(referring) not in text
    model = AutoModelForImageTextToText.from_pretrained(elsewhere)
    assert model.part_references == {}
    assert set(load_file(elsewhere / "model.safetensors")) == set(model.state_dict())
    original = AutoModelForImageTextToText.from_pretrained(referring / "model")
    assert torch.equal(_logits(model, inputs), _logits(original, inputs))
    assert AutoProcessor.from_pretrained(elsewhere).default_prompt


def test_adapters_are_merged(referring: Path, inputs: dict[str, torch.Tensor], tmp_path: Path) -> None:
    base = AutoModelForImageTextToText.from_pretrained(referring / "model")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    expected = _logits(adapted.eval(), inputs)
    merged = AutoModelForImageTextToText.from_pretrained(export_model(tmp_path / "adapter", tmp_path / "merged"))
    assert not any("lora" in name for name in merged.state_dict())
    torch.testing.assert_close(_logits(merged, inputs), expected, rtol=1e-3, atol=1e-4)
    below = AutoModelForImageTextToText.from_pretrained(referring / "model")
    assert not torch.allclose(_logits(below, inputs), expected, atol=1e-2)


def test_nothing_is_overwritten(referring: Path, exported: Path) -> None:
    with pytest.raises(FileExistsError, match="name another one"):
        export_model(referring / "model", exported)


def test_a_folder_without_a_report_generator_is_refused(model: MambaXrayForConditionalGeneration, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no model"):
        export_model(tmp_path, tmp_path / "served")
    model.vision_encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ExportError, match="no report generator"):
        export_model(tmp_path / "encoder", tmp_path / "served")
    assert not (tmp_path / "served").exists()


def _with_decoder(decoder: torch.nn.Module) -> MambaXrayForConditionalGeneration:
    return MambaXrayForConditionalGeneration.from_encoder_decoder_pretrained(tiny_model().vision_encoder, decoder)


_SIZES = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: tiny_model(text="gpt2"), "which weights of GPT2LMHeadModel are whose"),
        (lambda: _with_decoder(GraniteForCausalLM(GraniteConfig(**_SIZES, num_attention_heads=4, logits_scaling=4.0))),
         "by what GraniteForCausalLM multiplies its logits"),
        (tiny_emrrg, "EMRRGForConditionalGeneration does more than a MambaXrayModel"),
    ],
    ids=["names", "logits", "system"],
)  # fmt: skip
def test_what_vllm_would_serve_wrongly_is_refused_or_exported_for_others(
    make: object, reason: str, processor: MambaXrayProcessor, tmp_path: Path
) -> None:
    model = make()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with pytest.raises(ExportError, match=reason):
        export_model(tmp_path / "model", tmp_path / "served")
    assert not (tmp_path / "served").exists()
    export_model(tmp_path / "model", tmp_path / "served", for_vllm=False)
    auto_map = json.loads((tmp_path / "served" / "config.json").read_text())["auto_map"]
    assert "AutoModel" not in auto_map
    assert "AutoModelForImageTextToText" in auto_map


def test_only_the_exported_folder_names_the_model_without_its_head(referring: Path, exported: Path) -> None:
    names = {
        folder: json.loads((folder / "config.json").read_text())["auto_map"]
        for folder in (referring / "model", exported)
    }
    assert names[referring / "model"]["AutoModel"] == "modeling_mambaxray.MambaXrayForConditionalGeneration"
    assert names[exported]["AutoModel"] == "modeling_mambaxray.MambaXrayModel"
    assert names[exported]["AutoModelForImageTextToText"] == names[referring / "model"]["AutoModelForImageTextToText"]


def _vllm_names(model: torch.nn.Module, names: list[str]) -> dict[str, str]:
    """What vLLM calls a checkpoint's weights: transformers' renamings for the model's class, then the children of the
    model under `model.`, and heads beside it.

    Source: vLLM, `model_executor/models/transformers/base.py`, `_create_hf_to_vllm_mapper`, in words.
    """
    children = "|".join(name for name, _ in model.named_children())
    found = {}
    for name in names:
        renamed = name
        for renaming in get_model_conversion_mapping(model):
            renamed, _ = renaming.rename_source_key(renamed)
        renamed = re.sub(rf"^(?!model\.)(({children}).*)", r"model.\1", renamed)
        found[name] = re.sub(r"^model\.(.+\.)*(lm_head.+)", r"\2", renamed)
    return found


def _phi_with_a_bias() -> PhiForCausalLM:
    return PhiForCausalLM(PhiConfig(**_SIZES, num_attention_heads=4))


@pytest.mark.parametrize("decoder", ["llama", "qwen2", "gemma2", "opt", "phi"])
def test_vllm_finds_a_place_for_every_weight(decoder: str, processor: MambaXrayProcessor, tmp_path: Path) -> None:
    model = _with_decoder(_phi_with_a_bias()) if decoder == "phi" else tiny_model(text=decoder)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    exported = export_model(tmp_path / "model", tmp_path / "served")
    with torch.device("meta"):
        base = MambaXrayModel(model.config)
    weights = load_file(exported / "model.safetensors")
    places = _vllm_names(base, list(weights))
    head = {name for name in places.values() if name.startswith("lm_head.")}
    tied = model.config.text_config.tie_word_embeddings
    assert head == ({"lm_head.bias"} if decoder == "phi" else set()) | (set() if tied else {"lm_head.weight"})
    parameters = {f"model.{name}": value for name, value in base.state_dict().items()}
    assert {name: value.shape for name, value in parameters.items()} == {
        places[name]: value.shape for name, value in weights.items() if places[name] not in head
    }


def test_the_base_model_serves_as_vllm_calls_it(
    exported: Path, processor: MambaXrayProcessor, pictures: list[Path]
) -> None:
    """One view; embeddings in place of ids; positions, no mask, an attention function with arguments of its own."""
    seen = []

    def attend(module, query, key, value, attention_mask, attention_instances=None, **kwargs):
        seen.append(attention_instances)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("served", attend)
    whole = AutoModelForImageTextToText.from_pretrained(exported).eval()
    base = MambaXrayModel.from_pretrained(exported).eval()
    assert MambaXrayModel.is_backend_compatible()
    assert type(base.get_decoder()).__name__ == "LlamaModel"
    assert base.get_encoder(modality="image") is base.vision_encoder
    assert base.config.get_text_config() is base.config.text_config
    base.config.text_config._attn_implementation = "served"
    picture = Image.open(pictures[0]).convert("L")
    hf_inputs = processor(
        text=processor.image_token, images=[picture], return_text_replacement_offsets=True, return_tensors="pt"
    )
    assert len(hf_inputs.pop("text_replacement_offsets")[0]) == 1
    prompt = processor(images=[picture], text=processor.default_prompt)
    kwargs = {name: hf_inputs[name] for name in hf_inputs if name not in ("input_ids", "attention_mask")}
    with torch.no_grad():
        embeddings = base.get_image_features(kwargs.pop("pixel_values"), **kwargs).pooler_output
        assert [each.shape[0] for each in embeddings] == processor._get_num_multimodal_tokens(
            image_sizes=[(picture.height, picture.width)]
        )["num_image_tokens"]
        ids = prompt["input_ids"]
        is_image = ids == processor.image_token_id
        merged = base.get_input_embeddings()(ids.masked_fill(is_image, 0))
        merged = merged.masked_scatter(is_image[..., None], embeddings[0])
        outputs = base(
            input_ids=None,
            inputs_embeds=merged,
            use_cache=False,
            position_ids=torch.arange(ids.shape[1])[None],
            attention_instances={0: "cache"},
            return_dict=False,
        )
        assert seen == [{0: "cache"}] * base.config.text_config.num_hidden_layers
        logits = whole.get_output_embeddings()(outputs[0])
    torch.testing.assert_close(logits, _logits(whole, dict(prompt)))


def test_misspelt_arguments_are_refused_whatever_attends(exported: Path, inputs: dict[str, torch.Tensor]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(exported)
    AttentionInterface.register("served", sdpa_attention_forward)
    model.config.text_config._attn_implementation = "served"
    with pytest.raises(TypeError, match="view_masks"):
        model(**inputs, view_masks=torch.ones(2, 1))


def test_the_command_exports_beside_the_model_or_says_why_not(referring: Path, tmp_path: Path) -> None:
    model = shutil.copytree(referring / "model", tmp_path / "model")
    done = CliRunner().invoke(app, ["export", str(model)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "model-export" / "model.safetensors").is_file()
    again = CliRunner().invoke(app, ["export", str(model)])
    assert again.exit_code == 2
    assert "name another" in " ".join(again.output.split())


_USE = """
import sys, torch
from transformers import AutoModel, AutoModelForImageTextToText
folder, inputs = sys.argv[1:]
inputs = torch.load(inputs, weights_only=True)
base = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
whole = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
with torch.device("meta"):
    made = AutoModel.from_config(base.config, trust_remote_code=True)
with torch.no_grad():
    hidden_states, logits = base(**inputs).last_hidden_state, whole(**inputs).logits
print(type(base).__name__, type(whole).__name__, type(made) is type(base), type(base).is_backend_compatible(),
      torch.allclose(whole.get_output_embeddings()(hidden_states), logits))
"""


@pytest.mark.slow
def test_without_the_package_auto_model_gives_the_base_model(
    exported: Path, inputs: dict[str, torch.Tensor], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch.save(inputs, tmp_path / "inputs.pt")
    environment = FreshEnvironment(tmp_path_factory.mktemp("fresh"))
    result = environment.run(_USE, exported, tmp_path / "inputs.pt")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["MambaXrayModel", "MambaXrayForConditionalGeneration", "True", "True", "True"]
