"""Patients with two studies: what appears, grows, shrinks, goes or stays between them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .findings import SEVERITIES, Finding
from .sampling import clash, sample_finding, sample_findings, sample_names
from .streams import CLINIC, stream

CHANGES = ("new", "improved", "unchanged", "worse", "resolved")
"""What a finding of the second study can be when it is compared with the first."""

_CHANCES = {"improved": 0.25, "unchanged": 0.3, "worse": 0.25, "resolved": 0.2}
_LASTING = ("Fracture", "Pleural Other")
"""What does not change from one study to the next."""
_NEW = (0.4, 0.45, 0.15)
"""How often none, one and two findings are new."""
_MOST = 3
"""Observations of one study, devices aside."""


@dataclass(frozen=True)
class History:
    """A patient's two studies.

    Attributes:
        visits: the findings of the first and of the second study.
        changes: of the second study against the first, one of `CHANGES` for each observation that either shows, devices
            aside. An observation is shown once in a study, at one place.
        gone: the findings that have resolved, as they were.
    """

    visits: tuple[tuple[Finding, ...], tuple[Finding, ...]]
    changes: dict[str, str]
    gone: tuple[Finding, ...]


def sample_history(seed: int) -> History:
    """The history of a random patient; the first study's findings are those of `make_study(seed)`."""
    first = sample_findings(seed)
    rng = stream(seed, CLINIC, 2)
    second: list[Finding] = []
    gone: list[Finding] = []
    for finding in first:
        if finding.observation == "Support Devices":
            second.append(finding)
            continue
        later = _evolve(finding, rng)
        if later is None:
            gone.append(finding)
        else:
            second.append(later)
    # One that grew must not hide another; none did as they were.
    while hiding := next((f for f in second if _hides(f, second)), None):
        was = next(f for f in first if f.observation == hiding.observation)
        if hiding == was:
            hiding = next(f for f in second if clash(f, hiding) and f not in first)
            was = next(f for f in first if f.observation == hiding.observation)
        second[second.index(hiding)] = was
    _add_new(first, second, rng)
    return History((tuple(first), tuple(second)), _changes(first, second), tuple(gone))


def _evolve(finding: Finding, rng: np.random.Generator) -> Finding | None:
    """The finding at the second study; None when it has resolved."""
    chances = dict(_CHANCES)
    if finding.degree == 0:
        del chances["improved"]
    if finding.degree == len(SEVERITIES) - 1:
        del chances["worse"]
    if finding.observation in _LASTING:
        chances = {"unchanged": 1.0}
    weights = np.array(list(chances.values()))
    match str(rng.choice(list(chances), p=weights / weights.sum())):
        case "resolved":
            return None
        case "unchanged":
            return finding
        case change:
            step = 1 if change == "worse" else -1
            return replace(finding, severity=SEVERITIES[finding.degree + step])


def _hides(finding: Finding, others: Sequence[Finding]) -> bool:
    return any(other is not finding and clash(finding, other) for other in others)


def _add_new(first: Sequence[Finding], second: list[Finding], rng: np.random.Generator) -> None:
    room = _MOST - sum(f.observation != "Support Devices" for f in second)
    known = {finding.observation for finding in first}
    for name in sample_names(min(room, int(rng.choice(3, p=_NEW))), rng, known):
        tries = (sample_finding(name, rng) for _ in range(10))
        fitting = next((f for f in tries if not any(clash(f, other) for other in second)), None)
        if fitting is not None:
            # What is new has not healed yet.
            second.append(replace(fitting, kind="acute") if name == "Fracture" else fitting)


def _changes(first: Sequence[Finding], second: Sequence[Finding]) -> dict[str, str]:
    before = {f.observation: f for f in first if f.observation != "Support Devices"}
    after = {f.observation: f for f in second if f.observation != "Support Devices"}
    changes = {}
    for name in [*before, *(name for name in after if name not in before)]:
        if name not in after:
            changes[name] = "resolved"
        elif name not in before:
            changes[name] = "new"
        else:
            step = after[name].degree - before[name].degree
            changes[name] = "unchanged" if step == 0 else "worse" if step > 0 else "improved"
    return changes


__all__ = ["CHANGES", "History", "sample_history"]
