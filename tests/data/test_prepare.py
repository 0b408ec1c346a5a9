"""Preparing data sets: what is written, what is left out, and going on after a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import source_trees
from PIL import Image

from mambaxray import load_prepared, load_studies, prepare_studies, read_source
from mambaxray.data import prepare
from mambaxray.data.prepare import encode_xray
from mambaxray.data.prepared import PreparedError
from mambaxray.data.schema import STUDY_KEYS
from mambaxray.data.source import SourceError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """The cache of `datasets` in a folder of its own."""
    import datasets

    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def left_out(folder):
    with (folder / "left_out.csv").open(encoding="utf-8", newline="") as file:
        return [(row["study_id"], row["item"], row["reason"]) for row in csv.DictReader(file)]


def test_what_was_prepared_is_loaded_in_the_schema_and_memory_mapped(tmp_path, cache):
    source = read_source("mimic-cxr", source_trees.mimic(tmp_path / "mimic"), section="findings")
    card = prepare_studies(source, tmp_path / "out", studies_per_shard=1)
    assert card["counts"] == {"train": 2, "validation": 1, "test": 1}
    assert json.loads((tmp_path / "out" / "prepared.json").read_text()) == card
    assert len(list((tmp_path / "out").glob("train-*-of-00002.parquet"))) == 2
    data = load_prepared(tmp_path / "out")
    assert data["train"].cache_files[0]["filename"].startswith(str(cache))
    assert tuple(data["train"].column_names) == STUDY_KEYS
    for split in data.values():
        for row in split:
            expected = next(s for s in source.studies if s["study_id"] == row["study_id"])
            assert {**row, "images": None} == {**expected, "images": None}
            with Image.open(expected["images"][0]) as picture:
                assert np.array_equal(np.asarray(row["images"][0]), np.asarray(picture))


def test_pictures_of_dicom_come_out_as_8_bit_and_nothing_else_of_the_file(tmp_path):
    folder = source_trees.chexpert_plus(tmp_path / "source", suffix=".dcm", patients=4)
    prepare_studies(read_source("chexpert-plus", folder, section="findings"), tmp_path / "out")
    data = load_prepared(tmp_path / "out")
    images = [image for split in data.values() for row in split for image in row["images"]]
    assert len(images) == 10
    drawn = [np.asarray(image).astype(int) for image in source_trees.draw(4)]
    for image in images:
        assert image.mode == "L"
        assert min(np.abs(np.asarray(image) - original).max() for original in drawn) <= 1
    assert not any(b"Secret" in file.read_bytes() for file in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_plain_images_are_stored_byte_by_byte_and_large_ones_shrunk_when_asked(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90), np.uint8)).save(file)
    assert encode_xray(file) == encode_xray(file, 60) == file.read_bytes()
    small = tmp_path / "small"
    small.write_bytes(encode_xray(file, 20))
    with Image.open(small) as picture:
        assert (picture.size, picture.format, picture.mode) == ((30, 20), "PNG", "L")


@pytest.mark.parametrize("kind", ["16 bit", "transparent", "rotated"])
def test_images_that_a_plain_decoder_reads_wrongly_are_stored_as_they_should_look(tmp_path, kind):
    from mambaxray.processing.image_reading import load_xray

    grey = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    file = tmp_path / "a.png"
    if kind == "16 bit":
        Image.fromarray(grey.astype(np.uint16) * 16).save(file)
    elif kind == "transparent":
        Image.fromarray(np.stack([grey, grey // 2], -1), "LA").save(file)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(grey).save(file, exif=exif)
    stored = tmp_path / "stored"
    stored.write_bytes(encode_xray(file))
    with Image.open(stored) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(load_xray(file)))


def test_bad_images_are_named_and_counted_and_nothing_else_is_lost(tmp_path):
    folder = source_trees.iu_r2gen(tmp_path / "iu")
    images = folder / "images"
    one, two, three = (images / f"CXR{n}_IM-000{n}" for n in (1, 2, 3))
    (one / "1.png").write_bytes((one / "1.png").read_bytes()[:200])
    (two / "0.png").unlink()
    (three / "0.png").write_text("no picture")
    (three / "1.png").write_bytes(b"")
    source = read_source("iu-xray", folder, section="findings")
    card = prepare_studies(source, tmp_path / "out")
    assert card["counts"] == {"train": 2, "validation": 0, "test": 1}
    data = load_prepared(tmp_path / "out")
    assert set(data) == {"train", "test"}
    assert [len(row["images"]) for row in data["train"]] == [1, 1]
    assert [len(row["views"]) for row in data["train"]] == [1, 1]
    named = left_out(tmp_path / "out")
    assert [(study, item.rpartition("/")[2]) for study, item, _ in named] == [
        ("CXR1_IM-0001", "1.png"),
        ("CXR2_IM-0002", "0.png"),
        ("CXR3_IM-0003", "0.png"),
        ("CXR3_IM-0003", "1.png"),
        ("CXR3_IM-0003", "study"),
    ]
    reasons = [reason for _, _, reason in named]
    for part, reason in zip(("truncated", "no such file", "not an image", "empty", "none of"), reasons, strict=True):
        assert part in reason
    assert sum(card["left_out"].values()) == 5


def test_images_that_come_later_are_read_by_the_same_command_or_it_says_that_they_are_missing(tmp_path):
    """As where a download was not complete, or a disk not mounted."""
    rows = [{"id": name, "report": "Clear.", "image_path": f"{name}.png"} for name in "ab"]
    (tmp_path / "annotation.json").write_text(json.dumps({"train": rows}))
    source, out = read_source("annotation-json", tmp_path, section="findings"), tmp_path / "out"
    with pytest.raises(SourceError, match="no image could be read"):
        prepare_studies(source, out)
    assert not out.exists()
    Image.linear_gradient("L").save(tmp_path / "a.png")
    assert prepare_studies(source, out)["counts"] == {"train": 1}
    assert prepare_studies(source, out)["counts"] == {"train": 1}
    Image.linear_gradient("L").save(tmp_path / "b.png")
    with pytest.raises(PreparedError, match=r"lacks 1 images that were absent and are there now, such as .*b\.png"):
        prepare_studies(source, out)


def test_a_resumed_run_reads_images_that_have_come_meanwhile(tmp_path, monkeypatch):
    rows = [{"id": name, "report": "Clear.", "image_path": f"{name}.png"} for name in "ab"]
    (tmp_path / "annotation.json").write_text(json.dumps({"train": rows}))
    Image.linear_gradient("L").save(tmp_path / "a.png")
    source = read_source("annotation-json", tmp_path, section="findings")
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_studies(source, tmp_path / "out")
    Image.linear_gradient("L").save(tmp_path / "b.png")
    assert prepare_studies(source, tmp_path / "out")["counts"] == {"train": 2}


def killed(*arguments):
    raise KeyboardInterrupt


def test_a_data_set_without_any_readable_image_is_refused(tmp_path):
    rows = [{"id": 1, "report": "Clear.", "image_path": "a.png"}]
    (tmp_path / "annotation.json").write_text(json.dumps({"train": rows}))
    source = read_source("annotation-json", tmp_path, section="findings")
    with pytest.raises(SourceError, match=r"no image could be read; the first: .*a\.png: no such file"):
        prepare_studies(source, tmp_path / "out")


def test_several_processes_write_what_one_writes(tmp_path):
    source = read_source("chexpert-plus", source_trees.chexpert_plus(tmp_path / "source"), section="findings")
    prepare_studies(source, tmp_path / "one", studies_per_shard=3)
    seen = []
    prepare_studies(
        source, tmp_path / "two", studies_per_shard=3, num_proc=2, on_progress=lambda *counts: seen.append(counts)
    )
    assert (seen[0], seen[-1]) == ((0, 11), (11, 11))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


# --------------------------------------------------------------------------------------------- interruption

_COMMAND = """
import os, sys
from mambaxray import prepare_studies, read_source
if __name__ == "__main__":
    source = read_source("annotation-json", sys.argv[1], section="findings")
    tell = lambda done, total: print(done, os.getpid(), flush=True)
    prepare_studies(source, sys.argv[2], studies_per_shard=4, num_proc=int(sys.argv[3]), on_progress=tell)
