"""Readers of the published data sets, on small folders in their layouts."""

import json

import pytest
import source_trees

from mambaxray import read_source
from mambaxray.data.schema import STUDY_KEYS
from mambaxray.data.source import (
    SharedPatientsError,
    SourceError,
    count_shared_patients,
    count_splits,
    empty_study,
    finish_source,
    split_by_patient,
)


def by_id(source):
    return {study["study_id"]: study for study in source.studies}


# --------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("name", ["iu-xray", "mimic-cxr", "chexpert-plus", "annotation-json"])
def test_the_section_must_be_chosen(name, tmp_path):
    with pytest.raises(TypeError, match=f"{name} needs the option section"):
        read_source(name, tmp_path)


@pytest.mark.parametrize("name", ["iu-xray", "mimic-cxr", "chexpert-plus", "annotation-json"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"section": "all"}, "unknown section 'all'; a model can write findings"),
        ({"section": "findings", "cleaning": "r2gen"}, "unknown report cleaning 'r2gen'; there are iu-xray"),
    ],
)
def test_unknown_sections_and_cleanings_are_refused_before_anything_is_read(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_source(name, tmp_path / "nowhere", **options)


@pytest.mark.parametrize("name", ["iu-xray", "mimic-cxr", "chexpert-plus", "annotation-json"])
def test_a_folder_without_the_data_set_says_what_is_expected(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"annotation\.json"):
        read_source(name, tmp_path, section="findings")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_source(name, tmp_path / "nowhere", section="findings")


def test_an_unknown_data_set_or_option_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'iu'; there are iu-xray, mimic-cxr"):
        read_source("iu", tmp_path, section="findings")
    with pytest.raises(TypeError, match=r"iu-xray has no option unit; its options: section, cleaning"):
        read_source("iu-xray", tmp_path, section="findings", unit="study")


# --------------------------------------------------------------------------------------------- IU X-ray


def test_iu_xray_in_r2gens_form(tmp_path):
    source = read_source("iu-xray", source_trees.iu_r2gen(tmp_path), section="findings")
    assert count_splits(source.studies) == {"train": 2, "validation": 1, "test": 1}
    assert source.published_counts == {"train": 2069, "validation": 296, "test": 590}
    study = source.studies[0]
    assert set(study) == set(STUDY_KEYS)
    assert study["report"] == "the heart is normal . study 1 is clear ."
    assert study["findings"] == "The heart is normal. Study 1 is clear."
    assert len(study["images"]) == len(study["views"]) == 2


def test_r2gens_form_of_iu_xray_has_findings_only(tmp_path):
    with pytest.raises(SourceError, match=r"annotation\.json holds findings only; for section 'impression' read"):
        read_source("iu-xray", source_trees.iu_r2gen(tmp_path), section="impression")


@pytest.mark.parametrize("suffix", [".png", ".dcm"])
def test_iu_xray_in_open_is_form(tmp_path, suffix):
    source = read_source("iu-xray", source_trees.iu_open_i(tmp_path, suffix), section="findings", cleaning=None)
    studies = by_id(source)
    assert set(studies) == {"CXR1", "CXR2", "CXR3", "CXR4"}
    study = studies["CXR1"]
    assert study["report"] == study["findings"] == "The heart is normal. Study 1 is clear."
    assert (study["impression"], study["indication"], study["comparison"]) == ("Normal 1.", "Cough & fever.", "None.")
    assert [path.endswith(suffix) for path in study["images"]] == [True]
    assert {entry.study_id: entry.reason for entry in source.left_out} == {
        "CXR5": "no findings in its report",
        "CXR6": "no image",
    }
    assert source.split_source == "seeded 7:1:2 (seed 0)"


def test_open_is_reports_are_split_as_in_r2gens_list(tmp_path):
    listed = source_trees.iu_r2gen(tmp_path / "r2gen") / "annotation.json"
    folder = source_trees.iu_open_i(tmp_path / "open-i")
    source = read_source("iu-xray", folder, section="findings+impression", split_list=listed)
    assert {i: s["split"] for i, s in by_id(source).items()} == {
        "CXR1": "train",
        "CXR2": "train",
        "CXR3": "validation",
        "CXR4": "test",
    }
    assert by_id(source)["CXR3"]["report"] == "the heart is normal . study 3 is clear . normal 3 ."
    assert {entry.study_id for entry in source.left_out} == {"CXR5", "CXR6"}
    assert {entry.reason for entry in source.left_out} == {"not in the split list"}


def test_both_forms_of_iu_xray_give_the_same_reports_and_splits(tmp_path):
    r2gen = read_source("iu-xray", source_trees.iu_r2gen(tmp_path), section="findings")
    # With R2Gen's list beside the XML files, that list is used.
    open_i = read_source("iu-xray", source_trees.iu_open_i(tmp_path), section="findings")
    assert [(s["report"], s["split"]) for s in open_i.studies] == [(s["report"], s["split"]) for s in r2gen.studies]


@pytest.mark.parametrize(
    ("text", "message"), [("<eCitation>", "not an XML report"), ("<a/>", "not one of Open-i's reports")]
)
def test_a_file_that_is_no_report_is_named(tmp_path, text, message):
    folder = source_trees.iu_open_i(tmp_path)
    (folder / "ecgen-radiology" / "9.xml").write_text(text)
    with pytest.raises(SourceError, match=rf"9\.xml: {message}"):
        read_source("iu-xray", folder, section="findings")


def test_the_real_iu_reports_are_split_and_counted_as_published(shared_data):
    source = read_source("iu-xray", shared_data / "iu_reports", section="findings")
    assert count_splits(source.studies) == dict(source.published_counts)
    assert (source.left_out, source.shared_patients) == ([], 0)


# --------------------------------------------------------------------------------------------- MIMIC-CXR


@pytest.mark.parametrize("layout", [{}, {"gz": "", "zipped": False}, {"suffix": ".dcm"}])
def test_mimic_gives_a_study_for_each_image_by_default(tmp_path, layout):
    source = read_source("mimic-cxr", source_trees.mimic(tmp_path, **layout), section="findings")
    studies = by_id(source)
    assert list(studies) == [
        "50000001/dicom-0",
        "50000001/dicom-1",
        "50000003/dicom-3",
        "50000004/dicom-4",
    ]
    assert [s["split"] for s in source.studies] == ["train", "train", "validation", "test"]
    assert [s["views"] for s in source.studies] == [["PA"], ["LATERAL"], ["PA"], ["AP"]]
    study = studies["50000001/dicom-0"]
    assert study["patient_id"] == "10000001"
    assert study["report"] == "lungs of  are clear . heart 50000001 is normal ."
    assert (study["indication"], study["comparison"], study["impression"]) == ("Cough.", "None.", "Normal.")
    labels = {name: value for name, value in study["labels"].items() if value is not None}
    assert labels == {"Edema": 1, "Pneumonia": -1, "Fracture": 0}
    assert [(e.study_id, e.reason) for e in source.left_out] == [
        ("50000002/dicom-2", "no findings in its report"),
    ]
    suffix = layout.get("suffix", ".jpg")
    assert all(path.endswith(suffix) for s in source.studies for path in s["images"])


def test_mimic_puts_the_views_of_a_study_together_when_asked(tmp_path):
    source = read_source("mimic-cxr", source_trees.mimic(tmp_path), section="impression", unit="study")
    assert {i: s["views"] for i, s in by_id(source).items()} == {
        "50000001": ["PA", "LATERAL"],
        "50000002": ["AP"],
        "50000003": ["PA"],
        "50000004": ["AP"],
    }
    assert source.published_counts == {}, "the papers count images with findings"


def test_images_and_reports_of_mimic_may_lie_elsewhere(tmp_path):
    folder = source_trees.mimic(tmp_path / "lists")
    images, reports = tmp_path / "images", tmp_path / "reports"
    images.mkdir()
    reports.mkdir()
    (folder / "files").rename(images / "files")
    (folder / "mimic-cxr-reports.zip").rename(reports / "mimic-cxr-reports.zip")
    with pytest.raises(FileNotFoundError, match=r"none of the 4 reports .*name their folder .* with reports"):
        read_source("mimic-cxr", folder, section="findings")
    source = read_source("mimic-cxr", folder, section="findings", images=images, reports=reports)
    assert [s["images"][0].startswith(str(images)) for s in source.studies] == [True] * 4


def test_an_absent_report_of_mimic_is_named_and_the_rest_is_read(tmp_path):
    folder = source_trees.mimic(tmp_path, zipped=False)
    (folder / "files" / "p11" / "p11000003" / "s50000004.txt").unlink()
    source = read_source("mimic-cxr", folder, section="findings")
    assert len(source.studies) == 3
    assert source.left_out[0].study_id == "50000004"
    assert source.left_out[0].reason.endswith("s50000004.txt: its report is absent")


def test_a_patient_in_two_splits_is_refused_unless_allowed_and_counted(tmp_path):
    folder = source_trees.mimic(tmp_path, gz="")
    file = folder / "mimic-cxr-2.0.0-split.csv"
    file.write_text(file.read_text().replace("10000001,50000002,train", "10000001,50000002,test"))
    with pytest.raises(SharedPatientsError, match=r"1 patients are in more than one split .*--allow-shared-patients"):
        read_source("mimic-cxr", folder, section="impression")
    source = read_source("mimic-cxr", folder, section="impression", allow_shared_patients=True)
    assert source.shared_patients == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dicom_id", "dicom", "lacks the columns dicom_id"),
        ("validate", "val", "unknown split 'val'; expected train, v"),
    ],
)
def test_a_list_of_mimic_in_another_format_is_refused(tmp_path, old, new, message):
    file = source_trees.mimic(tmp_path, gz="") / "mimic-cxr-2.0.0-split.csv"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(SourceError, match=message):
        read_source("mimic-cxr", tmp_path, section="findings")


