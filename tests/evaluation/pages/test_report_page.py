"""The result page: what a reader, and a parser, finds in it."""

import json
import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from mambaxray.evaluation.clinical import label_scores
from mambaxray.evaluation.findings import Verdict
from mambaxray.evaluation.labeler import CheXpertStyleLabeler
from mambaxray.evaluation.pages.charts import Curve, Line, line_chart
from mambaxray.evaluation.pages.marks import compare_findings, marked_html
from mambaxray.evaluation.pages.report_page import write_report_page
from mambaxray.evaluation.pages.scores import (
    ObservationScore,
    ScoreRow,
    ScoreTable,
    observation_scores,
)
from mambaxray.evaluation.study_report import StudyReport

SCORES = ScoreTable(("Model", "Constant report"), [ScoreRow("Label F1", (0.8123, None), "Findings reported")])


def study(reference="No pneumothorax.", hypothesis="No pneumothorax.", *, name="s1", views=("PA",)):
    pictures = [Image.fromarray(np.full((40, 30 + i), 99, np.uint8)) for i in range(len(views))]
    return StudyReport(name, pictures, views=views, reference=reference, report=hypothesis)


@pytest.fixture
def page(tmp_path):
    def write(*studies, **more):
        options = {"title": "Results", "summary": "A summary.", "scores": SCORES} | more
        path = write_report_page(tmp_path / "new" / "index.html", studies=studies or [study()], **options)
        return Page(path.read_text(encoding="utf-8"))

    return write


def test_every_study_is_shown_with_its_images_and_both_reports(page):
    shown = page(study(name="a"), study(name="b", views=("PA", "LATERAL")), study("R", "H", name="c"))
    assert len(shown.all("article")) == 3
    assert len(shown.all("img")) == 4
    assert shown.reports[-2:] == ["R", "H"]
    assert {"Study a", "Study b", "Study c", "PA", "LATERAL"} <= set(shown.text)


def test_images_are_embedded_decodable_and_described(page):
    images = page(study(views=("PA", "LATERAL"))).all("img")
    for image, view, size in zip(images, ("PA", "LATERAL"), ((30, 40), (31, 40)), strict=True):
        header, data = image["src"].split(",")
        assert header == "data:image/jpeg;base64"
        assert Image.open(BytesIO(b64decode(data))).size == size
        assert (int(image["width"]), int(image["height"])) == size
        assert image["alt"] == f"Chest X-ray, {view} view, study s1"


def test_large_and_16_bit_images_become_small_grey_pictures(page, tmp_path):
    ramp = np.linspace(0, 4095, 1500 * 1000).reshape(1500, 1000).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    image = page(StudyReport("s", [tmp_path / "deep.png"], views=[""], reference="a", report="b")).all("img")[0]
    picture = Image.open(BytesIO(b64decode(image["src"].split(",")[1])))
    assert max(picture.size) == 640
    low, high = picture.convert("L").getextrema()
    assert low < 20
    assert high > 235


def test_nothing_is_fetched_and_nothing_runs(page):
    shown = page(curves=[Curve("Loss", "step", "loss", [Line("training", [0, 1], [2, 1])])])
    addresses = [attributes[key] for _, attributes in shown.elements for key in ("src", "href") if key in attributes]
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    assert not shown.all("script")
    assert not shown.all("link")
    policy = shown.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'")


def test_texts_are_data_wherever_they_come_from(page):
    evil = '<script>alert("1")</script>&amp;'
    shown = page(
        StudyReport(evil, study().images, views=(evil,), reference=evil, report=f"{evil} Cardiomegaly. {evil}"),
        title=evil,
        summary=evil,
        scores=ScoreTable((evil,), [ScoreRow(evil, (1.0,), evil)]),
        observations=[ObservationScore(evil, 1, 1.0, 1.0, 1.0)],
        curves=[Curve(evil, evil, evil, [Line(evil, [0, 1], [1, 2])])],
        notes=[evil],
    )
    assert not shown.all("script")
    assert shown.reports == [evil, f"{evil} Cardiomegaly. {evil}"]
    assert "".join(shown.text).count(evil) >= 13
    assert shown.all("img")[0]["alt"] == f"Chest X-ray, {evil} view, study {evil}"


def test_unicode_newlines_and_odd_characters_survive(page):
    text = "Кардиомегалия 心脏 🫁\nno “pneumothorax” — naïve\u2028end\x00"
    shown = page(study(text, text + "\ud83d"))
    assert shown.reports[0].replace("\ufffd", "\x00") == text
    assert shown.reports[1].endswith("?")


def test_a_study_whose_images_are_not_at_hand_is_shown_without(page):
    shown = page(StudyReport("s1", reference="R", report="H"))
    assert shown.reports == ["R", "H"]
    assert not shown.all("img")


