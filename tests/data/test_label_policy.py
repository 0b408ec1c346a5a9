"""From the schema's labels to targets, by every policy; and the names of the observations."""

import math

import pytest

from mambaxray import LabelPolicy
from mambaxray.data.label_policy import has_labels
from mambaxray.data.schema import OBSERVATIONS

LEFT_OUT = "left out"


def study(**labels):
    return dict.fromkeys(OBSERVATIONS) | {name.replace("_", " "): value for name, value in labels.items()}


def targets(policy, labels):
    values = policy.targets(labels)
    assert len(values) == 14
    named = {n: LEFT_OUT if math.isnan(value) else value for n, value in zip(OBSERVATIONS, values, strict=True)}
    return named["Edema"], named["Fracture"], named["Pneumonia"], named["No Finding"]


@pytest.mark.parametrize(("uncertain", "is_uncertain"), [("ignore", LEFT_OUT), ("positive", 1), ("negative", 0)])
@pytest.mark.parametrize(("blank", "is_blank"), [("negative", 0), ("ignore", LEFT_OUT)])
def test_every_policy_says_what_uncertain_and_blank_are(uncertain, is_uncertain, blank, is_blank):
    labels = study(Edema=1, Fracture=0, Pneumonia=-1)
    assert targets(LabelPolicy(uncertain, blank), labels) == (1, 0, is_uncertain, is_blank)


def test_by_default_uncertain_is_left_out_and_blank_is_absent():
    assert targets(LabelPolicy(), study(Edema=1, Pneumonia=-1)) == (1, 0, LEFT_OUT, 0)


@pytest.mark.parametrize("blank", ["negative", "ignore"])
def test_a_study_without_any_label_says_nothing(blank):
    assert not has_labels(study())
    assert has_labels(study(Edema=0))
    assert targets(LabelPolicy(blank=blank), study()) == (LEFT_OUT,) * 4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (study() | {"Hernia": 1}, r"missing or unknown observations \['Hernia'\]"),
        ({"Edema": 1}, "missing or unknown observations"),
        (study(Edema=2), "a label is 2: must be 1, 0, -1 or None"),
    ],
)
def test_labels_that_are_not_those_of_the_schema_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        LabelPolicy().targets(labels)


@pytest.mark.parametrize(
    ("name", "allowed"), [("uncertain", "ignore, positive, negative"), ("blank", "negative, ignore")]
)
def test_an_unknown_policy_is_refused_with_those_there_are(name, allowed):
    with pytest.raises(ValueError, match=f"{name} must be one of {allowed}, got 'maybe'"):
        LabelPolicy(**{name: "maybe"})
