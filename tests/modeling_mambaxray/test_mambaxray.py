"""The report generator: equal to the released one, and exact in every mode of `generate`."""

import copy

import pytest
import torch
from golden_cases import load_case
from tiny import IMAGE_TOKEN_ID, TEXT_CONFIGS, VISION_CONFIGS, VOCABULARY, tiny_config, tiny_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    PretrainedConfig,
    StaticCache,
)

from mambaxray import MambaXrayConfig, MambaXrayForConditionalGeneration, MambaXrayModel, VisionMambaConfig
from mambaxray.train.convert import convert_state_dict, downstream_key

COMBINATIONS = [
    ("vision_mamba", "llama"),
    ("vision_mamba", "qwen2"),
    ("vision_mamba", "gemma2"),
    ("vision_mamba", "opt"),
    ("swin", "gpt2"),
    ("vit_mae", "llama"),
]
MODES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "diverse return": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 2.0},
    "repetition penalty": {"repetition_penalty": 2.0, "min_new_tokens": 4},
    "sampling": {"do_sample": True, "top_k": 10},
}


def make_inputs(model, batch=2, views=1, seed=0):
    """Prompts of equal length: bos, image, three words."""
    generator = torch.Generator().manual_seed(seed)
    count = model.config.num_image_tokens
    words = torch.randint(3, VOCABULARY, (batch, 3), generator=generator)
    ids = torch.cat([torch.full((batch, 1), 1), torch.full((batch, count), IMAGE_TOKEN_ID), words], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.rand(batch, views, 3, 32, 32, generator=generator),
    }


def left_pad(inputs, amount):
    padded = dict(inputs)
    for name, value in (("input_ids", 0), ("attention_mask", 0)):
        padded[name] = torch.nn.functional.pad(inputs[name], (amount, 0), value=value)
    return padded


def new_tokens(model, inputs, **options):
    settings = {"max_new_tokens": 8, "do_sample": False, **options}
    return model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]


def rows_until_eos(ids, eos=2):
    return [row[: row.index(eos) + 1] if eos in row else row for row in ids.tolist()]


# Parity with the released code


@pytest.fixture
def official():
    case = load_case("downstream")
    extra = case.config["llama_extra"]
    text_config = LlamaConfig(
        **case.config["llama"],
        rms_norm_eps=extra["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": extra["rope_theta"]},
        bos_token_id=extra["bos"],
        eos_token_id=extra["eos"],
        pad_token_id=extra["pad"],
    )
    vision_config = VisionMambaConfig(
        hidden_size=case.config["embed_dim"],
        num_hidden_layers=case.config["depth"],
        image_size=case.config["img_size"],
    )
    config = MambaXrayConfig(vision_config, text_config, image_token_id=text_config.vocab_size)
    model = MambaXrayForConditionalGeneration(config).eval()
    model.load_state_dict(convert_state_dict(case.tensors("weights"), "downstream"))
    io = case.tensors("io")
    before, after = io["prompt_before_ids"].tolist(), io["prompt_after_ids"].tolist()
    prompt = [extra["bos"], *before, *[config.image_token_id] * config.num_image_tokens, *after]
    return case, model, io, torch.tensor([prompt, prompt]), torch.stack([io["view0"], io["view1"]], dim=1)


def test_embeddings_logits_loss_and_gradients_equal_the_released_code(official):
    case, model, io, prompt, views = official
    case.assert_close("io/llama_proj_out", model.projector(model.encode_views(views)), io["llama_proj_out"])
    ids = torch.cat([prompt, io["report_ids"]], dim=1)
    image_embeds = torch.stack(model.get_image_features(views).pooler_output)
    case.assert_close("io/inputs_embeds", model.merge_image_features(ids, image_embeds), io["inputs_embeds"])
    case.assert_close(
        "io/generate_prefix_embeds", model.merge_image_features(prompt, image_embeds), io["generate_prefix_embeds"]
    )
    output = model(input_ids=ids, pixel_values=views, attention_mask=io["attention_mask"], labels=io["labels"])
    case.assert_close("io/logits", output.logits, io["logits"])
    case.assert_close("io/loss", output.loss.reshape(1), io["loss"])
    output.loss.backward()
    parameters = dict(model.named_parameters())
    for name, expected in case.tensors("grads").items():
        case.assert_close(f"grads/{name}", parameters[downstream_key(name)].grad, expected)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("setting", ["", "_min0", "_plain"])
