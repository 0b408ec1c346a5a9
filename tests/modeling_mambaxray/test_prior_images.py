"""A second block of image tokens: the images of the prior study, in some studies of a batch and not in others."""

import pytest
import torch
from tiny import VOCABULARY, tiny_config, with_large_weights

from mambaxray import (
    EMRRGConfig,
    EMRRGForConditionalGeneration,
    MambaXrayConfig,
    MambaXrayForConditionalGeneration,
    MambaXrayImageProcessor,
    MambaXrayProcessor,
    make_phantoms,
    make_tiny_models,
)
from mambaxray.configuration.families import families_of_stage
from mambaxray.modeling_mambaxray.generation.continuous_generation import generate_continuously
from mambaxray.modeling_mambaxray.generation.pipeline_image_to_text import ImageToTextPipeline
from mambaxray.modeling_mambaxray.generation.recalled_prompts import prepare_for_generation
from mambaxray.modeling_mambaxray.generation.study_batch import stack_studies
from mambaxray.train.tokenizer import train_report_tokenizer

CONTEXT = ("indication", "prior_images", "prior_report")


@pytest.fixture(scope="module")
def rows():
    return list(make_phantoms(4, image_size=32, splits={"train": 1.0})["train"])


@pytest.fixture(scope="module")
def studies(rows):
    """Without a prior, with one of one view, with one of two views, with a report of it alone."""
    views = [row["images"][0] for row in rows]
    context = [
        {},
        {"prior_images": [views[0]], "prior_report": "Small effusion."},
        {"prior_images": [views[2], views[3]], "prior_report": "Clear.", "indication": "Cough"},
        {"prior_report": "Large effusion."},
    ]
    return [{"images": row["images"], "report": row["report"]} | each for row, each in zip(rows, context, strict=True)]


@pytest.fixture(scope="module")
def processor(rows):
    tokenizer = train_report_tokenizer([row["report"] for row in rows], 400)
    size = {"height": 32, "width": 32}
    return MambaXrayProcessor(MambaXrayImageProcessor(size=size), tokenizer, num_image_tokens=5, context=CONTEXT)


def make_model(processor, model_class=MambaXrayForConditionalGeneration, **options):
    config = tiny_config()
    text = config.text_config
    text.vocab_size = processor.image_token_id  # both placeholders lie behind the vocabulary
    torch.manual_seed(0)
    made = model_class.config_class(
        config.vision_config,
        text,
        image_token_id=processor.image_token_id,
        prior_image_token_id=processor.prior_image_token_id,
        **options,
    )
    return with_large_weights(model_class(made).eval())


@pytest.fixture(scope="module")
def model(processor):
    return make_model(processor)


@pytest.fixture(scope="module")
def emrrg(processor):
    return make_model(processor, EMRRGForConditionalGeneration, hybrid_layers=[0, 1])


def reports(model, batch, **options):
    settings = {"max_new_tokens": 10, "do_sample": False, **options}
    return model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :].tolist()


def without_padding(row, eos=2):
    return row[: row.index(eos) + 1] if eos in row else row


def test_the_processor_makes_as_many_placeholders_as_the_model_has_tokens(model, processor):
    assert model.config.num_prior_image_tokens == model.config.num_image_tokens == processor.num_image_tokens


def test_a_batch_holds_prior_views_of_those_studies_that_have_them(processor, studies):
    batch = processor.prepare_studies(studies)
    assert batch["prior_pixel_values"].shape == (4, 2, 3, 32, 32)
    assert batch["prior_view_mask"].tolist() == [[False, False], [True, False], [True, True], [False, False]]
    placeholders = (batch["input_ids"] == processor.prior_image_token_id).sum(dim=1)
    assert placeholders.tolist() == [0, 5, 5, 0]
    assert ((batch["input_ids"] == processor.image_token_id).sum(dim=1) == 5).all()


