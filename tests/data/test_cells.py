"""What the cells of users' tables mean, and what of them is refused or told."""

import json

import numpy as np
import pytest
from PIL import Image
from source_trees import mimic

from mambaxray import load_annotation_json, load_studies, read_source
from mambaxray.data.cells import listed, plain_identifier, plain_text, read_table_labels, standard_view
from mambaxray.data.schema import OBSERVATIONS, SourceError


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        Image.fromarray((np.arange(256).reshape(16, 16) + number).astype(np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def rows_of(folder, text, suffix="csv", **options):
    """Studies by their id."""
    (folder / f"table.{suffix}").write_text(text, encoding="utf-8")
    splits = load_studies(folder / f"table.{suffix}", **options)
    return {row["study_id"]: row for studies in splits.values() for row in studies}


HEADER = "image,report,study_id,patient_id,view,split\n"


@pytest.mark.parametrize(
    ("written", "view"),
    [
        *(("pa", "PA"), (" PA ", "PA"), ("P.A.", "PA"), ("Postero-anterior", "PA"), ("AP portable", "AP")),
        *(("portable ap", "AP"), ("LL", "LATERAL"), ("Lateral", "LATERAL"), ("lat", "LATERAL"), ("PA LLD", "PA")),
        *(("frontal", ""), ("PA and lateral", ""), ("LAO", ""), ("", ""), ("nan", ""), ("APICAL", "")),
    ],
)
def test_views_are_brought_to_the_words_of_the_schema_or_are_not_known(written, view):
    assert standard_view(written) == view


def test_views_of_tables_and_annotations_are_in_the_words_of_the_schema(folder):
    rows = rows_of(folder, HEADER + "0.png,Clear.,a,p,pa,train\n1.png,Clear.,b,q, Lateral ,train\n")
    assert [rows[name]["views"] for name in "ab"] == [["PA"], ["LATERAL"]]
    study = {"id": 1, "report": "Clear.", "image_path": "0.png", "view": "frontal AP"}
    (folder / "annotation.json").write_text(json.dumps({"train": [study]}))
    assert load_annotation_json(folder)["train"][0]["views"] == ["AP"]


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        *(("a.png", ["a.png"]), (["a.png"], ["a.png"]), ("a.png;b.png", ["a.png", "b.png"]), (None, [None])),
        *(("['a.png', 'b.png']", ["a.png", "b.png"]), ('["a.png"]', ["a.png"]), ("[a.png]", ["[a.png]"])),
    ],
)
def test_a_list_may_be_written_as_text(cell, values):
    assert listed(cell) == values


@pytest.mark.parametrize("images", ["\"['0.png', '1.png']\"", '"[""0.png"", ""1.png""]"', "0.png;1.png"])
def test_a_cell_with_a_list_of_images_gives_its_views(folder, images):
    column = "images" if ";" in images else "image"
    rows = rows_of(folder, f"{column},report,view,study_id,split\n{images},Clear.,PA;LATERAL,s,train\n")
    assert len(rows["s"]["images"]) == 2
    assert rows["s"]["views"] == ["PA", "LATERAL"]


@pytest.mark.parametrize("value", [None, float("nan"), "", " ", "nan", "NaN", "NULL", "None", "N/A", "<NA>"])
def test_a_missing_id_is_none(value):
    assert plain_identifier(value, "patient_id", "row 0") == ""


def test_ids_keep_their_zeros_and_lose_blanks_and_a_point():
    found = [plain_identifier(value, "patient_id", "row 0") for value in ("007", " p1\u200b ", 7, 7.0, "1e5x")]
    assert found == ["007", "p1", "7", "7", "1e5x"]


@pytest.mark.parametrize("value", ["1.00E+07", "5,1E+07", "1e+07", 1e16])
def test_an_id_that_a_spreadsheet_has_rounded_is_refused(value):
    with pytest.raises(SourceError, match=r"row 0: patient_id is .* rounded, .*export the column as text"):
        plain_identifier(value, "patient_id", "row 0")


