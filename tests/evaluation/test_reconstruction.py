"""What a bidirectional model makes of reports: nearest words, reconstructions, and their page."""

import pytest
import torch
from html_page import Page
from torch.nn import functional as F
from typer.testing import CliRunner

from mambaxray import explain_report, make_tiny_models, reconstruct_studies, write_reconstruction_page
from mambaxray.cli import app
from mambaxray.data.phantoms import make_study
from mambaxray.evaluation.nearest_words import nearest_words


def test_nearest_words_are_those_of_all_distances(monkeypatch):
    monkeypatch.setattr("mambaxray.evaluation.nearest_words._WORDS_AT_ONCE", 7)
    torch.manual_seed(0)
    embeddings, words = torch.randn(5, 8), torch.randn(40, 8).to(torch.bfloat16)
    distances, ids = nearest_words(embeddings, words, 3)
    expected = (embeddings[:, None] - words.float()).norm(dim=-1).sort(dim=1)
    torch.testing.assert_close(distances, expected.values[:, :3])
    assert torch.equal(ids, expected.indices[:, :3])
    assert nearest_words(words[:1].float(), words)[0].item() == 0
    assert nearest_words(embeddings, words[:2], 9)[1].shape == (5, 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    (folder,) = make_tiny_models(tmp_path_factory.mktemp("tiny"), names=["bidirectional_rrg"])
    return folder, AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def found(tiny):
    _, model, processor = tiny
    return reconstruct_studies(model, processor, [make_study(0), make_study(1)], num_patches=3, num_words=2)


def test_a_reconstruction_has_the_models_own_errors_and_distances(tiny, found):
    _, model, processor = tiny
    inputs = processor.prepare_studies([make_study(0)], with_reports=True)
    with torch.no_grad():
        losses = (
            model.eval()
            .get_image_features(
                **{name: inputs[name] for name in ("pixel_values", "report_input_ids", "vision_prompt_ids")}
            )
            .losses
        )
    assert [each.study_id for each in found] == [make_study(seed)["study_id"] for seed in (0, 1)]
    assert found[0].error == pytest.approx(losses["reconstruction"].item(), rel=1e-4)
    assert found[0].distance == pytest.approx(losses["text_to_vision"].item(), rel=1e-4)
    assert found[0].error_from_other != found[0].error
    assert found[0].distance_from_other != found[0].distance
    assert make_study(0)["report"].split()[0] in found[0].text
    assert found[0].seen.size == found[0].reconstructed.size == found[0].from_other.size == (32, 32)


def test_the_patches_are_those_nearest_to_words(tiny, found):
    _, model, processor = tiny
    image = processor.prepare_studies([make_study(0)])["pixel_values"][:, 0]
    with torch.no_grad():
        embeddings = model.project_visual_tokens(model.encode_images(image))[0]
    distances = torch.cdist(embeddings, model.get_input_embeddings().weight)
    nearest = distances.min(dim=1).values
    expected = nearest.argsort()[:3].tolist()
    assert [patch.row * found[0].side + patch.column for patch in found[0].patches] == expected
    word, distance = found[0].patches[0].of_image[0]
    assert distance == pytest.approx(nearest.min().item(), rel=1e-4)
    assert word == processor.tokenizer.decode([distances[expected[0]].argmin().item()])
    assert all(len(patch.of_image) == len(patch.of_report) == 2 for patch in found[0].patches)
    assert F.relu(torch.tensor([d for p in found[0].patches for _, d in p.of_report])).min() > 0


def test_the_page_shows_each_image_three_times_with_its_words(tmp_path, found):
    page = write_reconstruction_page(tmp_path / "page.html", found, title="<t>", summary="s").read_text()
    assert " ".join(Page(page).reports[0].split()) == " ".join(found[0].text.split())
    assert page.count("<figure>") == 3 * len(found)
    assert f"from its report, error {found[0].error:.3f}" in page
    assert "&lt;t&gt;" in page


def test_the_command_writes_the_page_and_says_what_it_lacks(tmp_path, tiny):
    folder, model, processor = tiny
    arguments = ["analyse", "reconstruction", "phantoms", "--dataset-option", "num_studies=20", "--studies", "2"]
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, [*arguments, "--model", str(folder), "--output", str(page)])
    assert done.exit_code == 0, done.output
    assert page.read_text().count("<figure>") == 6
    model.save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    done = CliRunner().invoke(app, [*arguments, "--model", str(tmp_path / "small")])
    assert done.exit_code == 2
    assert "model.save_training_parts=true" in " ".join(done.output.split())


def test_one_study_alone_has_no_other_report(tiny):
    _, model, processor = tiny
    with pytest.raises(ValueError, match="two or more, not 1"):
        reconstruct_studies(model, processor, [make_study(0)])


def test_attention_maps_cover_the_patches_of_a_model_without_cls(tiny):
    _, model, processor = tiny
    explanation = explain_report(model, processor, make_study(0)["images"], max_new_tokens=4, min_new_tokens=4)
    side = round(model.config.num_image_tokens**0.5)
    assert explanation.sources[0].maps.shape == (len(explanation.words), side, side)