"""


@pytest.mark.parametrize("num_proc", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_killed_run_goes_on_where_it_was_and_ends_as_if_nothing_had_happened(tmp_path, num_proc):
    folder, output, script = tmp_path / "source", tmp_path / "out", tmp_path / "run.py"
    folder.mkdir()
    script.write_text(_COMMAND)
    # Noise in colour takes its time to be decoded.
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8))
    noise.save(folder / "a.png")
    rows = [{"id": i, "report": f"Study {i}.", "image_path": "a.png"} for i in range(60)]
    (folder / "annotation.json").write_text(json.dumps({"train": rows}))
    command = [sys.executable, script, folder, output, str(num_proc)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        while int(process.stdout.readline().split()[0]) < 8:
            pass
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    _wait_until_nobody_writes(output)
    finished = {path: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    assert 2 <= len(finished) < 15
    assert not (output / "prepared.json").exists()
    with pytest.raises(FileNotFoundError, match=r"that was interrupted \(the same command goes on\)"):
        load_prepared(output)

    source = read_source("annotation-json", folder, section="findings")
    first = []
    prepare_studies(source, output, studies_per_shard=4, on_progress=lambda done, total: first.append(done))
    assert first[0] == 4 * len(finished)
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    prepare_studies(source, tmp_path / "undisturbed", studies_per_shard=4)
    for path in (tmp_path / "undisturbed").iterdir():
        assert path.read_bytes() == (output / path.name).read_bytes(), path.name
    assert {p.name for p in output.iterdir()} == {p.name for p in (tmp_path / "undisturbed").iterdir()}
    assert load_prepared(output)["train"]["study_id"] == [str(i) for i in range(60)]


def _wait_until_nobody_writes(output):
    """The processes of a killed run end with it; until they have, they may still finish a shard."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        before = {path: path.stat() for path in output.rglob("*") if path.is_file()}
        time.sleep(0.7)
        after = {path: path.stat() for path in output.rglob("*") if path.is_file()}
        if {p: s.st_size for p, s in before.items()} == {p: s.st_size for p, s in after.items()}:
            return
    pytest.fail("the processes of a killed run go on writing")


