"""Bidirectional learning: each loss against its equation, which parts it trains, and what is left for inference."""

import copy

import pytest
import torch
from safetensors import safe_open
from tiny import IMAGE_TOKEN_ID, TEXT_CONFIGS, VISION_CONFIGS, VOCABULARY, tiny_tokenizer, with_large_weights
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipTextConfig,
    BlipTextModel,
    ViTMAEForPreTraining,
)

from mambaxray import (
    BidirectionalConfig,
    BidirectionalForConditionalGeneration,
    BidirectionalProcessor,
    MambaXrayImageProcessor,
)
from mambaxray.modeling_mambaxray.parts.text_encoder import load_text_encoder

TEXT_ENCODER = {
    "model_type": "bert",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 32,
}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 24,
}
ALL = {"report": 1.0, "text_to_vision": 1.0, "reconstruction": 1.0, "contrastive": 1.0}
PATCHES = 4


def tiny_bidirectional(vision="vit_mae", text="llama", seed=0, **options):
    options = {"loss_weights": ALL, "contrastive_width": 8, "image_decoder_sizes": DECODER} | options
    config = BidirectionalConfig(
        VISION_CONFIGS[vision](), TEXT_CONFIGS[text](), IMAGE_TOKEN_ID, text_encoder_config=TEXT_ENCODER, **options
    )
    torch.manual_seed(seed)
    model = with_large_weights(BidirectionalForConditionalGeneration(config).eval())
    with torch.no_grad():
        if model.text_encoder is not None:
            model.text_mapper.weight.mul_(4.0)
    return model


def only(name):
    """Weights with which one loss alone is taken."""
    return dict.fromkeys(ALL, 0.0) | {name: 1.0}


def rows(*rows, length=None):
    longest = length or max(len(row) for row in rows)
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows])


def batch():
    """Two studies: one with two views, one with one; reports of different lengths."""
    torch.manual_seed(1)
    texts = [rows([5, 6, 7, 8, 9], [10, 6, 7, 8], length=5), rows([11, 12, 13], [], length=5)]
    image = [IMAGE_TOKEN_ID] * PATCHES
    return {
        "pixel_values": torch.randn(2, 2, 3, 32, 32),
        "view_mask": torch.tensor([[True, True], [True, False]]),
        "input_ids": torch.tensor([[1, *image, 20, 21, 22, 23, 2], [1, *image, 20, 24, 2, 0, 0]]),
        "attention_mask": torch.tensor([[1] * 10, [1] * 8 + [0] * 2]),
        "labels": torch.tensor([[-100] * 6 + [21, 22, 23, 2], [-100] * 6 + [24, 2, -100, -100]]),
        "report_input_ids": torch.stack(texts),
        "report_word_ids": rows([21, 22, 23], [24]),
        "vision_prompt_ids": torch.tensor([[1, 30, 31, IMAGE_TOKEN_ID, 32, 33]] * 2),
    }


def images_of(inputs):
    """Pixels, text tokens and word tokens of each image that is there, one at a time."""
    for study, view in ((0, 0), (0, 1), (1, 0)):
        text = inputs["report_input_ids"][study, view]
        yield inputs["pixel_values"][study, view].unsqueeze(0), text[text >= 0].unsqueeze(0)


@pytest.fixture(scope="module")
def model():
    return tiny_bidirectional()


@pytest.fixture(scope="module")
def output(model):
    with torch.no_grad():
        return model(**batch())


def visual(model, image):
    """Z_v of one image, by transformers' own encoder: nothing masked, in the order of the grid, without `cls`."""
    encoder = copy.deepcopy(model.vision_encoder)
    encoder.config.mask_ratio = 0.0
    noise = torch.arange(PATCHES, dtype=torch.float32).unsqueeze(0)
    return encoder(image, noise=noise).last_hidden_state[:, 1:]


