"""Saved models where this package is not installed, and where it is.

The environment without the package has the libraries of this one, so this is no test of other versions of them.
"""

import json

import pytest
import torch
from fresh_environment import FreshEnvironment
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

from mambaxray import make_tiny_models
from mambaxray.configuration.families import families
from mambaxray.data.phantoms import make_study
from mambaxray.modeling_mambaxray.hub.repository_code import has_code
from mambaxray.modeling_mambaxray.ops.selective_scan import use_scan_backend
from mambaxray.tiny_models import IMAGE_SIZE

pytestmark = pytest.mark.slow

_FAMILIES = {name: family for name, family in families().items() if has_code(family.config_class)}
GENERATORS = ("r2gengpt", "r2gencsr", *(n for n, family in _FAMILIES.items() if family.model_class.can_generate()))
SYSTEMS = (*GENERATORS, *(name for name in _FAMILIES if name not in GENERATORS))

# Loads every system by every way there is, saves it again, and tells what came out.
_USE = """
import json, shutil, sys
from pathlib import Path
import torch
from PIL import Image
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline,
)
try:
    import mambaxray
except ImportError:
    pass
else:
    raise SystemExit("the package is there")
folder, output, picture = map(Path, sys.argv[1:])
trust = {"trust_remote_code": True}
found = {}
for path in sorted(folder.iterdir()):
    image_processor = AutoImageProcessor.from_pretrained(path, **trust)
    model = AutoModel.from_pretrained(path, **trust)
    classes = [AutoConfig.from_pretrained(path, **trust), model, model.config, image_processor]
    image = Image.open(picture)
    inputs = torch.load(folder.parent / "inputs" / f"{path.name}.pt", weights_only=True)
    pixels = image_processor([image], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tensors = [value for value in model(**inputs).to_tuple() if isinstance(value, torch.Tensor)]
    answer = {"same pixels": torch.equal(pixels.flatten(0, 1), inputs["pixel_values"].flatten(0, -4))}
    model.save_pretrained(output / path.name)
    if (path / "tokenizer.json").is_file():
        processor = AutoProcessor.from_pretrained(path, **trust)
        classes += [processor.image_processor]
        processor.save_pretrained(output / path.name)
    else:
        image_processor.save_pretrained(output / path.name)
    if (path / "generation_config.json").is_file():
        generator = AutoModelForImageTextToText.from_pretrained(path, **trust)
        reporter = pipeline("image-to-text", model=str(path), **trust)
        chat = pipeline("image-text-to-text", model=str(path), **trust)
        answer |= {
            "one class": type(generator) is type(model) is type(reporter.model),
            "image-to-text": reporter(image, max_new_tokens=8),
            "image-text-to-text": chat(
                text=[{"role": "user", "content": [{"type": "image", "image": image}]}],
                max_new_tokens=8, return_full_text=False,
            )[0]["generated_text"],
        }
        classes += [processor, reporter]
    answer["modules"] = sorted({type(each).__module__.split(".")[0] for each in classes})
    torch.save(tensors, output / path.name / "outputs.pt")
    found[path.name] = answer
# Two repositories' code at once: the first model still computes what it did.
first, second = (
    AutoModel.from_pretrained(each, **trust).eval()
    for each in (folder / "vision_mamba", shutil.copytree(output / "vision_mamba", output / "vision_mamba" / "other"))
)
assert type(first) is not type(second)
pixels = torch.load(folder.parent / "inputs" / "vision_mamba.pt", weights_only=True)["pixel_values"]
sums = [model(pixels).last_hidden_state.square().sum() for model in (first, second)]
for total in sums:
    total.backward()
found["two at once"] = [float(total) for total in sums]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return FreshEnvironment(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny models in `saved`, and what to feed them in `inputs`."""
    folder = tmp_path_factory.mktemp("repositories")
    (folder / "inputs").mkdir()
    make_study(3)["images"][0].save(folder / "xray.png")
    image = Image.open(folder / "xray.png")
    for path in make_tiny_models(folder / "saved"):
        inputs = AutoImageProcessor.from_pretrained(path)([image], return_tensors="pt")
        if path.name in GENERATORS:
            inputs = AutoProcessor.from_pretrained(path)(images=[image])
        elif (path / "tokenizer.json").is_file():
            inputs |= AutoProcessor.from_pretrained(path).tokenizer(["The heart is normal."], return_tensors="pt")
        else:
            inputs = {"pixel_values": inputs["pixel_values"].flatten(0, 1)}
        torch.save(dict(inputs), folder / "inputs" / f"{path.name}.pt")
    return folder