def test_rows_without_a_patient_are_patients_of_their_own_and_counted(folder, caplog):
    rows = rows_of(folder, HEADER + "0.png,Clear.,a,nan,PA,train\n1.png,Clear.,b,nan,PA,test\n2.png,Ok,c,p,PA,test\n")
    assert {name: row["patient_id"] for name, row in rows.items()} == {"a": "a", "b": "b", "c": "p"}
    assert "2 rows have no patient_id" in caplog.text


@pytest.mark.parametrize(("first", "second"), [("P1", "p1"), ("007", "7"), ("12.0", "12"), ("p 1", "p1")])
def test_patients_of_two_splits_with_nearly_one_id_are_told(folder, caplog, first, second):
    text = HEADER + f"0.png,Clear.,a,{first},PA,train\n1.png,Clear.,b,{second},PA,test\n"
    assert [row["patient_id"] for row in rows_of(folder, text).values()] == [first, second]
    assert f"nearly the same id, such as {first!r} and {second!r}" in caplog.text


def test_a_row_that_is_there_twice_shows_its_image_once(folder, caplog):
    row = "0.png,Clear.,a,p,PA,train\n"
    assert len(rows_of(folder, HEADER + row + row)["a"]["images"]) == 1
    assert "1 rows are the same as earlier ones" in caplog.text


def test_an_image_in_two_splits_is_told(folder, caplog):
    rows_of(folder, HEADER + "0.png,Clear.,a,p,PA,train\n0.png,Clear.,b,q,PA,test\n")
    assert "1 images are in more than one split" in caplog.text
    assert "0.png" in caplog.text


@pytest.mark.parametrize(
    "report", ["nan", "N/A", "None.", "<br/>", "&nbsp;", "<p> </p>", "\u200b\u00a0", "See impression."]
)
def test_a_report_that_says_nothing_is_none(folder, caplog, report):
    rows = rows_of(folder, HEADER + f"0.png,Clear lungs.,a,p,PA,train\n1.png,{report},b,q,PA,train\n")
    assert list(rows) == ["a"]
    assert "1 rows have no report" in caplog.text


def test_invisible_characters_are_dropped_and_markup_is_told(folder, caplog):
    assert plain_text("\ufeffNo\x00 effusion.\n\u200bHeart\tnormal. ") == "No effusion.\nHeart\tnormal."
    rows = rows_of(folder, HEADER + "0.png,<p>Heart size < 15 cm.</p>,a,p,PA,train\n1.png,Size <5 mm.,b,q,PA,train\n")
    assert rows["b"]["report"] == "Size <5 mm."
    assert "1 rows have tags of HTML" in caplog.text


@pytest.mark.parametrize("split", ["Train", " TRAIN ", "train"])
def test_case_and_blanks_of_a_split_do_not_matter(folder, split):
    assert rows_of(folder, HEADER + f"0.png,Clear.,a,p,PA,{split}\n")["a"]["split"] == "train"


def labels_of(**values):
    return dict.fromkeys(OBSERVATIONS) | values


@pytest.mark.parametrize(
    "row",
    [
        {"labels": {"Edema": 1, "Fracture": -1.0}},
        {"labels": labels_of(Edema="1", Fracture="-1.0")},
        {"labels": '{"Edema": 1, "Fracture": -1, "Pneumonia": null}'},
        {"Edema": "1.0", "Fracture": "-1", "Pneumonia": ""},
        {name: {"Edema": 1, "Fracture": -1}.get(name, float("nan")) for name in OBSERVATIONS},
    ],
    ids=["some", "all as text", "JSON", "columns", "all columns"],
)
def test_labels_are_read_from_one_column_or_from_fourteen(row):
    assert read_table_labels(row, "row 0") == labels_of(Edema=1, Fracture=-1)


@pytest.mark.parametrize("row", [{}, {"labels": None}, {"labels": ["Effusion"]}, {"labels": "Effusion|Mass"}])
def test_labels_in_other_words_are_none(row):
    assert read_table_labels(row, "row 0") is None