def test_generated_ids_equal_the_released_code(official, beams, setting):
    case, model, io, prompt, views = official
    options = dict(case.config["generation"])
    if setting == "_min0":
        options["min_new_tokens"] = 0
    if setting == "_plain":
        options |= {"repetition_penalty": 1.0, "length_penalty": 1.0}
    result = model.generate(
        input_ids=prompt,
        pixel_values=views,
        attention_mask=torch.ones_like(prompt),
        num_beams=beams,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    expected = io[("greedy_ids" if beams == 1 else "beam3_ids") + setting]
    actual = result.sequences[:, prompt.shape[1] :]
    assert rows_until_eos(actual) == [[token for token in row if token >= 0] for row in expected.tolist()]
    if beams == 3 and setting == "":
        case.assert_close("io/beam3_scores", result.sequences_scores, io["beam3_scores"])


# Exactness of generation


@pytest.mark.parametrize(("vision", "text"), COMBINATIONS)
@pytest.mark.parametrize("mode", ["greedy", "beams", "repetition penalty"])
def test_a_left_padded_batch_generates_what_single_studies_do(vision, text, mode):
    model = tiny_model(vision, text)
    first, second = make_inputs(model, batch=1, seed=1), left_pad(make_inputs(model, batch=1, seed=2), 0)
    longer = {**first, "input_ids": torch.cat([first["input_ids"], torch.tensor([[5, 6, 7, 8]])], dim=1)}
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    shorter = left_pad(second, 4)
    batch = {name: torch.cat([longer[name], shorter[name]]) for name in longer}
    together = rows_until_eos(new_tokens(model, batch, **MODES[mode]))
    alone = [rows_until_eos(new_tokens(model, study, **MODES[mode]))[0] for study in (longer, second)]
    assert together == alone


def test_a_left_padded_forward_pass_gives_the_logits_of_the_unpadded_one():
    model = tiny_model()
    inputs = make_inputs(model)
    plain = model(**inputs).logits
    padded = model(**left_pad(inputs, 5)).logits[:, 5:]
    torch.testing.assert_close(padded, plain, rtol=1e-4, atol=1e-4)


def test_a_mask_of_four_dimensions_gives_the_logits_of_the_one_that_it_is_made_of():
    model = tiny_model()
    inputs = left_pad(make_inputs(model), 5)
    seen = inputs["attention_mask"][:, None, None].bool() & torch.ones(inputs["input_ids"].shape[1:] * 2).tril().bool()
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits = model(**inputs | {"attention_mask": added}).logits[:, 5:]
    torch.testing.assert_close(logits, model(**inputs).logits[:, 5:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("vision", "text"), COMBINATIONS)
@pytest.mark.parametrize("mode", list(MODES))
def test_generation_with_and_without_cache_agree(vision, text, mode):
    model = tiny_model(vision, text)
    inputs = make_inputs(model)
    results = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        results.append(rows_until_eos(new_tokens(model, inputs, use_cache=use_cache, **MODES[mode])))
    assert results[0] == results[1]


@pytest.mark.parametrize("text", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_a_static_cache_generates_the_same(text, mode):
    model = tiny_model(text=text)
    inputs = make_inputs(model)
    static = new_tokens(model, inputs, cache_implementation="static", disable_compile=True, **MODES[mode])
    assert rows_until_eos(static) == rows_until_eos(new_tokens(model, inputs, **MODES[mode]))


def test_a_cache_given_by_the_caller_is_used():
    model = tiny_model()
    inputs = make_inputs(model)
    cache = StaticCache(config=model.config.text_config, max_cache_len=64)
    tokens = new_tokens(model, inputs, cache=cache)
    assert rows_until_eos(tokens) == rows_until_eos(new_tokens(model, inputs))
    assert cache.get_seq_length() >= inputs["input_ids"].shape[1]


def test_the_image_changes_what_is_generated():
    model = tiny_model()
    inputs = make_inputs(model)
    other = {**inputs, "pixel_values": 1 - inputs["pixel_values"]}
    assert not torch.equal(model(**inputs).logits[:, -1], model(**other).logits[:, -1])


@pytest.mark.parametrize("mode", list(MODES))
def test_each_image_is_encoded_once_however_many_sequences_it_gets(mode):
    model = tiny_model()
    encoded = []
    model.vision_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: encoded.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    new_tokens(model, make_inputs(model, batch=2), **MODES[mode])
    assert encoded == [2]


def test_several_samples_of_one_study_match_the_study_repeated():
    model = tiny_model()
    inputs = make_inputs(model, batch=2)
    repeated = {name: value.repeat_interleave(3, dim=0) for name, value in inputs.items()}
    torch.manual_seed(0)
    returned = new_tokens(model, inputs, do_sample=True, num_return_sequences=3)
    torch.manual_seed(0)
    assert torch.equal(returned, new_tokens(model, repeated, do_sample=True))


def test_the_placeholder_is_never_generated():
    model = tiny_model()
    model.resize_token_embeddings(VOCABULARY + 1)
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight[IMAGE_TOKEN_ID] = 100 * head.weight.abs().sum(0)
    tokens = new_tokens(model, make_inputs(model), do_sample=True, use_cache=False)
    assert IMAGE_TOKEN_ID not in tokens
    # Not even as the one that is left of all.
    assert IMAGE_TOKEN_ID not in new_tokens(model, make_inputs(model), do_sample=True, top_k=1)


# Views


def test_several_views_are_averaged_and_missing_ones_are_left_out():
    model = tiny_model()
    views = make_inputs(model, batch=2, views=3)["pixel_values"]
    mask = torch.tensor([[True, False, True], [True, False, False]])
    first = model.encode_views(views[:, 0])
    third = model.encode_views(views[:, 2])
    masked = model.encode_views(views, mask)
    torch.testing.assert_close(masked[0], (first[0] + third[0]) / 2)
    torch.testing.assert_close(masked[1], first[1])
    views[~mask] = float("nan")
    assert torch.equal(model.encode_views(views, mask), masked)


def test_all_views_present_is_the_same_with_and_without_a_mask():
    model = tiny_model()
    views = make_inputs(model, batch=2, views=2)["pixel_values"]
    everything = torch.ones(2, 2, dtype=torch.bool)
    torch.testing.assert_close(model.encode_views(views, everything), model.encode_views(views))


@pytest.mark.parametrize("vision", list(VISION_CONFIGS))
def test_the_number_of_image_tokens_is_what_the_encoder_makes(vision):
    model = tiny_model(vision)
    tokens = model.encode_views(torch.rand(1, 3, 32, 32))
    assert tokens.shape[1] == model.config.num_image_tokens


def test_a_masked_autoencoder_sees_all_patches_in_order():
    model = tiny_model("vit_mae")
    views = torch.rand(1, 3, 32, 32)
    assert torch.equal(model.encode_views(views), model.encode_views(views))


def test_a_forward_pass_leaves_the_callers_encoder_as_it_is():
    model = tiny_model("vit_mae")
    before = model.vision_encoder.config.to_dict()
    model(**make_inputs(model))
    assert before["mask_ratio"] > 0
    assert model.vision_encoder.config.to_dict() == before


def test_a_masked_autoencoders_tokens_are_those_of_its_own_forward_pass_without_a_mask():
    model = tiny_model("vit_mae")
    images = torch.rand(2, 3, 32, 32)
    encoder = copy.deepcopy(model.vision_encoder)
    encoder.config.mask_ratio = 0.0
    patches = model.config.visual_sequence_length - 1
    expected = encoder(images, noise=torch.arange(patches).float().expand(2, -1)).last_hidden_state
    assert torch.equal(model.encode_images(images), expected)


def test_the_base_model_stops_before_the_head_and_holds_the_same_modules():
    model = tiny_model()
    inputs = make_inputs(model)
    base = model.base_model
    assert isinstance(base, MambaXrayModel)
    hidden = base(**inputs).last_hidden_state
    assert torch.equal(model.get_output_embeddings()(hidden), model(**inputs).logits)
    assert base.projector is model.projector
    assert "base_model" not in " ".join(model.state_dict())


@pytest.mark.parametrize(("text", "loads"), [("llama", True), ("gpt2", False)])
def test_the_base_model_loads_from_a_generators_folder_or_says_why_not(tmp_path, text, loads):
    model = tiny_model(text=text)
    model.save_pretrained(tmp_path)
    if not loads:
        with pytest.raises(ValueError, match=r"take its base_model"):
            MambaXrayModel.from_pretrained(tmp_path)
        return
    inputs = make_inputs(model)
    loaded = MambaXrayModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs).last_hidden_state, model.base_model(**inputs).last_hidden_state)


# Training, saving and loading


@pytest.mark.parametrize(("vision", "text"), COMBINATIONS)
def test_one_batch_can_be_learned_by_heart(vision, text):
    torch.manual_seed(0)
    model = MambaXrayForConditionalGeneration(tiny_config(vision, text)).train()
    inputs = make_inputs(model)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN_ID, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    encoder_gradients = [p.grad for p in model.vision_encoder.parameters() if p.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in encoder_gradients)


@pytest.mark.parametrize("vision", VISION_CONFIGS)
def test_gradient_checkpointing_changes_no_gradient_whatever_the_encoder(vision):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(vision).train()
        for module in model.modules():
            # Of a Swin and of VMamba, whole branches are left out at random.
            for name in ("p", "rate", "drop_prob"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        if checkpointing:
            model.gradient_checkpointing_enable()
        inputs = make_inputs(model)
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    assert all(gradient is not None for name, gradient in gradients[0].items() if "pooler" not in name)
    torch.testing.assert_close(*gradients)


def test_a_frozen_encoder_stays_as_it_is_used_while_the_rest_trains():
    model = tiny_model(vision="swin")
    model.vision_encoder.train()
    assert model.train().vision_encoder.training
    model.vision_encoder.requires_grad_(False)
    assert not model.train().vision_encoder.training
    assert model.language_model.training
    assert model.projector.training


def test_padding_and_prompt_do_not_enter_the_loss():
    model = tiny_model()
    inputs = make_inputs(model)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -2:] = inputs["input_ids"][:, -2:]
    padded = {name: inputs[name] for name in ("pixel_values",)}
    padded["input_ids"] = torch.nn.functional.pad(inputs["input_ids"], (0, 4))
    padded["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 4))
    plain = model(**inputs, labels=labels).loss
    with_padding = model(**padded, labels=torch.nn.functional.pad(labels, (0, 4), value=-100)).loss
    torch.testing.assert_close(plain, with_padding)


@pytest.mark.parametrize(("vision", "text"), COMBINATIONS)
def test_saved_models_load_through_the_auto_classes_with_equal_logits(tmp_path, vision, text):
    model = tiny_model(vision, text)
    model.save_pretrained(tmp_path)
    inputs = make_inputs(model)
    for auto_class in (AutoModelForImageTextToText, AutoModel):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is MambaXrayForConditionalGeneration
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_eager_and_sdpa_attention_agree(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    logits = []
    for implementation in ("eager", "sdpa"):
        model = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation=implementation)
        assert model.language_model.config._attn_implementation == implementation
        logits.append(model(**make_inputs(model)).logits)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_finite_and_close(tmp_path):
    torch.manual_seed(0)
    model = MambaXrayForConditionalGeneration(tiny_config()).eval()
    model.save_pretrained(tmp_path)
    low = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert low.vision_encoder.layers[0].mixer.directions[0].A_log.dtype == torch.float32
    inputs = make_inputs(model)
    exact, rounded = model(**inputs).logits, low(**inputs).logits.float()
    assert rounded.isfinite().all()
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.99


def test_loading_at_another_image_size_resizes_the_encoder_and_the_prompt(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    config = MambaXrayConfig.from_pretrained(tmp_path)
    config.vision_config.image_size = 64
    larger = MambaXrayForConditionalGeneration.from_pretrained(tmp_path, config=config)
    assert larger.config.num_image_tokens == 17
    assert larger.encode_views(torch.rand(1, 3, 64, 64)).shape[1] == 17


def test_a_pretrained_encoder_and_decoder_are_put_together(tmp_path):
    donor = tiny_model("vision_mamba", "qwen2")
    donor.vision_encoder.save_pretrained(tmp_path / "encoder")
    donor.language_model.save_pretrained(tmp_path / "decoder")
    model = MambaXrayForConditionalGeneration.from_encoder_decoder_pretrained(
        str(tmp_path / "encoder"), str(tmp_path / "decoder")
    )
    assert model.config.image_token_id == VOCABULARY
    for part in ("vision_encoder", "language_model"):
        expected = getattr(donor, part).state_dict()
        assert all(torch.equal(w, expected[name]) for name, w in getattr(model, part).state_dict().items())
    model.save_pretrained(tmp_path / "both")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "both")
    inputs = make_inputs(model)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert again(**inputs).logits.isfinite().all()
    decoder = AutoModelForCausalLM.from_pretrained(tmp_path / "decoder")
    words = torch.randint(3, VOCABULARY, (1, 6))
    torch.testing.assert_close(model(input_ids=words).logits, decoder(input_ids=words).logits)


def test_compiled_forward_equals_the_plain_one():
    model = tiny_model()
    inputs = make_inputs(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-5)


# Errors


def test_wrong_numbers_of_placeholders_are_refused_with_the_cure():
    model = tiny_model()
    inputs = make_inputs(model)
    short = {**inputs, "input_ids": inputs["input_ids"][:, 2:], "attention_mask": inputs["attention_mask"][:, 2:]}
    with pytest.raises(ValueError, match=r"num_image_tokens=5"):
        model(**short)
    with pytest.raises(ValueError, match="no pixel_values"):
        model(input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="1 studies were given for 2 prompts"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"][:1]})


def test_a_study_without_views_and_misfitting_shapes_are_refused():
    model = tiny_model()
    views = torch.rand(2, 2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"positions \[1\]"):
        model.encode_views(views, torch.tensor([[True, True], [False, False]]))
    with pytest.raises(ValueError, match="does not fit"):
        model.encode_views(views, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"got shape \(3, 32, 32\)"):
        model.encode_views(views[0, 0])


def test_impossible_configurations_are_refused():
    with pytest.raises(ValueError, match="image_token_id"):
        MambaXrayConfig(image_token_id=-1)
    with pytest.raises(TypeError, match="got list"):
        MambaXrayConfig(vision_config=[1])
    with pytest.raises(ValueError, match="num_visual_tokens"):
        MambaXrayConfig(vision_config={"model_type": "levit"})
    assert MambaXrayConfig(vision_config={"model_type": "levit"}, num_visual_tokens=49).num_image_tokens == 49


def test_configurations_survive_a_round_trip(tmp_path):
    config = tiny_config("swin", "gpt2")
    config.save_pretrained(tmp_path)
    loaded = MambaXrayConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.num_image_tokens == config.num_image_tokens == 16
    assert isinstance(loaded.vision_config, PretrainedConfig)


def test_every_listed_decoder_is_tested_somewhere():
    assert {text for _, text in COMBINATIONS} == set(TEXT_CONFIGS)


def test_placeholders_in_labels_that_are_a_copy_of_the_ids_are_not_learned():
    model = tiny_model()
    inputs = make_inputs(model)
    copied = inputs["input_ids"].clone()
    masked = copied.masked_fill(copied == IMAGE_TOKEN_ID, -100)
    assert torch.equal(model(**inputs, labels=copied).loss, model(**inputs, labels=masked).loss)
