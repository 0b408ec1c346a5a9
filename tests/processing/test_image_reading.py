"""`load_xray`: every kind of input gives the picture of its 8-bit PNG twin, and every bad one a clear error."""

import base64
import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mambaxray.processing.image_reading import ImageReadError, load_xray


def _encode(picture: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def _difference(source: object, grey: np.ndarray) -> int:
    """Largest difference in grey levels, over all channels."""
    picture = load_xray(source)
    assert picture.mode in ("L", "RGB")
    loaded = np.asarray(picture).astype(int)
    twin = grey.astype(int) if loaded.ndim == 2 else grey[..., None].astype(int)
    assert loaded.shape[:2] == grey.shape
    return int(np.abs(loaded - twin).max())


def _palette(grey: np.ndarray) -> Image.Image:
    picture = Image.fromarray(grey).convert("P")
    picture.putpalette([value for value in range(256) for _ in range(3)])
    return picture


def _cmyk(grey: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([255 - grey] * 3 + [np.zeros_like(grey)], axis=-1), "CMYK")


FILES = {
    "grey PNG": lambda g: _encode(Image.fromarray(g), "PNG"),
    "grey TIFF": lambda g: _encode(Image.fromarray(g), "TIFF"),
    "RGB PNG": lambda g: _encode(Image.fromarray(g).convert("RGB"), "PNG"),
    "RGBA PNG": lambda g: _encode(Image.fromarray(g).convert("RGBA"), "PNG"),
    "grey PNG with alpha": lambda g: _encode(Image.fromarray(g).convert("LA"), "PNG"),
    "palette PNG": lambda g: _encode(_palette(g), "PNG"),
    "palette GIF": lambda g: _encode(_palette(g), "GIF"),
    "CMYK TIFF": lambda g: _encode(_cmyk(g), "TIFF"),
    "16-bit PNG": lambda g: _encode(Image.fromarray(g.astype(np.uint16) * 257), "PNG"),
    "12-bit values in a 16-bit PNG": lambda g: _encode(
        Image.fromarray(np.rint(g * (4095 / 255)).astype(np.uint16)), "PNG"
    ),
    "8-bit values in a 16-bit PNG": lambda g: _encode(Image.fromarray(g.astype(np.uint16)), "PNG"),
    "16-bit TIFF": lambda g: _encode(Image.fromarray(g.astype(np.uint16) * 257), "TIFF"),
    "32-bit integer TIFF": lambda g: _encode(Image.fromarray(g.astype(np.int32) * 257), "TIFF"),
    "floating-point TIFF": lambda g: _encode(Image.fromarray(g.astype(np.float32) / 255), "TIFF"),
    "WebP": lambda g: _encode(Image.fromarray(g).convert("RGB"), "WEBP", lossless=True),
    "JPEG 2000": lambda g: _encode(Image.fromarray(g), "JPEG2000"),
}

ARRAYS = {
    "uint8 (H, W)": lambda g: g,
    "uint8 (H, W, 1)": lambda g: g[..., None],
    "uint8 (1, H, W)": lambda g: g[None],
    "uint8 (H, W, 3)": lambda g: np.stack([g] * 3, axis=-1),
    "uint8 (3, H, W)": lambda g: np.stack([g] * 3),
    "opaque RGBA": lambda g: np.stack([g] * 3 + [np.full_like(g, 255)], axis=-1),
    "uint16": lambda g: g.astype(np.uint16) * 257,
    "uint16 (3, H, W)": lambda g: np.stack([g.astype(np.uint16) * 257] * 3),
    "big-endian uint16": lambda g: (g.astype(np.uint16) * 257).astype(">u2"),
    "int64 up to 255": lambda g: g.astype(np.int64),
    "float64 in [0, 1]": lambda g: g / 255,
    "float32 with a little above 1": lambda g: g.astype(np.float32) / 254.5,
    "float32 up to 255": lambda g: g.astype(np.float32),
    "float32 up to 65535": lambda g: g.astype(np.float32) * 257,
    "float32 from -1024 to 1024": lambda g: g.astype(np.float32) / 255 * 2048 - 1024,
    "not contiguous": lambda g: np.repeat(g, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("kind", FILES)
def test_file_content_of_each_kind_equals_its_8_bit_twin(kind: str, grey: np.ndarray) -> None:
    assert _difference(FILES[kind](grey), grey) <= 1


@pytest.mark.parametrize("kind", ARRAYS)
def test_numpy_array_of_each_kind_equals_its_8_bit_twin(kind: str, grey: np.ndarray) -> None:
    assert _difference(ARRAYS[kind](grey), grey) <= 1


def test_torch_tensors_equal_their_8_bit_twin(grey: np.ndarray) -> None:
    tensor = torch.from_numpy(grey)
    assert _difference(tensor, grey) == 0
    assert _difference(tensor[None].repeat(3, 1, 1), grey) == 0
    assert _difference((tensor / 255).requires_grad_(), grey) <= 1
    assert _difference((tensor / 255).to(torch.bfloat16), grey) <= 1


def test_path_string_bytes_dictionary_and_opened_picture_give_the_same(png: Path, grey: np.ndarray) -> None:
    content = png.read_bytes()
    sources = [png, str(png), content, bytearray(content), {"bytes": content, "path": None}]
    sources += [{"bytes": None, "path": str(png)}, Image.open(png), io.BytesIO(content)]
    sources += ["data:image/png;base64," + base64.b64encode(content).decode()]
    for source in sources:
        assert _difference(source, grey) == 0


def test_colour_pictures_keep_their_colours() -> None:
    red = np.zeros((32, 32, 3), dtype=np.uint8)
    red[..., 0] = np.arange(100, 132)
    assert np.array_equal(np.asarray(load_xray(_encode(Image.fromarray(red), "PNG"))), red)


def test_transparent_parts_lie_on_black(grey: np.ndarray) -> None:
    layers = np.stack([np.full_like(grey, 200)] * 3 + [np.full_like(grey, 255)], axis=-1)
    layers[:10, :, 3] = 0
    loaded = np.asarray(load_xray(_encode(Image.fromarray(layers), "PNG")))
    assert (loaded[:10] == 0).all()
    assert (loaded[10:] == 200).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotated_jpeg_comes_out_upright(orientation: int, grey: np.ndarray) -> None:
    turn_back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(grey)
    if orientation in turn_back:
        stored = stored.transpose(turn_back[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert _difference(_encode(stored, "JPEG", quality=100, exif=exif), grey) <= 2


def test_reading_does_not_change_the_callers_picture(grey: np.ndarray) -> None:
    picture = Image.fromarray(grey.astype(np.uint16) * 257)
    load_xray(picture)
    assert picture.mode == "I;16"


def test_real_rgba_png_loads_with_its_grey_values(shared_data: Path) -> None:
    path = shared_data / "formats" / "nih_rgba_1024.png"
    assert np.array_equal(np.asarray(load_xray(path)), np.asarray(Image.open(path))[..., :3])


# Bad input


def _refused(source: object, *words: str) -> None:
    with pytest.raises(ImageReadError) as caught:
        load_xray(source)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        load_xray(tmp_path / "absent.png")


def test_folder_is_named(tmp_path: Path) -> None:
    _refused(tmp_path, str(tmp_path), "Is a directory")


def test_text_that_is_no_path_is_refused_in_short() -> None:
    with pytest.raises(ImageReadError) as caught:
        load_xray("iVBORw0KGgo" * 1000)
    assert len(str(caught.value)) < 300


def test_empty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    _refused(path, "empty.png", "the file is empty")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "JPEG2000"])
def test_truncated_file_is_named(file_format: str, tmp_path: Path, grey: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    noisy = Image.fromarray(rng.integers(0, 256, grey.shape, dtype=np.uint8))
    content = _encode(noisy, file_format)
    path = tmp_path / f"cut.{file_format.lower()}"
    path.write_bytes(content[: len(content) // 2])
    _refused(path, path.name, "damaged")


def test_text_file_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("Heart size is normal. " * 20)
    _refused(path, "notes.png", "not an image")


def test_one_pixel_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    Image.new("L", (1, 1)).save(path)
    _refused(path, "dot.png", "too small (1 x 1 pixels")
    _refused(np.zeros((1, 1)), "too small (1 x 1 pixels")


def test_decompression_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    for width, content in ((50_000, header), (9_000, struct.pack(">IIBBBBB", 9_000, 9_000, 8, 0, 0, 0, 0))):
        path = tmp_path / f"bomb{width}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", content) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
        _refused(path, path.name, "too large", "decompression bomb")


def test_limit_on_size_leaves_pillows_global_limit_alone(png: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    load_xray(png)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_array_with_nan_or_infinity_is_refused(value: float, grey: np.ndarray) -> None:
    array = grey / 255
    array[3, 4] = value
    _refused(array, "numpy array of shape (96, 80)", "NaN or infinite")
    _refused(torch.from_numpy(array), "torch tensor of shape (96, 80)", "NaN or infinite")


@pytest.mark.parametrize("shape", [(64,), (64, 64, 2), (5, 64, 64), (2, 3, 64, 64)])
def test_array_that_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    _refused(np.zeros(shape, dtype=np.uint8), str(shape), "not an image")


def test_array_of_strings_is_refused() -> None:
    _refused(np.full((32, 32), "x"), "pixels of type")


def test_file_with_several_pictures_is_refused(tmp_path: Path, grey: np.ndarray) -> None:
    path = tmp_path / "two.tif"
    Image.fromarray(grey).save(path, save_all=True, append_images=[Image.fromarray(grey)])
    _refused(path, "two.tif", "TIFF with 2 images")


def test_source_of_another_kind_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="from int"):
        load_xray(3)
    with pytest.raises(TypeError, match="'bytes' or 'path'"):
        load_xray({})


def test_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageReadError("a.png", "too small")))
    assert (str(error), error.name, error.reason) == ("a.png: too small", "a.png", "too small")


@pytest.mark.parametrize(("least_side", "size"), [(None, (640, 400)), (100, (160, 100)), (101, (320, 200))])
def test_a_jpeg_may_be_decoded_at_a_part_of_its_size(
    least_side: int | None, size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "film.jpg"
    Image.linear_gradient("L").resize((640, 400)).save(path, quality=95)
    assert load_xray(path, least_side=least_side).size == size
    assert load_xray(path.read_bytes(), least_side=least_side).size == size
    Image.open(path).save(tmp_path / "film.png")
    assert load_xray(tmp_path / "film.png", least_side=least_side).size == (640, 400)


@pytest.mark.parametrize(
    "values",
    [np.arange(7680, dtype=np.uint16) % 4096, np.arange(-3000, 4680, dtype=np.int16), np.arange(7680).astype(">u2")],
    ids=["12 of 16 bits", "signed", "big-endian"],
)
def test_large_pictures_of_16_bits_get_the_grey_values_of_small_ones(values: np.ndarray) -> None:
    small = values.reshape(96, 80)
    expected = np.tile(np.asarray(load_xray(small)), (4, 4))
    assert np.array_equal(np.asarray(load_xray(np.tile(small, (4, 4)))), expected)


def test_git_lfs_pointer_says_how_to_get_the_image() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    with pytest.raises(ImageReadError, match="git lfs pull"):
        load_xray(pointer)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_whose_data_end_early_is_refused(mode: str, grey: np.ndarray) -> None:
    content = _encode(Image.fromarray(grey).convert(mode), "JPEG", quality=95)
    with pytest.raises(ImageReadError, match="its data end early"):
        load_xray(content[: len(content) // 2] + b"\xff\xd9")


def test_jpeg_on_a_grey_page_or_with_a_dark_border_is_whole(grey: np.ndarray) -> None:
    for value, top in ((128, 20), (3, 0), (252, 0)):
        page = np.full((grey.shape[0] + top + 40, grey.shape[1]), value, np.uint8)
        page[top : top + grey.shape[0]] = grey
        assert _difference(_encode(Image.fromarray(page), "JPEG", quality=95), page) < 40
