"""Files without anything beside their pixels."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mambaxray.data.plain_image import ImageStructureError, strip_metadata
from mambaxray.data.prepare import encode_xray

NAME = b"DOE^JANE"
TEXT = NAME.decode()


def picture(mode="L"):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def exif():
    tags = Image.Exif()
    tags[0x010E] = TEXT  # ImageDescription
    tags[0x013B] = TEXT  # Artist
    return tags.tobytes()


def jpeg(**options):
    out = BytesIO()
    mode = options.pop("mode", "L")
    picture(mode).save(out, "JPEG", quality=90, exif=exif(), comment=NAME, xmp=b"<x:xmpmeta>" + NAME, **options)
    return out.getvalue()


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(mode="L"):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Patient", TEXT)
    texts.add_text("Long", TEXT * 50, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", TEXT)
    out = BytesIO()
    picture(mode).save(out, "PNG", pnginfo=texts, exif=exif())
    content = out.getvalue()
    # A private chunk before the pixels, a time, and something behind the end.
    at = content.index(b"IDAT") - 4
    return content[:at] + chunk(b"prVt", NAME) + chunk(b"tIME", b"\x07\xe8" + bytes(5)) + content[at:] + NAME


JPEGS = {
    "baseline": jpeg(),
    "colour": jpeg(mode="RGB"),
    "progressive": jpeg(progressive=True),
    "restarts": jpeg(restart_marker_blocks=2),
    "CMYK": jpeg(mode="CMYK"),
    "profile": jpeg(icc_profile=NAME * 20),
    "appended": jpeg() + NAME,
    "IPTC": jpeg()[:2] + segment(0xED, b"Photoshop 3.0\x00" + NAME) + jpeg()[2:],
    "JFXX thumbnail": jpeg()[:2] + segment(0xE0, b"JFXX\x00" + NAME) + jpeg()[2:],
    "JFIF thumbnail": jpeg()[:2]
    + segment(0xE0, b"JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x01\x03" + NAME + b"x")
    + jpeg()[20:],
    "fill bytes": jpeg()[:2] + b"\xff\xff" + segment(0xFE, NAME) + jpeg()[2:],
}


@pytest.mark.parametrize("content", [*JPEGS.values(), png(), png("RGB"), png("P")], ids=[*JPEGS, "PNG", "RGB", "P"])
def test_nothing_but_the_pixels_is_left_and_they_are_the_same(content):
    assert NAME in content
    plain = strip_metadata(content)
    assert NAME not in plain
    with Image.open(BytesIO(content)) as before, Image.open(BytesIO(plain)) as after:
        assert (before.format, before.mode, before.size) == (after.format, after.mode, after.size)
        assert np.array_equal(np.asarray(before), np.asarray(after))
        assert not after.getexif()
        assert not {"comment", "xmp", "exif", "Patient", "icc_profile", "photoshop"} & set(after.info)
    assert strip_metadata(plain) == plain


def test_a_comment_between_the_scans_of_a_progressive_file_goes_too():
    content = JPEGS["progressive"]
    second = content.index(b"\xff\xda", content.index(b"\xff\xda") + 2)
    # Its Huffman table comes before it.
    at = content.rindex(b"\xff\xc4", 0, second)
    plain = strip_metadata(content[:at] + segment(0xFE, NAME) + content[at:])
    assert NAME not in plain
    assert plain == strip_metadata(content)


@pytest.mark.parametrize("content", [jpeg(), png()], ids=["JPEG", "PNG"])
def test_a_file_that_ends_too_early_is_refused(content):
    for length in (3, 11, 30, len(content) // 2):
        with pytest.raises(ImageStructureError):
            strip_metadata(content[:length])
    with pytest.raises(ImageStructureError, match="neither"):
        strip_metadata(b"GIF89a")


@pytest.mark.parametrize(("name", "content"), [("a.jpg", jpeg()), ("a.png", png())])
def test_prepare_stores_no_metadata_and_the_same_compressed_pixels(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    stored = encode_xray(tmp_path / name)
    assert stored == strip_metadata(content)
    assert NAME not in stored
