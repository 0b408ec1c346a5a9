"""Sections of free-text reports. The reports are invented; their layouts are those of MIMIC-CXR and CheXpert Plus."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambaxray.processing.report_text import SECTIONS, UNLABELED, choose_report, headings, is_missing, split_sections

MIMIC = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
\x20
 INDICATION:  ___F with cough  // pneumonia?
\x20
 TECHNIQUE:  Chest PA and lateral
\x20
 COMPARISON:  ___.
\x20
 FINDINGS:\x20
\x20
 There is no focal consolidation, pleural effusion
 or pneumothorax.
 LUNGS: clear.
\x20
 IMPRESSION:\x20
\x20
 1. No acute process.
 2. Stable: heart.
\x20
 NOTIFICATION:  Told to Dr. ___.
"""

CHEXPERT_PLUS = """\
NARRATIVE:
RADIOGRAPHIC EXAMINATION OF THE CHEST: 1-1-2000

CLINICAL HISTORY: 50 years of age, cough.

COMPARISON: None.

PROCEDURE COMMENTS: Single view of the chest.

FINDINGS:

The lungs are clear.

IMPRESSION:

1.  No acute disease.

END OF IMPRESSION:

SUMMARY: 1-NORMAL

I have personally reviewed the images.
"""


def test_a_report_of_mimic_is_cut_at_its_headings():
    assert split_sections(MIMIC) == {
        "examination": "CHEST (PA AND LAT)",
        "indication": "___F with cough // pneumonia?",
        "technique": "Chest PA and lateral",
        "comparison": "___.",
        "findings": "There is no focal consolidation, pleural effusion or pneumothorax. LUNGS: clear.",
        "impression": "1. No acute process. 2. Stable: heart.",
        "other": "Told to Dr. ___.",
    }


def test_a_report_of_chexpert_plus_is_cut_at_its_headings():
    assert split_sections(CHEXPERT_PLUS) == {
        "radiographic examination of the chest": "1-1-2000",
        "indication": "50 years of age, cough.",
        "comparison": "None.",
        "technique": "Single view of the chest.",
        "findings": "The lungs are clear.",
        "impression": "1. No acute disease.",
        "other": "1-NORMAL I have personally reviewed the images.",
    }


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("FINDINGS:", "findings"),
        ("FINDING:", "findings"),
        ("Findings:", "findings"),
        ("  FINDINGS :", "findings"),
        ("FINDINGS;", "findings"),
        ("FINDINGS", "findings"),
        ("FINDINGS/IMPRESSION:", "findings"),
        ("FINDINGS AND IMPRESSION:", "findings"),
        ("Impression and findings:", "findings"),
        ("TECHNIQUE AND FINDINGS:", "findings"),
        ("OBSERVATIONS:", "findings"),
        ("IMPRESSION:", "impression"),
        ("IMPRESSIONS:", "impression"),
        ("IMPRESSON:", "impression"),
        ("CONCLUSION:", "impression"),
        ("FINAL IMPRESSION:", "impression"),
        ("INDICATION:", "indication"),
        ("HISTORY:", "indication"),
        ("CLINICAL HISTORY:", "indication"),
        ("CLINICAL INFORMATION:", "indication"),
        ("REASON FOR EXAM:", "indication"),
        ("REASON FOR THE EXAMINATION:", "indication"),
        ("Clinical indication:", "indication"),
        ("HISTORY/INDICATION:", "indication"),
        ("COMPARISON:", "comparison"),
        ("COMPARISONS:", "comparison"),
        ("COMPARISON STUDY:", "comparison"),
        ("COMPARISON MADE:", "comparison"),
        ("COMPARISON WITH:", "comparison"),
        ("TECHNIQUE:", "technique"),
        ("EXAM:", "examination"),
        ("STUDY:", "examination"),
        ("RECOMMENDATION(S):", "other"),
        ("WET READ:", "other"),
        ("WET READ VERSION #1:", "other"),
        ("PROVISIONAL FINDINGS IMPRESSION (PFI):", "other"),
        ("BONE AGE:", "bone age"),
    ],
)
def test_headings_are_known_in_their_variants(heading, section):
    assert split_sections(f"{heading}\n Some words.\n") == {section: "Some words."}


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("IMPRSSION", "impression"),
        ("IMPERSSION", "impression"),
        ("IMPRESSOIN", "impression"),
        ("MPRESSION", "impression"),
        ("CONCLUSON", "impression"),
        ("FINDINS", "findings"),
        ("FINDNGS", "findings"),
        ("FIDINGS", "findings"),
        ("NDICATION", "indication"),
        ("INIDICATION", "indication"),
        ("CLINICAL HISTROY", "indication"),
        ("REASON FOR EXAMINTION", "indication"),
        ("COMPARRISON", "comparison"),
        ("COMPARSION", "comparison"),
        ("TECHINQUE", "technique"),
        ("RECOMENDATION", "other"),
    ],
)
@pytest.mark.parametrize("write", [str.upper, str.capitalize])
def test_misspelt_headings_are_known(heading, section, write):
    report = f"COMPARISON: Film.\n\n {write(heading)}: Some words.\n\nSTUDY: Chest."
    expected = {"comparison": "Film.", "examination": "Chest."}
    expected[section] = f"{expected.get(section, '')} Some words.".strip()
    assert split_sections(report) == expected


