"""Kinds of DICOM that are easily read into a wrong picture: each has a rule in docs/input.md, and its value here.

`light` holds 10 to 239, `deep` the same in 12 bits, and the window `FULL` shows all 12 bits.
"""

import logging
import struct
from io import BytesIO

import numpy as np
import pytest
from dicom_files import codestream, compressed, lut, make_dicom, words
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGExtended12Bit, RLELossless

from mambaxray.processing import dicom
from mambaxray.processing.image_reading import ImageReadError, load_xray

FULL = {"WindowCenter": "2048", "WindowWidth": "4096"}
IDENTITY = np.arange(4096)


@pytest.fixture(scope="module")
def light(grey: np.ndarray) -> np.ndarray:
    return np.rint(10 + grey.astype(float) / 255 * 229).astype(np.uint8)


@pytest.fixture(scope="module")
def deep(light: np.ndarray) -> np.ndarray:
    return np.rint(light * (4095 / 255)).astype(np.uint16)


def _loaded(content: bytes, **options: bool) -> np.ndarray:
    return np.asarray(load_xray(content, **options)).astype(float)


def _difference(content: bytes, expected: np.ndarray) -> float:
    loaded = _loaded(content)
    assert loaded.shape == expected.shape
    return float(np.abs(loaded - expected).max())


def _stretched(values: np.ndarray) -> np.ndarray:
    values = values.astype(float)
    return (values - values.min()) / (values.max() - values.min()) * 255


def _refusal(content: bytes, **options: bool) -> str:
    with pytest.raises(ImageReadError) as caught:
        load_xray(content, **options)
    return caught.value.reason


# Look-up tables


@pytest.mark.parametrize(
    ("descriptor", "entries"),
    [((), b""), (None, IDENTITY), ((4096, 0, 12), None), ((4096, 0, 12), b""), ((4096, 0), IDENTITY), (None, None)],
    ids=["empty", "no descriptor", "no data", "empty data", "short descriptor", "empty item"],
)
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_lut_without_entries_is_passed_over(
    keyword: str, descriptor: tuple | None, entries: object, deep: np.ndarray, light: np.ndarray
) -> None:
    content = make_dicom(deep, bits=12, **{keyword: lut(descriptor, entries)}, **FULL)
    assert _difference(content, light) <= 1


def test_second_lut_counts_where_the_first_has_no_entries(deep: np.ndarray, light: np.ndarray) -> None:
    tables = Sequence([*lut(None, None), *lut((4096, 0, 12), IDENTITY[::-1])])
    assert _difference(make_dicom(deep, bits=12, VOILUTSequence=tables), 255.0 - light) <= 1


@pytest.mark.parametrize("stated", [16, 14, 8, 0, 99])
def test_lut_of_12_bits_that_states_others_fills_the_range(stated: int, deep: np.ndarray, light: np.ndarray) -> None:
    assert _difference(make_dicom(deep, bits=12, VOILUTSequence=lut((4096, 0, stated), IDENTITY)), light) <= 1


@pytest.mark.parametrize(("stated", "highest"), [(12, 3000), (12, 1500), (16, 40000), (10, 600)])
def test_lut_that_stays_below_its_stated_range_keeps_its_maximum(stated: int, highest: int, deep: np.ndarray) -> None:
    entries = np.rint(IDENTITY * (highest / 4095))
    content = make_dicom(deep, bits=12, VOILUTSequence=lut((4096, 0, stated), entries))
    assert _difference(content, entries[deep] / (2**stated - 1) * 255) <= 1


def test_lut_that_lacks_entries_which_pixels_need_is_refused(deep: np.ndarray) -> None:
    reason = _refusal(make_dicom(deep, bits=12, VOILUTSequence=lut((4096, 0, 12), IDENTITY[:2048]), **FULL))
    assert reason == "damaged DICOM: a look-up table of 4,096 entries holds only 2,048"


