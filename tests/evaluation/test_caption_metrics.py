"""Caption metrics against the papers' numbers, against pycocoevalcap, and on texts that no radiologist writes."""

import json
import shutil

import numpy as np
import pytest
from golden_cases import golden_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from mambaxray.data.phantoms import make_study
from mambaxray.evaluation.caption_metrics import BLEU_NAMES, bleu_tables, cider_tables, rouge_l_table
from mambaxray.evaluation.meteor import meteor_tables
from mambaxray.evaluation.metric_table import MetricUnavailableError
from mambaxray.evaluation.ngram_counts import NgramCounts
from mambaxray.evaluation.tokenization import tokenize_reports

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no java on the PATH")

ODD_TEXTS = [
    "",
    " ",
    "\n",
    "a\nb",
    "a\r\n\r\nb ||| c",
    "a b\x0bc\x0cd\x1ce\x85f\u2028g\u2029h",
    "\x00",
    "\ud800 lone surrogate",
    "Ödem, 肺炎 🫁 \u202eabc",
    "-LRB- `` '' ... don't <s> </s> &amp; 3.5cm",
    "SCORE ||| EVAL",
    "x" * 5_000,
    "lung " * 300,
]


def tables_of(references, hypotheses):
    counts = NgramCounts(references, [hypotheses])
    return [*bleu_tables(counts), rouge_l_table(references, hypotheses), *cider_tables(counts)]


def assert_equal_to(tables, scores, per_sample):
    for table in tables:
        for name, value in table.scores().items():
            assert value == pytest.approx(scores[name], abs=1e-9), name
            assert np.abs(table.per_sample[name] - per_sample[name]).max() < 1e-9, name


def phantom_reports(first, count):
    return [make_study(seed, image_size=32)["report"] for seed in range(first, first + count)]


def _case(pairs, mode):
    return json.loads((golden_folder() / "metrics" / f"nlg_public_{pairs}_{mode}.json").read_text())


@pytest.mark.parametrize("pairs", ["shift", "half"])
@pytest.mark.parametrize("mode", ["raw", "ptb"])
def test_scores_are_those_of_the_papers_code(pairs, mode):
    case = _case(pairs, mode)
    assert_equal_to(tables_of(case["references"], case["hypotheses"]), case["scores"], case["per_sample"])


@needs_java
def test_meteor_is_that_of_the_papers_code():
    cases = [
        json.loads((golden_folder() / "metrics" / f"nlg_public_{pairs}_raw.json").read_text())
        for pairs in ("shift", "half")
    ]
    assert cases[0]["references"] == cases[1]["references"]
    tables = meteor_tables(cases[0]["references"], [case["hypotheses"] for case in cases])
    for table, case in zip(tables, cases, strict=True):
        assert_equal_to([table], case["scores"], case["per_sample"])


@needs_java
def test_ptb_cuts_words_as_the_papers_code():
    raw, ptb = (
        json.loads((golden_folder() / "metrics" / f"nlg_public_shift_{mode}.json").read_text())
        for mode in ("raw", "ptb")
    )
    assert tokenize_reports(raw["references"] + raw["hypotheses"], "ptb") == ptb["references"] + ptb["hypotheses"]


@pytest.mark.parametrize(
    "texts",
    [
        (phantom_reports(0, 40), phantom_reports(100, 40)),
        (["a b c", "a  b ", "", "x"], ["a b c", "a b", "", ""]),
        (["one study only"], ["one study"]),
    ],
)
def test_bleu_rouge_and_cider_equal_pycocoevalcap(texts):
    gts, res = ({number: [text] for number, text in enumerate(part)} for part in texts)
    bleu, rouge, cider = (
        Bleu(4).compute_score(gts, res, verbose=0),
        Rouge().compute_score(gts, res),
        Cider().compute_score(gts, res),
    )
    scores = dict(zip(BLEU_NAMES, bleu[0], strict=True)) | {"ROUGE_L": rouge[0], "CIDEr": cider[0]}
    per_sample = dict(zip(BLEU_NAMES, bleu[1], strict=True)) | {"ROUGE_L": rouge[1], "CIDEr": cider[1]}
    assert_equal_to(tables_of(*texts), scores, per_sample)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=6))
def test_any_text_has_finite_scores(pairs):
    references, hypotheses = (tokenize_reports(part) for part in zip(*pairs, strict=True))
    for table in tables_of(references, hypotheses):
        assert all(np.isfinite(value) and value >= 0 for value in table.scores().values())
        assert all(np.isfinite(values).all() for values in table.per_sample.values())


@needs_java
def test_odd_texts_keep_their_places_in_the_java_programs():
    """Each is scored against a text of its own, so that a shift by one line would show."""
    known = "the heart is normal in size ."
    texts = [text for odd in ODD_TEXTS for text in (odd, known)]
    references = [text if number % 2 else known for number, text in enumerate(texts)]
    (table,) = meteor_tables(references, [texts])
    values = table.per_sample["METEOR"]
    assert np.isfinite(values).all()
    assert (values[1::2] == 1).all()
    assert (values[::2] < 0.5).all()
    assert tokenize_reports(texts, "ptb")[1::2] == ["the heart is normal in size"] * len(ODD_TEXTS)


@needs_java
@pytest.mark.slow
def test_any_text_keeps_its_place_in_the_java_programs():
    generator = np.random.default_rng(0)
    known = "no pneumothorax ."
    # Every character of the basic plane and some beyond, in texts of 64.
    characters = [chr(code) for code in [*range(0x10000), *range(0x1F000, 0x1FB00)]]
    generator.shuffle(characters)
    odd = ["".join(characters[start : start + 64]) for start in range(0, len(characters), 64)]
    texts = [text for item in odd for text in (item, known)]
    assert set(tokenize_reports(texts, "ptb")[1::2]) == {"no pneumothorax"}
    (table,) = meteor_tables([known] * len(texts), [texts])
    assert (table.per_sample["METEOR"][1::2] == 1).all()


def test_without_java_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MetricUnavailableError, match=r"METEOR needs Java.*install"):
        meteor_tables(["a"], [["a"]])
    with pytest.raises(MetricUnavailableError, match=r"ptb tokenization needs Java"):
        tokenize_reports(["a"], "ptb")


@needs_java
def test_a_program_that_takes_too_long_is_ended():
    with pytest.raises(MetricUnavailableError, match=r"METEOR did not finish 1 texts within 0 s"):
        meteor_tables(["a"], [["a"]], timeout=0.05)


def test_an_unknown_tokenization_is_refused():
    with pytest.raises(ValueError, match=r"'words'.*none, ptb"):
        tokenize_reports(["a"], "words")
