"""The command line as its users meet it: in processes of its own, and the engine behind `generate`."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    BasicTextSRStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    MediaStorageDirectoryStorage,
    RTPlanStorage,
    generate_uid,
)
from transformers import AutoModel, BertConfig

from mambaxray import (
    MambaXrayDualEncoderConfig,
    MambaXrayImageProcessor,
    MambaXrayPreTrainingConfig,
    VisionMambaConfig,
    make_tiny_models,
)
from mambaxray.cli import app
from mambaxray.configuration.families import families
from mambaxray.data.output_lock import locked_output
from mambaxray.evaluation.report_files import GENERATED, ReportFile
from mambaxray.evaluation.study_report import StudyReport
from mambaxray.generate import check_output, collect_studies, resolve_device
from mambaxray.info import ModelLoadError, describe_environment, describe_model, read_generator_config
from mambaxray.train.recipe import make_recipe

COMMAND = [sys.executable, "-m", "mambaxray.cli"]
ENVIRONMENT = {**os.environ, "COLUMNS": "80", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, env=ENVIRONMENT, cwd=cwd
    )


def test_help_comes_quickly_without_torch_and_names_the_commands() -> None:
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        result = run("--help")
        durations.append(time.perf_counter() - start)
    assert min(durations) < 1
    for word in ("demo", "generate", "info", "not a medical device"):
        assert word in result.stdout
    modules = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], "generate", "--help"], capture_output=True, text=True
    ).stderr
    assert " typer" in modules
    assert not any(line.split("|")[-1].strip() in ("torch", "transformers") for line in modules.splitlines())


def test_help_lists_the_commands_in_the_order_of_use() -> None:
    lines = run("--help").stdout.partition("Commands:\n")[2].splitlines()
    commands = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert commands[:4] == ["demo", "generate", "prepare", "recipes"]
    assert commands.index("pretrain") < commands.index("contrast") < commands.index("finetune")


def commands_below(command: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands and groups, by the words that call them."""
    yield names, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands_below(each, *names, name)


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_help_shows_every_option_and_sentence_whole_on_narrow_terminals(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    found = dict(commands_below(typer.main.get_command(app)))
    assert len(found) > 25
    for names, command in found.items():
        text = command.get_help(typer.Context(command, info_name="mambaxray"))
        words = set(text.replace(",", " ").replace("/", " ").split())
        for parameter in command.params:
            assert {name for name in parameter.opts if name.startswith("-")} <= words, (names, parameter.name)
        assert "…" not in text, names
        listed = " ".join(text.partition("\nCommands:\n")[2].split())
        for each in getattr(command, "commands", {}).values():
            assert " ".join(each.help.split("\n\n")[0].split()).replace("- ", "-") in listed.replace("- ", "-")
        # Lines of commands to copy are broken by a backslash or not at all.
        prose = [line for line in text.splitlines() if not line.startswith(("    mambaxray ", "      "))]
        assert max(map(len, prose)) <= columns, names


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["recipes"], ("torch", "transformers")),
        (["generate", "scans", "-m", "any", "-o", "done.jsonl", "--resume"], ("torch", "transformers")),
        (["finetune", "-r", "recipe.yaml", "-o", "run"], ("torch", "transformers")),
        (["info"], ("transformers", "torch._dynamo")),
        (["--version"], ("torch", "transformers", "numpy")),
    ],
    ids=["recipes", "nothing to resume", "a finished run", "info", "version"],
)
def test_small_things_load_no_large_library(arguments: list[str], absent: tuple[str, ...], tmp_path: Path) -> None:
    # A folder in which the work is done.
    (tmp_path / "scans").mkdir()
    for name in ("a.png", "notes"):
        (tmp_path / "scans" / name).touch()
    ReportFile(tmp_path / "done.jsonl", GENERATED).write(
        [StudyReport("scans/a.png", ("scans/a.png",), report="Clear.")]
    )
    (tmp_path / "run").mkdir()
    recipe = {"stage": "finetune", "model": {"checkpoint": "some/model"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    (tmp_path / "run/recipe.yaml").write_text(make_recipe(recipe).to_yaml())
    result = {"model_dir": "model", "metrics": {}, "history": [], "steps": 7, "seconds": 60}
    result |= {"trained_parameters": 1, "total_parameters": 2}
    (tmp_path / "run/environment.json").write_text("{}")
    (tmp_path / "run/result.json").write_text(json.dumps(result))
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-500:]
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "typer" in loaded
    assert not loaded & set(absent)


def test_version() -> None:
    assert run("--version").stdout == "mambaxray 0.1.0\n"


def test_reports_are_printed_and_a_bad_file_is_reported_and_skipped(
    model_folder: Path, pictures: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    result = run("generate", pictures[0], bad, pictures[1], "--model", model_folder, "--max-new-tokens", "5")
    assert result.returncode == 1
    headings = [line for line in result.stdout.splitlines() if line.startswith(os.sep)]
    assert headings == [str(pictures[0]), str(pictures[1])]
    assert result.stdout.count("\n\n") == 2, "a report follows each heading"
    assert f"skipped: {bad}: not an image" in result.stderr
    assert "2 of 3 studies have a report, 1 failed" in result.stderr
    assert "not a medical device" in result.stderr
    assert "Traceback" not in result.stderr


def test_real_files_of_every_format_get_reports(model_folder: Path, shared_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "reports.csv"
    result = run("generate", shared_data / "formats", "-m", model_folder, "-o", output, "--max-new-tokens", "5")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["fake_monochrome1.dcm", "nih_rgba_1024.png", "rsna_monochrome2.dcm"]
    assert [Path(row["study_id"]).name for row in rows] == names
    assert all(row["report"] and not row["error"] for row in rows)


def test_other_modalities_are_told_or_refused_and_blank_images_refused_or_allowed(
    model_folder: Path, pictures: list[Path], tmp_path: Path
) -> None:
    _write_dicom(tmp_path / "DICOMDIR", MediaStorageDirectoryStorage)
    pixels = np.asarray(Image.open(pictures[0]).convert("L"))
    _write_dicom(
        tmp_path / "hand.dcm",
        DigitalXRayImageStorageForPresentation,
        PatientName="Secretname",
        BodyPartExamined="HAND",
        Modality="DX",
        Rows=pixels.shape[0],
        Columns=pixels.shape[1],
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PixelData=pixels.tobytes(),
    )
    Image.new("L", (64, 64), 90).save(tmp_path / "white.png")
    arguments = ("generate", tmp_path, "-m", model_folder, "--max-new-tokens", "2")
    lenient = run(*arguments, "--allow-blank")
    assert lenient.returncode == 0, lenient.stderr
    assert "hand.dcm: body part HAND" in lenient.stderr
    assert "not an image, left out: 1 x Media Storage Directory Storage" in lenient.stderr
    assert "2 of 2 studies have a report" in lenient.stderr
    strict = run(*arguments, "--strict")
    assert strict.returncode == 1
    assert f"skipped: {tmp_path / 'hand.dcm'}: body part HAND, which is no chest radiograph" in strict.stderr
    assert f"skipped: {tmp_path / 'white.png'}: blank image" in strict.stderr
    assert "Secretname" not in lenient.stdout + lenient.stderr + strict.stdout + strict.stderr


def test_a_csv_groups_views_and_resuming_tries_what_failed_again(
    model_folder: Path, pictures: list[Path], tmp_path: Path
) -> None:
    for path in pictures:
        shutil.copy(path, tmp_path)
    (tmp_path / "late.png").write_text("still being copied")
    table = tmp_path / "studies.csv"
    table.write_text("study_id,image\ns1,a1.png\ns2,b.tif\ns1,a2.jpg\ns3,late.png\n")
    arguments = ("generate", table, "-m", model_folder, "-o", tmp_path / "out.jsonl", "--max-new-tokens", "5")
    options = ("--prompt", "The lungs", "--num-beams", "2", "--batch-size", "2", "--device", "cpu")
    first = run(*arguments, *options, "--evidence")
    assert first.returncode == 1
    assert "no evidence was written" in first.stderr
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["study_id"] for record in records] == ["s1", "s2", "s3"]
    assert records[0]["images"] == [str(tmp_path / "a1.png"), str(tmp_path / "a2.jpg")]
    assert [record["error"] is None for record in records] == [True, True, False]
    assert records[2]["report"] is None
    assert "late.png" in records[2]["error"]

    shutil.copy(pictures[3], tmp_path / "late.png")
    second = run(*arguments, *options, "--resume")
    assert second.returncode == 0, second.stderr
    assert "2 of 3 studies have a report" in second.stderr
    resumed = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert resumed[:2] == records[:2]
    assert [record["study_id"] for record in resumed] == ["s1", "s2", "s3"]
    assert resumed[2]["error"] is None


def test_an_interruption_keeps_what_was_written(model_folder: Path, pictures: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "studies.csv"
    table.write_text("study_id,image\n" + "".join(f"{number},{pictures[0]}\n" for number in range(2000)))
    output = tmp_path / "out.jsonl"
    arguments = ["generate", str(table), "-m", str(model_folder), "-o", str(output), "--batch-size", "1"]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # A shell's background jobs ignore interrupts, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (output.exists() and output.read_text().count("\n") > 2):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "--resume" in told
    assert "Traceback" not in told
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["study_id"] for record in records] == [str(number) for number in range(len(records))]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["picture.png", "-m", "./absent"], "./absent: no such folder"),
        (["picture.png", "-m", "."], "no config.json"),
        (["picture.png", "-m", ".", "-o", "out.txt"], "must end in .jsonl or .csv"),
        (["picture.png", "-m", ".", "-o", "taken.csv"], "--resume adds"),
        (["table.csv", "-m", "."], "no column of images; name it image, path, image_path"),
        (["absent.csv", "-m", "."], "no such CSV file"),
        (["empty", "-m", "."], "no images in this folder"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(arguments: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "taken.csv").write_text("study_id,images,report,error\n")
    (tmp_path / "table.csv").write_text("file,label\n1.png,0\n")
    (tmp_path / "empty").mkdir()
    result = run("generate", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert (tmp_path / "taken.csv").read_text() == "study_id,images,report,error\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["generate", "", "-m", "model"], "an empty argument: "),
        (["finetune", "-r", "finetune_phantoms", "-o", ""], "an empty argument for -o: "),
        (["finetune", "-r", "finetune_phantoms", "--output="], "an empty argument for --output: "),
    ],
)
def test_an_empty_name_is_not_the_working_directory(arguments: list[str], told: str, tmp_path: Path) -> None:
    Image.linear_gradient("L").save(tmp_path / "a.png")
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"error: {told}a variable that is not set?\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_names_that_an_encoding_lacks_are_printed_as_escape_sequences(tiny_folder: Path, tmp_path: Path) -> None:
    Image.linear_gradient("L").save(tmp_path / "röntgen Ω.png")
    command = [*COMMAND, "generate", "röntgen Ω.png", "-m", tiny_folder, "--max-new-tokens", "4"]
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "latin-1"}
    result = subprocess.run(command, capture_output=True, check=False, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("röntgen \\u03a9.png\n".encode("latin-1"))


def test_damaged_weights_are_told_on_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    weights = tmp_path / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    Image.linear_gradient("L").save(tmp_path / "a.png")
    result = run("generate", "a.png", "-m", "model", cwd=tmp_path)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")


def test_a_hub_model_that_cannot_be_had_is_told_on_one_line() -> None:
    result = run("info", "nobody/nothing")
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: nobody/nothing: no such folder, and no such model on the Hugging")


def test_info_shows_a_model_in_80_columns(model_folder: Path) -> None:
    result = run("info", model_folder)
    assert result.returncode == 0, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    for words in ("vision_mamba", "llama", "32 x 32 px", "model.safetensors", "comprehensive"):
        assert words in result.stdout


def test_described_parameters_are_those_of_the_model(model: object, model_folder: Path) -> None:
    counts = {
        part: int(text.replace(",", "")) for part, text in describe_model(str(model_folder))["Parameters"].items()
    }
    assert counts["total"] == model.num_parameters()
    assert counts["projection"] == sum(
        w.numel() for w in (*model.projector.parameters(), *model.layer_norm.parameters())
    )
    assert counts["vision encoder"] + counts["projection"] + counts["language model"] == counts["total"]


def test_a_model_without_its_processor_is_described_as_such(model_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model_folder / name, tmp_path)
    assert "missing" in describe_model(str(tmp_path))["Processor"]


def test_models_of_the_stages_before_are_described_but_write_no_reports(tmp_path: Path) -> None:
    encoder = VisionMambaConfig(hidden_size=16, num_hidden_layers=4, image_size=32, patch_size=4)
    pretraining = MambaXrayPreTrainingConfig(
        hidden_size=16, num_hidden_layers=4, image_size=32, patch_size=4, decoder_hidden_size=16
    )
    text = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    for config in (encoder, pretraining, MambaXrayDualEncoderConfig(encoder, text, projection_dim=8)):
        model = AutoModel.from_config(config)
        folder = tmp_path / config.model_type
        model.save_pretrained(folder)
        MambaXrayImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
        sections = describe_model(str(folder))
        assert sections["Model"]["family"] == config.model_type
        assert sections["Vision encoder"]["image size"] == "32 x 32 px"
        assert sections["Parameters"]["total"] == f"{model.num_parameters():,}"
        with pytest.raises(ModelLoadError, match="not a report generator"):
            read_generator_config(str(folder))
    assert sections["Text encoder"]["type"] == "bert"
    assert "missing" in sections["Processor"]  # there is no tokenizer
    assert describe_model(str(tmp_path / "vision_mamba"))["Processor"] == {"images resized to": "32 x 32 px"}


@pytest.mark.parametrize("name", sorted(families()))
def test_every_family_is_described(name: str, tmp_path: Path) -> None:
    (folder,) = make_tiny_models(tmp_path, names=[name])
    sections = describe_model(str(folder))
    assert sections["Model"]["family"] == name
    counts = {part: int(text.replace(",", "")) for part, text in sections["Parameters"].items()}
    assert counts.pop("total") == sum(counts.values()) or not counts
    assert ("_patient_text (not pushed)" in sections["Files"]) == (folder / "_patient_text").is_dir()


def test_models_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelLoadError, match="of type 'llama', which is none of mambaxray's"):
        read_generator_config(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"config\.json can't be used"):
        read_generator_config(str(tmp_path))


