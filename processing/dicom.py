"""Reading a radiograph from DICOM as a radiologist's screen would show it. Only then pydicom is imported.

No header field leaves this module unless it is asked for by name, and fields that neither the image nor the
caller needs are not even parsed, so they can't reach a log or an error message either.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .dicom_grey import grey_picture
from .dicom_header import PARSE_ERRORS, DicomHeader
from .dicom_pixels import MONOCHROME, PALETTE, read_cells
from .dicom_subject import check_subject
from .image_content import read_file
from .image_limits import check_bytes, max_bytes
from .pixel_rules import DECODE_ERRORS, ImageReadError, refuse_blank, to_8bit

_Dataset = Any  # pydicom's, which is not known before a DICOM is opened

_DICOM_MAGIC = b"DICM"
_PREAMBLE_LENGTH = 128
_META_START = _PREAMBLE_LENGTH + len(_DICOM_MAGIC)
_DEFLATED_SYNTAX = "1.2.840.10008.1.2.1.99"

# All that the image depends on; `dcmread` skips the rest of the header.
_PIXEL_FIELDS = (
    "SOPClassUID",
    "Modality",
    "BodyPartExamined",
    "PresentationIntentType",
    "PresentationLUTShape",
    "PatientOrientation",
    "PixelAspectRatio",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
)
_PIXEL_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True)
class DicomXray:
    """A radiograph read from DICOM.

    Attributes:
        image: mode "L", or "RGB" for a colour DICOM.
        fields: the header fields that were asked for, by keyword; `None` where the file lacks one.
    """

    image: Image.Image
    fields: dict[str, Any] = field(default_factory=dict)


def is_dicom(head: bytes) -> bool:
    """Whether a file that starts with `head` (at least 132 bytes) has DICOM's preamble and magic word."""
    return head[_PREAMBLE_LENGTH:_META_START] == _DICOM_MAGIC


def class_without_image(file: BinaryIO) -> str | None:
    """What a DICOM holds in place of an image, in the standard's words; None for images and for what is unknown.

    Such files (`DICOMDIR`, presentation states, structured reports) lie beside the images of a study.

    Args:
        file: open for reading in binary mode, at its start.
    """
    pydicom = _load_pydicom()
    try:
        if is_dicom(file.read(_META_START)):
            # Not from the data set, which may be compressed.
            found = _read_meta(file, pydicom).get_item("MediaStorageSOPClassUID")
        else:
            file.seek(0)
            found = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID"]).get_item(
                "SOPClassUID"
            )
    except (*DECODE_ERRORS, *_parse_errors(pydicom)):
        return None
    return None if found is None else _name_without_image(found.value or "", pydicom)


def _name_without_image(kind: bytes | str, pydicom: ModuleType) -> str | None:
    text = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)
    known = pydicom.uid.UID_dictionary.get(text.strip(" \0"))
    # The names of all classes of images have this word.
    return known[0] if known is not None and "Image" not in known[0] else None


def _load_pydicom() -> ModuleType:
    """The library, with those of its parts that are used here."""
    try:
        import pydicom.datadict
        import pydicom.encaps
        import pydicom.errors
        import pydicom.filereader
        import pydicom.pixels
        import pydicom.uid
    except ModuleNotFoundError as error:  # a model's repository can be used without it
        raise ModuleNotFoundError("reading DICOM needs pydicom: pip install pydicom") from error
    return pydicom


def _parse_errors(pydicom: ModuleType) -> tuple[type[Exception], ...]:
    """What pydicom's parser raises on damaged files besides `DECODE_ERRORS`."""
    # Its own exceptions have no better base class than Exception.
    return (pydicom.errors.BytesLengthException, pydicom.errors.InvalidDicomError, *PARSE_ERRORS)


