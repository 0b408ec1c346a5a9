"""Stage 2: equal to the released code, any encoders, saved and loaded, and the encoder on its way to stage 3."""

import pytest
import torch
from golden_cases import load_case
from tiny import TEXT_CONFIGS, VISION_CONFIGS
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertModel

from mambaxray import (
    MambaXrayDualEncoder,
    MambaXrayDualEncoderConfig,
    MambaXrayForConditionalGeneration,
    MambaXrayForPreTraining,
    MambaXrayPreTrainingConfig,
    VisionMambaConfig,
    VisionMambaModel,
    load_vision_encoder,
)
from mambaxray.modeling_mambaxray.modeling_vision_mamba import resize_position_embeddings
from mambaxray.train.convert import contrastive_key, convert_state_dict


def tiny_bert():
    return BertConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


TEXTS = {"bert": tiny_bert} | TEXT_CONFIGS


def tiny_dual(vision="vision_mamba", text="bert", seed=0):
    torch.manual_seed(seed)
    config = MambaXrayDualEncoderConfig(VISION_CONFIGS[vision](), TEXTS[text](), projection_dim=16)
    return MambaXrayDualEncoder(config).eval()


def pairs(batch=3, views=2, length=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 48, (batch, length), generator=generator)
    return {
        "pixel_values": torch.rand(batch, views, 3, 32, 32, generator=generator),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }


def test_features_similarities_loss_and_gradients_equal_the_released_code():
    case = load_case("clip_stage")
    vision = VisionMambaConfig(
        hidden_size=case.config["embed_dim"],
        num_hidden_layers=case.config["depth"],
        image_size=case.config["img_size"],
    )
    config = MambaXrayDualEncoderConfig(vision, BertConfig(**case.config["bert"]), projection_dim=case.config["proj"])
    model = MambaXrayDualEncoder(config).eval()
    model.load_state_dict(convert_state_dict(case.tensors("weights"), "contrastive"))
    io = case.tensors("io")
    views = torch.stack([io["view0"], io["view1"]], dim=1)
    text = {name: io[name] for name in ("input_ids", "attention_mask")}
    case.assert_close("io/image_features", model.get_image_features(views).pooler_output, io["image_features"])
    case.assert_close("io/text_features", model.get_text_features(**text).pooler_output, io["text_features"])
    output = model(pixel_values=views, **text)
    case.assert_close("io/logits_per_image", output.logits_per_image, io["logits_per_image"])
    case.assert_close("io/loss", output.loss.reshape(1), io["loss"])
    output.loss.backward()
    parameters = dict(model.named_parameters())
    for name, expected in case.tensors("grads").items():
        case.assert_close(f"grads/{name}", parameters[contrastive_key(name)].grad, expected)


@pytest.mark.parametrize(
    ("vision", "text"),
    [("vision_mamba", "bert"), ("swin", "bert"), ("vit_mae", "llama"), ("vision_mamba", "gpt2"), ("swin", "qwen2")],
)
def test_any_encoders_fit_and_every_weight_learns(tmp_path, vision, text):
    model = tiny_dual(vision, text)
    output = model(**pairs())
    assert output.logits_per_image.shape == (3, 3)
    output.loss.backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None}
    # Parts of transformers' vision encoders that the visual tokens do not pass through.
    assert all(name.startswith("vision_encoder.") and vision != "vision_mamba" for name in idle)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, MambaXrayDualEncoder)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(loaded(**pairs()).logits_per_image, output.logits_per_image)


