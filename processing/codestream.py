"""How large a compressed frame of a DICOM is, by what the frame itself says (JPEG, JPEG-LS, JPEG 2000, RLE)."""

import struct
from dataclasses import dataclass

JPEG_START = b"\xff\xd8"
JPEG2000_START = b"\xff\x4f\xff\x51"
JPEG2000_BOX_START = b"\x00\x00\x00\x0cjP  "

_CODING_STYLE = 0x52
# Markers of a JPEG's (or, 0xF7, JPEG-LS's) frame header.
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


@dataclass(frozen=True)
class FrameHeader:
    """Attributes: `width` and `height` in pixels, `components`, and `precision` in bits."""

    width: int
    height: int
    components: int
    precision: int


def read_frame_header(content: bytes) -> FrameHeader | None:
    """The frame header of a codestream, or None where it holds none that can be read.

    Source: ISO/IEC 10918-1 B.2.2 (JPEG), 14495-1 C.2.2 (JPEG-LS), 15444-1 A.5.1 (JPEG 2000).
    """
    try:
        if content[:2] == JPEG_START:
            return _read_jpeg(content)
        start = content.find(JPEG2000_START, 0, 2**16)
        return None if start < 0 else _read_jpeg2000(content, start)
    except (struct.error, IndexError):
        return None


def _read_jpeg(content: bytes) -> FrameHeader | None:
    place = 2
    while content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        if marker in _FRAME_MARKERS:
            precision, height, width, components = struct.unpack_from(">BHHB", content, place + 4)
            return FrameHeader(width, height, components, precision)
        place += 2 + struct.unpack_from(">H", content, place + 2)[0]
    return None


def _read_jpeg2000(content: bytes, start: int) -> FrameHeader:
    right, bottom, left, top = struct.unpack_from(">4I", content, start + 8)
    components, depth = struct.unpack_from(">HB", content, start + 40)
    return FrameHeader(right - left, bottom - top, components, (depth & 0x7F) + 1)


def mixes_colours(content: bytes) -> bool | None:
    """Whether a JPEG 2000 codestream turns its components into RGB; None where it is no such codestream.

    Source: ISO/IEC 15444-1 A.6.1 (COD, multiple component transformation).
    """
    if not content.startswith(JPEG2000_START):
        return None
    try:
        place = 2
        while content[place] == 0xFF:
            marker = content[place + 1]
            if marker == _CODING_STYLE:
                return content[place + 8] == 1
            place += 2 + struct.unpack_from(">H", content, place + 2)[0]
    except (struct.error, IndexError):
        pass
    return None


def rle_segment_lengths(content: bytes) -> list[int]:
    """How many bytes each segment of an RLE frame unpacks to.

    Raises:
        struct.error: the frame has no whole header.

    Source: PS3.5 annex G.
    """
    count, *offsets = struct.unpack_from("<16I", content)
    ends = [*offsets[1:count], len(content)]
    return [_unpacked_length(content[start:end]) for start, end in zip(offsets[:count], ends, strict=False)]


def _unpacked_length(segment: bytes) -> int:
    place = length = 0
    # A last byte that no data follow is padding.
    while place < len(segment) - 1:
        control = segment[place]
        if control < 128:
            length += control + 1
            place += control + 2
        elif control > 128:
            length += 257 - control
            place += 2
        else:
            place += 1
    return length
