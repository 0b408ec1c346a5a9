"""The report on an evaluation: what a reader, and a parser, finds in it."""

import re

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from mambaxray.data.schema import OBSERVATIONS
from mambaxray.evaluation.clinical import label_scores
from mambaxray.evaluation.labeler import CheXpertStyleLabeler
from mambaxray.evaluation.pages.charts import histogram
from mambaxray.evaluation.pages.evaluation_page import write_evaluation_page
from mambaxray.evaluation.pages.scores import observation_scores
from mambaxray.evaluation.study_report import StudyReport


def studies(count=50):
    return [
        StudyReport(
            f"s{number}",
            reference="Moderate cardiomegaly. No pleural effusion.",
            report="Moderate cardiomegaly." if number % 2 else "The heart is normal. Small pleural effusion.",
        )
        for number in range(count)
    ]


def result_of(shown):
    labeler = CheXpertStyleLabeler()
    references, hypotheses = (labeler.batch(getattr(s, name) for s in shown) for name in ("reference", "report"))
    scores = {"Bleu_4": 0.123, "CIDEr": 0.456} | label_scores(references, hypotheses)
    return {
        "scores": scores,
        "per_sample": {"ROUGE_L": [index / len(shown) for index in range(len(shown))]},
        "intervals": {"Bleu_4": (0.101, 0.145)},
        "honesty": {
            "unique_ratio": 0.04,
            "reference_unique_ratio": 0.88,
            "length_ratio": 0.9,
            "constant_reports": {"Bleu_4": "No acute disease."},
            "baselines": {"best constant report": {"Bleu_4": 0.111}, "random training report": {"Bleu_4": 0.022}},
        },
        "signature": "nrefs:1|tok:none|version:mambaxray-0",
        "unavailable": {"METEOR": "needs Java: install it"},
    }


@pytest.fixture
def page(tmp_path):
    def write(given=None, *, result=None, **more):
        given = studies() if given is None else given
        path = write_evaluation_page(tmp_path / "new" / "page.html", result or result_of(given), given, **more)
        return Page(path.read_text(encoding="utf-8"))

    return write


def test_scores_stand_beside_their_intervals_baselines_and_signature(page):
    text = page().text
    assert {"Bleu_4", "0.123", "0.101 to 0.145", "best constant report", "0.111", "0.022"} <= set(text)
    assert "nrefs:1|tok:none|version:mambaxray-0" in text


def test_honesty_checks_stand_beside_those_of_the_references(page):
    assert {"Unique reports", "0.040", "0.880", "Length ratio", "0.900"} <= set(page().text)


def test_what_could_not_be_computed_is_told_with_its_cure(page):
    assert "METEOR: needs Java: install it" in page().text


def test_the_best_constant_report_can_be_read(page):
    assert "No acute disease." in page().reports


def test_every_score_is_on_the_page_in_words_with_its_identifier_as_a_tooltip(page):
    shown = page()
    identifiers = {attributes.get("title") for attributes in shown.all("th")}
    assert set(result_of(studies())["scores"]) <= identifiers | set(shown.text)
    assert "F1_micro_14_uncertain-negative" in identifiers
    assert "Finding F1, micro, 14 observations, uncertain as negative" in shown.text
    assert "Edema, recall, uncertain as negative" in shown.text
    assert not [text for text in shown.text if "uncertain-" in text]
    assert shown.all("details")


def test_an_observation_that_no_reference_reports_has_a_dash_and_no_zero(page):
    given = studies()
    result = result_of(given)
    absent = [name for name in OBSERVATIONS if result["scores"][f"support_{name}_uncertain-negative"] == 0]
    assert absent
    assert len(absent) < len(OBSERVATIONS)
    rows = {row.name: row for row in observation_scores(result["scores"])}
    for name in OBSERVATIONS:
        values = (rows[name].precision, rows[name].recall, rows[name].f1)
        assert (values == (None, None, None)) == (name in absent)
    text = [part.strip() for part in page(given, result=result).text if part.strip()]
    for name in absent:
        start = text.index(name)
        assert text[start + 1 : start + 5] == ["0", "\N{EN DASH}", "\N{EN DASH}", "\N{EN DASH}"]
        assert text[text.index(f"{name}, F1, uncertain as negative") + 1] == "\N{EN DASH}"