def test_a_finished_folder_is_left_alone_when_asked_for_again(tmp_path):
    source = read_source("iu-xray", source_trees.iu_r2gen(tmp_path / "iu"), section="findings")
    card = prepare_studies(source, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert prepare_studies(source, tmp_path / "out") == card
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_of_other_studies_or_other_files_is_refused(tmp_path):
    folder = source_trees.iu_r2gen(tmp_path / "iu")
    source = read_source("iu-xray", folder, section="findings")
    other = read_source("iu-xray", folder, section="findings", cleaning=None)
    prepare_studies(source, tmp_path / "out")
    for studies, options in ((other, {}), (source, {"shorter_side": 16})):
        with pytest.raises(PreparedError, match="holds other studies, or other settings made it"):
            prepare_studies(studies, tmp_path / "out", **options)
    with pytest.raises(PreparedError, match="is not empty and was not begun by this command"):
        prepare_studies(source, folder)
    (tmp_path / "begun" / ".in_progress").mkdir(parents=True)
    (tmp_path / "begun" / ".in_progress" / "fingerprint").write_text("another")
    with pytest.raises(PreparedError, match="was begun from other studies or with other settings"):
        prepare_studies(source, tmp_path / "begun")


@pytest.mark.parametrize("option", ["shorter_side", "studies_per_shard", "num_proc"])
def test_numbers_below_one_are_refused(tmp_path, option):
    source = read_source("iu-xray", source_trees.iu_r2gen(tmp_path / "iu"), section="findings")
    with pytest.raises(ValueError, match=f"{option} is 0; it must be 1 or more"):
        prepare_studies(source, tmp_path / "out", **{option: 0})


# --------------------------------------------------------------------------------------------- loading


def test_studies_are_loaded_from_a_prepared_folder_whose_section_and_cleaning_can_be_demanded(tmp_path):
    source = read_source("iu-xray", source_trees.iu_r2gen(tmp_path / "iu"), section="findings")
    prepare_studies(source, tmp_path / "out")
    data = load_studies(tmp_path / "out", section="findings", cleaning="iu-xray")
    assert {name: len(split) for name, split in data.items()} == {"train": 2, "validation": 1, "test": 1}
    with pytest.raises(PreparedError, match="prepared with section 'findings', not 'impression'"):
        load_studies(tmp_path / "out", section="impression")
    with pytest.raises(PreparedError, match="prepared with cleaning 'iu-xray', not 'r2gengpt'"):
        load_studies(tmp_path / "out", cleaning="r2gengpt")


def test_a_prepared_folder_that_lost_a_file_is_refused(tmp_path):
    source = read_source("iu-xray", source_trees.iu_r2gen(tmp_path / "iu"), section="findings")
    prepare_studies(source, tmp_path / "out", studies_per_shard=1)
    (tmp_path / "out" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(PreparedError, match="its files hold"):
        load_prepared(tmp_path / "out")
    (tmp_path / "out" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="parquet files of test are absent"):
        load_prepared(tmp_path / "out")


def test_the_real_pairs_are_prepared(shared_data, tmp_path):
    source = read_source("annotation-json", shared_data / "nih_label_matched", section="findings", cleaning="iu-xray")
    card = prepare_studies(source, tmp_path / "out", shorter_side=64)
    assert card["counts"] == {"train": 675, "validation": 66, "test": 129}
    assert (card["left_out"], card["shared_patients"]) == ({}, 0)
    row = load_prepared(tmp_path / "out")["test"][0]
    assert min(row["images"][0].size) == 64
    assert row["report"].endswith(" .")
