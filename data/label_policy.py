"""What labels of the schema are to a loss and to scores: present, absent, or left out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from .schema import ABSENT, NOT_MENTIONED, OBSERVATIONS, PRESENT, UNCERTAIN

UncertainPolicy = Literal["ignore", "positive", "negative"]
BlankPolicy = Literal["negative", "ignore"]


@dataclass(frozen=True)
class LabelPolicy:
    """Turns a study's labels into targets. A study without any label says nothing, so all of it is left out.

    Attributes:
        uncertain: what a label -1 is. It is left out by default: whether it is better taken for present or absent
            differs by observation (Irvin et al., AAAI 2019, table 3), and leaving it out claims nothing.
        blank: what an observation is that a labelled report does not mention. It is absent by default: reports name
            what they find and pass over most of what they don't, and "No Finding" is never labelled 0, so that without
            blanks it would have no negative studies at all.

    Raises:
        ValueError: there is no such policy.
    """

    uncertain: UncertainPolicy = "ignore"
    blank: BlankPolicy = "negative"

    def __post_init__(self) -> None:
        for name, policy in (("uncertain", UncertainPolicy), ("blank", BlankPolicy)):
            if getattr(self, name) not in get_args(policy):
                raise ValueError(f"{name} must be one of {', '.join(get_args(policy))}, got {getattr(self, name)!r}")

    def targets(self, labels: Mapping[str, int | None]) -> list[float]:
        """1 present, 0 absent, NaN left out, in the order of `OBSERVATIONS`.

        Raises:
            ValueError: an observation is missing or unknown, or a value is none of `LABEL_VALUES`.
        """
        if labels.keys() != set(OBSERVATIONS):
            wrong = sorted(set(OBSERVATIONS) ^ labels.keys())
            raise ValueError(f"missing or unknown observations {wrong}; labels need the 14 of OBSERVATIONS")
        if not has_labels(labels):
            return [math.nan] * len(OBSERVATIONS)
        values = {
            PRESENT: 1.0,
            ABSENT: 0.0,
            UNCERTAIN: {"positive": 1.0, "negative": 0.0, "ignore": math.nan}[self.uncertain],
            NOT_MENTIONED: {"negative": 0.0, "ignore": math.nan}[self.blank],
        }
        try:
            return [values[labels[name]] for name in OBSERVATIONS]
        except KeyError as error:
            raise ValueError(f"a label is {error.args[0]!r}: must be 1, 0, -1 or None") from error


def has_labels(labels: Mapping[str, int | None]) -> bool:
    """Whether a study is labelled at all."""
    return any(value is not NOT_MENTIONED for value in labels.values())


__all__ = ["BlankPolicy", "LabelPolicy", "UncertainPolicy", "has_labels"]