def test_an_empty_report_is_called_empty(page):
    assert page(study("Cardiomegaly.", " \n")).reports == ["Cardiomegaly.", "(empty)"]


def test_findings_are_marked_found_missed_invented_denied_and_less_certain(page):
    shown = page(
        study(
            "Moderate cardiomegaly. Right pneumothorax. Rib fracture. Pulmonary edema. No pleural effusion.",
            "Mild cardiomegaly. No pneumothorax. Possible pulmonary edema. Left basilar atelectasis. "
            "No pleural effusion. No consolidation.",
        )
    )
    by_class = {}
    for css_class, words in shown.marks:
        by_class.setdefault(css_class, []).append(words.lower())
    assert by_class.pop("found") == ["cardiomegaly", "cardiomegaly"]
    assert by_class.pop("denied") == ["pneumothorax", "pneumothorax"]
    assert [re.search("fracture", words) is not None for words in by_class.pop("missed")] == [True]
    assert [re.search("edema", words) is not None for words in by_class.pop("certainty")] == [True, True]
    assert [re.search("atelectasis", words) is not None for words in by_class.pop("invented")] == [True]
    assert by_class.pop("ruled-out") == ["pleural effusion", "pleural effusion"]
    assert not by_class, "a negation that only the generated report makes needs no mark"
    assert shown.chips == [
        ("found", "Cardiomegaly"),
        ("certainty", "Edema"),
        ("missed", "Fracture"),
        ("denied", "Pneumothorax"),
        ("invented", "Atelectasis"),
    ]


def test_a_wrong_side_has_a_mark_of_its_own(page):
    shown = page(study("Large left effusion. Right pneumothorax.", "Large right effusion. Right pneumothorax."))
    assert shown.marks == [("wrong-side", "effusion"), ("found", "pneumothorax")] * 2
    assert shown.chips == [("found", "Pneumothorax"), ("wrong-side", "Pleural Effusion")]
    assert "Wrong side" in shown.text


@pytest.mark.parametrize("hypothesis", ["Effusion.", "Bilateral effusions.", "Possible left effusion."])
def test_a_side_that_is_shared_or_not_said_is_not_wrong(hypothesis):
    comparison = compare_findings("Left effusion.", hypothesis, CheXpertStyleLabeler())
    assert comparison.observations(Verdict.WRONG_SIDE) == []


def test_a_finding_that_the_reference_rules_out_is_invented(page):
    shown = page(study("No pneumothorax.", "Large pneumothorax."))
    assert shown.marks == [("invented", "pneumothorax")]
    assert shown.chips == [("invented", "Pneumothorax")]


def test_two_normal_reports_have_no_chips(page):
    shown = page(study("No pneumothorax.", "The heart is normal."))
    assert shown.chips == []
    assert "No labelled finding in either report" in shown.text


def test_observations_with_the_same_words_share_one_mark():
    text = "The cardiomediastinal silhouette is normal."
    comparison = compare_findings(text, text, CheXpertStyleLabeler())
    assert comparison.observations(Verdict.RULED_OUT) == ["Enlarged Cardiomediastinum", "Cardiomegaly"]
    (mark,) = comparison.hypothesis_marks
    assert set(mark.verdicts) == {"Enlarged Cardiomediastinum", "Cardiomegaly"}
    assert marked_html(text, [mark]).count("<mark") == 1


def test_every_kind_of_mark_has_its_sign_and_words_for_a_screen_reader():
    signs = [verdict.sign for verdict in Verdict if verdict is not Verdict.RULED_OUT]
    assert all(signs)
    assert len(set(signs)) == len(signs)
    comparison = compare_findings("Clear lungs.", "Cardiomegaly.", CheXpertStyleLabeler())
    html = marked_html("Cardiomegaly.", comparison.hypothesis_marks)
    assert "[Cardiomegaly: invented (the reference does not report it)]" in html


def test_scores_stand_beside_the_baseline(page):
    shown = page(scores=ScoreTable(("Model", "Constant report"), [ScoreRow("CIDEr", (1.23456, float("nan")), "why")]))
    assert {"Model", "Constant report", "CIDEr", "1.235", "\N{EN DASH}", "why"} <= set(shown.text)


def test_observation_scores_are_those_of_label_scores(page):
    labeler = CheXpertStyleLabeler()
    references = labeler.batch(["Cardiomegaly.", "Cardiomegaly.", "Clear lungs."])
    hypotheses = labeler.batch(["Cardiomegaly.", "Clear lungs.", "Clear lungs."])
    rows = observation_scores(label_scores(references, hypotheses))
    assert len(rows) == 14
    row = next(row for row in rows if row.name == "Cardiomegaly")
    assert row == ObservationScore("Cardiomegaly", 2, 1.0, 0.5, pytest.approx(2 / 3))
    shown = page(observations=rows)
    assert {"Cardiomegaly", "0.667"} <= set(shown.text)
    assert {"style": "width:67%"} in shown.all("i")


