"""The whole path from stored values to grey values, over a grid of headers, against pydicom where pydicom is right.

pydicom's functions are called on values that this test makes itself, so its reading of files and bits is not asked.
"""

from io import BytesIO

import numpy as np
import pytest
from dicom_files import compressed, lut, make_dicom, words
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from mambaxray.processing.image_reading import load_xray

ROWS, COLUMNS = 40, 36
SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
]


def _film(bits: int, is_signed: bool) -> np.ndarray:
    """Smooth values `(rows, columns)` over nearly all that so many bits can hold, int64."""
    rows, columns = np.mgrid[0:ROWS, 0:COLUMNS]
    wave = 0.5 + 0.25 * np.sin(rows / 7) + 0.25 * np.cos(columns / 6 + rows / 15)
    lowest = -(2 ** (bits - 1)) if is_signed else 0
    return np.rint(lowest + (0.03 + 0.94 * wave) * (2**bits - 1)).astype(np.int64)


def _stored(values: np.ndarray, bits: int, allocated: int, is_signed: bool, has_overlay: bool) -> np.ndarray:
    """Values in cells, the bits above them empty or with an overlay."""
    cells = (values % 2**bits).astype(f"u{allocated // 8}")
    if has_overlay:
        cells[5:20, 5:20] |= cells.dtype.type(1 << (allocated - 1))
    return cells.view(f"i{allocated // 8}") if is_signed else cells


def _as_file(cells: np.ndarray, syntax: str, **options: object) -> bytes:
    if syntax == JPEG2000Lossless:
        unsigned = cells.view(f"u{cells.itemsize}")
        return make_dicom(cells, encapsulated=compressed(unsigned, "JPEG2000"), syntax=syntax, **options)
    if syntax == RLELossless:
        dataset = dcmread(BytesIO(make_dicom(cells, **options)))
        dataset.compress(RLELossless)
        file = BytesIO()
        dataset.save_as(file)
        return file.getvalue()
    ordered = cells.astype(cells.dtype.newbyteorder(">")) if syntax == ExplicitVRBigEndian else cells
    return make_dicom(ordered, syntax=syntax, **options)


grids = st.fixed_dictionaries(
    {
        "bits": st.sampled_from([8, 10, 12, 14, 16]),
        "is_wide": st.booleans(),
        "is_signed": st.booleans(),
        "has_overlay": st.booleans(),
        "photometric": st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
        "syntax": st.sampled_from(SYNTAXES),
        "rescale": st.sampled_from([None, ("1", "0"), ("2", "-1024"), ("-1", "4095"), ("0.5", "100")]),
        "function": st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]),
        "place": st.floats(0.35, 0.65),
        "width": st.floats(0.4, 1.5),
        "is_padded": st.booleans(),
        "padding_type": st.sampled_from(["US", "SS"]),
    }
)


@given(grids)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)
def test_windows_give_what_pydicom_gives_for_the_same_values(case: dict) -> None:
    bits, is_signed = case["bits"], case["is_signed"]
    # pydicom's encoder of RLE takes the bits stored for those allocated, and no others may be in use.
    is_rle = case["syntax"] == RLELossless
    allocated = 16 if bits > 8 or (case["is_wide"] and not is_rle) else 8
    has_overlay = case["has_overlay"] and bits < allocated and not is_rle
    values = _film(bits, is_signed)
    padding = int(values.min()) - 1
    is_padded = case["is_padded"] and not has_overlay
    if is_padded:
        values[:, :4] = padding
    header = {"bits": bits, "photometric": case["photometric"]}
    rescaled = Dataset()
    if case["rescale"] is not None:
        header["RescaleSlope"], header["RescaleIntercept"] = case["rescale"]
        rescaled.RescaleSlope, rescaled.RescaleIntercept = case["rescale"]
    shown = apply_modality_lut(values, rescaled).astype(float)
    seen = shown[:, 4:]
    span = float(seen.max() - seen.min())
    window = Dataset()
    window.WindowCenter = f"{seen.min() + case['place'] * span:.6g}"
    window.WindowWidth = f"{max(1.0, case['width'] * span):.6g}"
    if case["function"] is not None:
        window.VOILUTFunction = case["function"]
    for element in window:
        header[element.keyword] = element.value
    window.PhotometricInterpretation, window.PixelRepresentation, window.BitsStored = "MONOCHROME2", 0, 8
    expected = apply_windowing(shown, window)
    if case["photometric"] == "MONOCHROME1":
        expected = 255 - expected
    if is_padded:
        expected[:, :4] = 0
        header["raw"] = {"PixelPaddingValue": (case["padding_type"], words(padding))}
        if case["syntax"] != ExplicitVRLittleEndian:
            header["raw"] = None
            header["PixelPaddingValue"] = padding if is_signed else padding % 2**16
    cells = _stored(values, bits, allocated, is_signed, has_overlay)
    content = _as_file(cells, case["syntax"], **header)
    assert np.abs(np.asarray(load_xray(content)) - expected).max() <= 1


