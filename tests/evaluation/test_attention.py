"""Where a model looks: maps and gates are those of the model itself, and the page shows them."""

from base64 import b64decode
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from html_page import Page
from PIL import Image
from tiny import HYBRID_TEXT_CONFIGS, TEXT_CONFIGS, VISION_CONFIGS, with_large_weights
from tiny_training import phantom_processor
from transformers import ViTConfig
from typer.testing import CliRunner

from mambaxray import (
    EMRRGConfig,
    EMRRGForConditionalGeneration,
    MambaXrayConfig,
    MambaXrayForConditionalGeneration,
    VisionMambaConfig,
    explain_report,
    write_attention_page,
)
from mambaxray.cli import app
from mambaxray.configuration.vision_tokens import patch_positions
from mambaxray.evaluation.attention import words_of_tokens

REPORTS = ["The heart is normal in size.", "No pleural effusion <b>or</b> pneumothorax."]


@pytest.fixture(scope="module")
def processor():
    return phantom_processor(REPORTS * 4)


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(0).integers(0, 256, size=(8, 8), dtype=np.uint8)
    return Image.fromarray(noise).resize((40, 40), Image.Resampling.BICUBIC)


def make(processor, system="emrrg", text="llama", vision="vision_mamba"):
    config = (HYBRID_TEXT_CONFIGS | TEXT_CONFIGS)[text]()
    config.vocab_size = len(processor.tokenizer)
    options = {"image_token_id": processor.image_token_id}
    torch.manual_seed(0)
    if system == "emrrg":
        options["hybrid_layers"] = [0, 1]
        model = EMRRGForConditionalGeneration(EMRRGConfig(VISION_CONFIGS[vision](), config, **options))
        for index, layer in enumerate(model.cross_attention.layers.values()):
            torch.nn.init.constant_(layer.gate.warm_up, 1.0 - 2 * index)
            torch.nn.init.constant_(layer.gate.bias, 1.0)
    else:
        model = MambaXrayForConditionalGeneration(MambaXrayConfig(VISION_CONFIGS[vision](), config, **options))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return with_large_weights(model.eval())


def test_words_are_those_of_the_text_and_their_tokens_are_known(processor):
    tokenizer = processor.tokenizer
    for text in REPORTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        words, owners = words_of_tokens(tokenizer, [*ids, tokenizer.eos_token_id])
        assert words == text.split()
        assert owners[-1] is None
        for number, word in enumerate(words):
            own = [token for token, owner in zip(ids, owners, strict=False) if owner == number]
            assert tokenizer.decode(own).strip() == word


@pytest.mark.parametrize(
    ("system", "text", "vision"),
    [("mambaxray", "llama", "vision_mamba"), ("mambaxray", "gpt2", "swin"), ("emrrg", "gemma2", "vision_mamba")],
)
def test_the_first_word_looked_where_the_prompts_last_position_did(processor, picture, system, text, vision):
    model = make(processor, system, text, vision)
    processor.num_image_tokens = model.config.num_image_tokens
    explanation = explain_report(model, processor, [picture], max_new_tokens=8, do_sample=False)
    inputs = processor(images=[[picture]])
    written = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert explanation.words == processor.tokenizer.decode(written, skip_special_tokens=True).split()
    # Several tokens may make the first word; those before the second word are its own.
    _, owners = words_of_tokens(processor.tokenizer, written.tolist())
    own = [index for index, owner in enumerate(owners) if owner == 0]
    model.language_model.set_attn_implementation("eager")
    ids = torch.cat([inputs["input_ids"], written[None]], dim=1)
    with torch.no_grad():
        attentions = model(
            input_ids=ids, pixel_values=inputs["pixel_values"], output_attentions=True, use_cache=False
        ).attentions
    rows = [inputs["input_ids"].shape[1] - 1 + index for index in own]
    mean = torch.stack(attentions)[:, 0, :, rows].mean(dim=(0, 1, 2))
    patches = mean[ids[0] == model.config.image_token_id][patch_positions(model.config.vision_config)]
    torch.testing.assert_close(torch.tensor(explanation.sources[0].maps[0]).flatten(), patches)


def test_hybrid_layers_tell_their_maps_and_gates(processor, picture):
    model = make(processor)
    explanation = explain_report(model, processor, [picture], max_new_tokens=8, do_sample=False)
    assert model.language_model.config._attn_implementation == "sdpa"
    names = [source.name for source in explanation.sources]
    assert names == ["Self-attention, mean of 2 layers", "Cross-attention of layer 0", "Cross-attention of layer 1"]
    _, first, second = explanation.sources
    words = len(explanation.words)
    assert first.maps.shape == second.maps.shape == (words, 2, 2)
    # All attention goes to the image; what is missing is the cls token's.
    assert (first.maps.sum(axis=(1, 2)) < 1).all()
    assert (first.maps.sum(axis=(1, 2)) > 0.2).all()
    assert first.gates.shape == (words,)
    # The second layer's warm-up is negative.
    assert np.sign(first.gates.mean()) == -np.sign(second.gates.mean())
    with torch.no_grad():
        model.cross_attention.layers["1"].gate.warm_up.zero_()
    closed = explain_report(model, processor, [picture], max_new_tokens=8, do_sample=False)
    assert not closed.sources[2].gates.any()


