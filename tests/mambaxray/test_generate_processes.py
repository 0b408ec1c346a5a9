"""`mambaxray generate` in several processes, and with one of them lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COUNT = 41
COMMAND = [sys.executable, "-m", "mambaxray.cli", "generate"]
ENVIRONMENT = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def table(pictures: list[Path], tmp_path: Path) -> Path:
    """An odd number of studies; one has an image that can't be read."""
    (tmp_path / "bad.png").write_text("not a picture")
    images = [str(pictures[number % len(pictures)]) for number in range(COUNT)]
    images[5] = "bad.png"
    path = tmp_path / "studies.csv"
    path.write_text("study_id,image\n" + "".join(f"{number},{image}\n" for number, image in enumerate(images)))
    return path


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_torchrun_writes_what_one_process_writes_in_the_same_order(
    model_folder: Path, table: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    options = ["-m", str(model_folder), "--max-new-tokens", "9", "--num-beams", "2", "--workers", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    for start, output in zip(([], torchrun), outputs, strict=True):
        result = subprocess.run(
            [*start, *COMMAND, str(table), *options, "-o", str(output)],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )
        assert f"{COUNT - 1} of {COUNT} studies have a report in {output}, 1 failed" in result.stderr
        assert result.stderr.count("not a medical device") == 1, "only one process talks"
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert [record["study_id"] for record in records(outputs[1])] == [str(number) for number in range(COUNT)]


def test_a_lost_process_is_told_and_its_studies_can_be_resumed(model_folder: Path, table: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    options = [str(table), "-m", str(model_folder), "-o", str(output), "--batch-size", "1"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**ENVIRONMENT, **{name: str(value) for name, value in place.items()}}
        processes.append(subprocess.Popen([*COMMAND, *options], stderr=subprocess.PIPE, text=True, env=environment))
    deadline = time.monotonic() + 120
    while not (output.exists() and output.read_text().count("\n") >= 4):
        assert processes[0].poll() is None, processes[0].stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    _, told = processes[0].communicate(timeout=60)
    processes[1].communicate()
    assert processes[0].returncode == 3, told
    assert "another process has ended before its reports were written" in told
    kept = [record["study_id"] for record in records(output)]
    assert 4 <= len(kept) < COUNT
    assert kept == [str(number) for number in range(len(kept))]

    again = subprocess.run([*COMMAND, *options, "--resume"], capture_output=True, text=True, env=ENVIRONMENT)
    assert again.returncode == 1, "one image can't be read"
    assert sorted(int(record["study_id"]) for record in records(output)) == list(range(COUNT))
