"""From file to tensor: X-rays of 2,500 x 3,000 pixels through the image processor, beside the naive path.

    OMP_NUM_THREADS=1 python benchmarks/bench_preprocessing.py [--size 192] [--rounds 5]

The files hold a drawn chest X-ray with grain: JPEG (8 bit, quality 90), PNG (8 and 16 bit), and DICOM (12 of 16 bits,
uncompressed, with a window). Everything runs on one core. What is compared, one after the other in every round:

- naive: open, decode, compute in floating point what the file needs, resize by Pillow, normalize
- exact: `MambaXrayImageProcessor` as it is
- gap 3: the same with `reducing_gap=3`

The difference is that of the resized picture from the naive one's, in grey levels of 255.
"""

import argparse
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from measure import print_machine, timed_in_turns, times_faster
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_voi_lut
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from mambaxray import MambaXrayImageProcessor
from mambaxray.data.phantoms import draw_phantom

WIDTH, HEIGHT = 2500, 3000


def draw_film() -> np.ndarray:
    """12-bit grey values `(height, width)`."""
    film = Image.fromarray(draw_phantom([], seed=0, image_size=512)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0.0, 24.0, size=(HEIGHT, WIDTH))
    return np.clip(np.asarray(film, dtype=np.float64) * 16 + grain, 0, 4095).astype(np.uint16)


def write_files(folder: Path) -> dict[str, Path]:
    """One file of each kind."""
    film = draw_film()
    small = (film >> 4).astype(np.uint8)
    paths = {name: folder / f"{name.replace(' ', '_')}.bin" for name in ("JPEG", "PNG 8 bit", "PNG 16 bit", "DICOM")}
    Image.fromarray(small).save(paths["JPEG"], format="JPEG", quality=90)
    Image.fromarray(small).save(paths["PNG 8 bit"], format="PNG")
    Image.fromarray(film).save(paths["PNG 16 bit"], format="PNG")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dicom = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dicom.SOPClassUID, dicom.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dicom.Rows, dicom.Columns, dicom.SamplesPerPixel = HEIGHT, WIDTH, 1
    dicom.PhotometricInterpretation = "MONOCHROME2"
    dicom.BitsAllocated, dicom.BitsStored, dicom.HighBit, dicom.PixelRepresentation = 16, 12, 11, 0
    dicom.WindowCenter, dicom.WindowWidth = 2048, 4096
    dicom.PixelData = film.tobytes()
    dicom.save_as(paths["DICOM"], enforce_file_format=True)
    return paths


def naive(kind: str, path: Path, size: int) -> np.ndarray:
    """The usual lines, `(3, size, size)`."""
    if kind == "DICOM":
        dataset = dcmread(path)
        values = apply_voi_lut(dataset.pixel_array, dataset).astype(np.float32)
        picture = Image.fromarray(((values - values.min()) / (values.max() - values.min()) * 255).astype(np.uint8))
    else:
        picture = Image.open(BytesIO(path.read_bytes()))
        if kind == "PNG 16 bit":
            picture = Image.fromarray((np.asarray(picture, dtype=np.float32) / 4095 * 255).round().astype(np.uint8))
    pixels = np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    return ((pixels - IMAGENET_DEFAULT_MEAN) / IMAGENET_DEFAULT_STD).astype(np.float32).transpose(2, 0, 1)


def grey_levels(pixels: np.ndarray) -> np.ndarray:
    """Back from a normalized tensor to 0 to 255, first channel."""
    return (pixels[0] * IMAGENET_DEFAULT_STD[0] + IMAGENET_DEFAULT_MEAN[0]) * 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=192, help="of the tensor (default 192)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    processors = {
        "exact": MambaXrayImageProcessor(size={"height": options.size, "width": options.size}),
        "gap 3": MambaXrayImageProcessor(size={"height": options.size, "width": options.size}, reducing_gap=3.0),
    }
    print_machine()
    print(f"{WIDTH} x {HEIGHT} px to {options.size} x {options.size} px, one core, {options.rounds} rounds\n")
    print("| file | way | images/s | times naive | difference: mean | most |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, path in write_files(Path(folder)).items():
            works: dict[str, Callable[[], np.ndarray]] = {
                "naive": lambda kind=kind, path=path: naive(kind, path, options.size),
                **{
                    name: lambda path=path, processor=processor: processor(path, return_tensors="np").pixel_values[0, 0]
                    for name, processor in processors.items()
                },
            }
            seconds = timed_in_turns(works, options.rounds)
            reference = grey_levels(works["naive"]())
            for name, work in works.items():
                difference = np.abs(grey_levels(work()) - reference)
                print(
                    f"| {kind} | {name} | {1 / np.median(seconds[name]):.3g} | "
                    f"{times_faster(seconds['naive'], seconds[name]):.2f} | {difference.mean():.2f} | "
                    f"{difference.max():.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