def test_the_environment_names_versions_device_and_scan_backend() -> None:
    sections = describe_environment()
    assert {"mambaxray", "torch", "transformers"} <= sections["Versions"].keys()
    scan = sections["Selective scan"]
    assert scan[scan["in use"]] == "available"
    assert scan["torch"] == "available"


def test_a_folder_is_searched_in_natural_order_by_suffix_and_content(pictures: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    (folder / "p2").mkdir(parents=True)
    (folder / "p10").mkdir()
    for name in ("p10/1.png", "p2/x10.PNG", "p2/x9.jpg", "p2/notes.txt", "p2/.hidden.png"):
        shutil.copy(pictures[0], folder / name)
    (folder / "p2" / "1.2.840.7").write_bytes(bytes(128) + b"DICM")
    names = [Path(study.study_id).relative_to(folder).as_posix() for study in collect_studies([str(folder)])]
    assert names == ["p2/1.2.840.7", "p2/x9.jpg", "p2/x10.PNG", "p10/1.png"]


def _write_dicom(path: Path, kind: str, *, has_preamble: bool = True, **elements: object) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    if has_preamble:
        dataset.save_as(path, enforce_file_format=True)
    else:
        del dataset.file_meta
        dataset.save_as(path, implicit_vr=False, little_endian=True)


@pytest.mark.parametrize("has_preamble", [True, False])
def test_dicom_files_of_a_folder_without_images_are_skipped_and_told(tmp_path: Path, has_preamble: bool) -> None:
    held = {
        "DICOMDIR": (MediaStorageDirectoryStorage, "Media Storage Directory Storage"),
        "state.dcm": (GrayscaleSoftcopyPresentationStateStorage, "Grayscale Softcopy Presentation State Storage"),
        "report.dcm": (BasicTextSRStorage, "Basic Text SR Storage"),
        "plan.dcm": (RTPlanStorage, "RT Plan Storage"),
        "xray.dcm": (DigitalXRayImageStorageForPresentation, None),
    }
    for name, (kind, _) in held.items():
        if has_preamble or name.endswith(".dcm"):
            _write_dicom(tmp_path / name, kind, has_preamble=has_preamble)
    skipped: list[str] = []
    studies = collect_studies([str(tmp_path)], on_skip=skipped.append)
    assert [Path(study.study_id).name for study in studies] == ["xray.dcm"]
    expected = {what for name, (_, what) in held.items() if what and (tmp_path / name).exists()}
    assert len(skipped) == len(set(skipped))
    assert set(skipped) == expected


def test_csv_paths_are_relative_to_the_csv_and_each_row_is_a_study_without_ids(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("\ufeffPath,age\nimages/1.png,50\n/data/2.dcm,60\n", encoding="utf-8")
    assert collect_studies([str(table)]) == [
        StudyReport("images/1.png", (str(tmp_path / "images/1.png"),)),
        StudyReport("/data/2.dcm", ("/data/2.dcm",)),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_other_separators_and_the_column_of_hugging_face_are_read(separator: str, tmp_path: Path) -> None:
    table = tmp_path / "metadata.csv"
    table.write_text(f"text{separator}file_name\nClear.{separator}a.png\n", encoding="utf-8")
    assert collect_studies([str(table)]) == [StudyReport("a.png", (str(tmp_path / "a.png"),))]


def test_our_own_output_is_an_input_wherever_it_lies(pictures: list[Path], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(pictures[0], tmp_path / "scans" / name)
    views = ("scans/a.png", "scans/b.png")
    ReportFile(Path("out/reports.csv"), GENERATED).write([StudyReport("=1+1", views, report="- Clear.")])
    assert collect_studies(["out/reports.csv"]) == [StudyReport("=1+1", views)]


def test_a_csv_that_cannot_be_understood_is_told_by_file_and_line(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("image,study_id\n1.png,a\n,b\n")
    with pytest.raises(ValueError, match=r"list\.csv, line 3: the column 'image' is empty"):
        collect_studies([str(table)])
    table.write_text("image,study_id\n1.png,\n")
    with pytest.raises(ValueError, match=r"line 2: the column 'study_id' is empty"):
        collect_studies([str(table)])
    table.write_text("image\n")
    with pytest.raises(ValueError, match="no rows"):
        collect_studies([str(table)])
    table.write_bytes(b"image\n\xff\xfe.png\n")
    with pytest.raises(ValueError, match="UTF-8"):
        collect_studies([str(table)])


def test_an_input_given_twice_is_one_study_and_an_ambiguous_id_is_refused(tmp_path: Path) -> None:
    assert collect_studies(["a.png", "b.png", "a.png"]) == [
        StudyReport("a.png", ("a.png",)),
        StudyReport("b.png", ("b.png",)),
    ]
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text(f"image,study_id\n{name}.png,7\n")
    with pytest.raises(ValueError, match="study '7' is given twice"):
        collect_studies([str(tmp_path / "one.csv"), str(tmp_path / "two.csv")])


def finished(path: Path) -> set[str]:
    return {report.study_id for report in ReportFile(path, GENERATED, resume=True).kept}


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_a_report_file_resumes_with_any_text_and_forgets_failures(name: str, tmp_path: Path) -> None:
    good = StudyReport("1", ("a.png", "b.png"), report='=Two lines,\nwith "quotes" \u2028 and ß.')
    bad = StudyReport("2", ("c.png",), error="c.png: truncated")
    path = tmp_path / name
    ReportFile(path, GENERATED).write([good, bad])
    resumed = ReportFile(path, GENERATED, resume=True)
    assert finished(path) == {"1"}
    assert "truncated" in path.read_text(encoding="utf-8"), "nothing changes before the first new record"
    resumed.write([StudyReport("2", ("c.png",), report="Clear.")])
    assert finished(path) == {"1", "2"}
    assert "truncated" not in path.read_text(encoding="utf-8")
    fresh = tmp_path / f"fresh_{name}"
    ReportFile(fresh, GENERATED).write([good, StudyReport("2", ("c.png",), report="Clear.")])
    assert fresh.read_bytes() == path.read_bytes()


def test_half_a_line_left_by_a_killed_process_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    ReportFile(path, GENERATED).write([StudyReport(str(number), ("a.png",), report="Clear.") for number in range(3)])
    path.write_text(path.read_text()[:-20])
    assert finished(path) == {"0", "1"}


@pytest.mark.parametrize("cut", [1, 4, 12, 20])
def test_half_a_row_of_csv_is_dropped_with_the_lines_within_its_quotes(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    text = 'Small effusion.\nNo "large" pneumothorax.\nClear.'
    ReportFile(path, GENERATED).write([StudyReport(name, ("a.png",), report=text) for name in "ab"])
    path.write_bytes(path.read_bytes()[:-cut])
    assert [report.report for report in ReportFile(path, GENERATED, resume=True).kept] == [text]


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", '{"id": 1}\n'), ("a.jsonl", "text\n"), ("a.csv", "x,y\n1,2\n")]
)
def test_a_file_of_something_else_is_not_resumed(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="not an output of `mambaxray generate`"):
        ReportFile(tmp_path / name, GENERATED, resume=True)


def test_a_second_process_on_one_output_is_told_in_one_line(pictures: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "reports.jsonl"
    with locked_output(output, is_folder=False):
        result = run("generate", str(pictures[0]), "-m", "absent", "-o", str(output), cwd=tmp_path)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert "is being written to by another process" in line
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_never_replaced_unasked(tmp_path: Path) -> None:
    taken = tmp_path / "reports.csv"
    taken.touch()
    with pytest.raises(FileExistsError, match="--resume"):
        check_output(taken)
    check_output(taken, resume=True)
    check_output(taken, overwrite=True)
    with pytest.raises(ValueError, match="exclude each other"):
        check_output(taken, overwrite=True, resume=True)


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="'gpu' is not a device"):
        resolve_device("gpu")
    with pytest.raises(ValueError, match="can't be used here"):
        resolve_device("cuda:99")
