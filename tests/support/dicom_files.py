"""DICOM files made on the spot, valid ones and others, that name a patient."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

PATIENT = "Secretname^Jane"


def make_dicom(
    pixels: np.ndarray,
    *,
    bits: int | None = None,
    photometric: str = "MONOCHROME2",
    encapsulated: bytes | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    preamble: bool = True,
    raw: Mapping[str, tuple[str, bytes]] | None = None,
    absent: Iterable[str] = (),
    **elements: Any,
) -> bytes:
    """A DICOM of stored values (H, W) or (H, W, 3); more elements by keyword.

    `raw` are elements as a value representation and little-endian bytes that need not be valid; `absent` are left out.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName = dataset.PatientID = PATIENT
    dataset.ViewPosition = "PA"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = encapsulated or pixels.tobytes()
    dataset["PixelData"].VR = "OB" if encapsulated or dataset.BitsAllocated == 8 else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    for keyword, (kind, value) in (raw or {}).items():
        _set_raw(dataset, keyword, kind, value)
    for keyword in absent:
        del dataset[keyword]
    if raw:  # else pydicom would try to convert it
        dataset.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian, dataset._character_set)
    file = io.BytesIO()
    if preamble:
        dataset.save_as(file, enforce_file_format=True)
    else:
        del dataset.file_meta
        dataset.save_as(file, implicit_vr=False, little_endian=True)
    return file.getvalue()


def _set_raw(dataset: Dataset, keyword: str, kind: str, value: bytes) -> None:
    dataset._dict[Tag(keyword)] = RawDataElement(Tag(keyword), kind, len(value), value, 0, False, True)


def words(*numbers: int) -> bytes:
    """Whole numbers as 16 bits each, little-endian, whatever their sign."""
    return (np.array(numbers) % 2**16).astype("<u2").tobytes()


def lut(
    descriptor: Iterable[int] | None, entries: np.ndarray | bytes | None, kind: str = "US", data_kind: str = "OW"
) -> Sequence:
    """A LUT sequence of one item; `None` leaves the element out. Entries are words, or bytes as they are."""
    item = Dataset()
    if descriptor is not None:
        _set_raw(item, "LUTDescriptor", kind, words(*descriptor))
    if entries is not None:
        content = entries if isinstance(entries, bytes) else np.rint(entries).astype("<u2").tobytes()
        _set_raw(item, "LUTData", data_kind, content)
    item.set_original_encoding(False, True, item._character_set)
    return Sequence([item])


def codestream(pixels: np.ndarray, file_format: str, **options: Any) -> bytes:
    """A frame that Pillow has compressed as `"JPEG"` or `"JPEG2000"`."""
    options = {"JPEG": {"quality": 100}, "JPEG2000": {"no_jp2": True}}[file_format] | options
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def compressed(pixels: np.ndarray, file_format: str, **options: Any) -> bytes:
    """Encapsulated pixel data of one such frame."""
    return encapsulate([codestream(pixels, file_format, **options)])