def test_a_damaged_gzip_file_is_refused(tmp_path):
    file = source_trees.mimic(tmp_path) / "mimic-cxr-2.0.0-metadata.csv.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"metadata\.csv\.gz: not a CSV file in UTF-8, or damaged"):
        read_source("mimic-cxr", tmp_path, section="findings")


def test_without_labels_studies_have_none_and_the_log_says_so(tmp_path, caplog):
    folder = source_trees.mimic(tmp_path)
    source = read_source("mimic-cxr", folder, section="findings", labeler="negbio")
    assert all(value is None for s in source.studies for value in s["labels"].values())
    assert "mimic-cxr-2.0.0-negbio.csv(.gz) is absent" in caplog.text


def test_r2gens_annotation_of_mimic_is_read_with_its_patients(tmp_path):
    rows = [{"id": f"d{i}", "study_id": 5, "subject_id": 77, "report": "Clear.", "image_path": ["a.jpg"]} for i in "ab"]
    (tmp_path / "annotation.json").write_text(json.dumps({"train": rows[:1], "test": rows[1:]}))
    with pytest.raises(SharedPatientsError):
        read_source("mimic-cxr", tmp_path, section="findings")
    source = read_source("mimic-cxr", tmp_path, section="findings", allow_shared_patients=True)
    assert [(s["patient_id"], s["report"]) for s in source.studies] == [("77", "clear ."), ("77", "clear .")]
    assert source.shared_patients == 1


