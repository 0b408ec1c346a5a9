"""`MambaXrayImageProcessor`: pictures to normalized tensors, views of studies, saving and loading."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from mambaxray import MambaXrayImageProcessor
from mambaxray.processing.image_reading import ImageReadError

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


@pytest.fixture
def picture(grey: np.ndarray) -> Image.Image:
    return Image.fromarray(grey)


@pytest.fixture
def processor() -> MambaXrayImageProcessor:
    return MambaXrayImageProcessor(size={"height": 32, "width": 48})


def test_values_are_the_picture_stretched_bicubic_and_normalized_with_imagenet(grey: np.ndarray) -> None:
    output = MambaXrayImageProcessor()(grey, return_tensors="np")
    resized = Image.fromarray(grey).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    expected = ((np.asarray(resized) / 255 - MEAN) / STD).transpose(2, 0, 1)
    assert output["pixel_values"].shape == (1, 1, 3, 224, 224)
    assert output["pixel_values"].dtype == np.float32
    assert np.abs(output["pixel_values"][0, 0] - expected).max() < 1e-5


def test_each_step_can_be_left_out(grey: np.ndarray) -> None:
    plain = MambaXrayImageProcessor(do_resize=False, do_rescale=False, do_normalize=False, do_convert_rgb=False)
    assert np.array_equal(plain(grey)["pixel_values"], grey[None, None, None].astype(np.float32))


def test_options_can_be_given_per_call(processor: MambaXrayImageProcessor, grey: np.ndarray) -> None:
    assert processor(grey, size=64)["pixel_values"].shape[-2:] == (64, 64)
    assert processor(grey, do_normalize=False)["pixel_values"].max() <= 1
    assert processor(grey)["pixel_values"].shape[-2:] == (32, 48)


def test_same_input_gives_the_same_bits(processor: MambaXrayImageProcessor, png: Path) -> None:
    first, second = (processor(png, return_tensors="pt")["pixel_values"] for _ in range(2))
    assert torch.equal(first, second)


def test_16_bit_files_are_not_rescaled_as_if_8_bit(
    processor: MambaXrayImageProcessor, grey: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    difference = processor(tmp_path / "deep.png")["pixel_values"] - processor(grey)["pixel_values"]
    assert np.abs(difference).max() < 1.01 / 255 / STD.min()


def test_single_picture_flat_list_and_nested_list(
    processor: MambaXrayImageProcessor, picture: Image.Image, png: Path
) -> None:
    for images, shape in [
        (picture, (1, 1)),
        (png, (1, 1)),
        ([picture], (1, 1)),
        ([picture, str(png), png.read_bytes()], (3, 1)),
        ([[picture, picture]], (1, 2)),
        ([[picture], [png]], (2, 1)),
        (((picture, picture), (picture, picture)), (2, 2)),
    ]:
        output = processor(images, return_tensors="pt")
        assert output["pixel_values"].shape == (*shape, 3, 32, 48)
        assert output["view_mask"].shape == shape
        assert output["view_mask"].dtype == torch.bool
        assert output["view_mask"].all()


def test_arrays_with_batch_and_view_axes(processor: MambaXrayImageProcessor) -> None:
    rng = np.random.default_rng(0)
    assert processor(torch.from_numpy(rng.random((2, 3, 20, 20))))["view_mask"].shape == (2, 1)
    assert processor(rng.random((2, 4, 3, 20, 20)))["view_mask"].shape == (2, 4)


def test_missing_views_are_zero_and_masked(processor: MambaXrayImageProcessor, picture: Image.Image) -> None:
    output = processor([[picture], [picture, picture, picture]])
    assert output["view_mask"].tolist() == [[True, False, False], [True, True, True]]
    assert (output["pixel_values"][0, 1:] == 0).all()
    assert np.array_equal(output["pixel_values"][0, 0], output["pixel_values"][1, 2])


def test_study_without_views_is_refused(processor: MambaXrayImageProcessor, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match=r"without any view at positions \[1\]"):
        processor([[picture], []])
    with pytest.raises(ValueError, match="no images"):
        processor([])


def test_pictures_and_lists_of_views_must_not_be_mixed(
    processor: MambaXrayImageProcessor, picture: Image.Image
) -> None:
    with pytest.raises(ValueError, match="mixed"):
        processor([picture, [picture]])


def test_bad_picture_in_a_batch_is_named(processor: MambaXrayImageProcessor, png: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageReadError, match=r"bad\.png: not an image"):
        processor([[png, tmp_path / "bad.png"]])


def test_different_sizes_without_resizing_are_refused(processor: MambaXrayImageProcessor, grey: np.ndarray) -> None:
    with pytest.raises(ValueError, match="different shapes"):
        processor([grey, grey[:40]], do_resize=False)


def test_unknown_option_and_size_without_height_are_refused(
    processor: MambaXrayImageProcessor, grey: np.ndarray
) -> None:
    with pytest.raises(TypeError, match="do_pad"):
        processor(grey, do_pad=True)
    with pytest.raises(ValueError, match="height and width"):
        processor(grey, size={"shortest_edge": 30})


def test_saved_processor_loads_equal(processor: MambaXrayImageProcessor, grey: np.ndarray, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = MambaXrayImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert np.array_equal(loaded(grey)["pixel_values"], processor(grey)["pixel_values"])


@pytest.mark.parametrize("backend", [None, "pil", "torchvision"])
def test_auto_class_finds_it_with_and_without_torchvision(
    processor: MambaXrayImageProcessor, tmp_path: Path, backend: str | None
) -> None:
    # transformers asks for the backend "torchvision" wherever that is installed.
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(loaded) is MambaXrayImageProcessor
    assert loaded.to_dict() == processor.to_dict()


def _film(side: int = 900) -> Image.Image:
    """A smooth picture with grain, much larger than what a model takes."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    smooth = 120 + 60 * np.sin(9 * rows) + 50 * np.cos(7 * columns + 3 * rows)
    grain = np.random.default_rng(0).normal(0, 3, size=smooth.shape)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_reducing_gap_changes_large_pictures_by_two_grey_levels_at_most(file_format: str, tmp_path: Path) -> None:
    path = tmp_path / "film"
    _film().save(path, format=file_format, quality=90)
    plain = {"size": 64, "do_rescale": False, "do_normalize": False, "do_convert_rgb": False}
    exact = MambaXrayImageProcessor(**plain)(path, return_tensors="np").pixel_values[0, 0, 0]
    with Image.open(path) as picture:
        expected = np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC))
    assert np.array_equal(exact, expected), "without the option nothing changes"
    coarse = MambaXrayImageProcessor(**plain, reducing_gap=3.0)(path, return_tensors="np").pixel_values[0, 0, 0]
    assert 0 < np.abs(coarse - exact).max() <= 2
    assert np.abs(coarse - exact).mean() < 0.5


