"""What saving adds to a folder for those who lack this package, and what it leaves alone."""

import json

import pytest
from tiny import tiny_model

from mambaxray import MambaXrayConfig, MambaXrayForConditionalGeneration, MambaXrayImageProcessor


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = tiny_model()
    model.save_pretrained(folder)
    return model, folder


def test_the_configuration_on_disk_names_the_code_and_the_one_in_memory_does_not(saved):
    model, folder = saved
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for auto_class in ("AutoModel", "AutoModelForImageTextToText"):
        assert values["auto_map"][auto_class] == "modeling_mambaxray.MambaXrayForConditionalGeneration"
    assert values["auto_map"]["AutoConfig"] == "modeling_mambaxray.MambaXrayConfig"
    assert values["custom_pipelines"]["image-to-text"]["impl"] == "modeling_mambaxray.ImageToTextPipeline"
    assert not hasattr(model.config, "auto_map")
    assert not hasattr(model.config, "custom_pipelines")
    assert not hasattr(MambaXrayConfig.from_pretrained(folder), "custom_pipelines")


def test_a_model_brings_the_code_of_its_pictures_too(saved):
    _, folder = saved
    assert {path.name for path in folder.glob("*.py")} == {"modeling_mambaxray.py", "image_processing_mambaxray.py"}


def test_only_the_main_process_writes_code(saved, tmp_path):
    model, _ = saved
    model.save_pretrained(tmp_path, is_main_process=False)
    assert list(tmp_path.glob("*.py")) == []


class OwnModel(MambaXrayForConditionalGeneration):
    """Somebody's subclass outside the package."""


class OwnImageProcessor(MambaXrayImageProcessor):
    """Somebody's subclass outside the package."""


def test_a_users_own_subclass_is_saved_without_code(tmp_path, saved):
    model, _ = saved
    own = OwnModel(model.config)
    own.save_pretrained(tmp_path)
    OwnImageProcessor().save_pretrained(tmp_path / "images")
    assert not (tmp_path / "modeling_mambaxray.py").exists()
    assert "auto_map" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert list((tmp_path / "images").glob("*.py")) == []
    assert "auto_map" not in (tmp_path / "images" / "preprocessor_config.json").read_text(encoding="utf-8")
    assert type(OwnModel.from_pretrained(tmp_path)) is OwnModel
