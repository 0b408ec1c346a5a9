"""How far visual embeddings lie from words: against all distances, on several models, and on a page."""

import pytest
import torch
from html_page import Page
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from mambaxray import make_tiny_models
from mambaxray.cli import app
from mambaxray.data.phantoms import make_study
from mambaxray.evaluation.embedding_distances import embedding_distances

STUDIES = [make_study(seed, image_size=32, views=("PA", "LATERAL")[: 1 + seed % 2]) for seed in range(3)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_tiny_models(tmp_path_factory.mktemp("tiny"), names=["mambaxray", "bidirectional_rrg"])


def load(folder):
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def test_each_visual_embedding_has_its_smallest_distance_to_a_word(folders):
    model, processor = load(folders[0])
    found = embedding_distances(model, processor, STUDIES, name="plain", batch_size=2)
    inputs = processor.prepare_studies(STUDIES)
    with torch.no_grad():
        embeddings = torch.cat(model.get_image_features(inputs["pixel_values"], inputs["view_mask"]).pooler_output)
    special = processor.tokenizer.all_special_ids
    words = model.get_input_embeddings().weight.detach()[: len(processor.tokenizer)]
    words = words[[index for index in range(len(words)) if index not in special]]
    expected = (embeddings[:, None] - words).norm(dim=-1).min(dim=1).values
    torch.testing.assert_close(found.distances, expected, rtol=1e-4, atol=1e-5)
    assert found.norms["E_v"] == pytest.approx(embeddings.norm(dim=1).mean().item(), rel=1e-4)
    assert found.norms["words"] == pytest.approx(words.norm(dim=1).mean().item(), rel=1e-4)
    assert "E_g" not in found.norms
    assert 1 <= found.nearest <= len(words)


def test_a_model_with_its_training_parts_also_gives_the_norm_of_what_reports_become(folders):
    model, processor = load(folders[1])
    assert embedding_distances(model, processor, STUDIES, name="both").norms["E_g"] > 0
    del model.text_encoder
    model.text_encoder = None
    assert "E_g" not in embedding_distances(model, processor, STUDIES, name="without").norms


def test_no_studies_are_refused(folders):
    with pytest.raises(ValueError, match="no studies"):
        embedding_distances(*load(folders[0]), [], name="plain")


def test_the_command_puts_several_models_into_one_figure(folders, tmp_path):
    page = tmp_path / "page.html"
    options = ["--dataset-option", "num_studies=30", "--dataset-option", "image_size=32", "--studies", "2"]
    models = [part for folder in folders for part in ("--model", str(folder))]
    done = CliRunner().invoke(app, ["analyse", "embeddings", "phantoms", *models, *options, "--output", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    Page(text)
    assert text.count('class="line line-') >= 4  # in the figure and in its legend
    assert all(str(folder) in text for folder in folders)
    assert "norm of E_g" in text
