"""Generating over a data set: each study once, in one process or two, and after a kill."""

import json
import multiprocessing
import os
import signal

import pytest
import torch
from PIL import Image
from tiny import tiny_model, tiny_tokenizer
from torch import distributed

from mambaxray import MambaXrayImageProcessor, MambaXrayProcessor
from mambaxray.evaluation.evaluate_model import evaluate_model, generate_predictions
from mambaxray.evaluation.report_files import GENERATED, PREDICTED, ReportFile, read_reports
from mambaxray.evaluation.scoring import evaluate_reports
from mambaxray.evaluation.study_report import StudyReport
from mambaxray.train.processes import run_in_processes

COUNT = 7
OPTIONS = {"batch_size": 2, "max_new_tokens": 6}


def parts():
    model = tiny_model(seed=1)
    words = " ".join(f"w{number}" for number in range(44))
    tokenizer = tiny_tokenizer(words)
    image_processor = MambaXrayImageProcessor(size={"height": 32, "width": 32})
    processor = MambaXrayProcessor(image_processor, tokenizer, model.config.num_image_tokens)
    return model, processor


def studies(count=COUNT):
    return [
        {
            "study_id": f"s{number}",
            "patient_id": f"p{number // 2}",
            "images": [Image.linear_gradient("L").rotate(37 * number)] * (1 + number % 2),
            "report": f"reference {number}",
        }
        for number in range(count)
    ]


def run(**more):
    model, processor = parts()
    return generate_predictions(model, processor, studies(), **OPTIONS, **more)


def texts(predictions):
    return [(p.study_id, p.patient_id, p.reference, p.report) for p in predictions]


@pytest.fixture(scope="module")
def expected():
    """What the model writes for each study alone."""
    model, processor = parts()
    found = []
    for study in studies():
        inputs = processor(images=[study["images"]])
        tokens = model.generate(**inputs, max_new_tokens=6)
        (report,) = processor.post_process_image_text_to_text(tokens, prompt_length=inputs["input_ids"].shape[1])
        found.append((study["study_id"], study["patient_id"], study["report"], report))
    assert len({report for *_, report in found}) > 1, "the model ignores the picture"
    return found


def test_every_study_gets_what_generate_writes_for_it_alone(expected):
    assert texts(run()) == expected


def evaluate_in_group(folder):
    done = []
    evaluation = evaluate_model(
        *parts(),
        studies(),
        scoring={"metrics": ["BLEU"], "seed": 3},
        output=folder / "predictions.jsonl",
        progress=lambda *numbers: done.append(numbers),
        **OPTIONS,
    )
    result = {"texts": texts(evaluation.predictions), "result": evaluation.result, "progress": done}
    result["group"] = distributed.get_world_size()
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """The folder that two processes wrote, and what each of them returned."""
    folder = tmp_path_factory.mktemp("two")
    run_in_processes(evaluate_in_group, (folder,), 2)
    return folder, *(json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))


def test_two_processes_write_an_odd_number_of_studies_each_exactly_once(of_two, expected):
    folder, first, second = of_two
    assert first["group"] == 2
    assert [tuple(row) for row in first["texts"]] == expected
    assert second["texts"] == first["texts"]
    assert texts(read_reports(folder / "predictions.jsonl")) == expected, "no duplicate, in the data set's order"
    assert first["progress"] == [[0, 7], [4, 7], [7, 7]]
    assert second["progress"] == []


def test_two_processes_both_get_the_scores_of_what_they_wrote(of_two, expected):
    _, first, second = of_two
    assert first["result"] == second["result"]
    references, reports = ({row[0]: row[column] for row in expected} for column in (2, 3))
    patients = {row[0]: row[1] for row in expected}
    alone = evaluate_reports(references, reports, patients=patients, metrics=["BLEU"], seed=3)
    assert first["result"] == json.loads(json.dumps(alone))
    assert first["result"]["ids"] == [f"s{number}" for number in range(COUNT)]


def fail_in_group(folder):
    run(output=folder / "predictions.jsonl")


