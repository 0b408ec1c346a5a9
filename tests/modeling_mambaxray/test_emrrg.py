"""EMRRG's hybrid decoder layers: equal to the released ones, to the plain decoder at first, and fit to generate."""

import copy

import pytest
import torch
from golden_cases import load_case
from safetensors.torch import load_file
from tiny import HYBRID_TEXT_CONFIGS, IMAGE_TOKEN_ID, TEXT_CONFIGS, VISION_CONFIGS, tiny_emrrg, tiny_model
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Qwen2Config

from mambaxray import EMRRGConfig, EMRRGForConditionalGeneration, MambaXrayConfig, MambaXrayForConditionalGeneration
from mambaxray.configuration.configuration_emrrg import HYBRID_DECODERS
from mambaxray.modeling_mambaxray.layers.hybrid_attention import CrossAttentionInputs, make_hybrid
from mambaxray.train import apply_efficient_tuning
from mambaxray.train.parameter_table import parameter_groups

IMAGE = [IMAGE_TOKEN_ID] * 5
GREEDY = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
VARIANTS = {
    "text_only_whole_dynamic_tanh_warmup": {},
    "text_only_whole_dynamic_tanh": {"gate_warm_up": "none"},
    "text_only_whole_dynamic_warmup": {"gate_activation": "identity"},
    "text_only_whole_dynamic": {"gate_activation": "identity", "gate_warm_up": "none"},
    "text_only_masksystem_tanh_warmup": {"attending_tokens": "text_after_image"},
    "all_tokens_tanh_warmup": {"attending_tokens": "all", "gate_warm_up": "identity"},
    "all_tokens_tanh": {"attending_tokens": "all", "gate_warm_up": "none"},
}


def batch(rows=2):
    prompts = torch.tensor([[1, 5, *IMAGE, 6, 7, 9], [1, 4, *IMAGE, 3, 8, 9]])[:rows]
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))[:rows]
    return {"input_ids": prompts, "pixel_values": pixels}


def logits_of(model, **inputs):
    with torch.no_grad():
        return model(**inputs or batch()).logits


def plain_model_of(model):
    """The base class with the same weights, without the cross-attention."""
    config = MambaXrayConfig(model.config.vision_config, model.config.text_config, image_token_id=IMAGE_TOKEN_ID)
    plain = MambaXrayForConditionalGeneration(config).eval()
    plain.load_state_dict({n: w for n, w in model.state_dict().items() if not n.startswith("cross_attention")})
    return plain


class ReleasedLayer:
    """The golden case's layer in one variant."""

    def __init__(self, case, variant):
        sizes = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "rms_norm_eps")
        text = Qwen2Config(vocab_size=8, num_hidden_layers=1, **{name: case.config[name] for name in sizes})
        config = EMRRGConfig(VISION_CONFIGS["vision_mamba"](), text, image_token_id=3, **VARIANTS[variant])
        self.model = EMRRGForConditionalGeneration(config).eval()
        self.layer = self.model.language_model.model.layers[0]
        self.cross = self.model.cross_attention.layers["0"]
        weights = case.tensors("weights")
        self.layer.load_state_dict({name: weight for name, weight in weights.items() if "cross_attn" not in name})
        names = {
            "kv_proj.weight": "kv_proj.weight",
            "kv_proj.bias": "kv_proj.bias",
            "gate.weight": "gate_proj.0.weight",
            "gate.bias": "gate_proj.0.bias",
            "gate.warm_up": "warm_up_gate",
        }
        own = self.cross.state_dict()
        self.cross.load_state_dict({name: weights[f"self_attn.cross_attn_{names[name]}"] for name in own})

    def __call__(self, io, visual_tokens=None):
        options = {}
        if visual_tokens is not None:
            normed = {0: self.layer.input_layernorm(visual_tokens)}
            states = self.model.cross_attention(normed, io["cross_attn_mask"].bool())
            options["cross_attention"] = CrossAttentionInputs(states, self.model._attending(io["token_type"]))
        positions = io["position_ids"]
        rotations = self.model.language_model.model.rotary_emb(io["hidden_states"], positions)
        return self.layer(io["hidden_states"], position_ids=positions, position_embeddings=rotations, **options)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_hybrid_layer_equals_the_released_one(variant):
    case = load_case("emrrg.hybrid_decoder")
    io, layer = case.tensors("io"), ReleasedLayer(case, variant)
    case.assert_close(f"io/{variant}/output", layer(io, io["visual_tokens"]), io[f"{variant}/output"])
    case.assert_close("io/no_visual/output", layer(io), io["no_visual/output"])