def generated(model, text, prediction_inputs):
    """E_g of one image, without any padding."""
    words = model.get_input_embeddings()
    encoded = model.text_mapper(model.text_encoder(text).last_hidden_state)
    before, behind = words(torch.tensor([[1, 30, 31]])), words(torch.tensor([[32, 33]]))
    sequence = torch.cat([before, encoded, behind, prediction_inputs], dim=1)
    return model.language_model.base_model(inputs_embeds=sequence).last_hidden_state[:, -PATCHES:]


# Losses


def test_the_report_loss_is_the_sum_over_tokens_of_a_study_and_the_mean_over_studies(model, output):
    inputs = batch()
    log_probabilities = output.logits[:, :-1].log_softmax(dim=-1)
    labels = inputs["labels"][:, 1:]
    taken = log_probabilities.gather(2, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    expected = -(taken * (labels != -100)).sum(dim=1).mean()
    torch.testing.assert_close(output.losses["report"], expected)
    mean = copy.deepcopy(model)
    mean.config.report_reduction = "mean"
    with torch.no_grad():
        found = mean(**inputs).losses["report"]
    torch.testing.assert_close(found, expected * 2 / (labels != -100).sum())


def test_text_to_vision_is_the_distance_of_teacher_forced_embeddings_from_each_images_own(model, output):
    distances, norms = [], []
    with torch.no_grad():
        for image, text in images_of(batch()):
            target = model.projector(visual(model, image))
            made = generated(model, text, target[:, :-1])
            distances.append((made - target).square().sum(dim=-1).mean())
            norms.append((target.norm(dim=-1).mean(), made.norm(dim=-1).mean()))
    torch.testing.assert_close(output.losses["text_to_vision"], torch.stack(distances).mean())
    for number, name in enumerate(("visual_embedding_norm", "generated_embedding_norm")):
        torch.testing.assert_close(output.metrics[name], torch.stack([pair[number] for pair in norms]).mean())


def test_text_to_vision_with_queries_looks_at_no_image_embedding():
    model = tiny_bidirectional(text_to_vision_mode="queries", text_to_vision_reduction="mean")
    inputs, distances = batch(), []
    with torch.no_grad():
        for image, text in images_of(inputs):
            target = model.projector(visual(model, image))
            made = generated(model, text, model.visual_queries.weight.unsqueeze(0))
            distances.append((made - target).square().mean())
        torch.testing.assert_close(model(**inputs).losses["text_to_vision"], torch.stack(distances).mean())


def test_reconstruction_is_the_mean_squared_error_of_the_pixels_by_the_maes_own_decoder(model, output):
    mae = ViTMAEForPreTraining(model.image_decoder.decoder.config)
    mae.config.num_channels, mae.config.patch_size, mae.config.image_size = 3, 16, 32
    errors = []
    with torch.no_grad():
        for image, text in images_of(batch()):
            target = model.projector(visual(model, image))
            latent = model.inverse_mapper(generated(model, text, target[:, :-1]))
            latent = torch.cat([model.image_decoder.cls_token, latent], dim=1)
            patches = model.image_decoder.decoder(latent, torch.arange(PATCHES).unsqueeze(0)).logits
            errors.append((mae.unpatchify(patches) - image).square().mean())
    torch.testing.assert_close(output.losses["reconstruction"], torch.stack(errors).mean())


def test_contrast_is_clips_loss_of_mean_tokens_and_mean_word_embeddings(model, output):
    with torch.no_grad():
        views = [visual(model, image) for image, _ in images_of(batch())]
        tokens = torch.cat([(views[0] + views[1]) / 2, views[2]]).mean(dim=1)
        words = model.get_input_embeddings()
        texts = torch.stack([words(torch.tensor(ids)).mean(dim=0) for ids in ([21, 22, 23], [24])])
        image = F.normalize(model.contrast.visual_projection(tokens), dim=-1)
        text = F.normalize(model.contrast.word_projection(texts), dim=-1)
        logits = image @ text.T / 0.07
        expected = (F.cross_entropy(logits, torch.arange(2)) + F.cross_entropy(logits.T, torch.arange(2))) / 2
    torch.testing.assert_close(output.losses["contrastive"], expected)


def test_the_total_is_the_weighted_sum_and_a_branch_of_weight_0_is_not_made(output):
    weights = {"report": 0.5, "text_to_vision": 2.0, "reconstruction": 0.0, "contrastive": 0.0}
    model = tiny_bidirectional(loss_weights=weights)
    assert model.image_decoder is model.inverse_mapper is model.contrast is model.visual_queries is None
    with torch.no_grad():
        found = model(**batch())
    assert found.losses.keys() == {"report", "text_to_vision"}
    torch.testing.assert_close(found.loss, 0.5 * found.losses["report"] + 2 * found.losses["text_to_vision"])
    torch.testing.assert_close(output.loss, sum(output.losses.values()))


def test_by_default_the_three_losses_of_the_paper_count_1():
    config = BidirectionalConfig(VISION_CONFIGS["vit_mae"](), TEXT_CONFIGS["llama"](), IMAGE_TOKEN_ID)
    assert config.loss_weights == {"report": 1, "text_to_vision": 1, "reconstruction": 1, "contrastive": 0}
    assert config.num_image_tokens == config.visual_sequence_length == PATCHES
    assert config.text_encoder_config.vocab_size == VOCABULARY


def test_losses_of_a_batch_are_the_means_of_single_images(model, output):
    inputs, singles = batch(), {"text_to_vision": [], "reconstruction": []}
    for study, view in ((0, 0), (0, 1), (1, 0)):
        one = {
            "pixel_values": inputs["pixel_values"][study : study + 1, view : view + 1],
            "report_input_ids": inputs["report_input_ids"][study : study + 1, view : view + 1],
            "vision_prompt_ids": inputs["vision_prompt_ids"][:1],
        }
        with torch.no_grad():
            losses = model.get_image_features(**one).losses
        for name, values in singles.items():
            values.append(losses[name])
    for name, values in singles.items():
        torch.testing.assert_close(output.losses[name], torch.stack(values).mean(), rtol=1e-4, atol=1e-5)


def test_the_control_takes_the_next_studys_report_and_is_not_trained_on(model):
    inputs = batch()
    shuffled = inputs["report_input_ids"][[1, 0]].clone()
    shuffled[0, 1] = shuffled[0, 0]  # the other study has one view only
    with torch.no_grad():
        expected = model(**inputs | {"report_input_ids": shuffled}).losses["text_to_vision"]
    output = model(**inputs)
    control = output.metrics["text_to_vision_shuffled"]
    torch.testing.assert_close(control, expected)
    assert not control.requires_grad
    assert not torch.isclose(control, output.losses["text_to_vision"])
    training = copy.deepcopy(model).train()
    assert "text_to_vision_shuffled" not in training(**inputs).metrics
    one = {name: value[:1] for name, value in inputs.items()}
    assert "text_to_vision_shuffled" not in model(**one).metrics


# Gradients

_VISION, _TEXT, _PIXELS = {"vision_encoder", "projector"}, {"text_encoder", "text_mapper"}, {"inverse_mapper"}
FLOWS = [
    ("report", {}, _VISION),
    ("text_to_vision", {}, _VISION | _TEXT),
    ("text_to_vision", {"text_to_vision_gradients": "generated"}, _TEXT),
    ("text_to_vision", {"text_to_vision_gradients": "target"}, _VISION),
    ("text_to_vision", {"text_to_vision_mode": "queries"}, _VISION | _TEXT | {"visual_queries"}),
    ("reconstruction", {}, _TEXT | _PIXELS | {"image_decoder"}),
    ("reconstruction", {"text_to_vision_mode": "queries"}, _TEXT | _PIXELS | {"image_decoder", "visual_queries"}),
    ("contrastive", {}, {"vision_encoder", "contrast"}),
]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("loss", "options", "expected"), FLOWS)
def test_each_loss_trains_these_parts_and_never_the_language_model(loss, options, expected, checkpointing):
    model = tiny_bidirectional(loss_weights=ALL if loss != "report" else only(loss), **options).train()
    model.config.loss_weights = only(loss)
    model.freeze_language_model()
    if checkpointing:
        model.activation_checkpointing_enable()
    model(**batch()).loss.backward()
    trained = {
        name.partition(".")[0]
        for name, weight in model.named_parameters()
        if weight.grad is not None and weight.grad.abs().max() > 0
    }
    assert trained == expected
    assert all(weight.grad is None for weight in model.language_model.parameters())