@pytest.mark.parametrize("text", ["bert", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(text, side):
    model, inputs = tiny_dual(text=text), pairs()
    padding = (3, 0) if side == "left" else (0, 3)
    padded = {name: F.pad(inputs[name], padding) for name in ("input_ids", "attention_mask")}
    extra = {}
    if side == "left":
        positions = (padded["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        extra["position_ids"] = positions
    plain = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
    torch.testing.assert_close(model.get_text_features(**padded, **extra).pooler_output, plain, rtol=1e-4, atol=1e-5)


def test_missing_views_do_not_count():
    model, inputs = tiny_dual(), pairs()
    mask = torch.tensor([[True, True], [True, False], [False, True]])
    both = model.get_image_features(inputs["pixel_values"], mask).pooler_output
    for row, views in enumerate(([0, 1], [0], [1])):
        alone = model.get_image_features(inputs["pixel_values"][row : row + 1, views]).pooler_output
        torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-4, atol=1e-6)


def test_unequal_numbers_are_compared_but_are_no_pairs():
    model, inputs = tiny_dual(), pairs()
    inputs["pixel_values"] = inputs["pixel_values"][:2]
    assert model(**inputs, return_loss=False).logits_per_image.shape == (2, 3)
    with pytest.raises(ValueError, match="2 studies and 3 reports"):
        model(**inputs)


def test_bfloat16_stays_close_and_keeps_the_scale_and_the_recurrence_in_float32(tmp_path):
    model, inputs = tiny_dual(), pairs()
    model.save_pretrained(tmp_path)
    low = MambaXrayDualEncoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert low.logit_scale.dtype == torch.float32
    assert low.vision_encoder.layers[0].mixer.directions[0].A_log.dtype == torch.float32
    assert low.visual_projection.weight.dtype == torch.bfloat16
    assert low(**inputs).loss.item() == pytest.approx(model(**inputs).loss.item(), rel=1e-2)


def test_it_is_put_together_from_pretrained_parts(tmp_path):
    torch.manual_seed(0)
    vision, text = VisionMambaModel(VISION_CONFIGS["vision_mamba"]()).eval(), BertModel(tiny_bert()).eval()
    vision.save_pretrained(tmp_path / "vision")
    text.save_pretrained(tmp_path / "text")
    model = MambaXrayDualEncoder.from_vision_text_pretrained(
        str(tmp_path / "vision"), str(tmp_path / "text"), projection_dim=8
    )
    inputs = pairs()
    tokens = model.get_image_features(inputs["pixel_values"][:, :1]).last_hidden_state
    assert torch.equal(tokens, vision(inputs["pixel_values"][:, 0]).last_hidden_state)
    ids = inputs["input_ids"]
    assert torch.equal(model.get_text_features(ids).last_hidden_state, text(ids).last_hidden_state)
    assert model.logit_scale.item() == pytest.approx(2.65926)
    loss = model(**inputs).loss
    model.save_pretrained(tmp_path / "dual")
    assert torch.equal(MambaXrayDualEncoder.from_pretrained(tmp_path / "dual")(**inputs).loss, loss)


def test_a_causal_language_models_folder_serves_as_text_encoder(tmp_path):
    decoder = AutoModelForCausalLM.from_config(TEXT_CONFIGS["llama"]()).eval()
    decoder.save_pretrained(tmp_path / "text")
    VisionMambaModel(VISION_CONFIGS["vision_mamba"]()).save_pretrained(tmp_path / "vision")
    model = MambaXrayDualEncoder.from_vision_text_pretrained(str(tmp_path / "vision"), str(tmp_path / "text"))
    ids = pairs()["input_ids"]
    assert torch.equal(model.get_text_features(ids).last_hidden_state, decoder.model(ids).last_hidden_state)


def test_the_three_stages_hand_on_their_encoder(tmp_path):
    torch.manual_seed(0)
    first = MambaXrayForPreTraining(
        MambaXrayPreTrainingConfig(
            hidden_size=24, num_hidden_layers=2, image_size=32, patch_size=4, state_size=4, decoder_hidden_size=16
        )
    )
    first.save_pretrained(tmp_path / "1")
    BertModel(tiny_bert()).save_pretrained(tmp_path / "text")
    AutoModelForCausalLM.from_config(TEXT_CONFIGS["llama"]()).save_pretrained(tmp_path / "llm")
    second = MambaXrayDualEncoder.from_vision_text_pretrained(
        str(tmp_path / "1"), str(tmp_path / "text"), vision_kwargs={"image_size": 48}
    )
    assert second.config.vision_config.image_size == 48
    scan = second.vision_encoder.layers[1].mixer.directions
    assert all(torch.equal(scan[k].A_log, first.layers[1].mixer.directions[0].A_log) for k in range(4))
    second.save_pretrained(tmp_path / "2")
    third = MambaXrayForConditionalGeneration.from_encoder_decoder_pretrained(
        str(tmp_path / "2"), str(tmp_path / "llm")
    )
    images = pairs()["pixel_values"].repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)[..., :48, :48]
    assert torch.equal(third.encode_views(images), second.get_image_features(images).last_hidden_state)
    larger = load_vision_encoder(str(tmp_path / "2"), image_size=64)
    expected = resize_position_embeddings(second.vision_encoder.embeddings.position_embeddings, 257, True)
    assert torch.equal(larger.embeddings.position_embeddings, expected)
    assert larger.config.image_size == 64


def test_an_encoder_within_a_model_that_cannot_be_resized_says_so(tmp_path):
    tiny_dual("swin").save_pretrained(tmp_path)
    assert load_vision_encoder(str(tmp_path)).config.model_type == "swin"
    with pytest.raises(ValueError, match=r"swin encoder of .* takes images of 32 px"):
        load_vision_encoder(str(tmp_path), image_size=64)


def test_a_frozen_vision_encoder_stays_as_it_is_used_while_the_rest_trains():
    model = tiny_dual(vision="swin")
    assert model.train().vision_encoder.training
    model.vision_encoder.requires_grad_(False)
    assert not model.train().vision_encoder.training
    assert model.text_encoder.training


@pytest.mark.parametrize("value", [0, 1.5])
def test_impossible_widths_are_refused(value):
    with pytest.raises(ValueError, match="projection_dim must be a positive integer"):
        MambaXrayDualEncoderConfig(projection_dim=value)