def test_a_chart_has_a_line_per_series_that_spans_its_axes():
    chart = line_chart(
        Curve("Loss", "step", "loss", [Line("training", [0, 50, 100], [4, 2, 1]), Line("validation", [100], [1.5])])
    )
    paths = re.findall(r'class="line line-(\d)" d="M([\d. L-]+)"', chart)
    assert [index for index, _ in paths] == ["0", "1"]
    across = [float(place.split()[0]) for place in paths[0][1].split("L")]
    up = [float(place.split()[1]) for place in paths[0][1].split("L")]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    assert up == sorted(up), "falling loss goes down the picture, whose y grows downwards"
    assert 'aria-label="Loss: training from 4 to 1; validation from 1.5 to 1.5"' in chart


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [1e-7, 2e-7], [1e9, 1e9 + 1], [-5.0, 5.0], [0.0, 0.0]])
def test_a_chart_of_any_range_has_finite_places_and_few_ticks(values):
    chart = line_chart(Curve("c", "x", "y", [Line("l", list(range(len(values))), values)]))
    assert "nan" not in chart
    assert "inf" not in chart
    assert 4 <= chart.count("<text") <= 20


def test_points_that_are_not_finite_are_left_out_and_empty_curves_not_drawn(page):
    nan = float("nan")
    gap = line_chart(Curve("c", "x", "y", [Line("l", [0, 1, 2], [1, nan, 3])]))
    assert "l from 1 to 3" in gap
    shown = page(curves=[Curve("c", "x", "y", []), Curve("c", "x", "y", [Line("l", [0], [nan])])])
    assert not shown.all("figure", **{"class": "chart"})


def test_the_safety_line_comes_first_and_the_notes_last(page):
    shown = page(notes=["Written 2026-01-02", "3 beams"])
    text = [part.strip() for part in shown.text if part.strip()]
    assert text[1].startswith("Research software, not a medical device")
    assert text[-3:-1] == ["Written 2026-01-02", "3 beams"]
    assert re.fullmatch(r"mambaxray \d+\.\d+.*", text[-1])


def test_no_studies_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one StudyReport"):
        write_report_page(tmp_path / "x.html", title="", summary="", studies=[], scores=SCORES)
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("images", "views"), [([], ["PA"]), ([Image.new("L", (32, 32))], []), ([Image.new("L", (32, 32))], ["PA", "AP"])]
)
def test_images_and_views_that_do_not_match_are_an_error_naming_the_study(page, images, views):
    with pytest.raises(ValueError, match=r"study 's9' has \d images and \d views"):
        page(StudyReport("s9", images, views=views, reference="a", report="b"))


def test_a_score_row_with_a_value_too_few_is_an_error_naming_the_metric(page):
    with pytest.raises(ValueError, match=r"'CIDEr' has 1 values for 2 systems"):
        page(scores=ScoreTable(("a", "b"), [ScoreRow("CIDEr", (1.0,))]))


def test_a_line_with_unequal_coordinates_is_an_error(page):
    with pytest.raises(ValueError, match="'training' has 2 x and 1 y"):
        page(curves=[Curve("c", "x", "y", [Line("training", [1, 2], [1])])])


def test_real_x_rays_and_reports_make_a_small_page(shared_data, tmp_path):
    root = shared_data / "nih_label_matched"
    rows = json.loads((root / "annotation.json").read_text())["test"][:12]
    studies = [
        StudyReport(
            row["id"],
            [root / row["image_path"][0]],
            views=[row["view"]],
            reference=row["report"],
            report=other["report"],
        )
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    path = write_report_page(tmp_path / "index.html", title="t", summary="s", studies=studies, scores=SCORES)
    shown = Page(path.read_text(encoding="utf-8"))
    assert shown.reports == [text for study in studies for text in (study.reference, study.report)]
    assert path.stat().st_size < 1_000_000


def test_the_context_of_a_study_and_its_prior_are_shown(page):
    prior = Image.fromarray(np.full((20, 50), 99, np.uint8))
    context = {"indication": "Cough <b>.", "prior_images": [prior], "prior_views": ["AP"], "prior_report": "Was clear."}
    shown = page(replace(study(views=("PA",)), context=context), study(name="s2"))
    assert len(shown.all("img")) == 3
    assert [image["alt"] for image in shown.all("img")][:2] == [
        "Chest X-ray, PA view, study s1",
        "Chest X-ray of the prior study, AP view, study s1",
    ]
    assert {"Indication", "Cough <b>.", "Report of the prior study", "Was clear.", "Prior, AP"} <= set(shown.text)
    assert len(shown.all("dl")) == 1
