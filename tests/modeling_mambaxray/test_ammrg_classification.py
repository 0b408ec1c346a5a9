"""AM-MRG's stage 1: the golden values that its stage 2 shares, and where its weights come from."""

import pytest
import torch
from golden_cases import load_case
from tiny import VISION_CONFIGS
from transformers import AutoModel, Blip2Config, Blip2ForConditionalGeneration, OPTConfig

from mambaxray import AMMRGClassificationConfig, AMMRGForDiseaseClassification, VisionMambaConfig, load_vision_encoder
from mambaxray.train.convert import vision_mamba_key

SIZES = {"query_hidden_size": 32, "query_hidden_layers": 2, "query_attention_heads": 4, "query_intermediate_size": 48}


def golden_model(case):
    """The stage-1 parts of the released stage 2: encoder, projection and Q-Former."""
    arm, bert = case.config["arm"], case.config["bert"]
    vision = VisionMambaConfig(
        hidden_size=arm["embed_dim"],
        num_hidden_layers=arm["depth"],
        image_size=arm["img_size"],
        patch_size=arm["patch_size"],
    )
    model = AMMRGForDiseaseClassification(
        AMMRGClassificationConfig(
            vision,
            query_hidden_size=bert["hidden_size"],
            query_hidden_layers=bert["num_hidden_layers"],
            query_attention_heads=bert["num_attention_heads"],
            query_intermediate_size=bert["intermediate_size"],
            encoder_hidden_size=case.config["qf_width"],
        )
    ).eval()
    weights = case.tensors("weights")
    prefix = "visual_encoder."
    encoder = {
        vision_mamba_key(name.removeprefix(prefix)): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }
    model.vision_encoder.load_state_dict(encoder)
    model.qformer_projection.load_state_dict({part: weights[f"Qformer_proj.{part}"] for part in ("weight", "bias")})
    model.disease_queries.load_qformer_weights(weights)
    model.disease_queries.queries.data = weights["disease_tokens"][0]
    return model


def test_images_of_two_views_become_the_released_codes_disease_features():
    case = load_case("ammrg")
    model, io, debug = golden_model(case), case.tensors("io"), case.tensors("debug")
    seen = {}

    def keep(name):
        return lambda module, inputs, output: seen.update({name: output[0] if isinstance(output, tuple) else output})

    qformer = model.disease_queries.qformer
    model.qformer_projection.register_forward_hook(keep("qformer_proj_out"))
    qformer.layernorm.register_forward_hook(keep("qformer_embeddings_out"))
    qformer.encoder.layer[0].attention.register_forward_hook(keep("qformer_layer0_selfattn_out"))
    qformer.encoder.layer[0].crossattention.register_forward_hook(keep("qformer_layer0_crossattn_out"))
    for number, layer in enumerate(qformer.encoder.layer):
        layer.register_forward_hook(keep(f"qformer_layer{number}_out"))
    with torch.no_grad():
        output = model(torch.stack([io["view0"], io["view1"]], dim=1))
    seen |= {"visual_features": output.visual_tokens, "query_output": output.disease_features}
    for name, value in seen.items():
        case.assert_close(f"debug/{name}", value, debug[name])
    assert seen.keys() == {name for name in debug if name.startswith(("qformer", "visual_features", "query"))}
    # A query's logit is made of its own feature and its own row of the classifier.
    classifier = model.disease_queries.classifier
    for number in range(14):
        one = output.disease_features[:, number] @ classifier.weight[number] + classifier.bias[number]
        torch.testing.assert_close(output.logits[:, number], one)


@pytest.mark.parametrize("vision", ["vision_mamba", "swin", "vmamba", "vit_mae"])
def test_a_projection_stands_between_an_encoder_and_a_qformer_of_another_width_only(vision):
    config = VISION_CONFIGS[vision]()
    own = AMMRGForDiseaseClassification(AMMRGClassificationConfig(config, **SIZES, encoder_hidden_size=None))
    assert own.qformer_projection is None
    wider = AMMRGForDiseaseClassification(AMMRGClassificationConfig(config, **SIZES, encoder_hidden_size=56))
    assert wider.qformer_projection.out_features == 56
    images = torch.randn(2, 3, 32, 32)
    for model in (own, wider):
        output = model.eval()(images)
        assert output.logits.shape == (2, 14)
        assert output.disease_features.shape == (2, 14, 32)
        assert output.loss is None
        assert output.cross_attentions is None


def test_the_defaults_are_blip2s_qformer_with_14_queries():
    with torch.device("meta"):
        model = AMMRGForDiseaseClassification(AMMRGClassificationConfig())
    assert model.disease_queries.queries.shape == (14, 768)
    assert model.qformer_projection.weight.shape == (1408, 768)
    assert len(model.disease_queries.qformer.encoder.layer) == 12
    crossed = [layer.has_cross_attention for layer in model.disease_queries.qformer.encoder.layer]
    assert crossed == [True, False] * 6


def test_a_blip2s_qformer_is_where_the_queries_can_start(tmp_path):
    qformer = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
    text = OPTConfig(**small, ffn_dim=16, word_embed_proj_dim=16, max_position_embeddings=8)
    vision = {"hidden_size": 56, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    blip2 = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=vision | {"image_size": 28},
            qformer_config=qformer | {"encoder_hidden_size": 56},
            text_config=text,
        )
    )
    blip2.save_pretrained(tmp_path / "blip2")
    config = AMMRGClassificationConfig(VISION_CONFIGS["vision_mamba"](), **SIZES, encoder_hidden_size=56)
    model = AMMRGForDiseaseClassification(config)
    queries = model.disease_queries.queries.detach().clone()
    model.disease_queries.load_qformer(str(tmp_path / "blip2"))
    expected = blip2.qformer.state_dict()
    loaded = model.disease_queries.qformer.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert torch.equal(model.disease_queries.queries, queries)


def test_a_pretrained_encoder_is_kept_as_it_is_and_comes_out_again(tmp_path):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(VISION_CONFIGS["vision_mamba"]())
    encoder.save_pretrained(tmp_path / "encoder")
    model = AMMRGForDiseaseClassification.from_vision_pretrained(
        str(tmp_path / "encoder"), **SIZES, id2label={0: "Edema", 1: "Fracture"}
    )
    assert model.config.num_labels == 2
    model.save_pretrained(tmp_path / "stage1")
    assert AutoModel.from_pretrained(tmp_path / "stage1").config.id2label == {0: "Edema", 1: "Fracture"}
    again = load_vision_encoder(str(tmp_path / "stage1"))
    for name, weight in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