def test_the_gradients_of_the_papers_layer_equal_the_released_ones():
    case = load_case("emrrg.hybrid_decoder")
    io, layer = case.tensors("io"), ReleasedLayer(case, "text_only_whole_dynamic_tanh_warmup")
    leaves = {name: io[name].requires_grad_() for name in ("visual_tokens", "hidden_states")}
    layer(io, io["visual_tokens"]).square().sum().backward()
    leaves |= {
        "self_attn.cross_attn_warm_up_gate": layer.cross.gate.warm_up,
        "self_attn.cross_attn_kv_proj.bias": layer.cross.kv_proj.bias,
        "self_attn.cross_attn_gate_proj.0.weight": layer.cross.gate.weight,
        "self_attn.cross_attn_gate_proj.0.bias": layer.cross.gate.bias,
    }
    parameters = leaves | dict(layer.layer.named_parameters())
    for name, expected in case.tensors("grads").items():
        case.assert_close(f"grads/{name}", parameters[name].grad, expected)


@pytest.mark.parametrize("text", HYBRID_DECODERS)
def test_a_new_model_equals_the_plain_one_to_the_last_bit_and_an_open_gate_changes_it(text):
    model = tiny_emrrg(text, warm_up=0.0)
    plain = logits_of(plain_model_of(model))
    assert torch.equal(logits_of(model), plain)
    assert (logits_of(tiny_emrrg(text)) - plain).abs().max() > 0.05


def test_a_gate_without_warm_up_starts_closed_too():
    torch.manual_seed(0)
    config = tiny_emrrg().config
    config.gate_warm_up = "none"
    model = EMRRGForConditionalGeneration(config).eval()
    assert torch.equal(logits_of(model), logits_of(plain_model_of(model)))


@pytest.mark.parametrize(
    ("text", "mode"),
    [*((text, {"num_beams": 3}) for text in HYBRID_DECODERS), ("llama", {}), ("llama", {"do_sample": True})],
)
def test_generation_with_kept_keys_and_values_equals_generation_without(text, mode):
    model, options = tiny_emrrg(text), GREEDY | mode
    results = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        results.append(model.generate(**batch(), **options, use_cache=use_cache))
    kept, computed = results
    assert torch.equal(kept.sequences, computed.sequences)
    torch.testing.assert_close(torch.stack(kept.logits), torch.stack(computed.logits), rtol=1e-4, atol=1e-4)


def test_the_image_still_counts_in_late_steps():
    model = tiny_emrrg()
    forced = torch.cat([batch()["input_ids"], torch.tensor([[7, 8, 9]] * 2)], dim=1)
    steps = model.generate(**batch() | {"input_ids": forced}, **GREEDY | {"max_new_tokens": 3})
    with torch.no_grad():
        tokens = model(input_ids=steps.sequences[:, :-1], pixel_values=batch()["pixel_values"])
    torch.testing.assert_close(torch.stack(steps.logits, dim=1), tokens.logits[:, -3:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 4}])
def test_keys_and_values_are_computed_once_per_image(mode):
    model, seen = tiny_emrrg(), []
    for layer in model.cross_attention.layers.values():
        layer.kv_proj.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[0]))
    model.generate(**batch(), **GREEDY | mode)
    assert seen == [2, 2]


def test_beams_equal_those_of_single_studies():
    model, options = tiny_emrrg(), {"max_new_tokens": 6, "num_beams": 3, "do_sample": False}
    together = model.generate(**batch(), **options)
    for row in range(2):
        alone = model.generate(**{name: value[row : row + 1] for name, value in batch().items()}, **options)
        assert torch.equal(together[row, : alone.shape[1]], alone[0])


