"""Hits, near hits, misses, inventions and normal findings left out, on pairs of reports made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mambaxray.data.schema import OBSERVATIONS
from mambaxray.evaluation.findings import (
    ENTITIES,
    ENTITY_SCORES,
    KIND_OF,
    EntityCounts,
    Verdict,
    count_entities,
    entity_table,
    judge,
)
from mambaxray.evaluation.labeler import CheXpertStyleLabeler, Reading
from mambaxray.evaluation.scoring import evaluate_reports

LABELER = CheXpertStyleLabeler()


def counts(reference, generated):
    """The counts that are not zero."""
    found = count_entities(LABELER.read(reference), LABELER.read(generated)).to_dict()
    return {name: value for name, value in found.items() if value}


def verdicts(reference, generated):
    return {name: verdict.name for name, verdict in judge(LABELER.read(reference), LABELER.read(generated)).items()}


@pytest.mark.parametrize(
    ("reference", "generated", "expected"),
    [
        ("Right pneumothorax.", "Pneumothorax.", {"hit": 1, "stated": 1}),
        ("Possible pneumonia.", "Possible pneumonia.", {"hit": 1, "stated": 1}),
        ("Possible pneumonia.", "Pneumonia.", {"near": 1, "stated": 1}),
        ("Left pneumothorax.", "Right pneumothorax.", {"near": 1, "stated": 1}),
        ("Left pneumothorax.", "Bilateral pneumothoraces.", {"hit": 1, "stated": 1}),
        ("Pneumonia.", "Right basilar opacity.", {"near": 1, "stated": 1}),
        ("Rib fracture.", "Clear lungs.", {"missed": 1}),
        ("Rib fracture.", "No fracture.", {"missed": 1, "denied": 1}),
        ("Clear lungs.", "Cardiomegaly.", {"invented": 1, "stated": 1}),
        ("No pneumothorax.", "No pneumothorax.", {"normal_kept": 1, "normal": 1}),
        ("No pneumothorax.", "Clear lungs.", {"normal_left_out": 1, "normal": 1}),
        # A normal finding that the generated report turns into a finding is invented, not left out.
        ("No pneumothorax.", "Large pneumothorax.", {"invented": 1, "stated": 1, "normal": 1}),
        ("Clear lungs.", "No pneumothorax.", {}),
        ("", "Cardiomegaly.", {"invented": 1, "stated": 1}),
        ("Cardiomegaly. No edema.", "", {"missed": 1, "normal_left_out": 1, "normal": 1}),
    ],
)
def test_one_finding_is_counted_once_and_as_what_it_is(reference, generated, expected):
    assert counts(reference, generated) == expected


def test_a_report_with_everything_is_counted_in_all_columns():
    reference = "Moderate cardiomegaly. Possible pneumonia. Rib fracture. No pneumothorax. No pleural effusion."
    generated = "Cardiomegaly. Pneumonia. Pulmonary nodule. No pleural effusion."
    expected = {"hit": 1, "near": 1, "missed": 1, "invented": 1, "stated": 3, "normal_kept": 1, "normal_left_out": 1}
    assert counts(reference, generated) == expected | {"normal": 2}
    assert verdicts(reference, generated) == {
        "Cardiomegaly": "FOUND",
        "Lung Lesion": "INVENTED",
        "Pneumonia": "CERTAINTY",
        "Pneumothorax": "LEFT_OUT",
        "Pleural Effusion": "RULED_OUT",
        "Fracture": "MISSED",
    }


def test_a_finding_and_what_it_is_a_kind_of_are_near_in_either_direction():
    assert verdicts("Consolidation.", "Opacity.") == {"Lung Opacity": "RELATED", "Consolidation": "RELATED"}
    assert verdicts("Opacity.", "Consolidation.") == {"Lung Opacity": "RELATED", "Consolidation": "RELATED"}
    assert verdicts("Pneumonia.", "Opacity.") == {"Lung Opacity": "RELATED", "Pneumonia": "RELATED"}
    assert verdicts("Widened mediastinum.", "Cardiomegaly.")["Cardiomegaly"] == "RELATED"


def test_two_kinds_of_the_same_are_not_near():
    assert verdicts("Atelectasis.", "Consolidation.") == {"Consolidation": "INVENTED", "Atelectasis": "MISSED"}


def test_one_related_finding_stands_for_one_only_and_as_many_as_possible_find_a_partner():
    assert counts("Pneumonia. Pulmonary edema.", "Opacity.") == {"near": 1, "missed": 1, "stated": 1}
    # Of the opacity, the consolidation could be a kind; but only it is left for the pneumonia.
    reference, generated = "Opacity. Pneumonia.", "Consolidation. Atelectasis."
    assert counts(reference, generated) == {"near": 2, "stated": 2}


def test_a_finding_that_has_its_match_is_no_partner_for_another():
    assert counts("Opacity. Pneumonia.", "Opacity.") == {"hit": 1, "missed": 1, "stated": 1}


def test_what_a_report_rules_out_is_never_nearly_reported():
    assert counts("Pneumonia.", "Opacity. No pneumonia.") == {"missed": 1, "denied": 1, "invented": 1, "stated": 1}
    assert counts("Opacity. No consolidation.", "Consolidation.") == {
        **{"missed": 1, "invented": 1, "stated": 1, "normal": 1}
    }


def test_the_hierarchy_names_observations_and_every_count_is_of_entities_without_no_finding():
    assert set(KIND_OF) | set(KIND_OF.values()) < set(ENTITIES)
    assert set(OBSERVATIONS) - set(ENTITIES) == {"No Finding"}
    assert len({verdict.identifier for verdict in Verdict}) == len(Verdict)


def test_every_entity_of_either_report_is_counted_exactly_once():
    generator = np.random.default_rng(0)
    for _ in range(300):
        reference, generated = (
            dict.fromkeys(OBSERVATIONS) | dict(zip(ENTITIES, map([1, 0, -1, None].__getitem__, row), strict=True))
            for row in generator.integers(0, 4, size=(2, len(ENTITIES)))
        )
        found = count_entities(Reading(reference, []), Reading(generated, []))
        assert found.hit + found.near + found.missed == sum(reference[name] in (1, -1) for name in ENTITIES)
        assert found.hit + found.near + found.invented == found.stated
        assert found.normal == sum(value == 0 for value in reference.values())
        assert found.denied <= found.missed
        assert found.normal_kept + found.normal_left_out <= found.normal


def test_shares_are_those_of_the_summed_counts():
    references = ["Cardiomegaly. Rib fracture.", "Possible pneumonia. No effusion.", "No edema. No effusion."]
    generated = ["Cardiomegaly.", "Pneumonia. Nodule.", "No edema."]
    table = entity_table([*map(LABELER.read, references)], [*map(LABELER.read, generated)])
    assert table.scores() == pytest.approx(
        {
            "entities_hit": 1 / 3,
            "entities_near": 1 / 3,
            "entities_missed": 1 / 3,
            "entities_invented": 1 / 3,
            "normal_left_out": 2 / 3,
        }
    )
    assert tuple(table.scores()) == ENTITY_SCORES
    nothing = entity_table([LABELER.read("")], [LABELER.read("")]).scores()
    assert set(nothing.values()) == {0.0}


def test_counts_add_up():
    one = EntityCounts(hit=1, stated=2)
    assert one + one == EntityCounts(hit=2, stated=4)
    assert sum([one, replace(one, near=3)], EntityCounts()).near == 3


def test_the_shares_are_scores_on_request_with_intervals():
    references = ["Cardiomegaly.", "Rib fracture.", "Edema."]
    result = evaluate_reports(references, ["Cardiomegaly.", "Clear lungs.", "Edema."], metrics=["entities"])
    assert result["scores"]["entities_hit"] == pytest.approx(2 / 3)
    low, high = result["intervals"]["entities_hit"]
    assert low < 2 / 3 < high
    assert not set(evaluate_reports(references, references, ci=False, metrics=["clinical"])["scores"]) & set(
        ENTITY_SCORES
    )