def test_all_observations_have_their_bar_and_lengths_their_chart(page):
    shown = page()
    assert len(shown.all("span", **{"class": "track"})) == 14
    (chart,) = [attributes["aria-label"] for attributes in shown.all("svg", role="img")]
    assert chart == "Length of the reports: reference: median 5; generated: median 4.5"


def test_the_best_and_worst_20_are_shown_the_extremes_first(page):
    text = page().text
    shown = [part.strip() for part in text if re.fullmatch(r"Study s\d+ ?", part)]
    assert shown == [f"Study s{number}" for number in (*range(49, 29, -1), *range(20))]
    assert {"The best 20 by ROUGE_L", "The worst 20 by ROUGE_L", "ROUGE_L 0.980", "ROUGE_L 0.000"} <= set(text)


@pytest.mark.parametrize(("count", "best", "worst"), [(1, 1, 0), (5, 3, 2), (40, 20, 20)])
def test_no_study_is_among_the_best_and_the_worst(page, count, best, worst):
    text = page(studies(count)).text
    shown = [part for part in text if part.startswith("Study s")]
    assert len(shown) == len(set(shown)) == best + worst
    assert (f"The worst {worst} by ROUGE_L" in text) == (worst > 0)


def test_matched_and_contradicted_findings_are_marked(page):
    shown = page()
    assert {("found", "cardiomegaly"), ("invented", "pleural effusion")} <= {(c, w.lower()) for c, w in shown.marks}


def test_images_are_read_from_the_data_set_for_the_shown_studies_only(page):
    read = []

    class Row(dict):
        def __getitem__(self, key):
            if key == "images":
                read.append(self["study_id"])
            return super().__getitem__(key)

    picture = Image.fromarray(np.full((40, 30), 90, np.uint8))
    rows = [Row(study_id=f"s{number}", images=[picture], views=["PA"]) for number in range(50)]
    shown = page(dataset=rows, shown=3)
    assert sorted(set(read)) == ["s0", "s1", "s2", "s47", "s48", "s49"]
    assert len(shown.all("img")) == 6
    assert "PA" in shown.text


def test_nothing_is_fetched_and_nothing_runs_and_texts_are_data(page):
    evil = '<script>alert("1")</script>'
    shown = page([StudyReport(evil, reference=evil, report=evil)], title=evil, summary=evil, notes=[evil])
    assert not shown.all("script")
    addresses = [attributes[key] for _, attributes in shown.elements for key in ("src", "href") if key in attributes]
    assert all(address.startswith("#") for address in addresses)


def test_an_evaluation_without_label_scores_intervals_or_baselines_has_a_page(page):
    result = {
        "scores": {"Bleu_4": 0.5},
        "per_sample": {"Bleu_4": [0.5] * 4},
        "intervals": {},
        "honesty": {"unique_ratio": 1.0},
        "signature": "x",
    }
    text = page(studies(4), result=result).text
    assert {"Bleu_4", "0.500", "The best 2 by Bleu_4"} <= set(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank_by": "CIDEr"}, "rank_by='CIDEr'.*there are ROUGE_L"),
        ({"result": result_of(studies(3))}, "50 studies, but the result is of 3"),
    ],
)
def test_what_does_not_belong_together_is_refused(page, options, message):
    with pytest.raises(ValueError, match=message):
        page(**options)


def test_a_histogram_has_one_outline_per_sample_and_keeps_far_values_in_its_last_bin():
    chart = histogram("Lengths", "words", {"a": [1, 2, 3] * 200, "b": [2, 10_000], "c": []}, bins=4)
    assert [int(n) for n in re.findall(r'class="line line-(\d)" d="M[\d. ]+L', chart)].count(0) == 1
    assert "nan" not in chart
    assert "a: median 2; b: median 5001" in chart
    assert histogram("Lengths", "words", {"a": []}) == ""
