"""METEOR 1.5 by its authors' Java program, run once over files.

The usual way, pycocoevalcap's, talks with the program line by line through a pipe and waits forever when a report
holds a line break. Here one process reads two files and writes sufficient statistics, so that the corpus score, each
study's score and a bootstrap come from one run.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from .java import pycocoevalcap_file, run_java, write_lines
from .metric_table import MetricTable, MetricUnavailableError
from .tokenization import one_line

_JAR = "meteor/meteor-1.5.jar"
# The tuned parameters of METEOR 1.5 for English, task "rank" (Denkowski and Lavie, WMT 2014, table 1).
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MATCHER_WEIGHTS = np.asarray([1.0, 0.6, 0.8, 0.6])
"""Exact, stem, synonym, paraphrase."""
_COLUMNS = 23


def meteor_tables(
    references: Sequence[str], systems: Sequence[Sequence[str]], *, timeout: float | None = None
) -> list[MetricTable]:
    """METEOR 1.5 (`-l en -norm`) of every system, from one run of the program.

    Statistics per study, as the program writes them: words of the hypothesis and of the reference, function words of
    each; for each of four matchers the content words matched in hypothesis and reference and the function words
    matched in each; chunks; words matched in each. The corpus score comes from their sums and is not the mean over
    studies.

    Raises:
        MetricUnavailableError: no Java, no pycocoevalcap, or the program failed.
    """
    hypotheses = [one_line(text) for system in systems for text in system]
    statistics = _run([one_line(text) for text in references] * len(systems), hypotheses, timeout)
    tables = []
    for part in np.split(statistics, len(systems)):
        per_sample = {"METEOR": meteor_scores(part)[:, 0]}
        tables.append(MetricTable(("METEOR",), part, meteor_scores, per_sample))
    return tables


def _run(references: Sequence[str], hypotheses: Sequence[str], timeout: float | None) -> np.ndarray:
    jar = pycocoevalcap_file(_JAR)
    with TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("hypotheses", "references")]
        write_lines(files[0], hypotheses)
        write_lines(files[1], references)
        arguments = ["-Xmx2G", "-jar", str(jar), *map(str, files), "-l", "en", "-norm", "-ssOut"]
        output = run_java(arguments, what="METEOR", texts=len(hypotheses), timeout=timeout)
    rows = [line.split() for line in output.splitlines() if line]
    if len(rows) != len(hypotheses) or any(len(row) != _COLUMNS for row in rows):
        raise MetricUnavailableError(f"METEOR gave {len(rows)} results for {len(hypotheses)} reports")
    statistics = np.asarray(rows, dtype=np.float64)
    # A hypothesis that matches its reference word by word has no penalty, neither alone nor within a corpus.
    perfect = (statistics[:, 20] == 1) & (statistics[:, 21] == statistics[:, 0])
    statistics[perfect & (statistics[:, 22] == statistics[:, 1]), 20] = 0
    return statistics


def meteor_scores(sums: np.ndarray) -> np.ndarray:
    """METEOR `(..., 1)` of summed statistics `(..., 23)` (Denkowski and Lavie, WMT 2014, section 2)."""
    words, reference_words, function_words, reference_function_words = (sums[..., i] for i in range(4))
    content, reference_content, function, reference_function = (
        sums[..., 4 + i : 20 : 4] @ _MATCHER_WEIGHTS for i in range(4)
    )
    precision = _ratio(_mixed(content, function), _mixed(words - function_words, function_words))
    recall = _ratio(
        _mixed(reference_content, reference_function),
        _mixed(reference_words - reference_function_words, reference_function_words),
    )
    mean = _ratio(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    fragmentation = _ratio(sums[..., 20], (sums[..., 21] + sums[..., 22]) / 2)
    return (mean * (1 - _GAMMA * fragmentation**_BETA))[..., None]


def _mixed(content: np.ndarray, function: np.ndarray) -> np.ndarray:
    return _DELTA * content + (1 - _DELTA) * function


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator != 0)