def test_teacher_forced_inputs_are_detached(model):
    model = copy.deepcopy(model)
    inputs = batch()
    image = inputs["pixel_values"][:1, 0].requires_grad_()
    target = model.projector(model.encode_images(image))
    made = model.embeddings_of_reports(inputs["report_input_ids"][:1, 0], inputs["vision_prompt_ids"], target)
    (gradient,) = torch.autograd.grad(made.sum(), image, allow_unused=True)
    assert gradient is None


def test_an_optimizer_of_what_is_trained_holds_nothing_of_the_language_model(tmp_path, model):
    from transformers import Trainer, TrainingArguments

    model = copy.deepcopy(model)
    model.freeze_language_model()
    arguments = TrainingArguments(str(tmp_path), remove_unused_columns=False, use_cpu=True, report_to=[], max_steps=1)
    trainer = Trainer(model=model, args=arguments, train_dataset=[0], data_collator=lambda rows: batch())
    trainer.train()
    held = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
    assert held == {id(weight) for name, weight in model.named_parameters() if weight.requires_grad}
    assert not any(id(weight) in held for weight in model.language_model.parameters())
    assert len(trainer.optimizer.state) == len(held)


# Parts


@pytest.mark.parametrize("vision", VISION_CONFIGS)
def test_every_vision_encoder_gives_its_patches_and_trains_all_losses(vision):
    model = tiny_bidirectional(vision)
    inputs = batch()
    assert model.config.num_image_tokens == model.encode_images(inputs["pixel_values"][:, 0]).shape[1]
    image = [IMAGE_TOKEN_ID] * model.config.num_image_tokens
    ids = torch.tensor([[1, *image, 20, 21, 2]] * 2)
    labels = ids.masked_fill(ids == IMAGE_TOKEN_ID, -100)
    output = model(**inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    assert output.losses.keys() == set(ALL)
    output.loss.backward()
    assert output.loss.isfinite()


@pytest.mark.parametrize("text", TEXT_CONFIGS)
def test_every_decoder_makes_embeddings_that_padding_does_not_change(text):
    model = tiny_bidirectional(text=text, loss_weights={"reconstruction": 0.0})
    inputs = batch()
    target = torch.randn(2, PATCHES, model.projector.out_features)
    texts = inputs["report_input_ids"][:, 0]
    with torch.no_grad():
        together = model.embeddings_of_reports(texts, inputs["vision_prompt_ids"], target)
        alone = model.embeddings_of_reports(texts[1:, :3], inputs["vision_prompt_ids"], target[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


def test_a_masked_autoencoder_keeps_its_configuration(model):
    assert model.vision_encoder.config.mask_ratio == VISION_CONFIGS["vit_mae"]().mask_ratio > 0
    image = batch()["pixel_values"][:1, 0]
    with torch.no_grad():
        torch.testing.assert_close(model.encode_images(image), visual(model, image))


def test_a_layer_norm_behind_the_projection_is_an_option():
    assert "layer_norm" not in {name.partition(".")[0] for name in tiny_bidirectional().state_dict()}
    model = tiny_bidirectional(projector_layer_norm=True, loss_weights={"reconstruction": 0.0})
    embedded = model.project_visual_tokens(torch.randn(1, PATCHES, model.projector.in_features))
    torch.testing.assert_close(embedded.mean(dim=-1), torch.zeros(1, PATCHES), atol=1e-5, rtol=0)


def tiny_captioner(**options):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 40, "encoder_hidden_size": 16, "bos_token_id": 1, "sep_token_id": 2}
    vision = sizes | {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    return BlipForConditionalGeneration(BlipConfig(text_config=text | options, vision_config=vision)).eval()


def test_the_text_part_of_a_captioner_becomes_an_encoder_that_sees_the_whole_text(tmp_path):
    captioner = tiny_captioner()
    captioner.save_pretrained(tmp_path)
    encoder = load_text_encoder(str(tmp_path)).eval()
    config = BlipTextConfig(**captioner.text_decoder.config.to_dict() | {"is_decoder": False})
    reference = BlipTextModel(config, add_pooling_layer=False).eval()
    weights = captioner.text_decoder.bert.state_dict()
    reference.load_state_dict({name: weight for name, weight in weights.items() if "crossattention" not in name})
    ids, mask = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        found = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = reference(input_ids=ids, attention_mask=mask, is_decoder=False).last_hidden_state
        other = encoder(input_ids=torch.tensor([[3, 4, 5, 9]])).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()])
    assert not torch.equal(found[0, 0], other[0, 0])  # a later word counts


def test_pre_trained_parts_are_taken_as_they_are_and_what_does_not_fit_is_refused(tmp_path):
    tiny_captioner(vocab_size=40).save_pretrained(tmp_path / "blip")
    mae = ViTMAEForPreTraining(VISION_CONFIGS["vit_mae"]())
    for name, size in DECODER.items():
        setattr(mae.config, name, size)
    mae = ViTMAEForPreTraining(mae.config)
    mae.save_pretrained(tmp_path / "mae")
    AutoModelForCausalLM.from_config(TEXT_CONFIGS["llama"]()).save_pretrained(tmp_path / "llm")
    parts = {"text_encoder": str(tmp_path / "blip"), "image_decoder": str(tmp_path / "mae")}
    model = BidirectionalForConditionalGeneration.from_encoder_decoder_pretrained(
        str(tmp_path / "mae"), str(tmp_path / "llm"), image_token_id=IMAGE_TOKEN_ID, **parts
    )
    for name, weight in mae.decoder.state_dict().items():
        assert torch.equal(model.image_decoder.decoder.state_dict()[name], weight), name
    expected = load_text_encoder(parts["text_encoder"]).state_dict()
    assert all(torch.equal(model.text_encoder.state_dict()[name], weight) for name, weight in expected.items())
    fixed = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert fixed == {
        "vision_encoder.embeddings.position_embeddings",
        "image_decoder.decoder.decoder_pos_embed",
        "image_decoder.decoder.mask_token",
    }
    swin = AutoModel.from_config(VISION_CONFIGS["swin"]())
    with pytest.raises(ValueError, match="takes embeddings of width 32 of 4 patches and makes 768"):
        BidirectionalForConditionalGeneration.from_encoder_decoder_pretrained(
            swin, str(tmp_path / "llm"), image_token_id=IMAGE_TOKEN_ID, text_encoder_config=TEXT_ENCODER, **parts
        )


# What is left for inference


def written(model, inputs):
    prompt = {"input_ids": inputs["input_ids"][:1, :6], "attention_mask": inputs["attention_mask"][:1, :6]}
    pixels = {name: inputs[name][:1] for name in ("pixel_values", "view_mask")}
    return model.generate(
        **prompt, **pixels, max_new_tokens=5, num_beams=3, output_scores=True, return_dict_in_generate=True
    )


def called_modules(model, inputs):
    """How often each kind of module is called while a report is written."""
    calls = []
    handles = [m.register_forward_hook(lambda m, *_: calls.append(type(m).__name__)) for m in model.modules()]
    written(model, inputs)
    for handle in handles:
        handle.remove()
    return sorted(calls)


def test_a_saved_model_has_no_training_part_and_writes_the_same_with_the_same_calls(tmp_path, model, caplog):
    model.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "whole", save_training_parts=True)
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        saved = set(file.keys())
    assert {name.partition(".")[0] for name in saved} == {"vision_encoder", "projector", "language_model"}
    load = BidirectionalForConditionalGeneration.from_pretrained
    small, whole = (load(tmp_path / name).eval() for name in ("model", "whole"))
    assert "without its" not in caplog.text  # nothing was made to be thrown away
    vision_to_text = tiny_bidirectional(loss_weights=only("report"))
    assert small.num_parameters() == vision_to_text.num_parameters() < whole.num_parameters()
    assert [n for n, _ in small.named_modules()] == [n for n, _ in vision_to_text.named_modules()]
    inputs = batch()
    results = [written(each, inputs) for each in (model, small, whole)]
    for other in results[1:]:
        assert torch.equal(other.sequences, results[0].sequences)
        assert all(torch.equal(*pair) for pair in zip(other.scores, results[0].scores, strict=True))
    assert called_modules(small, inputs) == called_modules(whole, inputs) == called_modules(vision_to_text, inputs)


