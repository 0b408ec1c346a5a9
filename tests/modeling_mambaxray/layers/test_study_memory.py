"""Memories of training studies: what they hold, what they refuse, and that they stay where they are."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mambaxray.modeling_mambaxray.layers.study_memory import (
    HeldOutStudyError,
    MemoryFormatError,
    MemorySource,
    StudyMemory,
    TrainingSplit,
)

SOURCE = MemorySource("phantoms", "models/stage1", "abc", seed=3, options={"regions": 500})
STUDIES = [
    *({"study_id": f"s{i}", "patient_id": f"p{i // 2}", "split": "train"} for i in range(6)),
    {"study_id": "v0", "patient_id": "p8", "split": "validation"},
    {"study_id": "t0", "patient_id": "p9", "split": "test"},
    # A patient in two splits, which a broken data set can have.
    {"study_id": "s6", "patient_id": "p9", "split": "train"},
]
SPLIT = TrainingSplit.of(STUDIES)


def memory(study_ids=("s0", "s0", "s2", "s5"), **changes):
    patients = {study["study_id"]: study["patient_id"] for study in STUDIES}
    values = {
        "vectors": {"values": torch.arange(4.0 * len(study_ids)).view(-1, 4)},
        "study_ids": study_ids,
        "patient_ids": [patients.get(study, "p0") for study in study_ids],
        "source": SOURCE,
        "split": SPLIT,
        "observations": ["Edema", "Edema", None, "Pneumonia"][: len(study_ids)],
        "reports": ["a", "b", "ü", "d"][: len(study_ids)],
    }
    return StudyMemory(**values | changes)


def test_a_memory_is_read_back_as_it_was_written(tmp_path):
    written = memory()
    written.save_pretrained(tmp_path / "m")
    read = StudyMemory.from_pretrained(tmp_path / "m", SPLIT)
    assert torch.equal(read.vectors["values"], written.vectors["values"])
    for name in ("study_ids", "patient_ids", "observations", "reports", "source"):
        assert getattr(read, name) == getattr(written, name), name
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"memory.safetensors", "memory.json"}


def test_the_description_says_where_it_comes_from_and_how_much_there_is(tmp_path):
    memory().save_pretrained(tmp_path)
    description = json.loads((tmp_path / "memory.json").read_text(encoding="utf-8"))
    assert description["source"] == {
        "data_set": "phantoms",
        "encoder": "models/stage1",
        "encoder_revision": "abc",
        "seed": 3,
        "options": {"regions": 500},
    }
    assert description["split"] == "train"
    assert description["widths"] == {"values": 4}
    assert description["counts"] == {
        "rows": 4,
        "studies": 3,
        "patients": 3,
        "rows_by_observation": {"Edema": 2, "Pneumonia": 1},
    }


def test_the_same_rows_give_the_same_files(tmp_path):
    for name in ("a", "b"):
        memory().save_pretrained(tmp_path / name)
    for file in ("memory.safetensors", "memory.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("v0", "study v0 is in the validation split"),
        ("t0", "study t0 is in the test split"),
        ("s6", "patient p9 of study s6 has studies in the test split"),
        ("unknown", "study unknown is not in the data set's training split"),
    ],
)
def test_a_study_outside_the_training_split_is_refused_by_study_and_by_patient(study, message, tmp_path):
    with pytest.raises(HeldOutStudyError, match=message):
        memory(study_ids=("s0", study))
    # The same when a memory of other data is read beside data that holds these studies out.
    allowed = TrainingSplit({"s0": "p0", study: "p9"}, {}, {})
    foreign = memory(study_ids=("s0", study), patient_ids=["p0", "p9"], split=allowed)
    foreign.save_pretrained(tmp_path)
    with pytest.raises(HeldOutStudyError, match=study):
        StudyMemory.from_pretrained(tmp_path, SPLIT)


def test_a_held_out_patient_is_refused_under_the_name_of_a_training_study():
    with pytest.raises(HeldOutStudyError, match="patient p8 of study s1"):
        memory(study_ids=("s1",), patient_ids=["p8"])
    with pytest.raises(ValueError, match="study s1 is of patient p0, not of p1"):
        memory(study_ids=("s1",), patient_ids=["p1"])


def test_a_data_set_that_contradicts_itself_is_refused():
    first = {"study_id": "s0", "patient_id": "p0", "split": "train"}
    with pytest.raises(ValueError, match="1 studies are in two splits, the first is s0"):
        TrainingSplit.of([first, {**first, "split": "test"}])
    with pytest.raises(ValueError, match="study s0 has two patients, p0 and p1"):
        TrainingSplit.of([first, {**first, "patient_id": "p1"}])


def test_it_lies_in_the_models_folder_that_is_not_pushed():
    assert StudyMemory.folder_beside("model", "visual") == Path("model/_patient_text/visual")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patient_ids": ["p0"]}, "patient_ids has 1 rows, study_ids has 4"),
        ({"vectors": {"values": torch.zeros(3, 4)}}, "values has 3 rows, study_ids has 4"),
        ({"vectors": {"values": torch.zeros(4)}}, r"must be \(rows, width\), got \(4,\)"),
        ({"vectors": {"values": torch.full((4, 2), torch.nan)}}, "not finite"),
        ({"vectors": {}}, "at least one row"),
        ({"reports": ["a"]}, "reports has 1 rows"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        memory(**changes)


def files(folder):
    return [(folder / name).stat().st_ino for name in ("memory.safetensors", "memory.json")]


def test_what_is_written_again_is_the_same_file_and_outlives_the_first(tmp_path):
    written = memory()
    for name in "abc":
        written.save_pretrained(tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")
    shutil.rmtree(tmp_path / "a")
    assert StudyMemory.from_pretrained(tmp_path / "b").reports == written.reports
    # Its first copy may be gone, or where it is written to, too.
    for name in "dbd":
        written.save_pretrained(tmp_path / name)
        assert torch.equal(StudyMemory.from_pretrained(tmp_path / name).vectors["values"], written.vectors["values"])


@pytest.mark.parametrize("change", ["a value", "the vectors", "the reports", "the source", "the file"])
def test_what_has_changed_is_written_anew_and_the_first_copy_stays(change, tmp_path):
    written = memory(source=replace(SOURCE, options={"regions": 500}))
    written.save_pretrained(tmp_path / "a")
    if change == "a value":
        written.vectors["values"][0] = 7
    elif change == "the vectors":
        written.vectors["values"] = written.vectors["values"] + 1
    elif change == "the reports":
        written.reports = ("x",) * 4
    elif change == "the source":
        written.source.options["regions"] = 1
    else:
        (tmp_path / "a/memory.json").write_text("{}")
    before = [(tmp_path / "a" / name).read_bytes() for name in ("memory.safetensors", "memory.json")]
    written.save_pretrained(tmp_path / "b")
    read = StudyMemory.from_pretrained(tmp_path / "b")
    assert torch.equal(read.vectors["values"], written.vectors["values"])
    assert (read.reports, read.source) == (written.reports, written.source)
    assert [(tmp_path / "a" / name).read_bytes() for name in ("memory.safetensors", "memory.json")] == before
    assert not set(files(tmp_path / "a")) & set(files(tmp_path / "b"))


def test_a_copy_is_written_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refuse)
    written = memory()
    for name in "ab":
        written.save_pretrained(tmp_path / name)
    assert not set(files(tmp_path / "a")) & set(files(tmp_path / "b"))
    assert StudyMemory.from_pretrained(tmp_path / "b").reports == written.reports


def test_writing_over_one_copy_leaves_the_others(tmp_path):
    written = memory()
    for name in "ab":
        written.save_pretrained(tmp_path / name)
    memory(reports=["other"] * 4).save_pretrained(tmp_path / "a")
    assert StudyMemory.from_pretrained(tmp_path / "b").reports == written.reports


def test_a_folder_without_a_memory_says_where_memories_come_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="built from the training data"):
        StudyMemory.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, "format 2, this version reads 1"),
        ("split", "test", "of the test split"),
        ("study_ids", ["s0"], "no memory that can be read"),
        ("counts", {}, "not those that memory.json counts"),
    ],
)
def test_a_changed_memory_is_refused(key, value, message, tmp_path):
    memory().save_pretrained(tmp_path)
    description = json.loads((tmp_path / "memory.json").read_text(encoding="utf-8"))
    (tmp_path / "memory.json").write_text(json.dumps(description | {key: value}), encoding="utf-8")
    with pytest.raises(MemoryFormatError, match=message):
        StudyMemory.from_pretrained(tmp_path)


def test_a_memory_cut_short_is_refused(tmp_path):
    memory().save_pretrained(tmp_path)
    data = (tmp_path / "memory.safetensors").read_bytes()
    (tmp_path / "memory.safetensors").write_bytes(data[:-3])
    with pytest.raises(MemoryFormatError):
        StudyMemory.from_pretrained(tmp_path)


def test_some_rows_make_a_memory_of_their_own():
    part = memory().select([3, 0])
    assert part.study_ids == ("s5", "s0")
    assert part.reports == ("d", "a")
    assert torch.equal(part.vectors["values"], memory().vectors["values"][[3, 0]])
