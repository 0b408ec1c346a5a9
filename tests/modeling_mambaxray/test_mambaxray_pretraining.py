"""Stage 1: equal to the released code, a well-behaved transformers model, and the start of the later stages."""

import pytest
import torch
from golden_cases import load_case
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from mambaxray import (
    MambaXrayForPreTraining,
    MambaXrayPreTrainingConfig,
    VisionMambaModel,
    encoder_from_pretraining,
)
from mambaxray.modeling_mambaxray.modeling_mambaxray_pretraining import ClusterDecoderLayer, cluster_order
from mambaxray.train.convert import convert_state_dict, pretraining_key


def tiny_model(seed=0, **changes):
    torch.manual_seed(seed)
    values = {"hidden_size": 24, "num_hidden_layers": 4, "image_size": 32, "patch_size": 4, "state_size": 4}
    return MambaXrayForPreTraining(MambaXrayPreTrainingConfig(**values | {"decoder_hidden_size": 16} | changes)).eval()


def images(batch=2, size=32, seed=0):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def official():
    case = load_case("arm_pretrain")
    config = MambaXrayPreTrainingConfig(
        hidden_size=case.config["embed_dim"],
        num_hidden_layers=case.config["depth"],
        image_size=case.config["img_size"],
        patch_size=case.config["patch_size"],
        decoder_hidden_size=case.config["dec_embed_dim"],
    )
    assert config.feature_layers == case.config["skip_layers_1based"]
    model = MambaXrayForPreTraining(config).eval()
    model.load_state_dict(convert_state_dict(case.tensors("weights"), "pretrain"))
    return case, model


def test_loss_per_token_predictions_and_gradients_equal_the_released_code(official):
    case, model = official
    io = case.tensors("io")
    output = model(io["image"])
    case.assert_close("io/loss_per_token", output.loss_per_token, io["loss_per_token"])
    case.assert_close("io/loss_mean", output.loss.reshape(1), io["loss_mean"])
    case.assert_close("io/pred", output.logits, io["pred"])
    case.assert_close("debug/features", model.encode_clusters(io["image"]), case.tensors("debug")["features"])
    output.loss.backward()
    parameters = dict(model.named_parameters())
    for name, expected in case.tensors("grads").items():
        case.assert_close(f"grads/{name}", parameters[pretraining_key(name)].grad, expected)


def test_the_fixed_positions_are_the_released_ones(official):
    case, model = official
    fresh = MambaXrayForPreTraining(model.config)
    weights = case.tensors("weights")
    torch.testing.assert_close(fresh.position_embeddings, weights["pos_embed"])
    torch.testing.assert_close(fresh.decoder_position_embeddings, weights["dec_pos_embed"])


def test_a_decoder_layer_of_two_heads_equals_the_released_one():
    case = load_case("arm_pretrain.decoder_block_2heads")
    config = MambaXrayPreTrainingConfig(decoder_hidden_size=case.config["dim"])
    assert config.decoder_num_attention_heads == case.config["heads"]
    layer = ClusterDecoderLayer(config)
    weights = {pretraining_key(f"dec_block.0.{name}"): weight for name, weight in case.tensors("weights").items()}
    layer.load_state_dict({name.removeprefix("decoder_layers.0."): weight for name, weight in weights.items()})
    io = case.tensors("io")
    case.assert_close("io/output", layer(io["q"], io["kv"], io["mask"] == 0), io["output"])


def test_stage_1_is_carried_into_four_directions_as_in_the_released_code(official):
    _, model = official
    case = load_case("pretrain_to_clip_init")
    io = case.tensors("io")
    encoder = encoder_from_pretraining(model, image_size=case.config["img_size"]).eval()
    case.assert_close("io/pos_embed_out", encoder.embeddings.position_embeddings, io["pos_embed_out"])
    same_size = encoder_from_pretraining(model).embeddings.position_embeddings
    case.assert_close("io/pos_embed_out_same_size", same_size, io["pos_embed_out_same_size"])
    fresh = {name: io[name] for name in ("cls_token", "norm_f.weight", "norm_f.bias")}
    encoder.load_state_dict(convert_state_dict(fresh, "encoder"), strict=False)
    with torch.no_grad():
        case.assert_close("io/output", encoder(io["image"]).last_hidden_state, io["output"])