def test_a_batch_without_any_prior_holds_nothing_of_priors(processor, studies):
    batch = processor.prepare_studies([studies[0], studies[3]])
    assert not [name for name in batch if name.startswith("prior")]


@pytest.mark.parametrize("name", ["model", "emrrg"])
def test_a_mixed_batch_gives_the_loss_and_logits_of_single_studies(name, processor, studies, request):
    model = request.getfixturevalue(name)
    batch = processor.prepare_studies(studies, with_reports=True)
    logits = model(**batch).logits
    for index, study in enumerate(studies):
        single = processor.prepare_studies([study], with_reports=True)
        length = single["input_ids"].shape[1]
        torch.testing.assert_close(logits[index, :length], model(**single).logits[0], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", ["model", "emrrg"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"repetition_penalty": 2.0}], ids=str)
def test_a_padded_batch_writes_what_single_studies_get(name, options, processor, studies, request):
    model = request.getfixturevalue(name)
    batched = reports(model, processor.prepare_studies(studies), **options)
    for study, row in zip(studies, batched, strict=True):
        (single,) = reports(model, processor.prepare_studies([study]), **options)
        assert without_padding(row) == without_padding(single)


def test_prior_images_change_what_is_written(model, processor, studies):
    batch = processor.prepare_studies(studies[1:2])
    other = dict(batch, prior_pixel_values=batch["prior_pixel_values"].flip(-1))
    assert reports(model, batch) != reports(model, other)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_continuous_generation_writes_what_plain_generation_does(model, processor, studies, num_beams):
    options = {"max_new_tokens": 10, "num_beams": num_beams, "do_sample": False}
    singles = [processor.prepare_studies([study]) for study in studies]
    written = dict(generate_continuously(model, [dict(single) for single in singles], batch_size=3, **options))
    for position, single in enumerate(singles):
        (row,) = reports(model, single, num_beams=num_beams)
        assert without_padding(written[position].tolist()) == without_padding(row)


def test_stacked_single_studies_are_the_batch_of_the_processor(processor, studies):
    stacked = stack_studies(
        [dict(processor.prepare_studies([study])) for study in studies],
        processor.tokenizer.pad_token_id,
        processor.study_inputs,
    )
    batch = processor.prepare_studies(studies)
    assert stacked.keys() == batch.keys()
    for name, value in batch.items():
        assert torch.equal(stacked[name], value), name


def test_the_pipeline_takes_studies_with_and_without_priors(model, processor, studies):
    pipeline = ImageToTextPipeline(model, processor)
    pictures = [{name: value for name, value in study.items() if name != "report"} for study in studies]
    together = pipeline(pictures, batch_size=4, max_new_tokens=10)
    assert together == [pipeline(study, max_new_tokens=10) for study in pictures]


def test_priors_encoded_before_give_the_same_as_their_images(model, processor, studies):
    batch = processor.prepare_studies(studies, with_reports=True)
    tokens = torch.zeros(4, 5, 24)
    with torch.no_grad():
        tokens[1:3] = model.encode_views(batch["prior_pixel_values"][1:3], batch["prior_view_mask"][1:3])
    encoded = {name: value for name, value in batch.items() if name != "prior_pixel_values"}
    torch.testing.assert_close(model(**encoded, prior_visual_tokens=tokens).loss, model(**batch).loss)


def test_gradients_reach_the_encoder_through_prior_images(processor, studies):
    model = make_model(processor)
    batch = dict(processor.prepare_studies(studies[1:2], with_reports=True))
    batch["prior_pixel_values"].requires_grad_()
    model(**batch).loss.backward()
    assert batch["prior_pixel_values"].grad.abs().sum() > 0


def test_the_model_never_writes_a_placeholder(processor, studies):
    model = make_model(processor)
    # Inside the vocabulary, and by far the likeliest tokens.
    model.resize_token_embeddings(processor.prior_image_token_id + 1)
    placeholders = [processor.image_token_id, processor.prior_image_token_id]
    with torch.no_grad():
        model.get_output_embeddings().weight[placeholders] = 100 * model.get_output_embeddings().weight[5]
    (written,) = reports(model, processor.prepare_studies(studies[1:2]))
    assert not {*placeholders} & {*written}


def test_saved_and_loaded_both_take_priors_again(model, processor, studies, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = MambaXrayForConditionalGeneration.from_pretrained(tmp_path).eval()
    again = MambaXrayProcessor.from_pretrained(tmp_path)
    assert again.context == processor.context
    batch = again.prepare_studies(studies)
    assert torch.equal(batch["input_ids"], processor.prepare_studies(studies)["input_ids"])
    assert reports(loaded, batch) == reports(model, batch)


def test_a_model_without_prior_images_refuses_them(processor, studies):
    config = tiny_config()
    config.text_config.vocab_size = processor.image_token_id
    model = MambaXrayForConditionalGeneration(
        MambaXrayConfig(config.vision_config, config.text_config, image_token_id=processor.image_token_id)
    )
    with pytest.raises(TypeError, match="takes no prior_pixel_values, prior_view_mask"):
        model(**processor.prepare_studies(studies[1:2]))
    # So that what such models save stays as it is.
    assert "prior_image_token_id" not in config.to_dict()


def test_placeholders_and_prior_images_must_fit(model, processor, studies):
    batch = dict(processor.prepare_studies(studies))
    without = {name: value for name, value in batch.items() if not name.startswith("prior")}
    with pytest.raises(ValueError, match=r"have \[0, 5, 5, 0\] placeholders for prior images .* make \[0, 0, 0, 0\]"):
        model(**without)
    with pytest.raises(ValueError, match=r"placeholders for prior images"):
        model(**batch | {"prior_view_mask": torch.ones(4, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="exactly one of prior_pixel_values and prior_visual_tokens"):
        model(**batch, prior_visual_tokens=torch.zeros(4, 5, 24))
    with pytest.raises(ValueError, match=r"prior_view_mask \(4, 1\) does not fit"):
        model(**batch | {"prior_view_mask": torch.ones(4, 1, dtype=torch.bool)})


@pytest.mark.parametrize(("value", "message"), [(-1, "non-negative"), ("3", "non-negative"), (VOCABULARY, "the same")])
def test_a_configuration_with_an_impossible_placeholder_is_refused(value, message):
    config = tiny_config()
    with pytest.raises(ValueError, match=message):
        MambaXrayConfig(config.vision_config, config.text_config, image_token_id=VOCABULARY, prior_image_token_id=value)


def test_families_take_the_field(processor):
    assert EMRRGConfig(prior_image_token_id=3).prior_image_token_id == 3


# ------------------------------------------------------------------------------------------- every report generator


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_models(folder, names=sorted(families_of_stage("finetune")))
    return folder


@pytest.mark.parametrize("name", sorted(families_of_stage("finetune")))
def test_every_report_generator_takes_context(name, tiny_folder, studies):
    family = families_of_stage("finetune")[name]
    model = family.model_class.from_pretrained(tiny_folder / name).eval()
    processor = family.processor_class.from_pretrained(tiny_folder / name, context=CONTEXT)
    processor.num_prior_image_tokens = model.config.visual_sequence_length
    model.take_prior_images(processor.prior_image_token_id)
    together = prepare_for_generation(model, processor, studies)
    assert (together["input_ids"] == processor.prior_image_token_id).any(dim=1).tolist() == [False, True, True, False]
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2}
    written = model.generate(**together, **options)[:, together["input_ids"].shape[1] :]
    for study, row in zip(studies, written.tolist(), strict=True):
        alone = prepare_for_generation(model, processor, [study])
        (single,) = model.generate(**alone, **options)[:, alone["input_ids"].shape[1] :].tolist()
        assert without_padding(row) == without_padding(single)
    training = processor.prepare_studies([study | {"labels": None} for study in studies], with_reports=True)
    assert model.train()(**training).loss.isfinite()
