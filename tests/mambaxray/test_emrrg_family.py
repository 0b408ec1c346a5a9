"""EMRRG in the hands of a user: Auto classes, pipeline, info and generate work as for the base family."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, pipeline

from mambaxray import (
    EMRRGConfig,
    EMRRGForConditionalGeneration,
    MambaXrayForConditionalGeneration,
    MambaXrayProcessor,
)
from mambaxray.generate import collect_studies, generate_reports, load_pipeline
from mambaxray.info import describe_model


@pytest.fixture(scope="module")
def folder(
    model: MambaXrayForConditionalGeneration, processor: MambaXrayProcessor, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The parts of the shared model with an open hybrid layer."""
    config = EMRRGConfig(
        model.config.vision_config, model.config.text_config, image_token_id=model.config.image_token_id
    )
    torch.manual_seed(0)
    hybrid = EMRRGForConditionalGeneration(config).eval()
    hybrid.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        cross = hybrid.cross_attention.layers["0"]
        cross.kv_proj.weight.mul_(50)
        cross.gate.warm_up.fill_(2.0)
        cross.gate.bias.fill_(2.0)
    path = tmp_path_factory.mktemp("emrrg")
    hybrid.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def test_auto_classes_know_the_family(folder: Path) -> None:
    assert type(AutoConfig.from_pretrained(folder)) is EMRRGConfig
    assert type(AutoModelForImageTextToText.from_pretrained(folder)) is EMRRGForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(folder)) is MambaXrayProcessor


def test_the_pipeline_writes_what_the_model_does_and_not_what_the_base_model_does(
    folder: Path, model_folder: Path, pictures: list[Path]
) -> None:
    options = {"max_new_tokens": 12, "do_sample": False}
    studies = [str(path) for path in pictures[:2]]
    reports = pipeline("image-to-text", model=folder)(studies, **options, batch_size=2)
    assert reports != pipeline("image-to-text", model=model_folder)(studies, **options)
    records = next(generate_reports(collect_studies(studies), load_pipeline(str(folder), "cpu"), **options))
    assert [record.report for record in records] == [study[0]["generated_text"] for study in reports]


def test_info_counts_the_cross_attention(folder: Path) -> None:
    parameters = describe_model(str(folder))["Parameters"]
    # Keys and values of width 32 with their bias, a gate with its own, and the warm-up.
    assert parameters["cross attention"] == f"{(32 + 1) * 64 + 32 + 1 + 1:,}"
    assert describe_model(str(folder))["Model"]["family"] == "emrrg"
