"""Systems side by side: the counts of findings, the studies chosen, and the marks in every report."""

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from mambaxray.evaluation.pages.comparison_page import write_comparison_page
from mambaxray.evaluation.pages.scores import ScoreRow, ScoreTable
from mambaxray.evaluation.study_report import StudyReport

STUDIES = [
    StudyReport("a", reference="Cardiomegaly. Possible pneumonia. No pneumothorax."),
    StudyReport("b", reference="Rib fracture."),
    StudyReport("c", reference="No edema."),
]
SYSTEMS = {
    "short": {"a": "Cardiomegaly.", "b": "Rib fracture.", "c": "No edema."},
    "long": {"a": "Opacity. No pneumothorax. Nodule.", "b": "Rib fracture.", "c": "Edema."},
}


@pytest.fixture
def page(tmp_path):
    def write(systems=SYSTEMS, studies=STUDIES, **more):
        path = write_comparison_page(tmp_path / "new" / "page.html", systems, studies, **more)
        return Page(path.read_text(encoding="utf-8"))

    return write


def rows(shown):
    """The page's texts, without the blank ones."""
    return [text.strip() for text in shown.text if text.strip()]


def test_each_systems_findings_are_counted_over_all_studies_with_their_shares(page):
    texts = rows(page(shown=1))
    start = texts.index("All studies")
    table = texts[start : texts.index("Studies", start)]
    assert table[:3] == ["All studies", "short", "long"]
    after = {name: table[table.index(name) + 2 :][:4] for name in ("Found", "Nearly found", "Missed", "Invented")}
    assert after["Found"] == ["2", "67 % of 3", "1", "33 % of 3"]
    assert after["Nearly found"] == ["0", "0 % of 3", "1", "33 % of 3"]
    assert after["Missed"] == ["1", "33 % of 3", "1", "33 % of 3"]
    assert after["Invented"] == ["0", "0 % of 2", "2", "50 % of 4"]
    place = table.index("Normal findings left out")
    assert table[place + 2 : place + 6] == ["1", "50 % of 2", "0", "0 % of 2"]


def test_each_study_has_its_reference_and_one_report_per_system_with_marks(page):
    shown = page(only=["a"])
    assert shown.reports == [STUDIES[0].reference, SYSTEMS["short"]["a"], SYSTEMS["long"]["a"]]
    assert shown.marks == [
        *(("said", "Cardiomegaly"), ("said", "pneumonia"), ("ruled-out", "pneumothorax")),
        ("found", "Cardiomegaly"),
        *(("related", "Opacity"), ("ruled-out", "pneumothorax"), ("invented", "Nodule")),
    ]
    # Colour is never the only mark: of the three verdicts but "ruled out", each has a sign, in text and table.
    assert len(shown.all("span", **{"class": "sign"})) >= 3 + len(shown.chips) - 2


def test_a_table_says_what_each_system_makes_of_each_finding(page):
    shown = page(only=["a"])
    texts = rows(shown)
    start = texts.index("Finding")
    table = texts[start : texts.index("Reference report", start)]
    assert table[:4] == ["Finding", "Reference", "short", "long"]
    assert table[4:] == [
        *("Cardiomegaly", "reported", "Found", "Missed"),
        *("Lung Opacity", "–", "–", "Related finding"),
        *("Lung Lesion", "–", "–", "Invented"),
        *("Pneumonia", "suspected", "Missed", "Related finding"),
        *("Pneumothorax", "ruled out", "Left out", "Ruled out"),
    ]


def test_those_studies_come_first_in_which_the_systems_differ_most(page):
    names = [text for text in page().text if text.startswith("Study ")]
    assert names == ["Study a", "Study c", "Study b"]
    assert [text for text in page(shown=1).text if text.startswith("Study ")] == ["Study a"]
    assert [text for text in page(only=["b", "a"]).text if text.startswith("Study ")] == ["Study b", "Study a"]
    alike = [each["class"].split()[-1] == "alike" for each in page().all("article")]
    assert alike == [False, False, True]


def test_images_are_shown_where_the_study_or_the_data_set_has_them(page):
    picture = Image.fromarray(np.full((40, 30), 99, np.uint8))
    dataset = [{"study_id": "b", "images": [picture, picture], "views": ["PA", "LATERAL"]}]
    shown = page(only=["a", "b"], dataset=dataset)
    assert [image["alt"] for image in shown.all("img")] == [
        "Chest X-ray, PA view, study b",
        "Chest X-ray, LATERAL view, study b",
    ]
    own = StudyReport("a", [picture], reference="Clear lungs.")
    assert len(page(studies=[own]).all("img")) == 1


def test_scores_and_notes_are_shown_and_texts_are_data(page):
    evil = "<script>alert(1)</script>"
    shown = page(
        {evil: {"a": evil}, "other": {"a": ""}},
        [StudyReport("a", reference=evil)],
        scores=ScoreTable((evil, "other"), [ScoreRow("CIDEr", (0.5, 0.25))]),
        notes=[evil],
    )
    assert not shown.all("script")
    assert {"0.500", "0.250", "No labelled finding in any report"} <= set(shown.text)
    assert shown.reports == [evil, evil, "(empty)"]
    policy = shown.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"systems": {}}, "at least one system"),
        ({"studies": []}, "at least one system and one study"),
        ({"systems": {"few": {"a": "x"}}}, "few has no report of 2 of 3 studies, such as 'b'"),
        ({"only": ["z"]}, "there is no study 'z'; the first are a, b, c"),
    ],
)
def test_what_can_not_be_shown_is_refused(page, arguments, message):
    with pytest.raises(ValueError, match=message):
        page(**arguments)
