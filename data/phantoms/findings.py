"""The findings that a phantom can show: what may be asked for."""

from dataclasses import dataclass, replace

import numpy as np

SEVERITIES = ("mild", "moderate", "severe")
_ONE_SIDE, _SIDES, _ZONES = ("left", "right"), ("left", "right", "bilateral"), ("upper", "mid", "lower")


@dataclass(frozen=True)
class Choices:
    """Values a finding's fields may take; an empty tuple stands for `("",)`."""

    sides: tuple[str, ...] = ("",)
    zones: tuple[str, ...] = ("",)
    kinds: tuple[str, ...] = ("",)


DEVICES = (
    "endotracheal tube",
    "central venous catheter",
    "pacemaker",
    "nasogastric tube",
    "chest tube",
)
SIDED_DEVICES = ("central venous catheter", "pacemaker", "chest tube")

CHOICES: dict[str, Choices] = {
    "Enlarged Cardiomediastinum": Choices(),
    "Cardiomegaly": Choices(),
    "Lung Opacity": Choices(_SIDES, _ZONES),
    "Lung Lesion": Choices(_SIDES, _ZONES),
    "Edema": Choices(("bilateral",)),
    "Consolidation": Choices(_SIDES, _ZONES),
    "Pneumonia": Choices(_SIDES, _ZONES),
    "Atelectasis": Choices(_SIDES, ("mid", "lower")),
    "Pneumothorax": Choices(_ONE_SIDE),
    "Pleural Effusion": Choices(_SIDES),
    "Pleural Other": Choices(_SIDES, _ZONES, ("thickening", "plaques")),
    "Fracture": Choices(_ONE_SIDE, _ZONES, ("acute", "healed")),
    "Support Devices": Choices(("", "left", "right"), kinds=DEVICES),
}
"""What each observation can be asked for with."""


@dataclass(frozen=True)
class Finding:
    """One thing to be seen on a phantom.

    Args:
        observation: one of `OBSERVATIONS` but "No Finding" (give no findings for that).
        side: the patient's "left" or "right", "bilateral", or "" where a side makes no sense.
        zone: "upper", "mid" or "lower", or "" where a zone makes no sense.
        severity: "mild", "moderate" or "severe".
        kind: which device, which pleural change, how old a fracture (see `CHOICES`); "" lets the seed decide.

    Raises:
        ValueError: for a value that this observation does not take; the message lists those it takes.
    """

    observation: str
    side: str = ""
    zone: str = ""
    severity: str = "moderate"
    kind: str = ""

    def __post_init__(self) -> None:
        if self.observation not in CHOICES:
            hint = "give no findings at all" if self.observation == "No Finding" else f"one of {tuple(CHOICES)}"
            raise ValueError(f"observation {self.observation!r} cannot be drawn: {hint}")
        choices = CHOICES[self.observation]
        for name, allowed in (
            ("side", choices.sides),
            ("zone", choices.zones),
            ("severity", SEVERITIES),
            ("kind", ("", *choices.kinds)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{self.observation}: {name} {value!r} is none of {allowed}")
        if self.observation == "Support Devices" and self.kind and bool(self.side) != (self.kind in SIDED_DEVICES):
            raise ValueError(f"{self.kind}: side {self.side!r}, but only {SIDED_DEVICES} have (and need) a side")

    @property
    def sides(self) -> tuple[str, ...]:
        """The patient's sides concerned."""
        return _ONE_SIDE if self.side == "bilateral" else (self.side,) if self.side else ()

    @property
    def degree(self) -> int:
        """0 for mild, 1 for moderate, 2 for severe."""
        return SEVERITIES.index(self.severity)


def complete(finding: Finding, rng: np.random.Generator) -> Finding:
    """The finding with its kind chosen where it was left open."""
    kinds = CHOICES[finding.observation].kinds
    if finding.kind or kinds == ("",):
        return finding
    if finding.observation == "Support Devices":
        kinds = tuple(kind for kind in kinds if (kind in SIDED_DEVICES) == bool(finding.side))
    return replace(finding, kind=str(rng.choice(kinds)))


_FIRST_RIB = {"upper": 2, "mid": 4, "lower": 6}


def ribs_of(fracture: Finding) -> range:
    """Indices (0 = first rib) of the broken ribs: one, two or three by severity."""
    first = _FIRST_RIB[fracture.zone]
    return range(first, first + fracture.degree + 1)
