"""View classifiers: training on drawn X-rays, their use where a data set states no views, and what is refused."""

import json

import pytest
from transformers import ResNetConfig, ResNetForImageClassification
from typer.testing import CliRunner

from mambaxray import load_prepared, prepare_studies, read_source
from mambaxray.cli import app
from mambaxray.data.phantoms import make_study
from mambaxray.data.prepared import PreparedError
from mambaxray.data.view_classifier import ViewClassifier
from mambaxray.train.view_classification import save_view_classifier, score_views, train_view_classifier

VIEWS = ("PA", "LATERAL")


def studies(first, count, views=VIEWS):
    return [make_study(seed, views=views, image_size=48) for seed in range(first, first + count)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier of frontal and lateral phantoms, its scores and its folder."""
    splits = {"train": studies(0, 24), "test": studies(100, 20)}
    classifier, scores = train_view_classifier(splits, image_size=32, epochs=6, batch_size=8)
    folder = tmp_path_factory.mktemp("views") / "classifier"
    save_view_classifier(classifier, scores, folder)
    return classifier, scores, folder


def test_frontal_and_lateral_phantoms_that_were_not_trained_on_are_told_apart(trained):
    classifier, scores, _ = trained
    assert classifier.views == VIEWS
    assert scores["training_images"] == {"PA": 24, "LATERAL": 24}
    assert scores["test"]["accuracy"] >= 0.95
    assert (scores["test"]["images"], scores["test"]["patients"]) == (40, 20)
    assert (
        scores["test"]["accuracy_interval"][0] <= scores["test"]["accuracy"] <= scores["test"]["accuracy_interval"][1]
    )


def test_a_saved_classifier_predicts_what_it_predicted(trained):
    classifier, scores, folder = trained
    loaded = ViewClassifier.from_pretrained(folder)
    images = [image for study in studies(200, 4) for image in study["images"]]
    for one, other in zip(loaded.predict(images, batch_size=3), classifier.predict(images), strict=True):
        assert one.view == other.view
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
    assert json.loads((folder / "view_scores.json").read_text()) == scores
    assert score_views(loaded, studies(100, 20)) == scores["test"]


def write_annotations(folder, rows):
    """Views in the format of R2Gen, which states none."""
    folder.mkdir()
    entries = []
    for row in rows:
        paths = []
        for view, image in zip(row["views"], row["images"], strict=True):
            paths.append(f"{row['study_id']}-{len(paths)}-{view[0]}.png")
            image.save(folder / paths[-1])
        entries.append({"id": row["study_id"], "report": "Clear lungs.", "image_path": paths, "split": "train"})
    (folder / "annotation.json").write_text(json.dumps({"train": entries, "val": [], "test": []}), encoding="utf-8")
    return folder


def test_prepare_predicts_the_views_that_a_data_set_does_not_state_and_counts_them(trained, tmp_path):
    rows = studies(300, 6)
    source = read_source("annotation-json", write_annotations(tmp_path / "source", rows), section="findings")
    card = prepare_studies(source, tmp_path / "out", view_classifier=trained[2], studies_per_shard=4)
    assert card["predicted_views"] == {"PA": 6, "LATERAL": 6}
    assert card["view_classifier"]["views"] == list(VIEWS)
    found = {row["study_id"]: row["views"] for row in load_prepared(tmp_path / "out")["train"]}
    assert set(map(tuple, found.values())) == {VIEWS}
    done = CliRunner().invoke(
        app, ["views", "train", "--dataset", str(tmp_path / "out"), "--output", str(tmp_path / "v")]
    )
    assert done.exit_code == 2
    assert "views that were predicted" in done.output
    # The folder is that of this classifier: without it, it is other work.
    with pytest.raises(PreparedError, match="other settings"):
        prepare_studies(source, tmp_path / "out", studies_per_shard=4)


def test_views_that_are_stated_are_kept(trained, tmp_path):
    source = read_source("annotation-json", write_annotations(tmp_path / "source", studies(300, 2)), section="findings")
    for study in source.studies:
        study["views"] = ["LATERAL", ""]
    card = prepare_studies(source, tmp_path / "out", view_classifier=trained[2])
    assert sum(card["predicted_views"].values()) == 2
    assert [row["views"][0] for row in load_prepared(tmp_path / "out")["train"]] == ["LATERAL"] * 2


def test_one_view_alone_or_a_patient_in_two_splits_is_refused():
    with pytest.raises(ValueError, match="at least two of the views PA, AP, LATERAL; it has PA"):
        train_view_classifier({"train": studies(0, 2, views=("PA",))})
    rows = studies(0, 2)
    with pytest.raises(ValueError, match="2 patients have images in training and in another split"):
        train_view_classifier({"train": rows, "test": rows})


def test_a_folder_without_a_classifier_of_views_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="mambaxray views train"):
        ViewClassifier.from_pretrained(tmp_path)
    ResNetForImageClassification(ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no classifier of views"):
        ViewClassifier.from_pretrained(tmp_path)


def test_the_command_trains_on_phantoms_and_prints_the_accuracy_by_split(tmp_path):
    options = [f"--dataset-option={each}" for each in ("num_studies=16", "image_size=32", "views=[PA, LATERAL]")]
    arguments = [
        "--dataset",
        "phantoms",
        *options,
        "--image-size",
        "32",
        "--epochs",
        "1",
        "--output",
        str(tmp_path / "v"),
    ]
    done = CliRunner().invoke(app, ["views", "train", *arguments])
    assert done.exit_code == 0, done.output
    assert "test: accuracy" in done.output
    assert ViewClassifier.from_pretrained(tmp_path / "v").views == VIEWS
    again = CliRunner().invoke(app, ["views", "train", *arguments])
    assert again.exit_code == 2
    assert "not empty" in again.output
