"""Stage 1 with the plain Trainer: image folders, streams and studies; and the picture of what is predicted."""

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from tiny import tiny_model
from transformers import Trainer, TrainingArguments, ViTImageProcessor, ViTMAEConfig, ViTMAEForPreTraining

from mambaxray import (
    ImageCollator,
    MambaXrayForPreTraining,
    MambaXrayImageProcessor,
    MambaXrayPreTrainingConfig,
    PatchPredictionCallback,
)
from mambaxray.data.phantoms import make_phantoms, make_study
from mambaxray.evaluation.pages.patch_predictions import draw_patches, predict_patches

COLLATOR = ImageCollator(MambaXrayImageProcessor(size={"height": 32, "width": 32}))


def arm():
    torch.manual_seed(0)
    return MambaXrayForPreTraining(
        MambaXrayPreTrainingConfig(
            hidden_size=32, num_hidden_layers=4, image_size=32, patch_size=4, state_size=4, decoder_hidden_size=32
        )
    )


def mae():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    decoder = {f"decoder_{name}": value for name, value in sizes.items()}
    return ViTMAEForPreTraining(ViTMAEConfig(image_size=32, patch_size=4, norm_pix_loss=True, **sizes, **decoder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(8):
        make_study(number)["images"][0].resize((64, 64)).save(folder / f"{number}.png")
    return folder


def arguments(folder, **more):
    values = {"per_device_train_batch_size": 4, "remove_unused_columns": False, "report_to": [], "seed": 0}
    return TrainingArguments(str(folder), **values | {"save_strategy": "no", "logging_steps": 1} | more)


@pytest.mark.parametrize("make_model", [arm, mae])
@pytest.mark.parametrize("streaming", [False, True])
def test_the_plain_trainer_lowers_the_loss_on_a_folder_of_images(tmp_path, folder, make_model, streaming):
    rows = load_dataset("imagefolder", data_dir=str(folder), split="train", streaming=streaming)
    trainer = Trainer(
        model=make_model(),
        args=arguments(tmp_path, max_steps=20, learning_rate=5e-3),
        train_dataset=rows,
        data_collator=COLLATOR,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert float(losses[-1]) < 0.9 * float(losses[0])


def test_every_view_of_a_study_is_an_image():
    studies = make_phantoms(4, seed=1, image_size=32, splits={"train": 1.0})["train"]
    rows = [studies[0] | {"images": studies[0]["images"] * 2}, studies[1]]
    batch = COLLATOR(rows)
    expected = len(rows[0]["images"]) + len(rows[1]["images"])
    assert batch["pixel_values"].shape == (expected, 3, 32, 32)


def test_other_image_processors_fit():
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    row = {"image": Image.new("RGB", (40, 50))}
    assert ImageCollator(processor)([row, row])["pixel_values"].shape == (2, 3, 32, 32)


def test_evaluation_tells_the_loss(tmp_path, folder):
    rows = load_dataset("imagefolder", data_dir=str(folder), split="train")
    trainer = Trainer(model=arm(), args=arguments(tmp_path), eval_dataset=rows, data_collator=COLLATOR)
    expected = trainer.model.eval()(COLLATOR(list(rows))["pixel_values"]).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)


def test_pictures_come_every_n_steps_into_the_folder_and_tensorboard_and_change_nothing(tmp_path, folder):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rows = load_dataset("imagefolder", data_dir=str(folder), split="train")
    weights = []
    for watched in (False, True):
        run = tmp_path / str(watched)
        pictures = COLLATOR([rows[0], rows[1]])["pixel_values"]
        trainer = Trainer(
            model=mae(),  # masks at random, so a picture could disturb the order of random numbers
            args=arguments(run, max_steps=5, report_to=["tensorboard"]),
            train_dataset=rows,
            data_collator=COLLATOR,
            callbacks=[PatchPredictionCallback(pictures, every_n_steps=2)] if watched else [],
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    files = sorted(path.name for path in (run / "pictures").iterdir())
    assert files == ["step-000002.png", "step-000004.png"]
    events = event_accumulator.EventAccumulator(str(run / "runs" / "pictures")).Reload()
    assert [event.step for event in events.Images("patches")] == [2, 4]


@pytest.mark.parametrize("make_model", [arm, mae])
def test_a_perfect_prediction_is_drawn_like_its_target(make_model, folder):
    model = make_model()
    pixels = COLLATOR([{"image": Image.open(folder / "0.png")}])["pixel_values"]
    shown = predict_patches(model, pixels)
    hidden = (shown.targets != 0).any(dim=1, keepdim=True)
    assert 0.5 < hidden.float().mean() < 1.0
    assert ((shown.predictions != 0).any(dim=1, keepdim=True) <= hidden).all()
    perfect = type(shown)(shown.inputs, shown.targets, shown.targets, shown.restored)
    sheet = np.asarray(draw_patches(perfect))
    target, prediction = sheet[14:46, 36:68], sheet[14:46, 72:104]
    assert np.array_equal(target, prediction)
    assert model.training


def test_models_without_patches_are_refused():
    model = tiny_model()
    with pytest.raises(TypeError, match="MambaXrayForConditionalGeneration predicts no patches"):
        predict_patches(model, torch.zeros(1, 3, 32, 32))