# --------------------------------------------------------------------------------------------- CheXpert Plus


@pytest.mark.parametrize("suffix", [".png", ".dcm"])
def test_chexpert_plus(tmp_path, suffix):
    source = read_source("chexpert-plus", source_trees.chexpert_plus(tmp_path, suffix=suffix), section="findings")
    assert count_splits(source.studies) == {"train": 7, "validation": 1, "test": 3}
    assert source.split_source == "seeded 7:1:2 by patient (seed 0)"
    study = by_id(source)["patient1/study2"]
    assert study["patient_id"] == "patient1"
    assert study["views"] == ["AP", "LATERAL"]
    assert study["report"] == "the lungs of 1 are clear : yes ."
    assert (study["indication"], study["comparison"], study["impression"]) == ("Cough.", "None.", "1. Normal.")
    assert {name: value for name, value in study["labels"].items() if value is not None} == {"Edema": 1, "Fracture": 0}
    assert all(path.endswith(suffix) for path in study["images"])


def test_chexpert_plus_without_section_columns_is_read_from_the_whole_report(tmp_path):
    folder = source_trees.chexpert_plus(tmp_path)
    file = folder / "df_chexpert_plus_240401.csv"
    text = file.read_text().replace("section_findings", "something")
    file.write_text(
        text.replace("not read", '"NARRATIVE:\nFINDINGS: Clear.\n\nIMPRESSION: Normal.\nEND OF IMPRESSION"')
    )
    source = read_source("chexpert-plus", folder, section="findings+impression", cleaning=None, unit="image")
    assert len(source.studies) == 22
    assert {s["report"] for s in source.studies} == {"Clear. Normal."}


