"""Tables that follow nobody's layout: images and reports, and nothing else."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from mambaxray import load_studies, prepare_studies, read_source
from mambaxray.data.schema import OBSERVATIONS, STUDY_KEYS
from mambaxray.data.source import SharedPatientsError, SourceError

COUNT = 20


def picture(number):
    """A gradient, with the number in the first pixel."""
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels[0, 0] = number
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def table():
    """Images and reports, and nothing else."""
    features = datasets.Features({"image": datasets.Image(), "report": datasets.Value("string")})
    rows = {"image": [picture(i) for i in range(COUNT)], "report": [f"Report {i}." for i in range(COUNT)]}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "xrays").mkdir()
    for number in range(COUNT):
        picture(number).save(tmp_path / f"xrays/{number}.png")
    return tmp_path


def write(file, header, rows, separator=","):
    file.write_text("\n".join(separator.join(cells) for cells in [header, *rows]) + "\n", encoding="utf-8")
    return file


def csv_of(folder, name="table.csv", separator=",", column="image"):
    rows = [[f"xrays/{i}.png", f"Report {i}."] for i in range(COUNT)]
    return write(folder / name, [column, "report"], rows, separator)


def test_images_and_reports_are_enough(table):
    splits = load_studies(table)
    assert {name: len(studies) for name, studies in splits.items()} == {"train": 14, "validation": 2, "test": 4}
    study = splits["train"][0]
    assert set(study) == set(STUDY_KEYS)
    number = int(study["report"].split()[1].rstrip("."))
    assert study["study_id"] == study["patient_id"] == f"train-{number}"
    assert np.asarray(study["images"][0])[0, 0] == number
    assert study["views"] == [""]


def test_the_split_that_is_made_depends_on_the_seed_alone(table):
    first, again, other = (load_studies(table, seed=seed)["test"]["study_id"] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("kind", ["saved", "parquet", "jsonl", "csv", "tsv", "semicolons", "imagefolder"])
def test_every_way_to_store_a_table_gives_the_same_studies(table, folder, kind):
    if kind == "saved":
        table.save_to_disk(folder / "saved")
        source = folder / "saved"
    elif kind == "parquet":
        source = folder / "table.parquet"
        table.to_parquet(source)
    elif kind == "jsonl":
        source = folder / "table.jsonl"
        rows = [{"image": f"xrays/{i}.png", "report": f"Report {i}."} for i in range(COUNT)]
        source.write_text("\ufeff" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif kind == "imagefolder":
        csv_of(folder / "xrays", "metadata.csv", column="file_name")
        text = (folder / "xrays/metadata.csv").read_text().replace("xrays/", "")
        (folder / "xrays/metadata.csv").write_text(text)
        source = folder / "xrays"
    else:
        separator = {"csv": ",", "tsv": "\t", "semicolons": ";"}[kind]
        source = csv_of(folder, f"table.{'tsv' if kind == 'tsv' else 'csv'}", separator)
    expected, found = load_studies(table), load_studies(source)
    for split in expected:
        assert found[split]["report"] == expected[split]["report"]
        assert np.array_equal(found[split][0]["images"][0], expected[split][0]["images"][0])


def test_other_names_of_columns_are_given_by_argument(table):
    renamed = table.rename_columns({"image": "xray", "report": "text"})
    assert load_studies(renamed, image="xray", report="text")["test"]["report"] == load_studies(table)["test"]["report"]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"image": "xray"}, {}, r"no column of images: give its name with image=.*; it has xray, report"),
        ({"report": "text"}, {}, r"no column of reports: give its name with report=.*; it has image, text"),
        ({}, {"image": "xray"}, r"no column 'xray'; it has image, report"),
    ],
)
def test_a_column_that_is_absent_is_told_with_those_that_are_there(table, change, options, message):
    with pytest.raises(SourceError, match=message):
        load_studies(table.rename_columns(change), **options)


def test_splits_of_other_names_are_known_or_named(table):
    found = load_studies(datasets.DatasetDict(train=table, dev=table))
    assert {name: len(studies) for name, studies in found.items()} == {"train": COUNT, "validation": COUNT}
    with pytest.raises(SourceError, match="the split 'holdout'; known are train, validation, test, val"):
        load_studies(datasets.DatasetDict(train=table, holdout=table))


def test_a_column_of_splits_is_obeyed_and_an_unknown_one_named(folder):
    rows = [[f"xrays/{i}.png", f"Report {i}.", "val" if i < 3 else "train"] for i in range(COUNT)]
    file = write(folder / "table.csv", ["image", "report", "split"], rows)
    assert len(load_studies(file)["validation"]) == 3
    file.write_text(file.read_text().replace("val", "internal"))
    with pytest.raises(SourceError, match=r"row 0: the split 'internal' is unknown; known are train"):
        load_studies(file)


def test_rows_of_one_study_are_its_views(folder):
    rows = [[f"xrays/{i}.png", str(i // 2), f"Report {i // 2}.", "PA" if i % 2 else "LATERAL"] for i in range(COUNT)]
    file = write(folder / "table.csv", ["image", "study_id", "report", "view"], rows)
    studies = [study for split in load_studies(file).values() for study in split]
    assert len(studies) == COUNT // 2
    assert all(study["views"] == ["LATERAL", "PA"] and len(study["images"]) == 2 for study in studies)
    file.write_text(file.read_text().replace("Report 3.", "Another.", 1))
    with pytest.raises(SourceError, match="study '3' stands in more than one row, with different reports"):
        load_studies(file)


def test_patients_stay_together_and_patients_in_two_splits_are_refused(folder):
    rows = [[f"xrays/{i}.png", f"Report {i}.", f"p{i // 4}"] for i in range(COUNT)]
    splits = load_studies(write(folder / "table.csv", ["image", "report", "patient_id"], rows))
    patients = [set(studies["patient_id"]) for studies in splits.values()]
    assert sum(map(len, patients)) == len(set().union(*patients)) == COUNT // 4
    shared = [[*row, "train" if i % 2 else "test"] for i, row in enumerate(rows)]
    file = write(folder / "shared.csv", ["image", "report", "patient_id", "split"], shared)
    with pytest.raises(SharedPatientsError, match="5 patients"):
        load_studies(file)
    assert set(load_studies(file, allow_shared_patients=True)) == {"train", "test"}


def test_our_own_schema_reads_back(table):
    splits = load_studies(table)
    again = load_studies(splits)
    for split in splits:
        assert again[split].remove_columns("images").to_list() == splits[split].remove_columns("images").to_list()


def test_a_report_is_made_of_its_sections_when_the_section_is_chosen(folder):
    rows = [[f"xrays/{i}.png", f"Finding {i}.", f"Impression {i}."] for i in range(COUNT)]
    file = write(folder / "table.csv", ["image", "findings", "impression"], rows)
    assert load_studies(file, section="impression")["test"][0]["report"].startswith("Impression")
    with pytest.raises(SourceError, match="no column of reports"):
        load_studies(file)


def test_a_row_without_a_report_is_left_out_and_counted(table, caplog):
    reports = [None, "  ", *table["report"][2:]]
    splits = load_studies(table.remove_columns("report").add_column("report", reports))
    assert sum(map(len, splits.values())) == COUNT - 2
    assert "2 rows have no report" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "xrays/0.png", "report": 3}, "row 0: report must be a text, got 3"),
        ({"image": "xrays/0.png", "report": ["a"]}, r"row 0: report must be a text, got \['a'\]"),
        ({"image": 3, "report": "a"}, "row 0: image must be a path or a list of paths, got 3"),
        ({"image": None, "report": "a"}, "image must be a path"),
        ({"image": [], "report": "a"}, "image must be a path"),
        ({"image": "xrays/0.png", "report": "a", "study_id": [1]}, "study_id must be a text or a whole number"),
        (
            {"image": "xrays/0.png", "report": "a", "view": ["PA", "PA"]},
            r"its views must be texts, one per image \(1\)",
        ),
        ({"image": "xrays/0.png", "report": "a", "split": ["train"]}, r"the split \['train'\] is unknown"),
        ({"image": "nowhere.png", "report": "a"}, r"the image .*nowhere\.png is absent"),
    ],
)
def test_a_cell_of_another_kind_is_told_with_its_row(folder, row, message):
    (folder / "table.jsonl").write_text(json.dumps(row))
    with pytest.raises((SourceError, FileNotFoundError), match=message):
        load_studies(folder / "table.jsonl")


def test_what_is_no_data_set_is_told(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    with pytest.raises(FileNotFoundError, match=r"broken\.parquet can't be read as a data set"):
        load_studies(tmp_path / "broken.parquet")
    with pytest.raises(TypeError, match="got int"):
        load_studies(3)


def test_an_image_that_a_data_set_names_and_lacks_is_told(folder):
    rows = {"image": ["xrays/0.png", "nowhere.png"], "report": ["a", "b"]}
    with pytest.raises(FileNotFoundError, match=r"study 'train-1': the image nowhere\.png is absent"):
        load_studies(datasets.Dataset.from_dict(rows | {"image": [str(folder / "xrays/0.png"), "nowhere.png"]}))


def test_a_table_of_paths_can_be_prepared(folder):
    source = read_source("table", csv_of(folder), section="findings")
    card = prepare_studies(source, folder / "prepared")
    assert card["counts"] == {"train": 14, "validation": 2, "test": 4}
    study = load_studies(folder / "prepared", section="findings")["train"][0]
    assert study["findings"] == study["report"]
    assert set(study["labels"]) == set(OBSERVATIONS)