def test_a_model_without_its_training_parts_has_the_report_loss_and_refuses_to_be_trained(tmp_path, model, output):
    model.save_pretrained(tmp_path)
    small = BidirectionalForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        losses = small(**batch()).losses
    assert losses.keys() == {"report"}
    assert torch.equal(losses["report"], output.losses["report"])
    with pytest.raises(ValueError, match="save_training_parts=True"):
        small.train()(**batch())
    small.eval().save_pretrained(tmp_path / "again", save_training_parts=True)
    again = BidirectionalForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert again.text_encoder is None


def test_a_frozen_language_model_in_bfloat16_trains_the_rest_in_float32(model):
    model = copy.deepcopy(model).train()
    model.language_model.to(torch.bfloat16)
    model.freeze_language_model()
    output = model(**batch())
    output.loss.backward()
    assert all(loss.isfinite() for loss in output.losses.values())
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


# Bad input


def test_inputs_that_do_not_fit_are_refused(model):
    inputs = batch()
    features = {n: inputs[n] for n in ("pixel_values", "view_mask", "report_input_ids", "vision_prompt_ids")}
    with pytest.raises(ValueError, match="give pixel_values"):
        model.get_image_features(visual_tokens=torch.zeros(2, PATCHES, 32), report_word_ids=inputs["report_word_ids"])
    with pytest.raises(ValueError, match=r"for \(2, 1\) studies and views"):
        model.get_image_features(**features | {"report_input_ids": inputs["report_input_ids"][:, :1]})
    for prompt in ([[1, 30, IMAGE_TOKEN_ID]], [[1, 30, 31]], [[1, IMAGE_TOKEN_ID, 4, IMAGE_TOKEN_ID, 5]]):
        with pytest.raises(ValueError, match="vision_prompt_ids must be the same prompt"):
            model.get_image_features(**features | {"vision_prompt_ids": torch.tensor(prompt * 2)})
    with pytest.raises(ValueError, match="40 tokens is longer than the 32 positions of the text encoder"):
        model.get_image_features(**features | {"report_input_ids": torch.full((2, 2, 40), 5)})
    with pytest.raises(ValueError, match="no image decoder"):
        tiny_bidirectional(loss_weights={"reconstruction": 0.0}).reconstruct(torch.zeros(1, PATCHES, 32))