def test_the_split_of_chexpert_plus_depends_on_the_seed_only(tmp_path):
    folder = source_trees.chexpert_plus(tmp_path)

    def splits(seed):
        return [s["split"] for s in read_source("chexpert-plus", folder, section="findings", seed=seed).studies]

    assert splits(0) == splits(0)
    assert len({tuple(splits(seed)) for seed in range(4)}) > 1


def test_a_label_that_is_none_is_refused_with_its_line(tmp_path):
    folder = source_trees.chexpert_plus(tmp_path)
    file = folder / "chexbert_labels" / "findings_fixed.json"
    file.write_text(file.read_text().replace('"Edema": 1.0', '"Edema": 7', 1))
    with pytest.raises(SourceError, match=r"findings_fixed\.json, line 1: Edema is 7; expected 1, 0, -1 or nothing"):
        read_source("chexpert-plus", folder, section="findings")


def test_splitting_by_patient_meets_the_published_counts_exactly_and_shares_no_patient():
    # As many samples as the paper has, one to five for each patient.
    studies, patient = [], 0
    while len(studies) < 57805:
        patient += 1
        count = min(1 + patient % 5, 57805 - len(studies))
        studies += [empty_study(f"{patient}/{number}", str(patient)) for number in range(count)]
    split_by_patient(studies, {"train": 0.7, "validation": 0.1, "test": 0.2}, seed=0)
    assert count_splits(studies) == {"train": 40463, "validation": 5780, "test": 11562}
    assert count_shared_patients(studies) == 0


# --------------------------------------------------------------------------------------------- annotation.json


@pytest.mark.parametrize(
    ("section", "columns"),
    [("findings", ("Clear.", "")), ("impression", ("", "Clear.")), ("findings+impression", ("", ""))],
)
def test_the_text_of_an_annotation_goes_where_the_section_says(tmp_path, section, columns):
    rows = [{"id": 1, "report": "Clear.", "image_path": "a.png"}]
    (tmp_path / "annotation.json").write_text(json.dumps({"train": rows}))
    study = read_source("annotation-json", tmp_path, section=section).studies[0]
    assert (study["findings"], study["impression"]) == columns
    assert study["report"] == "Clear."


def test_a_study_id_that_occurs_twice_is_refused(tmp_path):
    rows = [{"id": 1, "report": "Clear.", "image_path": "a.png"}] * 2
    (tmp_path / "annotation.json").write_text(json.dumps({"train": rows}))
    with pytest.raises(SourceError, match="1 study ids occur more than once: 1"):
        read_source("annotation-json", tmp_path, section="findings")


@pytest.mark.parametrize("placeholder", ["nan", "None.", "N/A", "See impression.", "___", ""])
def test_placeholders_are_missing_reports(tmp_path, placeholder):
    rows = [{"id": i, "report": report, "image_path": "a.png"} for i, report in enumerate(["Clear.", placeholder])]
    (tmp_path / "annotation.json").write_text(json.dumps({"train": rows}))
    source = read_source("annotation-json", tmp_path, section="findings")
    assert [(e.study_id, e.reason) for e in source.left_out] == [("1", "no findings in its report")]


@pytest.mark.parametrize("placeholder", ["nan", "None.", "N/A", "See impression."])
def test_a_placeholder_never_becomes_a_section_of_a_study(placeholder):
    texts = {"findings": placeholder, "impression": "Normal.", "indication": placeholder}
    study = empty_study("1", "p") | texts | {"images": ["a.png"], "split": "train"}
    options = {"cleaning": None, "split_source": "made"}
    source = finish_source("made", [study], section="findings+impression", **options)
    assert [(s["report"], s["findings"], s["indication"]) for s in source.studies] == [("Normal.", "", "")]
    with pytest.raises(SourceError, match="no findings in its report: 1"):
        finish_source("made", [study], section="findings", **options)


def test_reports_without_a_word_are_left_out_and_none_at_all_is_refused(tmp_path):
    rows = [{"id": i, "report": report, "image_path": "a.png"} for i, report in enumerate(["Clear.", " . "])]
    file = tmp_path / "annotation.json"
    file.write_text(json.dumps({"train": rows}))
    source = read_source("annotation-json", tmp_path, section="findings")
    assert [(e.study_id, e.reason) for e in source.left_out] == [("1", "no findings in its report")]
    file.write_text(json.dumps({"train": rows[1:]}))
    with pytest.raises(SourceError, match=r"no study can be used \(no findings in its report: 1\)"):
        read_source("annotation-json", tmp_path, section="findings")