def test_an_error_of_the_main_process_ends_all(tmp_path):
    (tmp_path / "predictions.jsonl").touch()
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="resume=True adds"):
        run_in_processes(fail_in_group, (tmp_path,), 2)


def die_after_four(path):
    def progress(done, total):
        if done == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    run(output=path, progress=progress)


def test_a_killed_run_goes_on_where_it_was(tmp_path, expected):
    path = tmp_path / "new" / "predictions.jsonl"
    process = multiprocessing.get_context("spawn").Process(target=die_after_four, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert texts(read_reports(path)) == expected[:4]
    kept = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"study_id": "s4", "rep')  # as a kill in the middle of writing leaves it
    calls = []
    assert texts(run(output=path, resume=True, progress=lambda *numbers: calls.append(numbers))) == expected
    assert calls == [(4, 7), (6, 7), (7, 7)]
    assert texts(read_reports(path)) == expected
    assert path.read_bytes().startswith(kept)


def test_resuming_a_finished_file_generates_nothing(tmp_path, expected):
    path = tmp_path / "predictions.jsonl"
    run(output=path)
    before = path.read_bytes()
    assert texts(run(output=path, resume=True)) == expected
    assert path.read_bytes() == before


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"predictions\.jsonl exists: resume=True"):
        run(output=path)
    assert path.read_text() == "mine"


def test_reports_of_other_settings_or_studies_are_not_mixed_in(tmp_path):
    path = tmp_path / "predictions.jsonl"
    model, processor = parts()
    generate_predictions(model, processor, studies(2), output=path, max_new_tokens=6)
    with pytest.raises(ValueError, match=r'"max_new_tokens": 6.*"max_new_tokens": 3'):
        generate_predictions(model, processor, studies(2), output=path, resume=True, max_new_tokens=3)
    with pytest.raises(ValueError, match="holds study 's1'"):
        generate_predictions(model, processor, studies(1), output=path, resume=True, max_new_tokens=6)


def test_a_file_of_something_else_is_not_resumed(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"study_id": "s0"}\n')
    with pytest.raises(ValueError, match=r"not a prediction with the keys study_id.*line 1 lacks"):
        run(output=path, resume=True)


def test_the_model_is_left_in_the_mode_it_was_in():
    model, processor = parts()
    model.train()
    generate_predictions(model, processor, studies(1), max_new_tokens=1)
    assert model.training


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "no studies"),
        ([{"study_id": "a", "images": []}], "lacks report; its columns are study_id, images"),
        ([{"study_id": "a", "images": [], "report": ""}] * 2, "'a' is in the data set twice"),
    ],
)
def test_a_data_set_that_cannot_be_scored_is_refused(dataset, message):
    model, processor = parts()
    with pytest.raises(ValueError, match=message):
        generate_predictions(model, processor, dataset)


def test_predictions_survive_any_text(tmp_path):
    texts = {"reference": "line\nbreak \u2028 \x85 ß", "report": "half \ud83d \x00"}
    odd = [StudyReport(name, patient_id="p", seconds=0.5, settings="{}", **texts) for name in ("s", "t")]
    file = ReportFile(tmp_path / "p.jsonl", PREDICTED)
    file.write(odd[:1])
    file.write(odd[1:])
    assert read_reports(tmp_path / "p.jsonl") == odd


def test_evidence_is_written_where_there_is_some(tmp_path):
    evidence = {"Pneumothorax": {"probability": 0.75, "map": [[0.0, 1.0]], "retrieved": ["s7"]}}
    reports = [StudyReport("s", report="a", evidence=evidence), StudyReport("t", report="b")]
    path = tmp_path / "reports.jsonl"
    ReportFile(path, GENERATED).write(reports)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"study_id": "s", "images": [], "report": "a", "error": None, "evidence": evidence},
        {"study_id": "t", "images": [], "report": "b", "error": None},
    ]
    assert read_reports(path) == reports


def test_processes_that_accelerate_does_not_know_are_an_error_rather_than_duplicates(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were started, but accelerate knows 1"):
        run()
