"""Training from visual tokens that were computed once is training with the images."""

import pytest
import torch
from tiny_training import phantom_processor, short_run, tiny_generator
from transformers import Trainer

from mambaxray.data.phantoms import make_phantoms
from mambaxray.modeling_mambaxray.modeling_encoded_studies import EncodedStudyModel
from mambaxray.train.collator import ReportCollator
from mambaxray.train.frozen_encoder import EncodedStudies, EncodedStudyCollator, encode_studies


@pytest.fixture(scope="module")
def studies():
    return make_phantoms(12, image_size=32, splits={"train": 1.0})["train"]


@pytest.fixture(scope="module")
def processor(studies):
    return phantom_processor(list(studies["report"]))


@pytest.fixture(scope="module")
def files(studies, processor, tmp_path_factory):
    """Encoded in two parts, as two processes do."""
    folder = tmp_path_factory.mktemp("tokens")
    parts = [folder / "0.npy", folder / "1.npy"]
    for number, file in enumerate(parts):
        part = studies.shard(2, number, contiguous=True)
        encode_studies(tiny_generator(processor), processor, part, file, batch_size=4)
    return parts


def test_loss_and_gradients_are_those_of_training_with_the_images(studies, processor, files):
    with_images, with_tokens = (tiny_generator(processor) for _ in range(2))
    for model in (with_images, with_tokens):
        model.vision_encoder.requires_grad_(False)
        model.train()
    expected = with_images(**ReportCollator(processor, 20)([studies[i] for i in (1, 7, 10)])).loss
    encoded = EncodedStudies(studies["report"], files)
    batch = EncodedStudyCollator(processor, 20)([encoded[i] for i in (1, 7, 10)])
    loss = EncodedStudyModel(with_tokens)(**batch)["loss"]
    torch.testing.assert_close(loss, expected)
    expected.backward()
    loss.backward()
    for (name, weight), other in zip(with_images.named_parameters(), with_tokens.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None) == name.startswith("vision_encoder")
        if weight.grad is not None:
            torch.testing.assert_close(other.grad, weight.grad, rtol=1e-4, atol=1e-6)


def test_a_plain_trainer_trains_all_but_the_encoder(tmp_path, studies, processor, files):
    model = tiny_generator(processor)
    model.vision_encoder.requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    encoded = EncodedStudies(studies["report"], files)
    trainer = Trainer(
        model=EncodedStudyModel(model),
        args=short_run(tmp_path, max_steps=3),
        train_dataset=encoded,
        eval_dataset=encoded,
        data_collator=EncodedStudyCollator(processor, 20),
    )
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < first
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("vision_encoder")


def test_reports_without_their_studies_are_refused(studies, files):
    with pytest.raises(ValueError, match="12 encoded studies"):
        EncodedStudies(studies["report"][:5], files)
