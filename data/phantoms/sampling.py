"""The findings of a random study: how many, how often each, and which do not go together."""

import numpy as np

from .findings import CHOICES, DEVICES, SEVERITIES, SIDED_DEVICES, Finding
from .streams import CLINIC, stream

_NORMAL = 0.22
"""Share of studies without any finding but devices."""
_WEIGHTS = {
    "Enlarged Cardiomediastinum": 0.8,
    "Cardiomegaly": 1.5,
    "Lung Opacity": 1.2,
    "Lung Lesion": 1.0,
    "Edema": 1.1,
    "Consolidation": 1.0,
    "Pneumonia": 1.0,
    "Atelectasis": 1.2,
    "Pneumothorax": 1.0,
    "Pleural Effusion": 1.6,
    "Pleural Other": 0.8,
    "Fracture": 0.8,
}
"""How often an observation is drawn relative to the others."""
_DEVICES = 0.2
"""Share of studies with support devices."""


def sample_findings(seed: int, *, crowded: bool = False) -> list[Finding]:
    """Findings of a random study: none to three observations, and perhaps devices; `crowded` ones show up to six."""
    rng = stream(seed, CLINIC)
    names = np.array(list(_WEIGHTS))
    weights = np.array(list(_WEIGHTS.values()))
    count = int(rng.choice([0, 1, 2, 3], p=[_NORMAL, *(np.array([0.45, 0.37, 0.18]) * (1 - _NORMAL))]))
    if crowded:
        # Rare findings as often as others.
        count, weights = int(rng.integers(0, 7)), np.ones(len(names))
    chosen = rng.choice(names, count, replace=False, p=weights / weights.sum())
    findings: list[Finding] = []
    for name in chosen:
        tries = (sample_finding(str(name), rng) for _ in range(10))
        fitting = next((f for f in tries if not any(clash(f, other) for other in findings)), None)
        if fitting is not None:
            findings.append(fitting)
    if rng.uniform() < (2 * _DEVICES if crowded else _DEVICES):
        kinds = rng.choice(DEVICES, int(rng.choice([1, 2], p=[0.7, 0.3])), replace=False)
        for kind in kinds:
            side = str(rng.choice(["left", "right"])) if kind in SIDED_DEVICES else ""
            findings.append(Finding("Support Devices", side, kind=str(kind)))
    return findings


_PARENCHYMAL = ("Lung Opacity", "Lung Lesion", "Consolidation", "Pneumonia", "Atelectasis")


def clash(one: Finding, other: Finding) -> bool:
    """Whether one would hide the other: two changes of one zone, or a lung drowned or collapsed around it."""
    if not set(one.sides) & set(other.sides):
        return False
    zoned = [f for f in (one, other) if f.observation in _PARENCHYMAL]
    if len(zoned) == 2:
        return one.zone == other.zone
    hiding = {"Pneumothorax": ("severe",), "Pleural Effusion": ("moderate", "severe")}
    pleural = [f for f in (one, other) if f.observation in hiding and f.severity in hiding[f.observation]]
    thick = "Pleural Other" in (one.observation, other.observation)
    return bool(pleural and (zoned or thick))


def sample_names(count: int, rng: np.random.Generator, without: set[str]) -> list[str]:
    """Different observations, each as often as it is drawn otherwise, but for those that are left out."""
    weights = {name: weight for name, weight in _WEIGHTS.items() if name not in without}
    shares = np.array(list(weights.values()))
    return [str(name) for name in rng.choice(list(weights), count, replace=False, p=shares / shares.sum())]


def sample_finding(name: str, rng: np.random.Generator) -> Finding:
    """A finding of this observation, its side, zone, severity and kind at random."""
    choices = CHOICES[name]
    side = str(rng.choice(choices.sides))
    if side == "bilateral" and len(choices.sides) > 1 and rng.uniform() < 0.4:
        side = str(rng.choice(["left", "right"]))
    return Finding(
        name, side, str(rng.choice(choices.zones)), str(rng.choice(SEVERITIES)), str(rng.choice(choices.kinds))
    )