@pytest.mark.parametrize("word", ["COMPRESSION", "DEPRESSION", "EXPRESSION", "INFLATION", "FISSURES", "HISTOLOGY"])
def test_words_that_only_resemble_a_heading_are_text(word):
    assert split_sections(f"FINDINGS: Clear.\n{word}: none.") == {"findings": f"Clear. {word}: none."}


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("FINDINGS", "findings"),
        ("IMPRESSION", "impression"),
        ("IMPRSSION", "impression"),
        ("INDICATION", "indication"),
        ("CLINICAL HISTORY", "indication"),
        ("COMPARISON", "comparison"),
        ("TECHNIQUE", "technique"),
        ("Findings", "findings"),
        ("Impression", "impression"),
    ],
)
def test_headings_alone_on_a_line_need_no_colon(heading, section):
    assert split_sections(f"STUDY: Chest.\n\n{heading}\n\nSome words.\n") == {
        "examination": "Chest.",
        section: "Some words.",
    }


def test_a_wrapped_line_of_one_word_is_no_heading():
    text = "FINDINGS: There are no acute cardiopulmonary\nImpression\nor findings."
    assert list(split_sections(text)) == ["findings"]


@pytest.mark.parametrize(
    "heading",
    [
        "CHEST, TWO VIEWS",
        "CHEST, PA AND LATERAL",
        "PA AND LATERAL CHEST RADIOGRAPHS",
        "PORTABLE AP CHEST RADIOGRAPH",
        "FRONTAL AND LATERAL VIEWS OF THE CHEST",
        "CHEST",
    ],
)
def test_the_views_head_the_findings_as_in_mimic_unless_nothing_is_said(heading):
    assert split_sections(f"{heading}: The lungs are clear.\nHEART: normal.\nIMPRESSION: Normal.") == {
        "findings": "The lungs are clear. HEART: normal.",
        "impression": "Normal.",
    }
    assert split_sections(f"{heading}: 1-1-2000\nFINDINGS: Clear.") == {
        heading.lower(): "1-1-2000",
        "findings": "Clear.",
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        " . ",
        "___",
        "nan",
        "NaN",
        "None.",
        "none",
        "N/A",
        "n/a.",
        "See impression.",
        "Please see impression",
        "As above.",
    ]
    + ["See report.", "Not available.", "null", "-"],
)
def test_placeholders_are_missing_reports(text):
    assert is_missing(text)
    assert choose_report(text, "Normal.", "findings+impression") == "Normal."


@pytest.mark.parametrize(
    "text", ["Normal.", "No findings of pneumonia.", "None of the lines has moved.", "Clear.", "Edema"]
)
def test_short_reports_are_not_missing(text):
    assert not is_missing(text)


