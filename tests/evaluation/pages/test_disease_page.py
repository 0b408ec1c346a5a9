"""The page of a classifier: every observation with its map and the regions that a memory would keep."""

from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from html_page import Page
from PIL import Image
from tiny_classifier import save_classifier, tiny_classifier
from typer.testing import CliRunner

from mambaxray import MambaXrayImageProcessor
from mambaxray.cli import app
from mambaxray.data.phantoms import make_study
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.evaluation.disease_maps import DiseaseExplanation, DiseaseMap, explain_diseases
from mambaxray.evaluation.pages.disease_page import write_disease_page
from mambaxray.evaluation.pages.overlays import grey_mask, outlined_regions
from mambaxray.modeling_mambaxray.layers.activation_maps import masked_images, strongest_regions


@pytest.fixture(scope="module")
def views() -> list[Image.Image]:
    return make_study(3, image_size=64, views=("PA", "LATERAL"))["images"]


@pytest.fixture(scope="module")
def processor() -> MambaXrayImageProcessor:
    return MambaXrayImageProcessor(size={"height": 32, "width": 32})


def test_probabilities_are_the_models_and_every_view_has_maps_and_regions(views, processor) -> None:
    model = tiny_classifier()
    explanation = explain_diseases(model, processor, views, cam="hirescam", threshold=0.3, most_regions=2)
    assert [each.observation for each in explanation.diseases] == list(OBSERVATIONS)
    with torch.no_grad():
        expected = model(**processor([views], return_tensors="pt")).logits[0].sigmoid()
    assert np.allclose([each.probability for each in explanation.diseases], expected, atol=1e-5)
    for each in explanation.diseases:
        assert each.maps.shape == each.regions.shape == (2, 2, 2)
        assert np.array_equal(each.regions, strongest_regions(torch.from_numpy(each.maps), 0.3, 2).numpy())


def test_the_masked_image_on_the_page_is_the_one_that_the_model_reads(views, processor) -> None:
    model = tiny_classifier("vit_mae")
    square = [views[0]]
    explanation = explain_diseases(model, processor, square)
    regions = explanation.diseases[2].regions
    pixels = processor([square], return_tensors="pt")["pixel_values"][0]
    masked = masked_images(pixels, torch.from_numpy(regions))[0]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
    read = (255 * (masked * std + mean).mean(dim=0)).numpy()
    view = explanation.views[0]
    mask = grey_mask(regions[0], view.size, explanation.mask_grey).resize(view.size, Image.Resampling.NEAREST)
    shown = Image.alpha_composite(view.convert("RGBA"), mask).convert("L")
    assert np.abs(np.asarray(shown) - read).max() <= 1


def test_regions_are_framed_by_their_outer_edges_only() -> None:
    regions = np.zeros((4, 4), dtype=bool)
    regions[1, 1] = regions[1, 2] = True
    alpha = np.asarray(outlined_regions(regions, (448, 448)))[..., 3]
    assert alpha[112:224, 112:118].max(axis=1).min() > 100  # the left edge
    assert alpha[130:206, 200:248].max() < 5  # between the two, and inside
    assert alpha[300:, :].max() == 0
    assert np.asarray(outlined_regions(np.zeros((4, 4), bool), (448, 300)))[..., 3].max() == 0


def explanation_of(*probabilities: float, views: int = 1) -> DiseaseExplanation:
    regions = np.zeros((views, 2, 2), dtype=bool)
    regions[0, 0, 1] = True
    maps = np.where(regions, 1.0, 0.2)
    diseases = [DiseaseMap(f"finding <{i}>", p, maps, regions) for i, p in enumerate(probabilities)]
    film = Image.fromarray(np.tile(np.arange(80, dtype=np.uint8), (60, 1)))
    return DiseaseExplanation([film] * views, diseases, "gradcam++", 0.5, 6, 115)


def test_what_is_present_is_shown_and_the_rest_is_folded_away(tmp_path) -> None:
    path = write_disease_page(tmp_path / "new" / "page.html", explanation_of(0.9, 0.2, 0.5), title="T", summary="S")
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    text = " ".join(" ".join(page.text).split())
    assert "The other 1 observations" not in text
    assert "The other observation, with a probability below 0.5" in text
    assert "Grad-CAM++" in text
    assert "1 region kept" in text
    assert "finding <0>" in text
    before, _, folded = source.partition("<details>")
    assert before.count('class="disease"') == 2
    assert folded.count('class="disease"') == 1
    assert "http" not in source.replace("http-equiv", "")


@pytest.mark.parametrize(("probabilities", "shown"), [((0.1, 0.2), "No observation has"), ((0.9, 0.8), "")])
def test_pages_with_nothing_or_everything_present_read_well(probabilities, shown, tmp_path) -> None:
    page = write_disease_page(tmp_path / "p.html", explanation_of(*probabilities, views=2), title="T", summary="S")
    source = page.read_text(encoding="utf-8")
    assert shown in source
    assert ("<details open>" in source) == bool(shown)
    assert ("<details" in source) == bool(shown)
    assert "map, no region kept" in source  # of the second view


def test_overlays_have_the_aspect_ratio_of_the_film(tmp_path) -> None:
    path = write_disease_page(tmp_path / "p.html", explanation_of(0.9), title="T", summary="S")
    images = [dict(a)["src"] for tag, a in Page(path.read_text(encoding="utf-8")).elements if tag == "img"]
    sizes = [Image.open(BytesIO(b64decode(image.partition(",")[2]))).size for image in images]
    assert len(sizes) == 4
    assert all(abs(width / height - 80 / 60) < 0.02 for width, height in sizes)


def test_an_unknown_map_is_refused(views, processor) -> None:
    with pytest.raises(ValueError, match="got 'scorecam'"):
        explain_diseases(tiny_classifier(), processor, views, cam="scorecam")


def test_the_command_writes_the_page_of_a_classifier_and_refuses_what_it_has_no_use_for(views, tmp_path: Path) -> None:
    model = save_classifier(tmp_path / "model")
    views[0].save(tmp_path / "pa.png")
    arguments = ["explain", str(tmp_path / "pa.png"), "--model", model, "--output", str(tmp_path / "page.html")]
    result = CliRunner().invoke(app, [*arguments, "--cam", "eigencam", "--regions", "2"])
    assert result.exit_code == 0, result.stderr
    assert "at most 2 of an image" in (tmp_path / "page.html").read_text(encoding="utf-8")
    result = CliRunner().invoke(app, [*arguments, "--prompt", "Describe."])
    assert result.exit_code == 2
    assert "is a classifier, which writes no report: leave out --prompt" in result.stderr
