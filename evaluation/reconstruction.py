"""What a bidirectional model makes of a report: the image that it reconstructs, and the words near its embeddings."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import ProcessorMixin

from ..modeling_mambaxray.modeling_bidirectional import BidirectionalForConditionalGeneration
from .nearest_words import nearest_words
from .seen_views import as_seen


@dataclass(frozen=True)
class PatchWords:
    """A patch and the words of the language model that lie nearest to its embeddings.

    Attributes:
        row, column: of the patch in the image's grid, from 0.
        of_image: words nearest to the embedding that the projection makes of the image, with their distances.
        of_report: words nearest to the one that the language model makes of the report.
    """

    row: int
    column: int
    of_image: list[tuple[str, float]]
    of_report: list[tuple[str, float]]


@dataclass(frozen=True)
class Reconstruction:
    """An image and what its report becomes.

    Attributes:
        study_id: in its data set.
        view: the view's name, empty when it is not said.
        text: what the text encoder reads.
        seen: the image as the model sees it, in grey and in the aspect ratio of the film.
        reconstructed: the image that the model makes of the report.
        from_other: the same from the report of another study.
        error, error_from_other: mean squared error of each over the pixels, in the units of `pixel_values`.
        distance, distance_from_other: squared distance of the report's embeddings from the image's, summed over the
            width, the mean over patches (TVC).
        side: patches of a row of the grid.
        patches: those whose image embedding lies nearest to any word, the nearest first.
    """

    study_id: str
    view: str
    text: str
    seen: Image.Image
    reconstructed: Image.Image
    from_other: Image.Image
    error: float
    error_from_other: float
    distance: float
    distance_from_other: float
    side: int
    patches: list[PatchWords]


@torch.no_grad()
def reconstruct_studies(
    model: BidirectionalForConditionalGeneration,
    processor: ProcessorMixin,
    studies: Iterable[Mapping[str, Any]],
    *,
    num_patches: int = 6,
    num_words: int = 5,
) -> list[Reconstruction]:
    """Reconstructs each view of studies from its report, and from the next study's for comparison.

    In the mode `teacher_forced` the language model also sees the true embeddings of the patches before: what the report
    adds is what the two reconstructions differ in.

    Args:
        model: with its training parts (`save_pretrained(..., save_training_parts=True)`, or a checkpoint).
        processor: its processor.
        studies: two or more, in the package's schema, each with a report.
        num_patches: patches of each image whose words are looked up.
        num_words: words of each of them.

    Raises:
        ValueError: the model has no text encoder or image decoder, or there are fewer than two studies.
    """
    studies = list(studies)
    if len(studies) < 2:
        raise ValueError(f"each study is compared with the report of another one: give two or more, not {len(studies)}")
    if getattr(model, "image_decoder", None) is None:
        raise ValueError(
            "the model can't reconstruct images: it is of another system, was saved without the parts that only "
            "training needs (give a checkpoint, or train with model.save_training_parts=true), or was trained without "
            "the loss reconstruction"
        )
    model.eval()
    prepared = [processor.prepare_studies([study], with_reports=True).to(model.device) for study in studies]
    found = []
    for number, (study, inputs) in enumerate(zip(studies, prepared, strict=True)):
        other = prepared[(number + 1) % len(prepared)]["report_input_ids"][0]
        views = range(inputs["pixel_values"].shape[1])
        found += [_reconstruct(model, processor, study, inputs, other, view, num_patches, num_words) for view in views]
    return found


def _reconstruct(
    model: BidirectionalForConditionalGeneration,
    processor: ProcessorMixin,
    study: Mapping[str, Any],
    inputs: Mapping[str, Tensor],
    other: Tensor,
    view: int,
    num_patches: int,
    num_words: int,
) -> Reconstruction:
    film = (study["images"] if study.get("images") is not None else [study["image"]])[view]
    image, text = inputs["pixel_values"][0, view], inputs["report_input_ids"][0, view]
    target = model.project_visual_tokens(model.encode_images(image.unsqueeze(0)))
    images, errors, distances, embeddings = [], [], [], []
    for ids in (text, other[min(view, len(other) - 1)]):
        generated = model.embeddings_of_reports(ids[ids >= 0].unsqueeze(0), inputs["vision_prompt_ids"], target)
        pixels = model.reconstruct(generated)
        images += as_seen(pixels, processor.image_processor, [film])
        errors.append(F.mse_loss(pixels.float(), image.float().unsqueeze(0)).item())
        distances.append((generated.float() - target.float()).square().sum(dim=-1).mean().item())
        embeddings.append(generated[0])
    side = round(target.shape[1] ** 0.5)
    views = study.get("views") or [""]
    return Reconstruction(
        study_id=str(study.get("study_id", "")),
        view=views[view] if view < len(views) else "",
        text=processor.text_tokenizer.decode(text[text >= 0], skip_special_tokens=True),
        seen=as_seen(image.unsqueeze(0), processor.image_processor, [film])[0],
        reconstructed=images[0],
        from_other=images[1],
        error=errors[0],
        error_from_other=errors[1],
        distance=distances[0],
        distance_from_other=distances[1],
        side=side,
        patches=list(_patch_words(model, processor, target[0], embeddings[0], side, num_patches, num_words)),
    )


def _patch_words(
    model: BidirectionalForConditionalGeneration,
    processor: ProcessorMixin,
    of_image: Tensor,
    of_report: Tensor,
    side: int,
    num_patches: int,
    num_words: int,
) -> Iterator[PatchWords]:
    words: Any = model.get_input_embeddings().weight
    tables = [nearest_words(embeddings, words, num_words) for embeddings in (of_image, of_report)]
    for patch in tables[0][0][:, 0].argsort()[:num_patches].tolist():
        near = [
            [(processor.tokenizer.decode([word]), distance) for distance, word in zip(*pair, strict=True)]
            for pair in ((distances[patch].tolist(), ids[patch].tolist()) for distances, ids in tables)
        ]
        yield PatchWords(patch // side, patch % side, *near)


__all__ = ["PatchWords", "Reconstruction", "reconstruct_studies"]