def test_labels_in_other_words_are_told_not_to_be_read(folder, caplog):
    lines = [json.dumps({"image": f"{i}.png", "report": "Clear.", "labels": ["Effusion"]}) for i in range(3)]
    assert len(rows_of(folder, "\n".join(lines), "jsonl")) == 3
    assert "3 rows have labels in other words than the schema's" in caplog.text


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"Edema": 2}, "row 0.*: Edema is 2; expected 1, 0, -1 or nothing"),
        ({"Edema": 0.5}, "Edema is 0.5"),
        ({"Edema": True}, "Edema is True"),
        ({"Edema": 1, "Effusion": 1}, "unknown observation 'Effusion'"),
    ],
)
def test_a_label_that_is_none_of_the_schemas_is_refused(folder, labels, message):
    with pytest.raises(SourceError, match=message):
        rows_of(folder, json.dumps({"image": "0.png", "report": "Clear.", "labels": labels}), "jsonl")


def test_labels_of_a_table_arrive_and_must_agree_within_a_study(folder):
    text = "image,report,study_id,split,Edema\n0.png,Clear.,a,train,0\n1.png,Edema.,b,train,1\n"
    assert [row["labels"]["Edema"] for row in rows_of(folder, text).values()] == [0, 1]
    with pytest.raises(SourceError, match="stands in more than one row, with different labels"):
        rows_of(folder, text.replace("Edema.,b", "Clear.,a"))


def test_labels_of_mimic_that_match_no_study_are_refused(tmp_path):
    folder = mimic(tmp_path, gz="")
    file = folder / "mimic-cxr-2.0.0-chexpert.csv"
    file.write_text("\n".join(line.replace(",5", ",s5", 1) for line in file.read_text().splitlines()) + "\n")
    with pytest.raises(SourceError, match=r"none of its .* labels is of a study that was found"):
        read_source("mimic-cxr", folder, section="impression")


def test_a_study_of_mimic_in_two_splits_is_refused(tmp_path):
    folder = mimic(tmp_path, gz="")
    file = folder / "mimic-cxr-2.0.0-split.csv"
    header, *lines = file.read_text().splitlines()
    study = lines[0].split(",")[1:3]
    lines.append(f"another,{','.join(study)},{'test' if lines[0].endswith('train') else 'train'}")
    file.write_text("\n".join([header, *lines]) + "\n")
    with pytest.raises(SourceError, match="has images of two splits or patients"):
        read_source("mimic-cxr", folder, section="impression")


@pytest.mark.parametrize(
    ("content", "report"),
    [
        (b"IMPRESSION: The patient\x92s heart.", "The patient\u2019s heart."),
        (b"IMPRESSION: No\x00 edema.\x0c", "No edema."),
    ],
)
def test_a_report_of_mimic_in_another_encoding_or_with_control_characters_is_read(tmp_path, content, report):
    folder = mimic(tmp_path, gz="", zipped=False)
    (folder / "files/p10/p10000001/s50000001.txt").write_bytes(content)
    source = read_source("mimic-cxr", folder, section="impression", cleaning=None)
    assert source.studies[0]["report"] == report


def test_an_image_or_labels_of_mimic_that_are_there_twice_are_refused(tmp_path):
    folder = mimic(tmp_path, gz="")
    labels, split = folder / "mimic-cxr-2.0.0-chexpert.csv", folder / "mimic-cxr-2.0.0-split.csv"
    kept = labels.read_text()
    labels.write_text(kept + kept.splitlines()[1].replace(",1.0,", ",0.0,") + "\n")
    with pytest.raises(SourceError, match="study 50000001 has different labels in two places"):
        read_source("mimic-cxr", folder, section="impression")
    labels.write_text(kept + kept.splitlines()[1] + "\n")  # the same once more
    split.write_text(split.read_text() + split.read_text().splitlines()[1] + "\n")
    with pytest.raises(SourceError, match="image dicom-0 stands there twice"):
        read_source("mimic-cxr", folder, section="impression", unit="study")
