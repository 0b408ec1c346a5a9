"""JPEG and PNG files without what is written beside the pixels: EXIF, XMP, IPTC, comments, texts, thumbnails.

The compressed pixels are copied as they are, so nothing is lost and nothing is encoded again. What is kept is a list of
what decoding needs; everything else goes, known or not, and so does what follows the image's end.

JPEG: ITU-T T.81, annex B; PNG: W3C's PNG specification, section 5.
"""

import struct
from collections.abc import Iterator

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"pHYs")
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_RESTARTS = range(0xD0, 0xD8)
_APP0, _APP14 = 0xE0, 0xEE
# Tables, frames and scans. Not 0xC8 (reserved for extensions).
_JPEG_KEPT = (*range(0xC0, 0xC8), *range(0xC9, 0xD0), _SOS, *range(0xDB, 0xE0))
_JFIF_LENGTH = 14


class ImageStructureError(ValueError):
    """A file that is not laid out as its format asks for, whatever a decoder may make of it."""


def strip_metadata(content: bytes) -> bytes:
    """The same image without anything but the pixels.

    Args:
        content: a JPEG or PNG file.

    Returns:
        A file of the same format that decodes to the same pixels.

    Raises:
        ImageStructureError: the file is neither, or is not laid out as its format asks for.
    """
    try:
        if content.startswith(_PNG_SIGNATURE):
            return _PNG_SIGNATURE + b"".join(_png_chunks(content))
        if content.startswith(b"\xff\xd8"):
            return b"\xff\xd8" + b"".join(_jpeg_segments(content)) + b"\xff\xd9"
    except (IndexError, struct.error) as error:
        raise ImageStructureError("the file ends too early") from error
    raise ImageStructureError("neither a JPEG nor a PNG file")


def _png_chunks(content: bytes) -> Iterator[bytes]:
    position = len(_PNG_SIGNATURE)
    while True:
        length, name = struct.unpack_from(">I4s", content, position)
        end = position + length + 12
        if end > len(content):
            raise ImageStructureError("a chunk of the PNG file ends too early")
        if name in _PNG_KEPT:
            yield content[position:end]
        if name == b"IEND":
            return
        position = end


def _jpeg_segments(content: bytes) -> Iterator[bytes]:
    position = 2
    while True:
        if content[position] != 0xFF:
            raise ImageStructureError("the JPEG file has bytes between its segments")
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == _EOI:
            return
        if marker in (_SOI, _TEM) or marker in _RESTARTS:
            raise ImageStructureError(f"the JPEG file has a marker {marker:#x} between its segments")
        (length,) = struct.unpack_from(">H", content, position + 2)
        end = position + 2 + length
        if length < 2 or end > len(content):
            raise ImageStructureError("a segment of the JPEG file ends too early")
        segment = content[position:end]
        if marker == _SOS:
            end = _end_of_scan(content, end)
            segment = content[position:end]
        if kept := _kept_segment(marker, segment):
            yield kept
        position = end


def _kept_segment(marker: int, segment: bytes) -> bytes:
    if marker in _JPEG_KEPT:
        return segment
    if marker == _APP0 and segment[4:9] == b"JFIF\x00" and len(segment) >= _JFIF_LENGTH + 4:
        # Without its thumbnail, whose width and height are its last two bytes.
        return b"\xff\xe0" + struct.pack(">H", _JFIF_LENGTH + 2) + segment[4:16] + b"\x00\x00"
    # Tells how colours were transformed.
    return segment if marker == _APP14 and segment[4:9] == b"Adobe" else b""


def _end_of_scan(content: bytes, position: int) -> int:
    """Where the next segment begins: at a marker that is neither a stuffed zero nor a restart."""
    while True:
        position = content.find(b"\xff", position)
        if position < 0 or position + 1 >= len(content):
            raise ImageStructureError("the JPEG file has no end")
        following = content[position + 1]
        if following != 0 and following not in _RESTARTS and following != 0xFF:
            return position
        position += 1 if following == 0xFF else 2


__all__ = ["ImageStructureError", "strip_metadata"]