def test_studies_without_a_report_are_left_out(model):
    inputs = batch()
    texts = inputs["report_input_ids"].clone()
    texts[1] = -1
    features = {n: inputs[n] for n in ("pixel_values", "view_mask", "vision_prompt_ids")}
    with torch.no_grad():
        found = model.get_image_features(**features, report_input_ids=texts)
        first = {name: value[:1] for name, value in features.items()}
        expected = model.get_image_features(**first, report_input_ids=texts[:1])
        none = model.get_image_features(**features, report_input_ids=torch.full_like(texts, -1))
    torch.testing.assert_close(found.losses["text_to_vision"], expected.losses["text_to_vision"])
    assert none.losses == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_to_vision_mode": "free"}, "text_to_vision_mode must be one of teacher_forced, queries"),
        ({"text_to_vision_gradients": "none"}, "text_to_vision_gradients must be one of both, generated, target"),
        ({"report_reduction": "max"}, "report_reduction must be mean or sum"),
        ({"image_decoder_sizes": {"layers": 2}}, "image_decoder_sizes has no layers"),
        ({"loss_weights": {"clip": 1.0}}, "loss_weights names clip"),
        ({"num_visual_tokens": 5}, "5 image tokens are no square grid over an image of 32 px"),
    ],
)
def test_configurations_that_say_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BidirectionalConfig(VISION_CONFIGS["vit_mae"](), TEXT_CONFIGS["llama"](), IMAGE_TOKEN_ID, **options)


