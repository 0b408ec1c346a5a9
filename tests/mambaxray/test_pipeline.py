"""`pipeline("image-to-text")` and the built-in `image-text-to-text`, on a tiny model saved in a folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from transformers import AutoModelForImageTextToText, ImageTextToTextPipeline, pipeline

from mambaxray import ImageToTextPipeline, MambaXrayForConditionalGeneration, MambaXrayProcessor
from mambaxray.processing.image_reading import ImageReadError

LENGTH = {"max_new_tokens": 10}


@pytest.fixture(scope="module")
def reporter(model_folder: Path) -> ImageToTextPipeline:
    return pipeline("image-to-text", model=str(model_folder), device="cpu")


@pytest.fixture(scope="module")
def singles(reporter: ImageToTextPipeline, pictures: list[Path]) -> list[list[dict[str, str]]]:
    """What each picture gets on its own."""
    return [reporter(str(path), **LENGTH) for path in pictures]


def test_the_task_makes_our_pipeline(reporter: ImageToTextPipeline) -> None:
    assert type(reporter) is ImageToTextPipeline
    assert reporter.task == "image-to-text"


def test_one_picture_gives_a_list_of_one_report(singles: list[list[dict[str, str]]]) -> None:
    assert all(len(result) == 1 and list(result[0]) == ["generated_text"] for result in singles)
    assert len({result[0]["generated_text"] for result in singles}) > 1, "the fixture's model ignores the picture"


def test_the_report_is_what_generate_writes_behind_the_prompt(
    reporter: ImageToTextPipeline,
    model: MambaXrayForConditionalGeneration,
    processor: MambaXrayProcessor,
    pictures: list[Path],
    singles: list[list[dict[str, str]]],
) -> None:
    inputs = processor(images=pictures[0])
    ids = model.generate(**inputs, **LENGTH, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert singles[0] == [{"generated_text": expected}]


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_a_batched_list_gives_what_single_pictures_give(
    reporter: ImageToTextPipeline, pictures: list[Path], singles: list[Any], batch_size: int
) -> None:
    assert reporter([str(path) for path in pictures], batch_size=batch_size, **LENGTH) == singles


def test_a_generator_is_read_as_results_are_asked_for(
    reporter: ImageToTextPipeline, pictures: list[Path], singles: list[Any]
) -> None:
    read = []

    def study() -> Iterator[Path]:
        for path in pictures:
            read.append(path)
            yield path

    results = iter(reporter(study(), **LENGTH))
    assert next(results) == singles[0]
    assert len(read) < len(pictures)
    assert list(results) == singles[1:]


def test_any_iterator_and_an_empty_list_are_accepted(
    reporter: ImageToTextPipeline, pictures: list[Path], singles: list[Any]
) -> None:
    assert list(reporter(iter(pictures), batch_size=3, **LENGTH)) == singles
    assert reporter([]) == []


def test_a_column_of_a_dataset_and_worker_processes_are_accepted(
    reporter: ImageToTextPipeline, pictures: list[Path], singles: list[Any]
) -> None:
    dataset = Dataset.from_dict({"image": [str(path) for path in pictures]}).cast_column("image", Image())
    assert list(reporter(dataset["image"], batch_size=2, **LENGTH)) == singles
    assert list(reporter(dataset, batch_size=2, num_workers=2, **LENGTH)) == singles


def test_paths_pil_images_bytes_arrays_and_tensors_mean_the_same(
    reporter: ImageToTextPipeline, pictures: list[Path], singles: list[Any]
) -> None:
    picture = PILImage.open(pictures[0])
    array = np.asarray(picture)
    forms = [pictures[0], picture, pictures[0].read_bytes(), array, torch.from_numpy(array.copy())]
    assert all(reporter(form, **LENGTH) == singles[0] for form in forms)
    assert reporter(np.stack([array[None]] * 2), **LENGTH) == [singles[0]] * 2


def test_views_of_a_study_become_one_report_however_they_are_given(
    reporter: ImageToTextPipeline, model: Any, processor: MambaXrayProcessor, pictures: list[Path]
) -> None:
    views = pictures[:2]
    inputs = processor(images=[views])
    ids = model.generate(**inputs, **LENGTH, do_sample=False)
    [expected] = processor.post_process_image_text_to_text(ids, prompt_length=inputs["input_ids"].shape[1])
    study = [{"generated_text": expected}]
    assert reporter({"images": views}, **LENGTH) == study
    assert reporter([views], **LENGTH) == [study]
    assert reporter([{"images": views}], **LENGTH) == [study]


def test_studies_that_differ_in_views_and_prompt_share_a_batch(
    reporter: ImageToTextPipeline, pictures: list[Path]
) -> None:
    studies = [
        {"images": pictures[:3]},
        {"images": pictures[:1], "text": "Mild?"},
        {"images": pictures[2:], "text": "The lungs and the heart, in detail and comprehensive"},
        pictures[3],
    ]
    alone = [reporter(study, **LENGTH) for study in studies]
    assert reporter(studies, batch_size=4, **LENGTH) == alone
    assert alone[1] != reporter(pictures[0], **LENGTH), "the prompt has no effect"


def test_prompt_stands_for_all_studies_but_those_with_their_own_text(
    reporter: ImageToTextPipeline, pictures: list[Path]
) -> None:
    own = {"images": pictures[1], "text": "Mild?"}
    by_study = [{"images": pictures[0], "text": "The lungs"}, own]
    assert reporter([pictures[0], own], prompt="The lungs", **LENGTH) == reporter(by_study, **LENGTH)


def test_several_sequences_stay_with_their_study_in_a_batch(
    reporter: ImageToTextPipeline, pictures: list[Path]
) -> None:
    beams = {"num_beams": 3, "num_return_sequences": 2, **LENGTH}
    alone = [reporter(path, **beams) for path in pictures]
    assert all(len(result) == 2 for result in alone)
    assert reporter(pictures, batch_size=3, **beams) == alone


def test_arguments_of_generate_count_in_the_call_in_the_constructor_and_bundled(
    reporter: ImageToTextPipeline, model_folder: Path, pictures: list[Path]
) -> None:
    expected = reporter(pictures[0], max_new_tokens=4, num_beams=2)
    assert reporter(pictures[0], generate_kwargs={"max_new_tokens": 4, "num_beams": 2}) == expected
    made_so = pipeline("image-to-text", model=model_folder, device="cpu", max_new_tokens=4, num_beams=2)
    assert made_so(pictures[0]) == expected
    with pytest.raises(ValueError, match="max_new_tokens given both"):
        reporter(pictures[0], max_new_tokens=4, generate_kwargs={"max_new_tokens": 5})


def test_a_model_object_takes_a_processor_or_its_parts_or_finds_its_own(
    model: Any, processor: MambaXrayProcessor, model_folder: Path, pictures: list[Path], singles: list[Any]
) -> None:
    loaded = AutoModelForImageTextToText.from_pretrained(model_folder)
    parts = {"tokenizer": processor.tokenizer, "image_processor": processor.image_processor}
    for made in (
        pipeline("image-to-text", model=model, processor=processor, device="cpu"),
        pipeline("image-to-text", model=model, device="cpu", **parts),
        pipeline("image-to-text", model=loaded, device="cpu"),
        ImageToTextPipeline(model, processor, device="cpu"),
    ):
        assert made(pictures[0], **LENGTH) == singles[0]


def test_missing_parts_are_named(model: Any, processor: MambaXrayProcessor) -> None:
    with pytest.raises(ValueError, match="image_processor is missing"):
        pipeline("image-to-text", model=model, tokenizer=processor.tokenizer)


def test_a_saved_pipeline_loads_again(
    reporter: ImageToTextPipeline, tmp_path: Path, pictures: list[Path], singles: list[Any]
) -> None:
    reporter.save_pretrained(tmp_path)
    assert pipeline("image-to-text", model=tmp_path, device="cpu")(pictures[0], **LENGTH) == singles[0]


def test_bad_input_gets_one_error_that_names_it(
    reporter: ImageToTextPipeline, pictures: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(pictures[0].read_bytes()[:50])
    with pytest.raises(ImageReadError, match=r"broken\.png"):
        reporter(broken)
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        reporter([pictures[0], tmp_path / "absent.png"])
    with pytest.raises(ValueError, match="without any view"):
        reporter({"images": []})
    with pytest.raises(ValueError, match=r"needs 'images'.*\['report'\]"):
        reporter({"report": "clear"})


def test_the_built_in_pipeline_takes_chats(
    model_folder: Path, processor: MambaXrayProcessor, pictures: list[Path], singles: list[Any]
) -> None:
    chatter = pipeline("image-text-to-text", model=model_folder, device="cpu")
    assert type(chatter) is ImageTextToTextPipeline
    content = [{"type": "image", "path": str(pictures[0])}, {"type": "text", "text": processor.instruction}]
    [result] = chatter(text=[{"role": "user", "content": content}], return_full_text=False, **LENGTH)
    assert result["generated_text"].strip() == singles[0][0]["generated_text"]


def test_the_built_in_pipeline_takes_images_with_text(
    reporter: ImageToTextPipeline, model_folder: Path, pictures: list[Path]
) -> None:
    built_in = pipeline("image-text-to-text", model=model_folder, device="cpu")
    [result] = built_in(images=str(pictures[0]), text="The lungs", return_full_text=False, **LENGTH)
    [expected] = reporter(pictures[0], prompt="The lungs", **LENGTH)
    assert result["generated_text"].strip() == expected["generated_text"]
