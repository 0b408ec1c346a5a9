"""DICOM: the picture as a radiologist's screen shows it, nothing else of the file, and clear refusals."""

import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from mambaxray.processing.dicom import read_dicom
from mambaxray.processing.image_reading import ImageReadError, load_xray

WriteDicom = Callable[..., Path]


def _values(source: object) -> np.ndarray:
    return np.asarray(load_xray(source)).astype(int)


def _difference(source: object, grey: np.ndarray) -> int:
    loaded = _values(source)
    assert loaded.shape == grey.shape
    return int(np.abs(loaded - grey).max())


def _bundled(name: str) -> Path:
    """One of the real files that come with pydicom."""
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(str(path))


def _twelve_bits(grey: np.ndarray) -> np.ndarray:
    return np.rint(grey * (4095 / 255)).astype(np.uint16)


# Grey values


def test_8_bit_values_without_window_are_taken_as_they_are(write_dicom: WriteDicom) -> None:
    faint = np.tile(np.arange(100, 164, dtype=np.uint8), (32, 1))
    assert _difference(write_dicom(faint), faint) == 0


def test_monochrome1_is_inverted(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    assert _difference(write_dicom(255 - grey, photometric="MONOCHROME1"), grey) == 0
    deep = 4095 - _twelve_bits(grey)
    assert _difference(write_dicom(deep, bits=12, photometric="MONOCHROME1"), grey) <= 1


def test_12_bit_values_fill_the_range(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    assert _difference(write_dicom(_twelve_bits(grey), bits=12), grey) <= 1


def test_16_bit_values_fill_the_range_from_lowest_to_highest(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    assert _difference(write_dicom(grey.astype(np.uint16) * 100 + 7000), grey) <= 1


def test_signed_values(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    assert _difference(write_dicom(grey.astype(np.int16) * 16 - 2048, bits=13), grey) <= 1


def test_negative_rescale_slope_turns_the_picture_over(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    path = write_dicom(4095 - _twelve_bits(grey), bits=12, RescaleSlope="-1", RescaleIntercept="4095")
    assert _difference(path, grey) <= 1


def test_window_applies_after_rescale(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    # Stored 0..255 is rescaled to -1000..1040; the window shows -490..530, the middle half.
    path = write_dicom(grey, RescaleSlope="8", RescaleIntercept="-1000", WindowCenter="20", WindowWidth="1020")
    expected = np.clip((grey * 8.0 - 1000 + 490) / 1020, 0, 1) * 255
    assert np.abs(_values(path) - expected).max() <= 1


def test_first_of_several_windows_counts(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    path = write_dicom(_twelve_bits(grey), bits=12, WindowCenter=["2048", "100"], WindowWidth=["4096", "50"])
    assert _difference(path, grey) <= 1


@pytest.mark.parametrize(("function", "width"), [("LINEAR_EXACT", "2048"), ("SIGMOID", "1024")])
def test_other_window_functions(write_dicom: WriteDicom, grey: np.ndarray, function: str, width: str) -> None:
    stored = _twelve_bits(grey)
    path = write_dicom(stored, bits=12, WindowCenter="2048", WindowWidth=width, VOILUTFunction=function)
    distance = (stored.astype(float) - 2048) / float(width)
    exact = np.clip(distance + 0.5, 0, 1) if function == "LINEAR_EXACT" else 1 / (1 + np.exp(-4 * distance))
    assert np.abs(_values(path) - exact * 255).max() <= 1


def test_window_without_width_is_ignored(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    path = write_dicom(_twelve_bits(grey), bits=12, WindowCenter="2048", WindowWidth="0")
    assert _difference(path, grey) <= 1


def _table(entries: np.ndarray, first: int, bits: int, *, as_words: bool) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 2**16, first, bits]
    item.add_new("LUTData", "OW", b"") if as_words else item.add_new("LUTData", "US", [])
    item["LUTData"].value = entries.astype("<u2").tobytes() if as_words else entries.tolist()
    item["LUTDescriptor"].VR = "US" if first >= 0 else "SS"
    return Sequence([item])


@pytest.mark.parametrize("as_words", [True, False])
def test_voi_lut_counts_before_the_window(write_dicom: WriteDicom, grey: np.ndarray, as_words: bool) -> None:
    curve = np.rint((np.arange(4096) / 4095) ** 2 * 1023).astype(np.uint16)
    stored = _twelve_bits(grey)
    path = write_dicom(
        stored,
        bits=12,
        VOILUTSequence=_table(curve, 0, 10, as_words=as_words),
        WindowCenter="10",
        WindowWidth="5",
    )
    assert np.abs(_values(path) - curve[stored] * (255 / 1023)).max() <= 1


def test_voi_lut_of_8_bits_with_4096_entries_does_not_wrap_around(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    curve = np.rint(np.arange(4096) * (255 / 4095)).astype(np.uint16)
    path = write_dicom(_twelve_bits(grey), bits=12, VOILUTSequence=_table(curve, 0, 8, as_words=True))
    assert _difference(path, grey) <= 1


def test_values_outside_a_lut_take_its_ends(write_dicom: WriteDicom) -> None:
    stored = np.tile(np.arange(64, dtype=np.uint16) * 10, (32, 1))
    curve = np.linspace(50, 200, 101).astype(np.uint16)
    path = write_dicom(stored, VOILUTSequence=_table(curve, 200, 8, as_words=True))
    assert (_values(path) == curve[np.clip(stored.astype(int) - 200, 0, 100)]).all()


def test_modality_lut_applies_before_the_window(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    turn = (4095 - np.arange(4096)).astype(np.uint16)
    path = write_dicom(
        4095 - _twelve_bits(grey),
        bits=12,
        ModalityLUTSequence=_table(turn, 0, 16, as_words=True),
        WindowCenter="2048",
        WindowWidth="4096",
    )
    assert _difference(path, grey) <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_squeeze_the_range(
    write_dicom: WriteDicom, grey: np.ndarray, photometric: str
) -> None:
    values = grey if photometric == "MONOCHROME2" else 255 - grey
    stored = values.astype(np.uint16) * 4 + 1000
    stored[:, :8] = 65535
    loaded = _values(write_dicom(stored, photometric=photometric, PixelPaddingValue=65535))
    assert (loaded[:, :8] == 0).all()
    seen = grey[:, 8:].astype(float)
    expected = (seen - seen.min()) / (seen.max() - seen.min()) * 255
    assert np.abs(loaded[:, 8:] - expected).max() <= 1


def test_padding_range(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    stored = grey.astype(np.uint16) * 4 + 1000
    stored[0], stored[1], stored[2] = 0, 5, 10
    loaded = _values(write_dicom(stored, PixelPaddingValue=0, PixelPaddingRangeLimit=10))
    assert (loaded[:3] == 0).all()
    assert loaded[3:].max() == 255


def test_constant_picture_that_is_allowed_gives_no_nan(write_dicom: WriteDicom) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        picture = load_xray(write_dicom(np.full((32, 32), 700, dtype=np.uint16)), allow_blank=True)
    assert picture.getextrema() == (0, 0)


def test_colour_dicom_becomes_rgb(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    colour = np.stack([grey, 255 - grey, np.full_like(grey, 9)], axis=-1)
    assert (_values(write_dicom(colour, photometric="RGB")) == colour).all()
    assert load_xray(_bundled("examples_palette.dcm")).mode == "RGB"
    assert load_xray(_bundled("SC_ybr_full_422_uncompressed.dcm")).mode == "RGB"


# Encodings


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_and_deflated_syntaxes(write_dicom: WriteDicom, grey: np.ndarray, syntax: UID) -> None:
    assert _difference(write_dicom(_twelve_bits(grey), bits=12, syntax=syntax), grey) <= 1


def test_big_endian_syntax(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    swapped = _twelve_bits(grey).astype(">u2")
    assert _difference(write_dicom(swapped, bits=12, syntax=ExplicitVRBigEndian), grey) <= 1


@pytest.mark.parametrize("bits", [8, 12])
def test_rle(write_dicom: WriteDicom, grey: np.ndarray, bits: int) -> None:
    path = write_dicom(grey if bits == 8 else _twelve_bits(grey), bits=bits)
    dataset = dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    assert _difference(path, grey) <= 1


def _encapsulated(grey: np.ndarray, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, file_format, **options)
    return encapsulate([buffer.getvalue()])


def test_jpeg_baseline(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    content = _encapsulated(grey, "JPEG", quality=100)
    assert _difference(write_dicom(grey, syntax=JPEGBaseline8Bit, encapsulated=content), grey) <= 2


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEG2000])
def test_jpeg_2000(write_dicom: WriteDicom, grey: np.ndarray, syntax: UID) -> None:
    content = _encapsulated(grey, "JPEG2000", no_jp2=True)
    assert _difference(write_dicom(grey, syntax=syntax, encapsulated=content), grey) == 0


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"]
)
def test_real_16_bit_files_of_other_software_give_the_same_picture(name: str) -> None:
    assert _difference(_bundled(name), _values(_bundled("MR_small.dcm"))) == 0


@pytest.mark.parametrize(
    ("name", "plugin"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", "pip install pyjpegls"),
        ("SC_rgb_jpeg_gdcm.dcm", "pip install pylibjpeg pylibjpeg-libjpeg"),
        ("JPGExtended.dcm", "pip install pylibjpeg pylibjpeg-libjpeg"),
    ],
)
def test_compression_without_a_decoder_names_file_and_plugin(name: str, plugin: str) -> None:
    path = _bundled(name)
    decoders = get_decoder(dcmread(path).file_meta.TransferSyntaxUID).available_plugins
    if set(decoders) - {"pillow"}:
        pytest.skip(f"{', '.join(decoders)} can decode it here")
    with pytest.raises(ImageReadError) as caught:
        load_xray(path)
    assert name in str(caught.value)
    assert plugin in str(caught.value)


def test_unknown_compression_is_named(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    path = write_dicom(grey, syntax=MPEG2MPML, encapsulated=encapsulate([b"\0" * 100]))
    with pytest.raises(ImageReadError, match=r"xray\.dcm: DICOM compressed as MPEG2"):
        load_xray(path)


# How a file is told to be DICOM


def test_content_tells_dicom_whatever_the_name(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    path = write_dicom(grey, file_name="IM0001")
    assert _difference(path, grey) == 0
    assert _difference(path.rename(path.with_name("wrong.png")), grey) == 0


def test_bytes_and_dictionaries_may_hold_dicom(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    content = write_dicom(grey).read_bytes()
    assert _difference(content, grey) == 0
    assert _difference({"bytes": content, "path": None}, grey) == 0


def test_dicom_without_preamble_is_told_by_its_name(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    assert _difference(write_dicom(grey, preamble=False, file_name="bare.dcm"), grey) == 0
    with pytest.raises(ImageReadError, match="not an image"):
        load_xray(write_dicom(grey, preamble=False, file_name="bare.bin"))


def test_png_named_dcm_is_read_as_png(png: Path, tmp_path: Path, grey: np.ndarray) -> None:
    path = tmp_path / "wrong.dcm"
    path.write_bytes(png.read_bytes())
    assert _difference(path, grey) == 0


# The real files of shared/data/formats


def test_real_monochrome2_file_shows_its_stored_values(shared_data: Path) -> None:
    path = shared_data / "formats" / "rsna_monochrome2.dcm"
    assert np.array_equal(_values(path), dcmread(path).pixel_array)


def test_real_file_relabelled_monochrome1_is_its_negative(shared_data: Path) -> None:
    # Only the label of this file was changed, not its pixels; the standard then asks for the negative.
    relabelled = _values(shared_data / "formats" / "fake_monochrome1.dcm")
    assert np.array_equal(relabelled, 255 - _values(shared_data / "formats" / "rsna_monochrome2.dcm"))


def test_real_file_truly_stored_as_monochrome1_equals_its_twin(shared_data: Path, tmp_path: Path) -> None:
    original = shared_data / "formats" / "rsna_monochrome2.dcm"
    dataset = dcmread(original)
    dataset.decompress()
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.PixelData = (255 - dataset.pixel_array).tobytes()
    dataset.save_as(tmp_path / "monochrome1.dcm")
    assert np.array_equal(_values(tmp_path / "monochrome1.dcm"), _values(original))


# Refusals


def _refused(path: Path, *words: str) -> None:
    with pytest.raises(ImageReadError) as caught:
        load_xray(path)
    for word in (path.name, *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_dicom_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.dcm"
    path.touch()
    _refused(path, "the file is empty")
    path.write_bytes(b"\0" * 128 + b"DICM")
    _refused(path, "without pixel data")


def test_dicom_without_pixel_data_is_refused() -> None:
    _refused(_bundled("rtplan.dcm"), "without pixel data")


def test_text_named_dcm_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.dcm"
    path.write_text("Heart size is normal. " * 20)
    _refused(path, "neither DICOM nor an image")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_dicom_is_refused(write_dicom: WriteDicom, grey: np.ndarray, share: float) -> None:
    path = write_dicom(grey)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    _refused(path, "truncated")


def test_truncated_compressed_dicom_is_refused(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    path = write_dicom(grey)
    dataset = dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    path.write_bytes(path.read_bytes()[:-2000])
    _refused(path, "truncated")


def test_several_frames_are_refused() -> None:
    _refused(_bundled("SC_rgb_rle_2frame.dcm"), "2 frames")


def test_tiny_and_huge_dicoms_are_refused_before_decoding(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    _refused(write_dicom(grey[:1, :1]), "too small (1 x 1 pixels")
    _refused(write_dicom(grey, Rows=60_000, Columns=60_000), "too large (60000 x 60000 pixels", "bomb")


def test_unknown_photometric_interpretation_is_refused(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    path = write_dicom(grey, photometric="SOMETHING")
    _refused(path, "photometric interpretation that is not supported; supported are MONOCHROME1, MONOCHROME2")
    with pytest.raises(ImageReadError) as caught:
        load_xray(path)
    assert "SOMETHING" not in str(caught.value), "it may be anything, a name too"


@pytest.mark.parametrize("keyword", ["Rows", "BitsAllocated", "PixelRepresentation"])
def test_broken_header_value_is_refused(write_dicom: WriteDicom, grey: np.ndarray, keyword: str) -> None:
    _refused(write_dicom(grey, raw={keyword: ("US", b"abc")}), f"damaged DICOM: {keyword} is no whole number")


# Privacy


def test_no_header_field_is_logged_stored_or_told_in_an_error(
    write_dicom: WriteDicom, grey: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    identifying = {"PatientBirthDate": "19010101", "InstitutionName": "Secretname Hospital", "PatientAge": "Secretname"}
    identifying["InstanceNumber"] = "1234567890"
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = write_dicom(grey, **identifying)
        # Not a number any more: pydicom would complain and quote it if it were parsed.
        path.write_bytes(path.read_bytes().replace(b"1234567890", b"Secretname"))
        caplog.clear()
        caught.clear()
        picture = load_xray(path)
        assert not read_dicom(path).fields
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ImageReadError) as refused:
            load_xray(path)
    told = [str(refused.value), str(refused.value.__cause__), caplog.text, *(str(one.message) for one in caught)]
    told += [str(picture.info), str(picture.getexif())]
    assert not [text for text in told if "Secretname" in text or "1901" in text]


def test_header_fields_come_when_asked_for_by_name(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    path = write_dicom(grey, PixelSpacing=["0.2", "0.2"], InstanceNumber="3")
    read = read_dicom(path, fields=["ViewPosition", "PixelSpacing", "InstanceNumber", "PatientAge"])
    assert read.fields == {
        "ViewPosition": "PA",
        "PixelSpacing": [0.2, 0.2],
        "InstanceNumber": 3,
        "PatientAge": None,
    }
    assert json.loads(json.dumps(read.fields)) == read.fields
    assert np.array_equal(np.asarray(read.image), grey)


def test_unknown_header_field_is_refused(write_dicom: WriteDicom, grey: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not DICOM keywords: View"):
        read_dicom(write_dicom(grey), fields=["View"])


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 900, "WindowWidth": 1500},
        {"WindowCenter": 900, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID", "photometric": "MONOCHROME1"},
        {"RescaleSlope": 2, "RescaleIntercept": -1024, "PixelPaddingValue": 0, "PixelPaddingRangeLimit": 40},
        {"bits": 12},
    ],
    ids=["window", "inverted sigmoid", "rescaled and padded", "stretched"],
)
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_a_large_film_gets_the_grey_values_of_a_small_one(
    kind: type, elements: dict[str, object], grey: np.ndarray, write_dicom: WriteDicom
) -> None:
    small = (_twelve_bits(grey) // 2).astype(kind)
    expected = np.tile(_values(write_dicom(small, **elements)), (4, 4))
    assert np.array_equal(_values(write_dicom(np.tile(small, (4, 4)), **elements)), expected)
