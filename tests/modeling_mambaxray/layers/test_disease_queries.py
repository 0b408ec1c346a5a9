"""Disease queries: equal to AM-MRG's Q-Former, loadable from BLIP-2, and with each part left out."""

import pytest
import torch
from golden_cases import load_case
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, OPTConfig

from mambaxray.modeling_mambaxray.layers.disease_queries import DiseaseQueries, orthogonality_loss, qformer_key

SIZES = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}


def tiny(seed=0, width=12, **options):
    torch.manual_seed(seed)
    return DiseaseQueries(width, **SIZES | options).eval()


def test_every_intermediate_and_gradient_equals_am_mrgs_q_former():
    case = load_case("ammrg")
    weights, debug, bert = case.tensors("weights"), case.tensors("debug"), case.config["bert"]
    model = DiseaseQueries(
        case.config["qf_width"],
        num_queries=case.config["queries"],
        hidden_size=bert["hidden_size"],
        num_hidden_layers=bert["num_hidden_layers"],
        num_attention_heads=bert["num_attention_heads"],
        intermediate_size=bert["intermediate_size"],
        cross_attention_frequency=case.config["cross_attention_freq"],
        layer_norm_eps=case.config["bert_layer_norm_eps"],
    ).eval()
    model.load_qformer_weights(weights)
    model.queries.data = weights["disease_tokens"][0]
    seen, layers = {}, model.qformer.encoder.layer
    watched = {f"qformer_layer{j}_out": layer for j, layer in enumerate(layers)}
    watched |= {
        "qformer_embeddings_out": model.qformer.layernorm,
        "qformer_layer0_selfattn_out": layers[0].attention,
        "qformer_layer0_crossattn_out": layers[0].crossattention,
    }
    for name, module in watched.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output}))
    output = model(debug["qformer_proj_out"])
    for name, actual in seen.items():
        case.assert_close(f"debug/{name}", actual, debug[name])
    case.assert_close("debug/query_output", output.last_hidden_state, debug["query_output"])
    assert seen.keys() == watched.keys()


def test_a_logit_comes_from_its_own_query_alone():
    model = tiny()
    with torch.no_grad():
        torch.nn.init.normal_(model.classifier.bias)
        output = model(torch.randn(2, 5, 12))
    assert output.logits.shape == (2, 14)
    for disease in range(14):
        own = output.last_hidden_state[:, disease] @ model.classifier.weight[disease] + model.classifier.bias[disease]
        torch.testing.assert_close(output.logits[:, disease], own)


def test_attention_maps_come_from_the_layers_that_look_and_sum_to_one():
    model, tokens = tiny(cross_attention_frequency=2), torch.randn(2, 5, 12)
    output = model(tokens, output_attentions=True)
    assert [tuple(each.shape) for each in output.cross_attentions] == [(2, 2, 14, 5)] * 2
    for attention in output.cross_attentions:
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 2, 14))
    assert model(tokens).cross_attentions is None
    assert len(tiny(cross_attention_frequency=1)(tokens, output_attentions=True).cross_attentions) == 4


def test_without_self_attention_a_query_knows_nothing_of_the_others():
    tokens = torch.randn(1, 5, 12)
    for self_attention in (True, False):
        model = tiny(self_attention=self_attention)
        before = model(tokens).last_hidden_state
        with torch.no_grad():
            model.queries[0] += torch.randn(16)
        after = model(tokens).last_hidden_state
        assert not torch.equal(before[:, 0], after[:, 0])
        assert torch.equal(before[:, 1:], after[:, 1:]) is not self_attention


def test_one_layer_of_cross_attention_is_its_equation():
    """A DAST: layer norm of the query, attention to patches, a residual and a layer norm."""
    model = tiny(num_hidden_layers=1, self_attention=False, feed_forward=False, num_attention_heads=1)
    names = {name.split(".")[3] for name, _ in model.qformer.named_parameters() if name.startswith("encoder.layer")}
    assert names == {"crossattention"}
    tokens, part = torch.randn(2, 5, 12), model.qformer.encoder.layer[0].crossattention
    q = model.qformer.layernorm(model.queries)
    weights = (part.attention.query(q) @ part.attention.key(tokens).mT / 16**0.5).softmax(-1)
    expected = part.output.LayerNorm(q + part.output.dense(weights @ part.attention.value(tokens)))
    output = model(tokens, output_attentions=True)
    torch.testing.assert_close(output.last_hidden_state, expected)
    torch.testing.assert_close(output.cross_attentions[0][:, 0], weights)