def test_the_page_shows_every_word_once_per_kind_of_attention(processor, picture, tmp_path):
    explanation = explain_report(make(processor), processor, [picture, picture], max_new_tokens=8, do_sample=False)
    explanation.words[0] = "<script>"
    file = write_attention_page(tmp_path / "sub" / "page.html", explanation, title="T & T", summary="s", notes=["n"])
    source = file.read_text(encoding="utf-8")
    page = Page(source)
    assert len(page.all("figure", **{"class": "looked"})) == 3 * len(explanation.words)
    assert len(page.all("img", alt="Chest X-ray")) == 2
    assert len([s for _, s in page.elements if s.get("class", "").startswith("gate")]) == 2 * len(explanation.words)
    assert not page.all("script")
    assert "http:" not in source
    assert "https:" not in source
    assert page.reports[0] == " ".join(explanation.words)


def test_maps_are_grouped_by_finding_and_other_words_are_folded_away(processor, picture, tmp_path):
    explanation = explain_report(make(processor), processor, [picture], max_new_tokens=8, do_sample=False)
    words = ["The", "heart", "shows", "mild", "edema", ".", "No", "pleural", "effusion", "."]
    sources = [
        replace(source, maps=np.resize(source.maps, (len(words), *source.maps.shape[1:])), gates=None)
        for source in explanation.sources[:1]
    ]
    explanation = replace(explanation, words=words, sources=sources)
    source = write_attention_page(tmp_path / "p.html", explanation, title="t", summary="s").read_text(encoding="utf-8")
    shown, folded = source.split("<details")
    assert shown.index("<h3>Edema</h3>") < shown.index("looked for edema") < shown.index("<h3>Pleural Effusion</h3>")
    assert shown.index("<h3>Pleural Effusion</h3>") < shown.index("looked for effusion")
    assert "looked for The" in folded
    assert "looked for The" not in shown
    assert "looked for edema" not in folded
    assert not folded.startswith(" open")
    assert len(Page(source).all("figure", **{"class": "looked"})) == len(words)


def test_films_and_maps_keep_the_aspect_ratio_of_the_film_and_several_views_are_told(processor, picture, tmp_path):
    film = picture.resize((60, 90))
    explanation = explain_report(make(processor), processor, [film, picture], max_new_tokens=4, do_sample=False)
    width, height = explanation.views[0].size
    assert width / height == pytest.approx(60 / 90, rel=0.02)
    assert explanation.views[1].width == explanation.views[1].height
    seen = np.asarray(processor(images=[[film]])["pixel_values"][0, 0].mean(dim=0))
    shown = np.asarray(explanation.views[0].resize(seen.shape[::-1]), dtype=float)
    assert np.corrcoef(seen.ravel(), shown.ravel())[0, 1] > 0.99
    page = Page(
        write_attention_page(tmp_path / "page.html", explanation, title="t", summary="s").read_text(encoding="utf-8")
    )
    assert "mean of the 2 views" in "".join(page.text)
    for image in (found["src"] for _, found in page.elements if found.get("alt", "").startswith("where the model")):
        heat = Image.open(BytesIO(b64decode(image.partition(",")[2])))
        assert heat.width / heat.height == pytest.approx(60 / 90, rel=0.02)


def test_a_model_that_writes_nothing_is_told(processor, picture):
    model = make(processor)
    with pytest.raises(ValueError, match="wrote nothing"):
        explain_report(
            model, processor, [picture], max_new_tokens=1, forced_eos_token_id=processor.tokenizer.eos_token_id
        )


@pytest.mark.parametrize(
    ("config", "count", "missing"),
    [
        (VisionMambaConfig(image_size=48, patch_size=16), 9, 4),
        (ViTConfig(image_size=32, patch_size=16), 4, 0),
        (VISION_CONFIGS["swin"](), 16, None),
    ],
)
def test_patches_are_told_from_cls_tokens(config, count, missing):
    positions = patch_positions(config)
    assert len(positions) == count
    assert missing not in positions


def test_the_command_writes_the_page(processor, picture, tmp_path):
    make(processor).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    picture.save(tmp_path / "x.png")
    arguments = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "page.html"), "--device", "cpu"]
    result = CliRunner().invoke(app, ["explain", str(tmp_path / "x.png"), *arguments, "--max-new-tokens", "6"])
    assert result.exit_code == 0, result.output
    assert "Cross-attention of layer 1" in Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    result = CliRunner().invoke(app, ["explain", str(tmp_path / "none.png"), *arguments])
    assert result.exit_code == 2
    assert "none.png" in result.output
