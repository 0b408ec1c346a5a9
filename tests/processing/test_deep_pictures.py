"""Files with more than 8 bits per channel, and blank images, whatever the mode."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from mambaxray.processing.image_reading import ImageReadError, load_xray


def _png(values: np.ndarray, colour_type: int) -> bytes:
    """A 16-bit PNG of `(height, width, channels)`, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _tiff(
    values: np.ndarray,
    photometric: int,
    order: str = "<",
    extra: tuple[int, ...] = (),
    sample_format: int | None = None,
) -> bytes:
    """An uncompressed TIFF of `(height, width)` or `(height, width, channels)`, of 16 bits where no format is given."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    kind = "u2" if sample_format is None else f"{values.dtype.kind}{values.dtype.itemsize}"
    pixels = values.astype(f"{order}{kind}").tobytes()
    tags = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [8 * int(kind[1])] * channels),
        (259, 3, [1]),
        (262, 3, [photometric]),
        (273, 4, [8]),
        (277, 3, [channels]),
        (278, 4, [height]),
        (279, 4, [len(pixels)]),
        *([(338, 3, list(extra))] if extra else []),
        *([(339, 3, [sample_format])] if sample_format else []),
    ]
    start = 8 + len(pixels)
    behind = start + 2 + 12 * len(tags) + 4
    directory, more = struct.pack(f"{order}H", len(tags)), b""
    for tag, size, numbers in tags:
        data = struct.pack(f"{order}{len(numbers)}{'H' if size == 3 else 'I'}", *numbers)
        if len(data) > 4:
            directory += struct.pack(f"{order}HHII", tag, size, len(numbers), behind + len(more))
            more += data
        else:
            directory += struct.pack(f"{order}HHI", tag, size, len(numbers)) + data.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", start) + pixels + directory + bytes(4) + more


def _channels(grey: np.ndarray, count: int, alpha: int | None = None) -> np.ndarray:
    layers = [grey] * count + ([] if alpha is None else [np.full_like(grey, alpha)])
    return np.stack(layers, axis=-1)


def _difference(source: object, grey: np.ndarray) -> int:
    loaded = np.asarray(load_xray(source)).astype(int)
    return int(np.abs(loaded - (grey if loaded.ndim == 2 else grey[..., None])).max())


DEEP: dict[str, Callable[[np.ndarray, int], bytes]] = {
    "RGB PNG": lambda values, top: _png(_channels(values, 3), 2),
    "RGBA PNG": lambda values, top: _png(_channels(values, 3, top), 6),
    "RGBA PNG, alpha of 16 bits": lambda values, top: _png(_channels(values, 3, 65535), 6),
    "LA PNG": lambda values, top: _png(_channels(values, 1, top), 4),
    "RGB TIFF": lambda values, top: _tiff(_channels(values, 3), 2),
    "big-endian RGB TIFF": lambda values, top: _tiff(_channels(values, 3), 2, ">"),
    "RGBA TIFF": lambda values, top: _tiff(_channels(values, 3, top), 2, "<", (2,)),
    "RGBA TIFF, multiplied": lambda values, top: _tiff(_channels(values, 3, top), 2, "<", (1,)),
    "grey TIFF": lambda values, top: _tiff(values, 1),
    "big-endian grey TIFF": lambda values, top: _tiff(values, 1, ">"),
}


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("kind", DEEP)
def test_16_bit_files_of_every_mode_fill_the_range_of_their_values(kind: str, bits: int, grey: np.ndarray) -> None:
    top = 2**bits - 1
    values = np.rint(grey / 255 * top).astype(np.uint16)
    assert _difference(DEEP[kind](values, top), grey) <= 1


@pytest.mark.parametrize("kind", ["RGB PNG", "LA PNG", "RGBA PNG", "RGB TIFF"])
def test_opened_picture_of_16_bits_is_read_in_full(kind: str, grey: np.ndarray) -> None:
    content = DEEP[kind](np.rint(grey / 255 * 4095).astype(np.uint16), 4095)
    assert _difference(Image.open(io.BytesIO(content)), grey) <= 1


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_compressed_tiff_of_16_bits(compression: str, grey: np.ndarray) -> None:
    file = io.BytesIO()
    Image.fromarray(np.rint(grey / 255 * 4095).astype(np.uint16)).save(file, "TIFF", compression=compression)
    assert _difference(file.getvalue(), grey) <= 1


def test_colours_of_16_bits_are_scaled_together(grey: np.ndarray) -> None:
    values = np.rint(grey / 255 * 4095).astype(np.uint16)
    loaded = np.asarray(load_xray(_png(np.stack([values, values // 2, values // 4], axis=-1), 2)))
    assert np.abs(loaded[..., 1] - grey / 2).max() <= 1
    assert np.abs(loaded[..., 2] - grey / 4).max() <= 1


@pytest.mark.parametrize("bits", [12, 16])
def test_tiff_whose_white_is_zero_is_inverted(bits: int, grey: np.ndarray) -> None:
    negative = np.rint((255 - grey) / 255 * (2**bits - 1)).astype(np.uint16)
    assert _difference(_tiff(negative, 0), grey) <= 1
    with pytest.raises(ImageReadError, match="not an image in a known format"):
        load_xray(_tiff(negative, 0, ">"))  # Pillow does not open it


@pytest.mark.parametrize("kind", ["int8", "uint32", "int16"])
def test_tiff_keeps_signs_and_32_bits(kind: str, grey: np.ndarray) -> None:
    lowest, highest = (int(end) for end in (np.iinfo(kind).min, np.iinfo(kind).max))
    values = (lowest + np.rint(grey.astype(float) / 255 * (highest - lowest))).clip(lowest, highest).astype(kind)
    stretched = (values.astype(float) - values.min()) / (float(values.max()) - values.min()) * 255
    assert _difference(_tiff(values, 1, sample_format=2 if kind.startswith("int") else 1), stretched) <= 1


def test_transparent_parts_of_16_bits_lie_on_black(grey: np.ndarray) -> None:
    values = _channels(np.maximum(grey, 30).astype(np.uint16) * 257, 3, 65535)
    values[:10, :, 3] = 0
    loaded = np.asarray(load_xray(_png(values, 6)))
    assert (loaded[:10] == 0).all()
    assert (loaded[10:] >= 30).all()


def test_truncated_picture_of_16_bits_is_refused(grey: np.ndarray) -> None:
    content = _png(_channels(grey.astype(np.uint16) * 257, 3), 2)
    with pytest.raises(ImageReadError, match="truncated or damaged"):
        load_xray(content[: len(content) // 2])


def test_one_bright_row_leaves_12_bits_their_range(grey: np.ndarray) -> None:
    values = np.rint(grey / 255 * 4095).astype(np.uint16)
    values[3] = 65535
    loaded = np.asarray(load_xray(values)).astype(int)
    assert np.abs(np.delete(loaded - grey, 3, axis=0)).max() <= 1


# Blank pictures


def _encoded(picture: Image.Image, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format)
    return file.getvalue()


def _nearly(value: int, noise: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    pixels = (value + rng.integers(-noise, noise + 1, (100, 100))).astype(np.uint8)
    pixels[40:50, 20:40] = 255 - value  # a label of 2 %
    return pixels


BLANK = {
    "black PNG": lambda: _encoded(Image.new("L", (100, 100))),
    "white JPEG": lambda: _encoded(Image.new("RGB", (100, 100), "white"), "JPEG"),
    "one colour": lambda: _encoded(Image.new("RGB", (100, 100), (200, 10, 10))),
    "16-bit PNG": lambda: _png(np.full((100, 100, 3), 900), 2),
    "noise and a label": lambda: _encoded(Image.fromarray(_nearly(100, 3))),
    "array": lambda: np.zeros((100, 100), np.uint8),
    "floats": lambda: np.full((3, 100, 100), 0.3),
    "negative floats": lambda: np.full((100, 100), -2.0),
}


@pytest.mark.parametrize("kind", BLANK)
def test_blank_picture_is_refused_unless_allowed(kind: str) -> None:
    with pytest.raises(ImageReadError, match=r"blank image \(.*--allow-blank") as caught:
        load_xray(BLANK[kind]())
    assert ": " not in caught.value.reason, "reasons are counted by what follows the last colon"
    assert load_xray(BLANK[kind](), allow_blank=True).size == (100, 100)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_picture_is_refused_with_this_reason(mode: str, grey: np.ndarray) -> None:
    picture = Image.fromarray(grey).convert("RGBA")
    picture.putalpha(0)
    with pytest.raises(ImageReadError, match="it is fully transparent"):
        load_xray(_encoded(picture.convert(mode)))


@pytest.mark.parametrize("contrast", [16, 40])
def test_faint_picture_is_not_blank(contrast: int, grey: np.ndarray) -> None:
    faint = (100 + grey / 255 * contrast).astype(np.uint8)
    assert np.array_equal(np.asarray(load_xray(faint)), faint)


def test_picture_on_a_wide_black_border_is_not_blank(grey: np.ndarray) -> None:
    film = np.zeros((400, 500), np.uint8)
    film[100 : 100 + grey.shape[0], 200 : 200 + grey.shape[1]] = np.maximum(grey, 20)
    assert np.array_equal(np.asarray(load_xray(film)), film)