def test_every_parameter_is_trained():
    for options in ({}, {"self_attention": False, "feed_forward": False, "cross_attention_frequency": 1}):
        model = tiny(**options)
        model(torch.randn(2, 5, 12)).logits.square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.fixture(scope="module")
def blip2(tmp_path_factory):
    """A tiny BLIP-2 as transformers saves it."""
    torch.manual_seed(5)
    vision = {**SIZES, "num_hidden_layers": 1, "hidden_size": 12, "image_size": 28, "patch_size": 14}
    text = OPTConfig(
        hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=16, vocab_size=40
    )
    qformer = Blip2QFormerConfig(**SIZES, encoder_hidden_size=12, vocab_size=30)
    config = Blip2Config(
        vision_config=vision, qformer_config=qformer.to_dict(), text_config=text.to_dict(), num_query_tokens=4
    )
    folder = tmp_path_factory.mktemp("blip2")
    model = Blip2ForConditionalGeneration(config)
    model.save_pretrained(folder)
    return model, folder


def test_the_q_former_of_a_saved_blip2_is_loaded_and_the_queries_stay(blip2):
    original, folder = blip2
    model, fresh = tiny(), tiny()
    model.load_qformer(str(folder))
    assert torch.equal(model.queries, fresh.queries)
    expected = {name: w for name, w in original.qformer.state_dict().items() if name in model.qformer.state_dict()}
    assert len(expected) == len(model.qformer.state_dict())
    assert all(torch.equal(weight, expected[name]) for name, weight in model.qformer.state_dict().items())


def test_a_q_former_of_another_shape_is_refused_with_what_would_fit(blip2):
    with pytest.raises(ValueError, match=r"not .*encoder_hidden_size=1408"):
        tiny(width=20).load_qformer(str(blip2[1]))
    with pytest.raises(ValueError, match="4 layers, not 2"):
        tiny(num_hidden_layers=2).load_qformer_weights(blip2[0].qformer.state_dict())
    with pytest.raises(ValueError, match=r"lacks .* weights of this Q-Former"):
        tiny(num_hidden_layers=5).load_qformer_weights(blip2[0].qformer.state_dict())
    with pytest.raises(ValueError, match="need queries with self-attention and feed-forward"):
        tiny(feed_forward=False).load_qformer_weights(blip2[0].qformer.state_dict())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Qformer.bert.embeddings.LayerNorm.weight", "layernorm.weight"),
        ("qformer.layernorm.bias", "layernorm.bias"),
        (
            "Qformer.bert.encoder.layer.2.crossattention.self.key.weight",
            "encoder.layer.2.crossattention.attention.key.weight",
        ),
        (
            "encoder.layer.0.attention.attention.query.bias",
            "encoder.layer.0.attention.attention.query.bias",
        ),
        ("Qformer.bert.encoder.layer.1.output_query.dense.bias", "encoder.layer.1.output_query.dense.bias"),
        ("Qformer.bert.encoder.layer.1.output.dense.bias", None),
        ("Qformer.bert.encoder.layer.1.intermediate.dense.bias", None),
        ("Qformer.bert.embeddings.word_embeddings.weight", None),
        ("Qformer.cls.predictions.bias", None),
        ("query_tokens", None),
        ("vision_model.encoder.layers.0.mlp.fc1.weight", None),
        ("language_model.model.decoder.layers.0.fc1.weight", None),
    ],
)
def test_both_names_of_a_q_formers_weights_are_known_and_those_of_texts_left_out(name, key):
    assert qformer_key(name) == key


def test_orthogonality_is_the_mean_squared_cosine_of_pairs():
    assert orthogonality_loss(torch.eye(4) * 3).item() == 0
    assert orthogonality_loss(torch.ones(2, 5, 3)).item() == pytest.approx(1)
    pair = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert orthogonality_loss(pair).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tiny(hidden_size=15), "15 is not a multiple of 2 heads"),
        (lambda: tiny()(torch.randn(2, 5, 13)), r"\(batch, tokens, 12\), got \(2, 5, 13\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