def test_lut_may_lack_entries_that_no_pixel_needs(deep: np.ndarray, light: np.ndarray) -> None:
    content = make_dicom(deep // 2, bits=12, VOILUTSequence=lut((4096, 0, 12), IDENTITY[:2048] * 2))
    assert _difference(content, light) <= 1


def test_lut_with_more_words_than_it_states_ends_where_it_states(deep: np.ndarray) -> None:
    content = make_dicom(deep, bits=12, VOILUTSequence=lut((2048, 0, 12), IDENTITY))
    assert _difference(content, np.minimum(deep, 2047) / 4095 * 255) <= 1


def test_lut_of_8_bits_packed_two_in_a_word(light: np.ndarray) -> None:
    packed = bytes(range(255, -1, -1))
    assert _difference(make_dicom(light, VOILUTSequence=lut((256, 0, 8), packed)), 255.0 - light) == 0
    odd = lut((255, 1, 8), bytes(range(254, -1, -1)) + b"\0")
    assert _difference(make_dicom(light, VOILUTSequence=odd), 255.0 - light) == 0


@pytest.mark.parametrize("kind", ["US", "SS"])
@pytest.mark.parametrize(
    ("offset", "pixel_type"), [(-2048, np.int16), (-100, np.int16), (40000, np.uint16), (20000, np.uint16)]
)
def test_first_input_of_a_lut_has_the_sign_of_the_pixels(
    offset: int, pixel_type: type, kind: str, deep: np.ndarray, light: np.ndarray
) -> None:
    stored = (deep.astype(int) + offset).astype(pixel_type)
    assert _difference(make_dicom(stored, VOILUTSequence=lut((4096, offset, 12), IDENTITY, kind)), light) <= 1
    turned = lut((4096, offset, 12), 4095 - IDENTITY, kind)
    content = make_dicom(stored, ModalityLUTSequence=turned, photometric="MONOCHROME1", **FULL)
    assert _difference(content, light) <= 1


@pytest.mark.parametrize("kind", ["US", "SS"])
def test_first_input_of_a_lut_has_the_sign_of_rescaled_values(kind: str, deep: np.ndarray, light: np.ndarray) -> None:
    tables = lut((4096, -1024, 12), IDENTITY, kind)
    content = make_dicom(deep, bits=12, RescaleSlope="1", RescaleIntercept="-1024", VOILUTSequence=tables)
    assert _difference(content, light) <= 1


@pytest.mark.parametrize("first", [5000, 60000])
def test_lut_beside_all_values_is_passed_over(first: int, deep: np.ndarray, light: np.ndarray) -> None:
    content = make_dicom(deep, bits=12, VOILUTSequence=lut((4096, first, 12), IDENTITY), **FULL)
    assert _difference(content, light) <= 1


def test_lut_of_one_value_is_passed_over(deep: np.ndarray, light: np.ndarray) -> None:
    content = make_dicom(deep, bits=12, VOILUTSequence=lut((4096, 0, 12), IDENTITY * 0 + 4000), **FULL)
    assert _difference(content, light) <= 1


# Windows


def _window(center: bytes, width: bytes) -> dict[str, tuple[str, bytes]]:
    return {"WindowCenter": ("DS", center), "WindowWidth": ("DS", width)}


@pytest.mark.parametrize(
    ("center", "width"),
    [
        (b"NaN ", b"4096"),
        (b"2048", b"inf "),
        (b"2048", b"1e9 "),
        (b"2048", b"nan "),
        (b"30000 ", b"100 "),
        (b"-900", b"300 "),
        (b"N/A ", b"N/A "),
        (b"2048", b""),
        (b"2048", b"0 "),
        (b"2048", b"-1"),
        (b"1.024,5 ", b"4096"),
        (b"1e400 ", b"4096"),
    ],
)
def test_window_that_would_show_nothing_gives_way_to_a_stretch_and_is_logged(
    center: bytes, width: bytes, deep: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    content = make_dicom(deep, bits=12, raw=_window(center, width))
    assert _difference(content, _stretched(deep)) <= 1
    assert ("is passed over" in caplog.text) == (width != b"")


def test_window_of_another_modality_gives_way_to_a_stretch(deep: np.ndarray) -> None:
    content = make_dicom(deep + np.uint16(5000), WindowCenter="40", WindowWidth="400")
    assert _difference(content, _stretched(deep)) <= 1


@pytest.mark.parametrize(
    ("center", "width"),
    [(b"2048,0", b"4096,0"), (b"N/A\\2048", b"N/A\\4096"), (b"9e9\\2048", b"1\\4096"), (b" 2048 \0", b"4096\\7 ")],
    ids=["decimal comma", "first is no number", "first is off the values", "padded, more widths than centers"],
)
def test_first_window_that_can_be_used_counts(center: bytes, width: bytes, deep: np.ndarray, light: np.ndarray) -> None:
    assert _difference(make_dicom(deep, bits=12, raw=_window(center, width)), light) <= 1


def test_decimal_comma_is_a_point(deep: np.ndarray) -> None:
    content = make_dicom(deep, bits=12, raw=_window(b"2000,5", b"1000,5"))
    assert _difference(content, np.clip((deep - 2000.0) / 999.5 + 0.5, 0, 1) * 255) <= 1


def test_window_narrower_than_1_is_one_where_values_are_no_whole_numbers(deep: np.ndarray) -> None:
    content = make_dicom(
        deep, bits=12, RescaleSlope="0.0001", RescaleIntercept="0", WindowCenter="0.1", WindowWidth="0.2"
    )
    assert _difference(content, np.clip(deep * 1e-4 / 0.2, 0, 1) * 255) <= 1


def test_unknown_window_function_is_linear_and_logged_without_its_name(
    deep: np.ndarray, light: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    content = make_dicom(deep, bits=12, raw={"VOILUTFunction": ("CS", b"SECRETNAME")}, **FULL)
    assert _difference(content, light) <= 1
    assert "VOILUTFunction" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("slope", "intercept"), [(b"0 ", b"0 "), (b"nan ", b"0 "), (b"1 ", b"inf "), (b"N/A ", b"0 "), (b"1e308 ", b"0 ")]
)
def test_rescale_that_is_no_usable_number_is_passed_over(
    slope: bytes, intercept: bytes, deep: np.ndarray, light: np.ndarray
) -> None:
    raw = {"RescaleSlope": ("DS", slope), "RescaleIntercept": ("DS", intercept)}
    assert _difference(make_dicom(deep, bits=12, raw=raw, **FULL), light) <= 1


# Stretch


def test_one_row_of_outliers_leaves_the_rest_its_range(deep: np.ndarray) -> None:
    stored = deep.copy()
    stored[7] = 65535
    loaded = _loaded(make_dicom(stored))
    rest = np.delete(np.arange(len(deep)), 7)
    assert np.abs(loaded[rest] - _stretched(deep[rest])).max() <= 1
    assert (loaded[7] == 255).all()


def test_outliers_below_leave_the_rest_its_range(deep: np.ndarray) -> None:
    stored = deep.astype(np.int16)
    stored[40, 10:40] = -32000
    loaded = _loaded(make_dicom(stored))
    assert np.abs(np.delete(loaded - _stretched(deep), 40, axis=0)).max() <= 1


# Bits


def _with_overlay(deep: np.ndarray, bit: int) -> np.ndarray:
    stored = deep.copy()
    stored[10:40, 20:50] |= np.uint16(1 << bit)
    return stored


@pytest.mark.parametrize("bit", [12, 13, 15])
def test_overlay_bits_above_the_value_are_masked_in_every_syntax(bit: int, deep: np.ndarray, light: np.ndarray) -> None:
    stored = _with_overlay(deep, bit)
    assert _difference(make_dicom(stored, bits=12, **FULL), light) <= 1
    big = make_dicom(stored.astype(">u2"), bits=12, syntax=ExplicitVRBigEndian, **FULL)
    assert _difference(big, light) <= 1
    j2k = compressed(stored, "JPEG2000")
    assert _difference(make_dicom(stored, bits=12, encapsulated=j2k, syntax=JPEG2000Lossless, **FULL), light) <= 1


def test_overlay_bits_above_signed_values_are_masked(deep: np.ndarray, light: np.ndarray) -> None:
    stored = ((deep.astype(int) - 2048) % 4096).astype(np.uint16)
    stored[10:40, 20:50] |= np.uint16(1 << 15)
    content = make_dicom(stored.view(np.int16), bits=12, WindowCenter="0", WindowWidth="4096")
    assert _difference(content, light) <= 1


def test_values_at_the_upper_end_of_a_cell_are_shifted(deep: np.ndarray, light: np.ndarray) -> None:
    assert _difference(make_dicom(deep << 4, bits=12, HighBit=15, **FULL), light) <= 1


@pytest.mark.parametrize(
    ("bits", "elements"),
    [
        (12, {"HighBit": 15}),
        (12, {"HighBit": 7}),
        (8, {}),
        (10, {}),
        (12, {"BitsStored": 20}),
        (12, {"BitsAllocated": 12}),
        (12, {"HighBit": 40}),
    ],
)
def test_bits_that_contradict_each_other_or_the_pixels_are_refused(
    bits: int, elements: dict[str, int], deep: np.ndarray
) -> None:
    reason = _refusal(make_dicom(deep, bits=bits, **elements, **FULL))
    assert "contradicts itself" in reason or "BitsStored" in reason or "BitsAllocated" in reason


@pytest.mark.parametrize("bits", [12, 16])
def test_values_without_sign_in_a_header_with_one_are_refused(bits: int, deep: np.ndarray) -> None:
    stored = deep if bits == 12 else deep * np.uint16(16)
    assert _refusal(make_dicom(stored.view(np.int16), bits=bits, **FULL)).startswith("PixelRepresentation is wrong")
    noise = np.random.default_rng(0).integers(-1500, 1500, deep.shape).astype(np.int16)
    assert _loaded(make_dicom(noise, bits=12, WindowCenter="0", WindowWidth="4096")).std() > 20


def test_8_bit_jpeg_in_16_allocated_bits_is_read(light: np.ndarray, deep: np.ndarray) -> None:
    content = compressed(light, "JPEG")
    for bits, elements in ((8, {}), (12, {}), (16, {}), (12, FULL)):
        stored = make_dicom(deep, bits=bits, encapsulated=content, syntax=JPEGBaseline8Bit, **elements)
        assert _difference(stored, light) <= 2


def test_damaged_jpeg_gives_no_advice_to_install_anything(light: np.ndarray) -> None:
    damaged = encapsulate([b"\xff\xd8\xff\xdb" + bytes(300)])
    reason = _refusal(make_dicom(light, encapsulated=damaged, syntax=JPEGBaseline8Bit))
    assert "truncated or damaged pixel data" in reason
    assert "pip install" not in reason


def test_jpeg_of_12_bits_is_read_or_asks_for_its_plugin(light: np.ndarray) -> None:
    # A frame header of 12 bits without anything behind it.
    frame = b"\xff\xd8\xff\xc1" + struct.pack(">HBHHB3B", 11, 12, *light.shape, 1, 1, 0x11, 0)
    content = make_dicom(light.astype(np.uint16), bits=12, encapsulated=encapsulate([frame]), syntax=JPEGExtended12Bit)
    reason = _refusal(content)
    has_plugin = set(get_decoder(JPEGExtended12Bit).available_plugins) - {"pillow"}
    assert ("pip install pylibjpeg" in reason) == (not has_plugin)


def test_values_of_32_bits_and_floating_point(deep: np.ndarray, light: np.ndarray) -> None:
    assert _difference(make_dicom(deep.astype(np.uint32), bits=12, **FULL), light) <= 1
    assert _difference(make_dicom(deep.astype(np.uint32) * 100_000), _stretched(deep)) <= 1
    for keyword, kind in (("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")):
        absent = ["PixelData", "BitsStored", "HighBit", "PixelRepresentation"]
        values = (deep / 7.0 - 100).astype(kind)
        content = make_dicom(deep, absent=absent, BitsAllocated=values.itemsize * 8, **{keyword: values.tobytes()})
        assert _difference(content, _stretched(deep)) <= 1


# Padding


@pytest.mark.parametrize("kind", ["US", "SS"])
@pytest.mark.parametrize(("padding", "pixel_type"), [(-2000, np.int16), (63536, np.uint16), (40, np.uint16)])
def test_padding_counts_whichever_sign_it_is_written_with(
    padding: int, pixel_type: type, kind: str, deep: np.ndarray, light: np.ndarray
) -> None:
    offset = -2048 if pixel_type == np.int16 else 0
    stored = (deep.astype(int) + offset).astype(pixel_type)
    stored[:, :20] = padding
    window = {"WindowCenter": str(2048 + offset), "WindowWidth": "4096"}
    expected = light.astype(float)
    expected[:, :20] = 0
    assert _difference(make_dicom(stored, raw={"PixelPaddingValue": (kind, words(padding))}, **window), expected) <= 1
    ends = {"PixelPaddingValue": (kind, words(padding + 1)), "PixelPaddingRangeLimit": (kind, words(padding - 1))}
    assert _difference(make_dicom(stored, raw=ends, **window), expected) <= 1


def test_padding_beyond_the_stored_bits_is_padding(deep: np.ndarray, light: np.ndarray) -> None:
    stored = deep.copy()
    stored[:, :20] = 65535
    expected = light.astype(float)
    expected[:, :20] = 0
    raw = {"PixelPaddingValue": ("US", words(65535))}
    assert _difference(make_dicom(stored, bits=12, raw=raw, **FULL), expected) <= 1


def test_nothing_but_padding_is_a_blank_picture(deep: np.ndarray) -> None:
    raw = {"PixelPaddingValue": ("US", words(0)), "PixelPaddingRangeLimit": ("US", words(4095))}
    content = make_dicom(deep, bits=12, raw=raw, **FULL)
    assert _refusal(content).startswith("blank image (all pixels are padding)")
    assert (_loaded(content, allow_blank=True) == 0).all()


# Bytes and header


@pytest.mark.parametrize(
    "elements",
    [{"Columns": 79}, {"Columns": 81}, {"Rows": 60}, {"Rows": 95}, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}],
)
def test_pixels_that_are_not_as_many_as_the_header_says_are_refused(
    elements: dict[str, int], deep: np.ndarray, light: np.ndarray
) -> None:
    for stored, bits in ((deep, 12), (light, 8)):
        if stored.itemsize == 2 or "BitsAllocated" not in elements:
            assert "header asks for" in (reason := _refusal(make_dicom(stored, bits=bits, **elements))) or (
                "frames" in reason
            )


@pytest.mark.parametrize("elements", [{"Columns": 79}, {"Rows": 60}, {"Rows": 97}])
def test_compressed_picture_of_another_size_than_the_header_says_is_refused(
    elements: dict[str, int], light: np.ndarray
) -> None:
    for file_format, syntax in (("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)):
        content = make_dicom(light, encapsulated=compressed(light, file_format), syntax=syntax, **elements)
        assert "but the compressed image has 80 x 96 pixels" in _refusal(content)


def test_rle_of_another_size_than_the_header_says_is_refused(light: np.ndarray) -> None:
    dataset = dcmread(BytesIO(make_dicom(light)))
    dataset.compress(RLELossless)
    for keyword, value in (("Columns", 79), ("Rows", 60), ("BitsAllocated", 16)):
        usual = dataset[keyword].value
        dataset[keyword].value = value
        file = BytesIO()
        dataset.save_as(file)
        assert "damaged" in _refusal(file.getvalue())
        dataset[keyword].value = usual


def test_frames_that_the_header_does_not_count_are_told(deep: np.ndarray, light: np.ndarray) -> None:
    assert _refusal(make_dicom(deep, bits=12, PixelData=deep.tobytes() * 2)).startswith("DICOM with 2 frames")
    two = encapsulate([codestream(light, "JPEG2000")] * 2)
    content = make_dicom(light, encapsulated=two, syntax=JPEG2000Lossless)
    assert _refusal(content).startswith("DICOM with 2 frames")


@pytest.mark.parametrize("frames", [b"N/A ", b"0 ", b"1 ", b""])
def test_number_of_frames_that_says_nothing_is_one_frame(frames: bytes, deep: np.ndarray, light: np.ndarray) -> None:
    content = make_dicom(deep, bits=12, raw={"NumberOfFrames": ("IS", frames)}, **FULL)
    assert _difference(content, light) <= 1


def test_odd_number_of_bytes_may_be_padded_or_not(light: np.ndarray) -> None:
    odd = np.ascontiguousarray(light[:95, :79])
    assert _difference(make_dicom(odd), odd) == 0
    assert _difference(make_dicom(odd, PixelData=odd.tobytes() + b"\0"), odd) == 0


@pytest.mark.parametrize("keyword", ["PhotometricInterpretation", "Rows", "Columns", "BitsAllocated"])
def test_missing_field_that_the_picture_depends_on_is_named(keyword: str, deep: np.ndarray) -> None:
    assert _refusal(make_dicom(deep, bits=12, absent=[keyword])) == f"damaged DICOM: it lacks {keyword}"


def test_missing_fields_that_follow_from_others_are_not_needed(deep: np.ndarray, light: np.ndarray) -> None:
    absent = ["BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation"]
    assert _difference(make_dicom(deep, absent=absent, **FULL), light) <= 1


@pytest.mark.parametrize(("photometric", "samples"), [("MONOCHROME2", 3), ("RGB", 1), ("PALETTE COLOR", 3)])
def test_channels_that_contradict_the_photometric_interpretation_are_refused(
    photometric: str, samples: int, light: np.ndarray
) -> None:
    pixels = np.stack([light] * 3, axis=-1) if samples == 3 else light
    assert "contradicts itself" in _refusal(make_dicom(pixels, photometric=photometric))


def test_colour_channels_in_planes_are_put_together(light: np.ndarray) -> None:
    colour = np.stack([light, 255 - light, light // 2], axis=-1)
    planes = np.ascontiguousarray(np.moveaxis(colour, -1, 0)).tobytes()
    content = make_dicom(colour, photometric="RGB", PlanarConfiguration=1, PixelData=planes)
    assert _difference(content, colour) == 0


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
def test_grey_film_stored_as_colour_keeps_its_grey_values(photometric: str, light: np.ndarray) -> None:
    grey = np.repeat(light[:, ::2], 2, axis=1)
    neutral = np.full_like(grey, 128)
    whole = np.stack([grey, neutral, neutral], axis=-1)
    half = np.stack([grey[:, ::2], grey[:, 1::2], neutral[:, ::2], neutral[:, ::2]], axis=-1)
    stored = (whole if photometric == "YBR_FULL" else half).tobytes()
    assert _difference(make_dicom(whole, photometric=photometric, PixelData=stored), np.stack([grey] * 3, -1)) <= 1


def test_jpeg_2000_file_in_place_of_a_codestream_is_read_and_a_damaged_one_refused(light: np.ndarray) -> None:
    file = codestream(light, "JPEG2000", no_jp2=False)
    assert _difference(make_dicom(light, encapsulated=encapsulate([file]), syntax=JPEG2000Lossless), light) == 0
    # A box of length 0, at which pydicom 3.0 would stay for ever.
    damaged = encapsulate([file[:12] + bytes(40)])
    assert "truncated or damaged" in _refusal(make_dicom(light, encapsulated=damaged, syntax=JPEG2000Lossless))


# What the picture is of


@pytest.mark.parametrize(
    ("elements", "told"),
    [
        ({"Modality": "CT"}, "modality CT"),
        ({"Modality": "MG"}, "modality MG"),
        ({"Modality": "US"}, "modality US"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "modality CT"),
        ({"Modality": "DX", "BodyPartExamined": "HAND"}, "body part HAND"),
        ({"Modality": "CR", "BodyPartExamined": "L-SPINE"}, "body part LSPINE"),
        ({"BodyPartExamined": "knees"}, "body part KNEE"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "presentation intent FOR PROCESSING"),
        ({"PresentationLUTShape": "INVERSE"}, "PresentationLUTShape INVERSE contradicts MONOCHROME2"),
    ],
)
def test_what_is_no_chest_radiograph_for_presentation_is_told_and_with_strict_refused(
    elements: dict[str, str], told: str, deep: np.ndarray, light: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    raw = {name: ("UI" if name == "SOPClassUID" else "CS", value.encode()) for name, value in elements.items()}
    content = make_dicom(deep, bits=12, raw=raw, **FULL)
    assert _difference(content, light) <= 1
    assert told in caplog.text
    assert told in _refusal(content, strict=True)


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"Modality": "DX", "BodyPartExamined": "CHEST", "PresentationIntentType": "FOR PRESENTATION"},
        {"Modality": "CR", "BodyPartExamined": "PORT CHEST", "PresentationLUTShape": "IDENTITY"},
        {"Modality": "RF", "BodyPartExamined": "CHEST^ABDOMEN"},
        {"Modality": "OT", "BodyPartExamined": "Thorax"},
        {"BodyPartExamined": "RIBS"},
        {"Modality": "SECRETNAME", "BodyPartExamined": "SECRETNAME"},
    ],
)
def test_chest_radiographs_and_what_is_not_known_pass_strict_without_a_word(
    elements: dict[str, str], deep: np.ndarray, light: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    raw = {name: ("CS", value.encode()) for name, value in elements.items()}
    content = make_dicom(deep, bits=12, raw=raw, **FULL)
    assert np.abs(_loaded(content, strict=True) - light).max() <= 1
    assert not caplog.text


@pytest.mark.parametrize(
    ("elements", "told"),
    [
        ({"PatientOrientation": ["R", "F"]}, "mirrored"),
        ({"PatientOrientation": ["RA", "FL"]}, "mirrored"),
        ({"PatientOrientation": ["L", "H"]}, "upside down"),
        ({"PatientOrientation": ["F", "L"]}, "turned by 90 degrees"),
        ({"PixelAspectRatio": [1, 2]}, "not square"),
        ({"PixelSpacing": [0.1, 0.2]}, "not square"),
        ({"ImagerPixelSpacing": [0.14, 0.1]}, "not square"),
    ],
)
def test_a_mirrored_turned_or_distorted_picture_is_told_and_with_strict_refused(
    elements: dict[str, list], told: str, deep: np.ndarray, light: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    content = make_dicom(deep, bits=12, **elements, **FULL)
    assert _difference(content, light) <= 1
    assert told in caplog.text
    assert told in _refusal(content, strict=True)


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientOrientation": ["L", "F"], "ImagerPixelSpacing": [0.143, 0.1431]},
        {"PatientOrientation": ["A", "F"], "PixelAspectRatio": [1, 1]},
        {"PatientOrientation": ["P", "FL"], "PixelSpacing": [0.2, 0.2]},
        {"PatientOrientation": ["SECRET", "NAME"]},
    ],
)
def test_an_upright_picture_of_square_pixels_passes_strict_without_a_word(
    elements: dict[str, list], deep: np.ndarray, light: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    content = make_dicom(deep, bits=12, **elements, **FULL)
    assert np.abs(_loaded(content, strict=True) - light).max() <= 1
    assert not caplog.text


TEXT_FIELDS = (
    "PatientOrientation PixelSpacing PixelAspectRatio Modality BodyPartExamined PresentationIntentType "
    "PresentationLUTShape PhotometricInterpretation VOILUTFunction WindowCenter WindowWidth RescaleSlope "
    "RescaleIntercept NumberOfFrames PatientName StudyDescription"
)


@pytest.mark.parametrize("keyword", TEXT_FIELDS.split())
@pytest.mark.parametrize("strict", [False, True])
def test_text_planted_in_any_field_reaches_neither_log_nor_error(
    keyword: str, strict: bool, deep: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    kind = "PN" if keyword == "PatientName" else "DS" if keyword.startswith(("Window", "Rescale")) else "LO"
    content = make_dicom(deep, bits=12, raw={keyword: (kind, b"SECRETNAME")}, **({} if "Window" in keyword else FULL))
    told = ""
    with caplog.at_level(logging.DEBUG):
        try:
            load_xray(content, strict=strict)
        except ImageReadError as error:
            told = f"{error} {error.__cause__}"
    assert "SECRET" not in caplog.text + told


# Pixels in another order


def test_exchanged_rows_and_columns_are_refused(deep: np.ndarray, light: np.ndarray) -> None:
    rows, columns = deep.shape
    for content in (
        make_dicom(deep, bits=12, Rows=columns, Columns=rows, **FULL),
        make_dicom(light, Rows=columns, Columns=rows),
    ):
        assert _refusal(content).startswith("Rows and Columns are exchanged")


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("sign", [0, 1])
def test_bytes_in_another_order_than_the_syntax_says_are_refused(bits: int, sign: int, deep: np.ndarray) -> None:
    values = np.int32(deep) * 2 ** (bits - 12) + np.random.default_rng(0).integers(0, 2 ** (bits - 8), deep.shape)
    values = np.clip(values, 0, 2**bits - 1) - sign * 2 ** (bits - 1)
    stored = values.astype(np.int16 if sign else np.uint16)
    options = {"WindowCenter": 2 ** (bits - 1) * (1 - sign), "WindowWidth": 2**bits}
    assert _difference(make_dicom(stored, bits=bits, **options), _stretched(deep)) <= 40  # in the right order
    assert "in another order" in _refusal(make_dicom(stored.byteswap(), bits=bits, **options))


def test_jpeg_frame_whose_data_end_early_is_refused(light: np.ndarray) -> None:
    frame = codestream(light, "JPEG")
    cut = encapsulate([frame[: len(frame) // 2] + b"\xff\xd9"])
    assert "its data end early" in _refusal(make_dicom(light, syntax=JPEGBaseline8Bit, encapsulated=cut))


def test_colours_have_no_sign(light: np.ndarray) -> None:
    content = make_dicom(np.repeat(light[..., None], 3, axis=2), photometric="RGB", PixelRepresentation=1)
    assert np.abs(_loaded(content)[..., 0] - light).max() <= 1


def test_jpeg_2000_that_mixes_its_colours_is_not_turned_into_rgb_twice(light: np.ndarray) -> None:
    colours = np.stack([light, light // 2, light // 3], axis=2)
    options = {"syntax": JPEG2000Lossless, "encapsulated": compressed(colours, "JPEG2000", mct=1)}
    mixed = _loaded(make_dicom(colours, photometric="YBR_RCT", **options))
    assert np.abs(mixed - colours).max() <= 1
    assert "turns the colours into RGB itself" in _refusal(make_dicom(colours, photometric="YBR_FULL", **options))


# Blank pictures, and errors that are none of the file's


@pytest.mark.parametrize("noise", [0, 3])
def test_nearly_constant_values_are_a_blank_picture_unless_allowed(noise: int, deep: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    stored = (700 + rng.integers(0, noise + 1, deep.shape)).astype(np.uint16)
    stored[0, :10] = 4000
    for elements in ({}, FULL):
        content = make_dicom(stored, bits=12, **elements)
        assert _refusal(content).startswith("blank image (its pixels have nearly one value)")
        assert _loaded(content, allow_blank=True).shape == deep.shape


@pytest.mark.parametrize("error", [TypeError, AttributeError, RuntimeError, NotImplementedError])
@pytest.mark.parametrize("function", ["check_subject", "read_cells", "grey_picture", "refuse_blank"])
def test_errors_of_our_own_code_do_not_read_as_a_damaged_file(
    function: str, error: type[Exception], deep: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error("a bug")

    monkeypatch.setattr(dicom, function, fail)
    with pytest.raises(error, match="a bug") as caught:
        load_xray(make_dicom(deep, bits=12))
    assert not isinstance(caught.value, ImageReadError)