@pytest.fixture(scope="module")
def stranger(environment, folder):
    """What somebody without the package gets out of the saved models."""
    return environment.answer(_USE, folder / "saved", folder / "again", folder / "xray.png")


@pytest.fixture(scope="module")
def again(environment, folder, stranger):
    """The same for what that somebody has saved again."""
    return environment.answer(_USE, folder / "again", folder / "third", folder / "xray.png")


def expected_outputs(folder, name):
    inputs = torch.load(folder / "inputs" / f"{name}.pt", weights_only=True)
    with torch.no_grad(), use_scan_backend("torch"):
        outputs = AutoModel.from_pretrained(folder / "saved" / name)(**inputs).to_tuple()
    return [value for value in outputs if isinstance(value, torch.Tensor)]


def test_every_system_is_tested(stranger):
    assert sorted(stranger) == sorted([*SYSTEMS, "two at once"])


@pytest.mark.parametrize("name", SYSTEMS)
def test_without_the_package_outputs_are_equal_to_the_bit(folder, stranger, again, name):
    expected = expected_outputs(folder, name)
    assert expected
    for saved in ("again", "third"):  # by who loaded the original, and by who loaded what that one had saved
        outputs = torch.load(folder / saved / name / "outputs.pt", weights_only=True)
        assert len(outputs) == len(expected)
        assert all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))


@pytest.mark.parametrize("name", SYSTEMS)
def test_without_the_package_all_classes_come_from_the_repository(stranger, again, name):
    for found in (stranger[name], again[name]):
        assert found["modules"] == ["transformers_modules"]
        assert found["same pixels"]


@pytest.mark.parametrize("name", GENERATORS)
def test_without_the_package_both_pipelines_write_the_same_report(folder, stranger, again, name):
    with use_scan_backend("torch"):
        reporter = pipeline("image-to-text", model=str(folder / "saved" / name), device="cpu")
        expected = reporter(str(folder / "xray.png"), max_new_tokens=8)
    for found in (stranger[name], again[name]):
        assert found["one class"]
        assert found["image-to-text"] == expected
        assert found["image-text-to-text"] == expected[0]["generated_text"]


def test_two_repositories_can_be_used_at_once(stranger):
    first, second = stranger["two at once"]
    assert first == second


@pytest.mark.parametrize("name", SYSTEMS)
def test_with_the_package_its_own_classes_are_used_and_no_trust_is_asked_for(folder, again, name):
    for path in (folder / "saved" / name, folder / "again" / name):
        loaded = [AutoConfig.from_pretrained(path), AutoModel.from_pretrained(path)]
        loaded += [AutoImageProcessor.from_pretrained(path), AutoModel.from_pretrained(path, trust_remote_code=True)]
        if name in GENERATORS:
            loaded += [AutoModelForImageTextToText.from_pretrained(path), AutoProcessor.from_pretrained(path)]
            loaded += [pipeline("image-to-text", model=str(path), device="cpu")]
            pipeline("image-text-to-text", model=str(path), device="cpu")
        assert {type(each).__module__.split(".")[0] for each in loaded} == {"mambaxray"}


def test_without_pydicom_a_dicom_is_refused_with_the_remedy(environment, folder):
    code = """
import sys
from transformers import AutoImageProcessor
content = bytes(128) + b"DICM" + bytes(100)
AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)([content])
"""
    result = environment.run(code, folder / "saved" / "mambaxray")
    assert result.returncode != 0
    assert "pip install pydicom" in result.stderr


def test_a_tiny_model_takes_less_than_200_kilobytes_beside_its_code(folder):
    for model in (folder / "saved").iterdir():
        files = [path for path in model.rglob("*") if path.is_file() and path.suffix != ".py"]
        assert sum(path.stat().st_size for path in files) < 2e5, model.name
    assert (
        json.loads((folder / "saved" / "r2gengpt" / "config.json").read_text())["vision_config"]["image_size"]
        == IMAGE_SIZE
    )