def test_a_left_padded_row_gives_what_it_gives_alone():
    model, inputs = tiny_emrrg(), batch(1)
    alone = model.generate(**inputs, **GREEDY)
    long, short = inputs["input_ids"][0], inputs["input_ids"][0]
    long = torch.cat([long[:1], long.new_tensor([8, 8, 8]), long[1:]])
    padded = {
        "input_ids": torch.stack([torch.cat([long.new_tensor([0, 0, 0]), short]), long]),
        "attention_mask": torch.tensor([[0] * 3 + [1] * len(short), [1] * len(long)]),
        "pixel_values": inputs["pixel_values"].expand(2, -1, -1, -1),
    }
    together = model.generate(**padded, **GREEDY)
    torch.testing.assert_close(torch.stack(together.logits)[:, 0], torch.stack(alone.logits)[:, 0])


@pytest.mark.parametrize("text", ["llama", "gemma2"])
def test_a_static_cache_gives_the_same(text):
    model = tiny_emrrg(text)
    dynamic = model.generate(**batch(), **GREEDY)
    static = model.generate(**batch(), **GREEDY, cache_implementation="static")
    assert torch.equal(dynamic.sequences, static.sequences)
    torch.testing.assert_close(torch.stack(dynamic.logits), torch.stack(static.logits))


def test_text_without_an_image_is_untouched():
    model = tiny_emrrg()
    text = torch.tensor([[1, 5, 6, 7, 8]])
    assert torch.equal(logits_of(model, input_ids=text), logits_of(plain_model_of(model), input_ids=text))


def test_image_positions_and_rows_without_an_image_do_not_attend():
    ids = torch.tensor([[1, 5, *IMAGE, 6], [1, 5, 6, 7, 8, 9, 8, 7]])
    no, yes = [False] * 5, [True] * 2
    attending = {
        name: tiny_emrrg(attending_tokens=name)._attending(ids) for name in ("text", "text_after_image", "all")
    }
    assert attending["text"].tolist() == [[*yes, *no, True], [False] * 8]
    assert attending["text_after_image"].tolist() == [[False] * 2 + [*no, True], [False] * 8]
    assert attending["all"].tolist() == [[True] * 8, [False] * 8]


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_emrrg().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        inputs = batch()
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN_ID, -100)
        model(**inputs, labels=labels).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    plain, checkpointed = gradients
    assert all(plain[name].abs().max() > 0 for name in plain if name.startswith("cross_attention"))
    for name, gradient in plain.items():
        if gradient is not None:
            torch.testing.assert_close(checkpointed[name], gradient, msg=name)


@pytest.mark.parametrize("attention", ["eager", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_every_attention_of_the_decoder_gives_the_same(attention):
    model = tiny_emrrg()
    expected = logits_of(model)
    model.set_attn_implementation(attention)
    assert model.language_model.config._attn_implementation == attention
    torch.testing.assert_close(logits_of(model), expected, rtol=1e-4, atol=1e-4)


def test_a_copy_is_a_model_of_its_own():
    model = tiny_emrrg()
    copied = copy.deepcopy(model)
    expected = logits_of(model)
    with torch.no_grad():
        model.cross_attention.layers["0"].gate.warm_up.zero_()
        model.language_model.config._attn_implementation = "eager"
    assert torch.equal(logits_of(copied), expected)
    assert not torch.equal(logits_of(model), expected)


def test_half_precision_keeps_close_to_float32():
    model = tiny_emrrg()
    full = logits_of(model)
    half = logits_of(model.to(torch.bfloat16)).float()
    assert torch.isfinite(half).all()
    assert (half - full).abs().mean() < 0.05 * full.abs().mean()


def test_the_cross_attention_learns_in_float32_beside_a_decoder_in_half_precision():
    model = tiny_emrrg()
    model.language_model.to(torch.bfloat16)
    inputs = batch()
    model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN_ID, -100)).loss.backward()
    for parameter in model.cross_attention.parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert torch.count_nonzero(parameter.grad)


@pytest.mark.slow
def test_the_model_compiles_as_one_graph():
    model = tiny_emrrg()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**batch()).logits, logits_of(model))


