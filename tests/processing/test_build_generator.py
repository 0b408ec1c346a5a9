"""A report generator and its processor from parts in one call, whatever families the parts are of."""

import pytest
import torch
from PIL import Image
from tiny import TEXT_CONFIGS, VISION_CONFIGS, tiny_tokenizer
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    ConvNextConfig,
    ConvNextV2Config,
    MambaConfig,
    Qwen2Config,
    ResNetConfig,
    ViTConfig,
    pipeline,
)
from typer.testing import CliRunner

from mambaxray import ImageToTextPipeline, MambaXrayForConditionalGeneration, build_generator
from mambaxray.cli import app
from mambaxray.processing.study_prompts import DEFAULT_INSTRUCTION

_CONVOLUTIONS = {"hidden_sizes": [8, 16], "depths": [1, 1]}
ENCODERS = {
    **VISION_CONFIGS,
    "convnext": lambda: ConvNextConfig(image_size=32, num_stages=2, **_CONVOLUTIONS),
    "convnextv2": lambda: ConvNextV2Config(image_size=30, num_stages=2, **_CONVOLUTIONS),
    "resnet": lambda: ResNetConfig(embedding_size=8, layer_type="basic", **_CONVOLUTIONS),
    "resnet, odd": lambda: ResNetConfig(
        embedding_size=8, layer_type="basic", downsample_in_first_stage=True, image_size=33, **_CONVOLUTIONS
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(f"lungs clear . {DEFAULT_INSTRUCTION} Human: Assistant:")


def image():
    return Image.linear_gradient("L").resize((40, 40))


@pytest.mark.parametrize("family", ENCODERS)
def test_every_family_of_encoders_writes_and_loads_again(family, tokenizer, tmp_path):
    encoder = AutoModel.from_config(ENCODERS[family]())
    size = 32 if getattr(encoder.config, "image_size", None) is None else None
    decoder = AutoModelForCausalLM.from_config(TEXT_CONFIGS["llama"]())
    model, processor = build_generator(encoder, decoder, tokenizer, image_size=size)
    inputs = processor(images=[image()])
    with torch.no_grad():
        features = model.get_image_features(pixel_values=inputs["pixel_values"])
    assert features.last_hidden_state.shape[1] == model.config.num_image_tokens == processor.num_image_tokens
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    written = ImageToTextPipeline(model, processor)(image(), max_new_tokens=3)
    assert pipeline("image-to-text", model=str(tmp_path), device="cpu")(image(), max_new_tokens=3) == written


def test_a_decoder_with_a_padded_vocabulary_works_by_pipeline_and_command_line(tokenizer, tmp_path):
    config = TEXT_CONFIGS["qwen2"]().to_dict() | {"vocab_size": 128}
    decoder = AutoModelForCausalLM.from_config(Qwen2Config(**config))
    decoder.save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    AutoModel.from_config(VISION_CONFIGS["vision_mamba"]()).save_pretrained(tmp_path / "encoder")
    model, processor = build_generator(str(tmp_path / "encoder"), str(tmp_path / "decoder"), image_size=64)
    assert processor.image_token_id == model.config.image_token_id < 128
    assert processor.image_processor.size["height"] == model.config.vision_config.image_size == 64
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    image().save(tmp_path / "xray.png")
    assert pipeline("image-to-text", model=str(tmp_path / "model"), device="cpu")(image(), max_new_tokens=3)
    arguments = ["generate", str(tmp_path / "xray.png"), "-m", str(tmp_path / "model"), "--max-new-tokens", "3"]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output


def test_a_placeholder_of_another_id_is_told_as_that(tokenizer):
    encoder = AutoModel.from_config(VISION_CONFIGS["vision_mamba"]())
    decoder = AutoModelForCausalLM.from_config(TEXT_CONFIGS["llama"]())
    _, processor = build_generator(encoder, decoder, tokenizer)
    model = MambaXrayForConditionalGeneration.from_encoder_decoder_pretrained(encoder, decoder)
    assert model.config.image_token_id != processor.image_token_id
    with pytest.raises(ValueError, match="another id: make both with build_generator"):
        model.generate(**processor(images=[image()]))


def test_a_mamba_decoder_is_refused_by_name_with_the_reason(tokenizer):
    encoder = AutoModel.from_config(VISION_CONFIGS["vision_mamba"]())
    decoder = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(ValueError, match=r"mamba decoder \(MambaForCausalLM\) keeps a recurrent state"):
        build_generator(encoder, decoder, tokenizer)


def test_what_is_missing_or_contradicts_is_told(tokenizer):
    decoder = AutoModelForCausalLM.from_config(TEXT_CONFIGS["llama"]())
    resnet = AutoModel.from_config(ENCODERS["resnet"]())
    with pytest.raises(ValueError, match="give image_size"):
        build_generator(resnet, decoder, tokenizer)
    vit = AutoModel.from_config(ViTConfig(image_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match="takes images of 32 px, not 64"):
        build_generator(vit, decoder, tokenizer, image_size=64)
    with pytest.raises(ValueError, match="give tokenizer"):
        build_generator(vit, decoder)
    with pytest.raises(ValueError, match="system must be one of"):
        build_generator(vit, decoder, tokenizer, system="nonsense")


def test_a_saved_generator_takes_another_image_size_as_the_error_advises(tokenizer, tmp_path):
    encoder = AutoModel.from_config(VISION_CONFIGS["vision_mamba"]())
    decoder = AutoModelForCausalLM.from_config(TEXT_CONFIGS["llama"]())
    model, _ = build_generator(encoder, decoder, tokenizer)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"from_pretrained\(\.\.\., image_size=SIZE\)"):
        model.get_image_features(torch.zeros(1, 3, 64, 64))
    larger = AutoModelForImageTextToText.from_pretrained(tmp_path, image_size=64)
    assert larger.get_image_features(torch.zeros(1, 3, 64, 64)).last_hidden_state.shape[1] == 17
    assert larger.config.num_image_tokens == 17
    larger.save_pretrained(tmp_path / "larger")
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "larger").config.vision_config.image_size == 64
