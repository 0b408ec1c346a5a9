"""Prior studies: earlier, of the same patient, in the same split, and read from where they are."""

import csv
import itertools
import json
import pickle

import numpy as np
import pytest
import source_trees
from hypothesis import given, settings
from hypothesis import strategies as st

from mambaxray import load_prepared, load_studies, make_phantoms, prepare_studies, read_source
from mambaxray.data.prepared import PreparedError
from mambaxray.data.priors import ORDER, link_priors, read_date
from mambaxray.data.source import SourceError, empty_study


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """The cache of `datasets` in a folder of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def study(name, patient="p", split="train", order=None, views=("PA",)):
    return empty_study(name, patient) | {"split": split, ORDER: order, "views": list(views)}


def linked(*studies):
    link_priors(studies, "here")
    return {each["study_id"]: each["prior"] for each in studies}


ORDERS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["train", "test"]), st.one_of(st.none(), st.integers(0, 5))),
    min_size=1,
    max_size=25,
).filter(lambda rows: any(order is not None for *_, order in rows))


@settings(max_examples=60, deadline=None)
@given(ORDERS)
def test_a_prior_is_the_latest_strictly_earlier_study_of_the_patient_in_the_split(rows):
    studies = [study(str(i), patient, split, order) for i, (patient, split, order) in enumerate(rows)]
    priors = linked(*studies)
    by_name = {each["study_id"]: each for each in studies}
    for each in studies:
        before = [
            other[ORDER]
            for other in studies
            if (other["patient_id"], other["split"]) == (each["patient_id"], each["split"])
            and None not in (other[ORDER], each[ORDER])
            and other[ORDER] < each[ORDER]
        ]
        prior = by_name.get(priors[each["study_id"]])
        assert (prior is None) == (not before)
        if prior is not None:
            assert (prior["patient_id"], prior["split"]) == (each["patient_id"], each["split"])
            assert prior[ORDER] == max(before)


def test_the_order_of_rows_changes_nothing():
    rows = [study("b", order=2), study("a", order=1), study("c", order=3)]
    for permuted in itertools.permutations(rows):
        assert linked(*({**row} for row in permuted)) == {"a": "", "b": "a", "c": "b"}


def test_of_the_images_of_the_prior_study_the_same_view_is_taken_else_a_frontal_one():
    prior = [study("lateral", order=1, views=["LATERAL"]), study("ap", order=1, views=["AP"])]
    assert linked(*prior, study("now", order=2, views=["LATERAL"]))["now"] == "lateral"
    assert linked(*prior, study("now", order=2, views=["PA"]))["now"] == "ap"
    assert linked(study("x", order=1, views=[""]), study("now", order=2, views=["PA"]))["now"] == "x"


def test_without_any_time_priors_are_refused():
    with pytest.raises(SourceError, match="here: it does not say in which order"):
        linked(study("a"), study("b"))


@pytest.mark.parametrize("text", ["2019-03-01", "20190301", 20190301, 20190301.0, "2019-03-01T00:00"])
def test_dates_are_read_in_iso_8601(text):
    assert read_date(text, "row").isoformat() == "2019-03-01T00:00:00"


@pytest.mark.parametrize("value", [None, "", float("nan")])
def test_an_empty_date_is_none(value):
    assert read_date(value, "row") is None


def test_another_date_is_refused_by_name():
    with pytest.raises(SourceError, match=r"row: study_date must be a date such as 2019-03-01, got '1\.3\.2019'"):
        read_date("1.3.2019", "row")


# --------------------------------------------------------------------------------------------- readers


def test_mimic_orders_by_date_and_time_and_links_images_of_the_study_before(tmp_path):
    folder = source_trees.mimic_history(tmp_path)
    by_image = {s["study_id"]: s for s in read_source("mimic-cxr", folder, section="findings", prior=True).studies}
    # In the order of the clock: 3 (08:45), 1 (21:30), 2 (the next day), though their numbers say otherwise.
    assert {name: each["prior"] for name, each in by_image.items()} == {
        "50000003/d3": "",
        "50000001/d1-pa": "50000003/d3",
        "50000001/d1-ll": "50000003/d3",
        "50000002/d2": "50000001/d1-ll",
        "50000004/d4": "",  # a study without a time
        "50000005/d5": "",  # another patient
    }
    by_study = read_source("mimic-cxr", folder, section="findings", unit="study", prior=True).studies
    assert {each["study_id"]: each["prior"] for each in by_study}["50000002"] == "50000001"
    assert ORDER not in by_study[0]
    assert by_study[0]["technique"] == "Frontal view."


def test_without_prior_mimic_needs_no_times_and_links_nothing(tmp_path):
    source = read_source("mimic-cxr", source_trees.mimic(tmp_path), section="findings")
    assert not source.has_priors
    assert {each["prior"] for each in source.studies} == {""}
    with pytest.raises(SourceError, match="lacks the columns StudyDate, StudyTime"):
        read_source("mimic-cxr", tmp_path, section="findings", prior=True)


def test_chexpert_plus_orders_by_its_own_column(tmp_path):
    folder = source_trees.chexpert_plus(tmp_path, patients=3)
    file = next(folder.glob("df_chexpert_plus*.csv"))
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    for row in rows:
        # The first patient's second study came first.
        row["patient_report_date_order"] = {"study1": 2, "study2": 1}[row["path_to_image"].split("/")[2]]
        row["section_technique"] = "Two views"
    source_trees.write_csv(file, rows)
    studies = {s["study_id"]: s for s in read_source("chexpert-plus", folder, section="findings", prior=True).studies}
    assert studies["patient1/study1"]["prior"] == "patient1/study2"
    assert studies["patient1/study2"]["prior"] == studies["patient2/study1"]["prior"] == ""
    assert studies["patient1/study1"]["technique"] == "Two views"


def test_iu_xray_knows_no_order(tmp_path):
    with pytest.raises(TypeError, match="iu-xray has no option prior"):
        read_source("iu-xray", source_trees.iu_open_i(tmp_path), section="findings", prior=True)


def test_patients_in_two_splits_have_no_prior_across_them(tmp_path):
    folder = source_trees.iu_r2gen(tmp_path)
    file = folder / "annotation.json"
    annotation = json.loads(file.read_text())
    for number, each in enumerate(each for split in ("train", "val", "test") for each in annotation[split]):
        each |= {"subject_id": "one", "study_date": f"2020-01-0{number + 1}", "indication": "Cough.", "technique": "PA"}
    file.write_text(json.dumps(annotation))
    options = {"allow_shared_patients": True, "prior": True}
    loaded = load_studies(folder, **options)
    names = {name: list(split["study_id"]) for name, split in loaded.items()}
    assert [list(split["prior"]) for split in loaded.values()] == [["", names["train"][0]], [""], [""]]
    row = loaded["train"][1]
    assert (row["indication"], row["technique"]) == ("Cough.", "PA")
    assert row["prior_report"] == loaded["train"][0]["report"]
    prepared = read_source("annotation-json", folder, section="findings", **options)
    assert [each["prior"] for each in prepared.studies] == ["", names["train"][0], "", ""]


# --------------------------------------------------------------------------------------------- rows with priors


def test_a_table_with_dates_shows_priors(tmp_path):
    images = source_trees.draw(3)
    rows = []
    for number, (image, day) in enumerate(zip(images, (2, 1, 3), strict=True)):
        image.save(tmp_path / f"{number}.png")
        row = {"image": f"{number}.png", "study_id": f"s{number}", "patient_id": "p", "split": "train"}
        rows.append(row | {"report": f"Report {number}.", "study_date": f"2020-01-0{day}", "technique": "AP"})
    source_trees.write_csv(tmp_path / "table.csv", rows)
    train = load_studies(tmp_path / "table.csv", prior=True)["train"]
    assert list(train["prior"]) == ["s1", "", "s0"]
    assert train[0]["prior_report"] == "Report 1."
    assert np.array_equal(np.asarray(train[0]["prior_images"][0]), np.asarray(images[1]))
    assert (train[1]["prior_images"], train[1]["prior_views"], train[1]["prior_report"]) == ([], [], "")
    assert train[0]["technique"] == "AP"
    assert "prior_images" not in load_studies(tmp_path / "table.csv")["train"][0]


def test_priors_follow_rows_and_are_read_in_other_processes():
    train = make_phantoms(12, image_size=32, history=True, splits={"train": 1.0})["train"]
    for chosen in (train.shuffle(seed=1), train.select([3, 5, 7]), pickle.loads(pickle.dumps(train))):
        for row in chosen:
            prior = next((other for other in train if other["study_id"] == row["prior"]), None)
            expected = ([], "") if prior is None else (prior["images"], prior["report"])
            assert list(map(np.asarray, row["prior_images"])) == [] or np.array_equal(
                np.asarray(row["prior_images"][0]), np.asarray(expected[0][0])
            )
            assert row["prior_report"] == expected[1]
    assert train.remove_columns("images")[1].keys() & {"prior_images"} == set()
    assert "prior_images" not in train.column_names


def test_prepare_links_counts_and_loads_priors(tmp_path):
    source = read_source(
        "mimic-cxr", source_trees.mimic_history(tmp_path / "mimic"), section="findings", unit="study", prior=True
    )
    card = prepare_studies(source, tmp_path / "out", studies_per_shard=2)
    assert card["priors"] == {"train": 2, "test": 0}
    rows = {row["study_id"]: row for row in load_prepared(tmp_path / "out", prior=True)["train"]}
    assert rows["50000002"]["prior_report"] == rows["50000001"]["report"]
    assert len(rows["50000002"]["prior_images"]) == 2
    assert rows["50000003"]["prior_images"] == []
    assert "prior_images" not in load_prepared(tmp_path / "out")["train"][0]


def test_a_prior_that_can_not_be_read_is_none_and_not_counted(tmp_path):
    folder = source_trees.mimic_history(tmp_path / "mimic")
    next(folder.rglob("d3.jpg")).write_bytes(b"broken")
    source = read_source("mimic-cxr", folder, section="findings", unit="study", prior=True)
    card = prepare_studies(source, tmp_path / "out")
    assert card["priors"] == {"train": 1, "test": 0}
    rows = {row["study_id"]: row for row in load_prepared(tmp_path / "out", prior=True)["train"]}
    assert (rows["50000001"]["prior_images"], rows["50000001"]["prior_report"]) == ([], "")


def test_a_folder_prepared_without_priors_says_so(tmp_path):
    source = read_source("iu-xray", source_trees.iu_open_i(tmp_path / "iu"), section="findings")
    assert "priors" not in prepare_studies(source, tmp_path / "out")
    with pytest.raises(PreparedError, match=r"prepared without priors: prepare it again with prior=True \(--prior\)"):
        load_prepared(tmp_path / "out", prior=True)


def test_a_folder_of_an_earlier_version_loads_without_the_new_columns(tmp_path):
    from pyarrow import parquet

    source = read_source("iu-xray", source_trees.iu_open_i(tmp_path / "iu"), section="findings")
    prepare_studies(source, tmp_path / "out")
    expected = [row["study_id"] for row in load_prepared(tmp_path / "out")["train"]]
    for file in (tmp_path / "out").glob("*.parquet"):
        parquet.write_table(parquet.read_table(file).drop_columns(["technique", "prior"]), file)
    card = tmp_path / "out" / "prepared.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"format": 2}))
    loaded = load_prepared(tmp_path / "out")["train"]
    assert list(loaded["study_id"]) == expected
    assert {(row["technique"], row["prior"]) for row in loaded} == {("", "")}
