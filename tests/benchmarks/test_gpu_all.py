"""The measurements for a GPU run, on small sizes, on a CPU."""

import gpu_all
import pytest
from made_up_streams import made_up_streams


@pytest.mark.slow
def test_the_small_form_runs_every_section_and_prints_goals_beside_results(tmp_path, capsys):
    output = tmp_path / "report.md"
    assert gpu_all.main(["--device", "cpu", "--small", "--output", str(output)]) == 0
    text = output.read_text(encoding="utf-8")
    assert "Failed" not in text
    assert text.index("## Goals") < min(text.index(f"## {name.capitalize()}") for name in gpu_all.SECTIONS)
    assert "| scan, float32, relative error of output and gradients: at most 1e-05 |" in text
    assert "reports in float32 that differ from plain generate's: at most 0 | 0 | yes |" in text
    assert "PyTorch's sanitizer of streams needs a GPU." in text
    assert "| beside steps |" in text
    assert "| between steps |" in text
    assert "no**" not in text
    assert "| not quantised | 2 (24 tokens) |" in text
    assert text.strip().splitlines()[-1].startswith("(")


def test_what_the_sanitizer_is_to_see_computes_prompts_beside_steps(monkeypatch):
    with pytest.raises(RuntimeError, match="there is no second stream on cpu"):
        gpu_all.generate_on_two_streams("cpu")
    with made_up_streams(monkeypatch) as streams:
        gpu_all.generate_on_two_streams("cpu")
    assert sum(count for stream, count in streams.operators.items() if stream) > 500


def test_without_a_gpu_it_says_how_it_runs_nevertheless(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_all.main([])
    assert "--device cpu --small" in capsys.readouterr().err


def test_a_section_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    def fail(report):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(gpu_all.SECTIONS, "scan", (fail, 1))
    output = tmp_path / "report.md"
    arguments = ["--device", "cpu", "--small", "--sections", "scan", "correctness", "--output", str(output)]
    assert gpu_all.main(arguments) == 1
    text = output.read_text(encoding="utf-8")
    assert "**Failed**: RuntimeError: out of memory" in text
    assert "relative error of output and gradients" in text
    assert "Failed or left out: scan." in text
