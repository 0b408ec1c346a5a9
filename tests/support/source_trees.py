"""Small folders in the layouts of the published data sets, with drawn images and invented reports."""

import csv
import gzip
import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from mambaxray import make_phantoms
from mambaxray.data.schema import OBSERVATIONS

SIZE = 48


def draw(count: int) -> list[Image.Image]:
    """Different X-rays."""
    studies = make_phantoms(count, seed=5, image_size=SIZE, splits={"train": 1.0})["train"]
    return [images[0] for images in studies["images"]]


def write_dicom(file: Path, image: Image.Image) -> None:
    """A radiograph of 12 bits with a window that shows the picture as it is, times 16."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.PatientName = "Secret^Name"
    dataset.Rows, dataset.Columns = image.height, image.width
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = (np.asarray(image).astype(np.uint16) * 16).tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.save_as(file, enforce_file_format=True)


def write_image(file: Path, image: Image.Image) -> None:
    """PNG, JPEG or DICOM by the suffix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".dcm":
        write_dicom(file, image)
    else:
        image.save(file)


def write_csv(file: Path, rows: list[dict[str, object]]) -> None:
    """A CSV file, gzipped where its name says so."""
    file.parent.mkdir(parents=True, exist_ok=True)
    open_text = gzip.open if file.suffix == ".gz" else open
    with open_text(file, "wt", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# --------------------------------------------------------------------------------------------- IU X-ray

IU_SPLITS = {1: "train", 2: "train", 3: "val", 4: "test"}


def iu_r2gen(folder: Path) -> Path:
    """R2Gen's form: four studies with two images each."""
    pictures = iter(draw(8))
    annotation: dict[str, list[dict[str, object]]] = {"train": [], "val": [], "test": []}
    for number, split in IU_SPLITS.items():
        name = f"CXR{number}_IM-000{number}"
        paths = [f"{name}/0.png", f"{name}/1.png"]
        for path in paths:
            write_image(folder / "images" / path, next(pictures))
        report = f"The heart is normal. Study {number} is clear."
        annotation[split].append({"id": name, "report": report, "image_path": paths, "split": split})
    (folder / "annotation.json").write_text(json.dumps(annotation), encoding="utf-8")
    return folder


def iu_open_i(folder: Path, suffix: str = ".png") -> Path:
    """Open-i's form: six reports; the fifth without findings, the sixth without images."""
    pictures = iter(draw(6))
    for number in range(1, 7):
        findings = "" if number == 5 else f"The heart is normal. Study {number} is clear."
        image = f"{number}_IM-000{number}-1001"
        parents = f'<parentImage id="CXR{image}"/>' if number < 6 else ""
        if number < 6:
            parents = f'<parentImage id="CXR{number}_{image}"><caption>Chest</caption></parentImage>'
            dicom = suffix == ".dcm"
            place = folder / "NLMCXR_dcm" / str(number) if dicom else folder / "NLMCXR_png"
            write_image(place / (f"{image}.dcm" if dicom else f"CXR{number}_{image}.png"), next(pictures))
        text = f"""<?xml version="1.0" encoding="utf-8"?>
<eCitation><meta type="rr"/><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="INDICATION">Cough &amp; fever.</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">Normal {number}.</AbstractText>
</Abstract></Article></MedlineCitation>{parents}</eCitation>"""
        file = folder / "ecgen-radiology" / f"{number}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


# --------------------------------------------------------------------------------------------- MIMIC-CXR


def mimic(folder: Path, *, suffix: str = ".jpg", gz: str = ".gz", zipped: bool = True) -> Path:
    """Three patients, one per split; the first has two studies, of which one has two views and one no findings."""
    studies = [
        ("10000001", "50000001", "train", ["PA", "LL"]),
        ("10000001", "50000002", "train", ["AP"]),
        ("10000002", "50000003", "validate", ["PA"]),
        ("11000003", "50000004", "test", ["AP AXIAL"]),
    ]
    pictures = iter(draw(5))
    splits, metadata, labels, reports = [], [], [], {}
    for subject, study, split, views in studies:
        place = f"files/p{subject[:2]}/p{subject}"
        for view in views:
            name = f"dicom-{len(splits)}"
            ids = {"dicom_id": name, "subject_id": subject, "study_id": study}
            splits.append({**ids, "split": split})
            metadata.append({**ids, "ViewPosition": view, "Rows": SIZE})
            write_image(folder / place / f"s{study}" / f"{name}{suffix}", next(pictures))
        found = "" if study == "50000002" else f" FINDINGS:  Lungs of ___ are clear.\n Heart {study} is normal.\n \n"
        reports[f"{place}/s{study}.txt"] = (
            "                 FINAL REPORT\n INDICATION:  Cough.\n \n COMPARISON:  None.\n \n"
            f"{found} IMPRESSION:  Normal.\n"
        )
        values = {"Edema": "1.0", "Pneumonia": "-1.0", "Fracture": "0.0"}
        labels.append(
            {"subject_id": subject, "study_id": study, **{name: values.get(name, "") for name in sorted(OBSERVATIONS)}}
        )
    for name, rows in (("split", splits), ("metadata", metadata), ("chexpert", labels)):
        write_csv(folder / f"mimic-cxr-2.0.0-{name}.csv{gz}", rows)
    if zipped:
        with ZipFile(folder / "mimic-cxr-reports.zip", "w") as file:
            for name, text in reports.items():
                file.writestr(name, text)
    else:
        for name, text in reports.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    return folder


def mimic_history(folder: Path) -> Path:
    """As `mimic`, with times: a patient of three studies whose numbers are not in their order and one of unknown time,
    and another patient."""
    studies = [
        ("10000001", "50000003", "train", ("d3", "AP", "21800506", "84556.875")),
        (
            "10000001",
            "50000001",
            "train",
            ("d1-pa", "PA", "21800506", "213014.531"),
            ("d1-ll", "LL", "21800506", "213500"),
        ),
        ("10000001", "50000002", "train", ("d2", "LL", "21800507", "10000")),
        ("10000001", "50000004", "train", ("d4", "PA", "", "")),
        ("10000002", "50000005", "test", ("d5", "PA", "21790101", "120000")),
    ]
    pictures = iter(draw(6))
    splits, metadata = [], []
    for subject, study, split, *images in studies:
        place = f"files/p{subject[:2]}/p{subject}"
        for name, view, date, time in images:
            ids = {"dicom_id": name, "subject_id": subject, "study_id": study}
            splits.append({**ids, "split": split})
            metadata.append({**ids, "ViewPosition": view, "StudyDate": date, "StudyTime": time})
            write_image(folder / place / f"s{study}" / f"{name}.jpg", next(pictures))
        report = folder / place / f"s{study}.txt"
        report.write_text(f"TECHNIQUE: Frontal view.\n\nFINDINGS: Study {study} is clear.\n", encoding="utf-8")
    for name, rows in (("split", splits), ("metadata", metadata)):
        write_csv(folder / f"mimic-cxr-2.0.0-{name}.csv", rows)
    return folder


# --------------------------------------------------------------------------------------------- CheXpert Plus


def chexpert_plus(folder: Path, *, suffix: str = ".png", patients: int = 10) -> Path:
    """Patients with one study each, but the first, who has two; every study a frontal and a lateral view."""
    studies = [(patient, 1) for patient in range(1, patients + 1)] + [(1, 2)]
    pictures = draw(4)
    rows, labels = [], []
    for index, (patient, study) in enumerate(studies):
        for view in ("view1_frontal", "view2_lateral"):
            path = f"train/patient{patient}/study{study}/{view}.jpg"
            root = "DICOM" if suffix == ".dcm" else "PNG"
            write_image((folder / root / path).with_suffix(suffix), pictures[index % 4])
            frontal = view == "view1_frontal"
            rows.append(
                {
                    "path_to_image": path,
                    "path_to_dcm": path.replace(".jpg", ".dcm"),
                    "frontal_lateral": "Frontal" if frontal else "Lateral",
                    "ap_pa": "AP" if frontal else "",
                    "deid_patient_id": f"patient{patient}",
                    "report": "not read",
                    "section_clinical_history": "",
                    "section_history": "Cough.",
                    "section_comparison": "None.",
                    "section_findings": f"\nThe lungs of {patient}\nare clear: yes.",
                    "section_impression": "1. Normal.",
                    "split": "train",
                }
            )
            labels.append({"path_to_image": path, **dict.fromkeys(OBSERVATIONS), "Edema": 1.0, "Fracture": 0.0})
    write_csv(folder / "df_chexpert_plus_240401.csv", rows)
    (folder / "chexbert_labels").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in labels)
    (folder / "chexbert_labels" / "findings_fixed.json").write_text(lines, encoding="utf-8")
    return folder