@given(
    bits=st.sampled_from([8, 12, 16]),
    is_signed=st.booleans(),
    entry_bits=st.sampled_from([8, 10, 12, 16]),
    gamma=st.floats(0.5, 2.0),
    kind=st.sampled_from(["US", "SS"]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    is_modality=st.booleans(),
)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)
def test_look_up_tables_give_what_pydicom_gives_for_the_same_values(
    bits: int, is_signed: bool, entry_bits: int, gamma: float, kind: str, photometric: str, is_modality: bool
) -> None:
    values = _film(bits, is_signed)
    count = 2**bits
    first = -(2 ** (bits - 1)) if is_signed else 0
    entries = np.rint((np.arange(count) / (count - 1)) ** gamma * (2**entry_bits - 1))
    tables = lut((count % 2**16, first, entry_bits), entries, kind)
    # pydicom's tables take unsigned inputs from 0 on, and wrap around with entries of 8 bits.
    plain = Dataset()
    plain.PixelRepresentation, plain.BitsStored = 0, bits
    item = Dataset()
    item.LUTDescriptor = [count % 2**16, 0, 16]
    item.add_new("LUTData", "US", entries.astype(int).tolist())
    item["LUTDescriptor"].VR = "US"
    header = {"bits": bits, "photometric": photometric}
    if is_modality:
        plain.ModalityLUTSequence = [item]
        window = {"WindowCenter": str(2 ** (entry_bits - 1)), "WindowWidth": str(2**entry_bits)}
        header |= {"ModalityLUTSequence": tables, **window}
    else:
        plain.VOILUTSequence = [item]
        header["VOILUTSequence"] = tables
    apply = apply_modality_lut if is_modality else apply_voi_lut
    expected = apply(values - first, plain).astype(float) * (255 / (2**entry_bits - 1))
    if photometric == "MONOCHROME1":
        expected = 255 - expected
    allocated = 8 if bits == 8 else 16
    content = make_dicom(_stored(values, bits, allocated, is_signed, False), **header)
    assert np.abs(np.asarray(load_xray(content)) - expected).max() <= 1.01


numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=32).map(lambda value: f"{value:.6g}"),
    st.text(alphabet="0123456789.,-+eENA/\\ ", max_size=12),
)


@given(
    center=numbers,
    width=numbers,
    slope=numbers,
    intercept=numbers,
    function=st.sampled_from(["", "LINEAR", "LINEAR_EXACT", "SIGMOID", "OTHER"]),
    is_signed=st.booleans(),
)
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_numbers_in_the_header_leave_nothing_of_a_film(
    center: str, width: str, slope: str, intercept: str, function: str, is_signed: bool
) -> None:
    texts = {"WindowCenter": center, "WindowWidth": width, "RescaleSlope": slope, "RescaleIntercept": intercept}
    raw = {keyword: ("DS", text.encode() + b" " * (len(text) % 2)) for keyword, text in texts.items()}
    raw["VOILUTFunction"] = ("CS", function.encode() + b" " * (len(function) % 2))
    cells = _stored(_film(12, is_signed), 12, 16, is_signed, False)
    grey = np.asarray(load_xray(make_dicom(cells, bits=12, raw=raw)))
    counts = np.bincount(grey.ravel(), minlength=256)
    assert counts.max() < 0.97 * grey.size