def test_a_cluster_is_predicted_from_earlier_clusters_only():
    model, pictures = tiny_model(), images()
    changed = pictures.clone()
    changed[:, :, 16:, :16] += 1.0  # the third of four clusters
    with torch.no_grad():
        before, after = model(pictures).logits, model(changed).logits
    assert torch.equal(before[:, :32], after[:, :32])  # predictions of the second and the third
    assert not torch.equal(before[:, 32:], after[:, 32:])


def test_patches_go_back_to_where_they_came_from():
    model, pictures = tiny_model(), images()
    assert torch.equal(model.unpatchify(model.patchify(pictures)), pictures)
    assert cluster_order(4, 2).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_targets_have_mean_zero_and_unbiased_variance_one():
    targets = tiny_model().patch_targets(images())
    torch.testing.assert_close(targets.mean(dim=-1), torch.zeros(2, 48), rtol=0, atol=1e-5)
    torch.testing.assert_close(targets.var(dim=-1), torch.ones(2, 48), rtol=0, atol=1e-4)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForPreTraining])
def test_saved_models_load_through_the_auto_classes_and_compute_the_same(tmp_path, auto_class):
    model = tiny_model(feature_layers=[2, 4], decoder_num_attention_heads=4)
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).feature_layers == [2, 4]
    loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, MambaXrayForPreTraining)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(loaded(images()).logits, model(images()).logits)
    assert {name for name, p in loaded.named_parameters() if not p.requires_grad} == set()


def test_bfloat16_stays_close_to_float32_and_keeps_the_recurrence_in_float32(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    low = MambaXrayForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert low.layers[0].mixer.directions[0].A_log.dtype == torch.float32
    assert low.prediction_head.weight.dtype == torch.bfloat16
    exact, rounded = model(images()), low(images())
    assert rounded.loss.dtype == torch.float32
    assert rounded.loss.item() == pytest.approx(exact.loss.item(), rel=1e-2)
    assert F.cosine_similarity(exact.logits.flatten(), rounded.logits.float().flatten(), dim=0) > 0.999


def test_the_carried_encoder_loads_at_the_size_that_was_asked_for(tmp_path):
    encoder = encoder_from_pretraining(tiny_model(), image_size=48)
    encoder.save_pretrained(tmp_path)
    loaded = VisionMambaModel.from_pretrained(tmp_path)
    assert (loaded.config.num_directions, loaded.config.image_size, loaded.config.patch_size) == (4, 48, 4)
    assert loaded(images(size=48)).last_hidden_state.shape == (2, 145, 24)


def test_base_and_large_look_at_the_layers_of_the_released_code():
    assert MambaXrayPreTrainingConfig().feature_layers == [6, 8, 10, 12]
    assert MambaXrayPreTrainingConfig(hidden_size=1024, num_hidden_layers=24).feature_layers == [12, 16, 20, 24]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 224}, "image_size must be a multiple of 64"),
        ({"image_size": 64}, "several clusters"),
        ({"num_directions": 4}, "num_directions=1"),
        ({"use_cls_token": True}, "use_cls_token=False"),
        ({"feature_layers": [13]}, "layers from 1 to 12"),
        ({"decoder_hidden_size": 100, "decoder_num_attention_heads": 3}, "its 3 heads"),
        ({"cluster_size": 0}, "cluster_size must be a positive integer"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MambaXrayPreTrainingConfig(**changes)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(batch, 3, 32, 32\), got \(2, 3, 48, 48\)"):
        tiny_model()(images(size=48))