def test_a_reducing_gap_is_saved_and_one_below_1_is_refused(grey: np.ndarray, tmp_path: Path) -> None:
    MambaXrayImageProcessor(reducing_gap=3.0).save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).reducing_gap == 3.0
    with pytest.raises(ValueError, match=r"reducing_gap must be 1 or more, or None; it is 0\.5"):
        MambaXrayImageProcessor(reducing_gap=0.5)(grey)


# Cutting


def striped(width, height):
    """Grey levels that tell the column, and the row by a factor."""
    columns = (
        np.linspace(20, 200, width, dtype=np.float32)[None] + np.linspace(0, 50, height, dtype=np.float32)[:, None]
    )
    return Image.fromarray(columns.round().astype(np.uint8))


def cutting(**options):
    sizes = {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}, "do_center_crop": True}
    return MambaXrayImageProcessor(**{"do_normalize": False, "do_rescale": False} | sizes | options)


def test_the_shorter_edge_is_resized_and_the_middle_cut_out():
    picture = striped(200, 100)
    pixels = cutting()([[picture, picture.transpose(Image.Transpose.ROTATE_90)]], return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, 2, 3, 48, 48)
    resized = np.asarray(picture.resize((128, 64), Image.Resampling.BICUBIC), dtype=np.float32)
    assert np.array_equal(pixels[0, 0, 0], resized[8:56, 40:88])


def test_a_cut_can_be_placed_and_the_middle_is_the_default():
    picture = striped(200, 100)
    resized = np.asarray(picture.resize((128, 64), Image.Resampling.BICUBIC), dtype=np.float32)
    positions = [None, [(0.0, 0.0), (1.0, 1.0)]]
    pixels = cutting()([[picture], [picture, picture]], crop_positions=positions, return_tensors="np")["pixel_values"]
    assert np.array_equal(pixels[0, 0, 0], resized[8:56, 40:88])
    assert np.array_equal(pixels[1, 0, 0], resized[:48, :48])
    assert np.array_equal(pixels[1, 1, 0], resized[16:, 80:])


def test_cuts_that_can_not_be_made_are_refused():
    picture = striped(200, 100)
    with pytest.raises(ValueError, match=r"128 x 64 px is too small to cut 48 x 96"):
        cutting(crop_size={"height": 96, "width": 48})(picture)
    with pytest.raises(ValueError, match="shortest_edge with do_center_crop"):
        cutting(do_center_crop=False)(picture)
    with pytest.raises(ValueError, match=r"two numbers from 0 to 1, got \(0.5, 1.5\)"):
        cutting()(picture, crop_positions=[[(0.5, 1.5)]])
    with pytest.raises(ValueError, match=r"crop_positions are for \[2\] views of 1 studies, the images are \[1\]"):
        cutting()(picture, crop_positions=[[(0.5, 0.5)] * 2])


def test_a_saved_processor_cuts_as_before(tmp_path):
    picture, processor = striped(200, 100), cutting()
    processor.save_pretrained(tmp_path)
    loaded = MambaXrayImageProcessor.from_pretrained(tmp_path)
    assert np.array_equal(*(each(picture, return_tensors="np")["pixel_values"] for each in (processor, loaded)))