def test_headings_in_capitals_are_found_where_line_breaks_were_lost():
    assert split_sections("INDICATION: Cough. COMPARISON: None FINDINGS: Clear lungs. IMPRESSION: Normal.") == {
        "indication": "Cough.",
        "comparison": "None",
        "findings": "Clear lungs.",
        "impression": "Normal.",
    }


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: In comparison: the heart is larger.",
        "FINDINGS: The history:\n findings: of old disease.",
        "FINDINGS: LINES AND TUBES: none.\n HEART: normal.\n Impression on the trachea is mild.",
    ],
)
def test_words_in_the_text_are_no_headings(text):
    assert list(split_sections(text)) == ["findings"]


def test_findings_without_a_heading_do_not_pass_for_an_indication():
    report = "INDICATION:\n \n Cough.\n \n The lungs are clear.\n \n IMPRESSION: Normal."
    assert split_sections(report) == {
        "indication": "Cough.",
        UNLABELED: "The lungs are clear.",
        "impression": "Normal.",
    }


def test_a_section_that_occurs_twice_is_joined_and_an_empty_one_left_out():
    assert split_sections("FINDINGS: One.\nCOMPARISON:\nIMPRESSION: Two.\nFINDINGS: Three.") == {
        "findings": "One. Three.",
        "impression": "Two.",
    }


def test_line_ends_of_any_system_are_the_same():
    assert split_sections(MIMIC.replace("\n", "\r\n")) == split_sections(MIMIC)


def test_the_sections_of_real_reports_survive_being_written_as_free_text(shared_data):
    lines = (shared_data / "iu_reports" / "mesh_labels_dev.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1953
    changed = []
    for line in lines:
        study = json.loads(line)
        names = ("indication", "comparison", "findings", "impression")
        expected = {name: " ".join(study[name].split()) for name in names if study[name].strip()}
        text = "\n \n ".join(f"{name.upper()}:  {words}" for name, words in expected.items())
        if split_sections(f"                FINAL REPORT\n {text}\n") != expected:
            changed.append(study["id"])
    # The text of these sections holds headings of its own, such as "INDICATION: EVALUATE FOR".
    assert changed == ["CXR676", "CXR1076", "CXR2415", "CXR2800", "CXR3291", "CXR3535", "CXR3625"]


_WORDS = st.lists(st.text("abcdefgxyz.,", min_size=1, max_size=8), min_size=1, max_size=12).map(" ".join)


@given(
    st.dictionaries(st.sampled_from(["indication", "comparison", "findings", "impression"]), _WORDS),
    st.sampled_from(["\n", "\n\n", "\n \n "]),
    st.sampled_from([str.upper, str.capitalize]),
)
def test_any_sections_come_back_from_a_report_made_of_them(sections, gap, write):
    text = gap.join(f"{write(name)}:{gap}{words}" for name, words in sections.items())
    assert split_sections(text) == sections


@given(st.text(alphabet=st.characters(exclude_characters=":;"), max_size=200).map(str.lower))
def test_without_headings_all_text_is_unlabeled(text):
    words = " ".join(text.split())
    assert split_sections(text) == ({UNLABELED: words} if words else {})


@given(st.text("ABFINDGSabc:;\n .", max_size=120))
def test_no_text_makes_it_fail_and_no_word_is_invented(text):
    for part in split_sections(text).values():
        assert all(word in text for word in part.split())


@pytest.mark.parametrize(
    ("section", "report"),
    [("findings", "Clear."), ("impression", "Normal."), ("findings+impression", "Clear. Normal.")],
)
def test_a_report_consists_of_the_sections_that_were_chosen(section, report):
    assert choose_report("Clear. ", "Normal.", section) == report


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_without_a_letter_or_digit_is_no_report(section):
    assert choose_report("___", " . ", section) == ""


def test_one_of_two_sections_is_enough():
    assert choose_report("", "Normal.", "findings+impression") == "Normal."


def test_an_unknown_section_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"unknown section 'all'; a model can write findings, impression, findings\+"):
        choose_report("a", "b", "all")


def test_headings_are_given_with_their_spans():
    report = "INDICATON: Cough.\nFINDINGS:\nLUNGS: clear.\nIMPRESSION\nNormal."
    found = [(section, report[start:end].strip()) for section, start, end in headings(report)]
    assert found == [("indication", "INDICATON:"), ("findings", "FINDINGS:"), ("impression", "IMPRESSION")]