def read_dicom(
    source: str | Path | bytes,
    *,
    fields: Sequence[str] = (),
    name: str | None = None,
    strict: bool = False,
    allow_blank: bool = False,
) -> DicomXray:
    """Read the radiograph of a single-frame DICOM, 8 bits per pixel, bone bright and air dark.

    Grey values go through the file's modality LUT or rescale slope and intercept, then its first usable VOI LUT or,
    where there is none, its first usable window. Without either, 8-bit values are taken as they are and deeper or
    rescaled ones are stretched from the lowest to the highest valid one, outliers aside. MONOCHROME1 is inverted.
    Padding pixels come out black. Colour DICOMs (RGB, YBR, palette) become RGB without windowing. Fields that can't be
    used, and signs that the file holds no chest radiograph, are logged. `docs/input.md` has all the rules.

    Args:
        source: a path, or the file's content.
        fields: DICOM keywords (such as `"ViewPosition"`) of header fields to hand out beside the image. They
            may identify the patient.
        name: what to call the file in error messages; by default its path.
        strict: refuse what otherwise is only logged.
        allow_blank: read images in which there is nothing to see.

    Raises:
        ImageReadError: naming the file and the reason: empty, truncated or damaged, no pixel data, several frames,
            header and pixel data that disagree, a compression for which a plugin is missing (named), an unsupported
            photometric interpretation, blank, too small or too large.
        ValueError: a keyword in `fields` that DICOM's dictionary does not know.
        FileNotFoundError: no such file.
        ModuleNotFoundError: pydicom is not installed.

    Source: DICOM PS3.3 C.7.6.3 (pixels), C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.5.1.1.2 (padding).
    """
    pydicom = _load_pydicom()
    unknown = [keyword for keyword in fields if pydicom.datadict.tag_for_keyword(keyword) is None]
    if unknown:
        raise ValueError(f"not DICOM keywords: {', '.join(unknown)}; use names such as 'ViewPosition'")
    if isinstance(source, (str, Path)):
        name = name or str(source)
        content = read_file(Path(source))
    else:
        name = name or f"<{len(source)} bytes of DICOM>"
        content = source
    if not content:
        raise ImageReadError(name, "the file is empty")
    dataset, syntax = _parse(content, [*_PIXEL_FIELDS, *fields], name, pydicom)
    header = DicomHeader(dataset, name, strict, pydicom.datadict.dictionary_VR)
    check_subject(header)
    cells, described = read_cells(header, pydicom, syntax)
    if described.photometric in MONOCHROME:
        pixels = grey_picture(cells, described, header, allow_blank=allow_blank)
    else:
        pixels = _colour(described.values_of(cells), described.photometric, header, pydicom)
    picture = Image.fromarray(pixels)
    if not allow_blank:
        refuse_blank(picture, name)
    return DicomXray(picture, {keyword: _header_field(dataset, keyword, name, pydicom) for keyword in fields})


def _parse(content: bytes, keywords: list[str], name: str, pydicom: ModuleType) -> tuple[_Dataset, Any]:
    """The data set with some of its fields, not converted yet, and its transfer syntax."""
    try:
        if is_dicom(content[:_META_START]):
            _check_deflated(content, name, pydicom)
        # A DICOM without preamble is identified by its file name only, so the magic word is not asked for here.
        dataset = pydicom.dcmread(BytesIO(content), force=True, specific_tags=keywords)
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        kind = dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID") or ""
    except ImageReadError:
        raise
    except (*DECODE_ERRORS, *_parse_errors(pydicom)) as error:
        # Without pydicom's message, which may quote a field.
        raise ImageReadError(name, f"damaged or truncated DICOM ({type(error).__name__})") from None
    if not is_dicom(content[:_META_START]) and not any(keyword in dataset for keyword in _PIXEL_FIELDS):
        raise ImageReadError(name, "neither DICOM nor an image in a known format")
    if not any(keyword in dataset for keyword in _PIXEL_DATA):
        what = _name_without_image(kind, pydicom) or "a report, a plan, or a truncated file"
        raise ImageReadError(name, f"DICOM without pixel data ({what})")
    if not syntax:
        # Files without preamble have no file meta information; what `dcmread` found out stands in for it.
        implicit, little = dataset.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        syntax = pydicom.uid.ImplicitVRLittleEndian if implicit else explicit
    if not syntax.is_transfer_syntax:
        raise ImageReadError(name, "damaged DICOM (its transfer syntax is none)")
    return dataset, syntax


def _read_meta(file: BinaryIO, pydicom: ModuleType) -> _Dataset:
    """The file meta information; the file is left where the data set begins."""
    file.seek(_META_START)
    return pydicom.filereader.read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2
    )


def _check_deflated(content: bytes, name: str, pydicom: ModuleType) -> None:
    """Whether a deflated data set unpacks to no more than the limit; that is found out without keeping it."""
    file = BytesIO(content)
    syntax = _read_meta(file, pydicom).get_item("TransferSyntaxUID")
    if syntax is None or bytes(syntax.value).strip(b" \0").decode("ascii", "replace") != _DEFLATED_SYNTAX:
        return
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    chunk = min(2**24, max_bytes())
    unpacked, packed = 0, content[file.tell() :]
    while packed and not unpacker.eof:
        unpacked += len(unpacker.decompress(packed, chunk))
        check_bytes(unpacked, name, "unpacked data")
        packed = unpacker.unconsumed_tail


def _colour(stored: np.ndarray, photometric: str, header: DicomHeader, pydicom: ModuleType) -> np.ndarray:
    if photometric != PALETTE:  # pydicom has turned YBR into RGB
        return to_8bit(stored, header.name)
    try:
        colours = pydicom.pixels.apply_color_lut(stored, header.dataset)
    except (*DECODE_ERRORS, *_parse_errors(pydicom)) as error:
        raise ImageReadError(header.name, f"damaged colour palette ({type(error).__name__})") from None
    return to_8bit(colours, header.name)


def _header_field(dataset: _Dataset, keyword: str, name: str, pydicom: ModuleType) -> Any:
    try:
        return _plain(dataset.get(keyword))
    except (*DECODE_ERRORS, *_parse_errors(pydicom)) as error:
        # Neither the value nor pydicom's message, which may quote it.
        raise ImageReadError(name, f"header field {keyword} can't be read ({type(error).__name__})") from None


def _plain(value: Any) -> Any:
    """A header value without pydicom's types, so that it can be stored as JSON."""
    if value is None:
        return None
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(item) for item in value]
    return str(value)
