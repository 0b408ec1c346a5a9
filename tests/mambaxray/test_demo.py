"""The demo: end to end in small, and (slow) at full size with the scores it promises."""

import json
from html.parser import HTMLParser

import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from mambaxray.demo import DemoSettings, run_demo

SMALL = DemoSettings(
    num_studies=40,
    num_validation=6,
    num_test=14,
    num_mapped=20,
    image_size=64,
    vision_hidden=32,
    vision_layers=1,
    text_hidden=32,
    text_layers=1,
    vocab_size=400,
    batch_size=8,
    vision_steps=4,
    training_steps=8,
    max_report_length=20,
)


class _Images(HTMLParser):
    def __init__(self):
        super().__init__()
        self.count = 0

    def handle_starttag(self, tag, attrs):
        self.count += tag == "img"


def count_images(page):
    parser = _Images()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.count


def test_the_demo_leaves_a_page_with_12_studies_and_a_model_that_loads(tmp_path):
    # Beside what the user has there.
    (tmp_path / "demo/training").mkdir(parents=True)
    (tmp_path / "demo/training/mine.txt").write_text("mine")
    scores = run_demo(tmp_path / "demo", settings=SMALL, seed=3)
    assert (tmp_path / "demo/training/mine.txt").read_text() == "mine"
    page = tmp_path / "demo" / "index.html"
    assert count_images(page) == 12
    text = page.read_text(encoding="utf-8")
    assert "best constant report" in text
    assert "Loss while learning" in text
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "demo" / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "demo" / "model")
    inputs = processor(images=[Image.linear_gradient("L").resize((300, 200))])
    assert model.generate(**inputs, max_new_tokens=5).shape[1] > inputs["input_ids"].shape[1]
    assert 0 <= scores.unique <= 1
    assert scores.constant["F1_micro_14_uncertain-negative"] > 0.1
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {
        *("index.html", "model", "training", ".mambaxray_demo"),
    }


@pytest.mark.parametrize("name", ["index.html", "model/config.json", ".mambaxray_demo/a"])
def test_the_demo_overwrites_nothing_that_it_did_not_make(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="was not made by the demo: choose another folder"):
        run_demo(tmp_path, settings=SMALL)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "mine"


def test_the_demo_takes_a_data_set_in_r2gen_format(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    annotation = {"train": [], "val": [], "test": []}
    for number in range(20):
        split = "test" if number < 3 else "val" if number < 5 else "train"
        report = "Moderate cardiomegaly." if number % 2 else "The heart is normal in size. No pleural effusion."
        picture = Image.linear_gradient("L").resize((90, 100)).rotate(18 * number)
        picture.save(source / f"{number}.png")
        annotation[split].append({"id": str(number), "report": report, "image_path": [f"{number}.png"]})
    (source / "annotation.json").write_text(json.dumps(annotation))
    run_demo(tmp_path / "demo", data=source, settings=SMALL)
    assert count_images(tmp_path / "demo" / "index.html") == 3


@pytest.fixture(scope="module")
def full_scores(tmp_path_factory):
    scores = run_demo(tmp_path_factory.mktemp("full") / "demo")
    name = "F1_micro_14_uncertain-negative"
    return scores.model[name], scores.constant[name]


@pytest.mark.slow
def test_the_full_demo_reports_findings_that_no_constant_report_could(full_scores):
    """Four runs of these settings had an F1 of 0.755 to 0.800 (docs/demo.md), on machines that round differently:
    mean 0.775, standard deviation 0.019. Four of those below the mean is what a processor may cost; what breaks the
    encoder or the decoder costs more (0.715 without the encoder's training)."""
    f1, constant = full_scores
    assert f1 >= 0.70
    assert f1 >= constant + 0.30