# Processor

WORDS = "Human: Assistant: <Img> Show the chest X-ray that this report describes. lungs clear heart big"


@pytest.fixture(scope="module")
def processor():
    text = tiny_tokenizer("This is a frontal lateral chest X-ray, X-ray. taken from back to front. lungs clear heart")
    return BidirectionalProcessor(
        MambaXrayImageProcessor(size=32), tiny_tokenizer(WORDS), text, num_image_tokens=PATCHES, max_text_length=14
    )


def study(views, report="lungs clear"):
    torch.manual_seed(0)
    images = [torch.rand(1, 40, 40).numpy() for _ in views]
    return {"images": images, "views": views, "report": report}


def test_the_processor_gives_each_view_its_own_text_and_pads_with_minus_1(processor):
    inputs = processor.prepare_studies([study(["PA", "LATERAL"]), study([""], "heart")], with_reports=True)
    texts = inputs["report_input_ids"]
    assert texts.shape[:2] == inputs["view_mask"].shape == (2, 2)
    spelled = [processor.text_tokenizer.decode(row[row >= 0]) for row in texts.flatten(0, 1)]
    assert spelled == [
        "This is a frontal chest X-ray, taken from back to front. lungs clear",
        "This is a lateral chest X-ray. lungs clear",
        "heart",
        "",
    ]
    prompt = inputs["vision_prompt_ids"][0]
    assert processor.tokenizer.decode(prompt) == (
        "<s> Human: <image> Show the chest X-ray that this report describes. Assistant: <Img>"
    )
    words = [processor.tokenizer.decode(row[row >= 0]) for row in inputs["report_word_ids"]]
    assert words == ["lungs clear", "heart"]


def test_a_long_report_is_cut_and_its_view_stays(processor):
    (text,) = processor.study_inputs_for(study(["LATERAL"], "lungs clear " * 20))["report_input_ids"]
    assert len(text) == 14
    assert processor.text_tokenizer.decode(text).startswith("This is a lateral chest X-ray. lungs")


def test_nothing_of_a_report_is_there_when_reports_are_written(processor):
    inputs = processor.prepare_studies([study(["PA"])])
    assert inputs.keys() == {"input_ids", "attention_mask", "pixel_values", "view_mask"}


def test_a_saved_processor_has_both_tokenizers(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    loaded = BidirectionalProcessor.from_pretrained(tmp_path)
    pair = [each.prepare_studies([study(["PA"])], with_reports=True) for each in (processor, loaded)]
    assert pair[0].keys() == pair[1].keys()
    assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0])
    assert loaded.vision_prompt == processor.vision_prompt


def test_a_vision_prompt_without_a_place_or_an_end_is_refused(processor):
    for prompt in ("no place", "ends with {report} "):
        with pytest.raises(ValueError, match=r"must hold \{report\} once, and words behind it"):
            BidirectionalProcessor(processor.image_processor, processor.tokenizer, vision_prompt=prompt)