def test_adapters_on_both_sides_train_and_merge_beside_the_cross_attention(tmp_path):
    base = tiny_emrrg(warm_up=0.0)
    base.save_pretrained(tmp_path / "base")
    lora = {"r": 2, "target_modules": ["q_proj", "o_proj"]}
    model = apply_efficient_tuning(base, "X+in_proj", rank=2, lora=lora).train()
    trained = [group.name for group in parameter_groups(model) if group.trained]
    assert trained == [
        "vision_encoder: LoRA on in_proj",
        "language_model: LoRA",
        "projector",
        "layer_norm",
        "cross_attention",
    ]
    inputs = batch()
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN_ID, -100)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(model(**inputs, labels=labels).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    expected = logits_of(model.eval())
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    loaded.load_adapter(tmp_path / "adapter")
    torch.testing.assert_close(logits_of(loaded), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_of(model.merge_and_unload()), expected, rtol=1e-5, atol=1e-5)


def test_a_frozen_language_model_is_not_saved_and_comes_back(tmp_path):
    AutoModelForCausalLM.from_config(TEXT_CONFIGS["llama"]()).save_pretrained(tmp_path / "decoder")
    encoder = tiny_emrrg().vision_encoder
    model = EMRRGForConditionalGeneration.from_encoder_decoder_pretrained(
        encoder, str(tmp_path / "decoder"), image_token_id=IMAGE_TOKEN_ID, hybrid_layers=[1]
    )
    assert torch.equal(logits_of(model), logits_of(plain_model_of(model)))
    with torch.no_grad():
        model.cross_attention.layers["1"].gate.warm_up.fill_(2.0)
    model.freeze_language_model()
    model.save_pretrained(tmp_path / "model")
    parts = {name.split(".")[0] for name in load_file(tmp_path / "model" / "model.safetensors")}
    assert parts == {"vision_encoder", "projector", "layer_norm", "cross_attention"}
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert loaded.config.hybrid_layers == [1]
    assert torch.equal(logits_of(loaded), logits_of(model))
    assert not torch.equal(logits_of(loaded), logits_of(plain_model_of(loaded)))


def test_embeddings_in_place_of_ids_are_refused_with_an_image():
    model, inputs = tiny_emrrg(), batch()
    embeds = model.get_input_embeddings()(inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN_ID, 0))
    with pytest.raises(ValueError, match="by input_ids"):
        model(inputs_embeds=embeds, pixel_values=inputs["pixel_values"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hybrid_layers": [0, 2]}, r"from 0 to 1.*\[0, 2\]"),
        ({"hybrid_layers": [1, 0]}, "ascending"),
        ({"hybrid_layers": []}, "ascending"),
        ({"gate_activation": "relu"}, "gate_activation must be one of tanh, identity, got 'relu'"),
        ({"gate_warm_up": None}, "gate_warm_up must be one of"),
        ({"attending_tokens": "image"}, "attending_tokens must be one of"),
    ],
)
def test_wrong_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_emrrg(**options)


@pytest.mark.parametrize("text", ["gpt2", "opt"])
def test_a_language_model_of_another_family_is_refused(text):
    with pytest.raises(ValueError, match=f"'{text}' language model, only of llama"):
        EMRRGConfig(VISION_CONFIGS["vision_mamba"](), TEXT_CONFIGS[text]())


def test_the_papers_layers_are_taken_as_far_as_they_exist():
    text = TEXT_CONFIGS["llama"]()
    assert EMRRGConfig(text_config=text).hybrid_layers == [0]
    assert EMRRGConfig().hybrid_layers == [0, 8, 16, 24]
    text.num_hidden_layers = 24
    assert EMRRGConfig(text_config=text).hybrid_layers == [0, 8, 16]


def test_making_layers_hybrid_twice_is_making_them_once():
    model = tiny_emrrg()
    expected = logits_of(model)
    make_hybrid(model.language_model, [0, 1])
    assert torch.equal(logits_of(model), expected)


def test_every_family_is_tested():
    assert set(HYBRID_DECODERS) == set(HYBRID_TEXT_CONFIGS)


def test_a_decoder_that_is_given_is_not_changed():
    donor = tiny_model()
    decoder = donor.language_model
    configs = [layer.self_attn.config for layer in decoder.model.layers]
    built = EMRRGForConditionalGeneration.from_encoder_decoder_pretrained(
        donor.vision_encoder, decoder, image_token_id=IMAGE_TOKEN_ID
    )
    assert [layer.self_attn.config for layer in decoder.model.layers] == configs
    assert built.language_model is not decoder
    assert built.language_model.model.embed_tokens.weight is decoder.model.embed_tokens.weight
