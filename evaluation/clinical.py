"""Clinical efficacy: precision, recall and F1 of the observations that two sets of labels state.

The labels come from a report labeler (`labeler.CheXpertStyleLabeler`) run over reference and generated reports, or
from any other source in the same form. The scores follow the usual "CE metrics" (R2Gen, Chen et al., EMNLP 2020);
because published numbers differ in the observations, the averaging and the treatment of uncertain labels, every
metric's name says all three.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from ..data.schema import ABSENT, LABEL_VALUES, NOT_MENTIONED, OBSERVATIONS, PRESENT, UNCERTAIN
from .metric_table import MetricTable, check_pairs

MAIN_OBSERVATIONS: tuple[str, ...] = (
    "Cardiomegaly",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pleural Effusion",
)
"""The five "competition" observations of CheXpert (Irvin et al., AAAI 2019, section "Evaluation")."""

_SETS = {"14": list(range(len(OBSERVATIONS))), "5": [OBSERVATIONS.index(name) for name in MAIN_OBSERVATIONS]}
MEASURES = ("precision", "recall", "F1")

Labels = Mapping[str, int | None]
Uncertain = Literal["positive", "negative", "ignore"]


def label_scores(
    references: Sequence[Labels], hypotheses: Sequence[Labels], *, uncertain: Uncertain = "negative"
) -> dict[str, float]:
    """Precision, recall and F1 of `hypotheses` against `references`, one label dict per study in each.

    A label dict has one value for each of `OBSERVATIONS`: 1 (present), 0 (absent), -1 (uncertain) or None (not
    mentioned). Presence is the positive class; absent and not mentioned are negative. `uncertain` says what -1 is:

    - "positive" or "negative", in references and hypotheses alike;
    - "ignore": a cell (study, observation) whose *reference* is uncertain is left out. An uncertain hypothesis still
      counts as negative, so a system gains nothing by hedging.

    Names and values (all in [0, 1], but supports are counts):

    - `{precision,recall,F1}_{micro,macro,example}_{14,5}_uncertain-{uncertain}`: over all 14 observations, and over
      the five of `MAIN_OBSERVATIONS`. Micro pools all cells; macro is the mean over observations; example is the
      mean over studies (F1 averaged, not computed from the averaged precision and recall).
    - `{precision,recall,F1,support}_{observation}_uncertain-{uncertain}`: one observation over all studies; its
      support is the number of studies whose reference is positive.

    A ratio with a zero denominator is 0, as scikit-learn's `zero_division=0`: an observation that neither side ever
    states has F1 0 and lowers the macro mean, and a study without positives on either side has example F1 0 (among
    the 14, No Finding normally prevents that; among the 5 every normal study is one).

    Raises:
        ValueError: no studies, different numbers of references and hypotheses, an observation missing or unknown,
            a value outside `LABEL_VALUES`, or an unknown `uncertain`.
    """
    table = label_table(references, hypotheses, uncertain=uncertain)
    return {name: int(value) if name.startswith("support_") else value for name, value in table.scores().items()}


def label_table(
    references: Sequence[Labels], hypotheses: Sequence[Labels], *, uncertain: Uncertain = "negative"
) -> MetricTable:
    """The scores of `label_scores` in a form that can be resampled; raises what that function raises.

    Single studies have the example-based scores (`per_sample`). Statistics per study: hits, stated and true of each
    observation (14 each), then the six example-based values and a one.
    """
    if uncertain not in get_args(Uncertain):
        raise ValueError(f"uncertain={uncertain!r}: must be one of {', '.join(get_args(Uncertain))}")
    check_pairs(references, hypotheses)

    uncertain_is_positive = uncertain == "positive"
    reference_values = _to_array(references, "references")
    reference = _is_positive(reference_values, uncertain_is_positive)
    hypothesis = _is_positive(_to_array(hypotheses, "hypotheses"), uncertain_is_positive)
    counted = reference_values != UNCERTAIN if uncertain == "ignore" else np.ones_like(reference)
    counts = (reference & hypothesis & counted, hypothesis & counted, reference & counted)

    example = {
        f"{measure}_example_{size}_uncertain-{uncertain}": values
        for size, chosen in _SETS.items()
        for measure, values in precision_recall_f1(*(cells[:, chosen].sum(axis=1) for cells in counts))
    }
    ones = np.ones((len(references), 1))
    statistics = np.concatenate([*counts, np.stack([*example.values()], axis=1), ones], axis=1)
    return MetricTable(tuple(score_names(uncertain)), statistics, _corpus_scores, example)


def score_names(uncertain: Uncertain) -> Iterator[str]:
    """The names of `label_scores` for one treatment of uncertain labels, in its order."""
    for kind in (
        *(f"{averaging}_{size}" for size in _SETS for averaging in ("micro", "macro", "example")),
        *OBSERVATIONS,
    ):
        yield from (f"{measure}_{kind}_uncertain-{uncertain}" for measure in MEASURES)
        if kind in OBSERVATIONS:
            yield f"support_{kind}_uncertain-{uncertain}"


def _corpus_scores(sums: np.ndarray) -> np.ndarray:
    """Scores `(..., 74)` in the order of `score_names` from summed statistics `(..., 49)`."""
    width = len(OBSERVATIONS)
    counts = [sums[..., start : start + width] for start in range(0, 3 * width, width)]
    examples, studies = sums[..., 3 * width : -1], sums[..., -1]
    scores = []
    for index, chosen in enumerate(_SETS.values()):
        of_set = [cells[..., chosen] for cells in counts]
        scores += [values for _, values in precision_recall_f1(*(cells.sum(axis=-1) for cells in of_set))]
        scores += [values.mean(axis=-1) for _, values in precision_recall_f1(*of_set)]
        scores += [examples[..., 3 * index + column] / studies for column in range(3)]
    for column in range(width):
        of_observation = [cells[..., column] for cells in counts]
        scores += [values for _, values in precision_recall_f1(*of_observation)]
        scores.append(of_observation[2])
    return np.stack(scores, axis=-1)


def _to_array(labels: Sequence[Labels], what: str) -> np.ndarray:
    """`(studies, 14)` integers, not mentioned as absent."""
    values = np.empty((len(labels), len(OBSERVATIONS)), dtype=np.int8)
    for row, study in enumerate(labels):
        if study.keys() != set(OBSERVATIONS):
            wrong = sorted(set(OBSERVATIONS) ^ study.keys())
            raise ValueError(f"{what}[{row}]: missing or unknown observations {wrong}; need the 14 of OBSERVATIONS")
        for column, name in enumerate(OBSERVATIONS):
            value = study[name]
            if value not in LABEL_VALUES:
                raise ValueError(f"{what}[{row}][{name!r}] is {value!r}: must be one of {LABEL_VALUES}")
            values[row, column] = ABSENT if value is NOT_MENTIONED else value
    return values


def positives(labels: Sequence[Labels]) -> np.ndarray:
    """Which of the 14 observations each study states as present, `(studies, 14)` booleans."""
    return _is_positive(_to_array(labels, "labels"), False)


def _is_positive(values: np.ndarray, uncertain_is_positive: bool) -> np.ndarray:
    return (values == PRESENT) | (uncertain_is_positive & (values == UNCERTAIN))


def precision_recall_f1(hits: np.ndarray, stated: np.ndarray, true: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Precision, recall and F1 by name, from counts of hits, of what was stated and of what is true; 0 where 0 by 0."""
    values = (_ratio(hits, stated), _ratio(hits, true), _ratio(2 * hits, stated + true))
    yield from zip(MEASURES, values, strict=True)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """0 where the denominator is 0 (then the numerator is 0 too)."""
    return np.asarray(numerator / np.maximum(denominator, 1))
