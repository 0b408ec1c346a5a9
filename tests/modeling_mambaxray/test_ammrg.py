"""AM-MRG's stage 2: equal to the released code, its options, and its memories."""

import re
import shutil

import pytest
import torch
from golden_cases import load_case
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import IMAGE_TOKEN_ID, made_memory, tiny_ammrg
from transformers import AutoModelForImageTextToText

from mambaxray import AMMRGConfig, AMMRGForConditionalGeneration, MambaXrayForConditionalGeneration, VisionMambaConfig
from mambaxray.configuration.observations import OBSERVATIONS
from mambaxray.modeling_mambaxray.generation.continuous_generation import generate_continuously
from mambaxray.modeling_mambaxray.hub.published_files import published_files
from mambaxray.modeling_mambaxray.layers.study_memories import MissingMemoryError
from mambaxray.train.convert import convert_state_dict

LLAMA = {"model_type": "llama", "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA |= {"vocab_size": 48, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.fixture(scope="module")
def case():
    return load_case("ammrg")


@pytest.fixture(scope="module")
def released(case):
    """The golden case's weights in a model, through the converter's names, with its memories."""
    weights, bert = case.tensors("weights"), case.config["bert"]
    width, size = weights["visual_encoder.patch_embed.proj.weight"].shape[0], case.tensors("io")["view0"].shape[-1]
    config = AMMRGConfig(
        VisionMambaConfig(
            hidden_size=width,
            num_hidden_layers=2,
            image_size=size,
            intermediate_size=weights["visual_encoder.layers.0.mlp.w1.weight"].shape[0],
        ),
        LLAMA | {"hidden_size": weights["llama_proj.weight"].shape[0]},
        image_token_id=48,
        query_hidden_size=bert["hidden_size"],
        query_hidden_layers=bert["num_hidden_layers"],
        query_attention_heads=bert["num_attention_heads"],
        query_intermediate_size=bert["intermediate_size"],
        encoder_hidden_size=case.config["qf_width"],
        visual_memory_size=bert["hidden_size"],
        report_memory_size=bert["hidden_size"],
        hopfield_heads=case.config["heads"],
        hopfield_head_size=case.config["hop_head"],
        hopfield_value_size=case.config["hop_pattern"],
        hopfield_beta=case.config["beta"],
        hopfield_update_steps=case.config["update_steps_max"],
    )
    model = AMMRGForConditionalGeneration(config).eval()
    names = {"visual": "HopfieldLayers.lookup_weights", "report": "R_HopfieldLayers.lookup_weights"}
    memories = {name: made_memory(weights.pop(official)[0]) for name, official in names.items()}
    missing, unexpected = model.load_state_dict(convert_state_dict(weights, "ammrg"), strict=False)
    assert not unexpected
    assert {name.partition(".")[0] for name in missing} == {"language_model"}
    model.set_memories(memories)
    return model


def recorded(modules):
    """What modules put out when they are called next, by name; each module once or several times."""
    found = {name: [] for name in modules}
    for name, module in modules.items():
        module.register_forward_hook(lambda _, __, output, name=name: found[name].append(output))
    return found


def test_every_intermediate_and_gradient_equals_the_released_code(case, released):
    model, debug, io = released, case.tensors("debug"), case.tensors("io")
    layers = model.disease_queries.qformer.encoder.layer
    found = recorded(
        {
            "qformer_proj_out": model.qformer_projection,
            "qformer_embeddings_out": model.disease_queries.qformer.layernorm,
            "qformer_layer0_selfattn_out": layers[0].attention,
            "qformer_layer0_crossattn_out": layers[0].crossattention,
            **{f"qformer_layer{index}_out": layer for index, layer in enumerate(layers)},
            "query_output": model.disease_queries,
            "visual": model.associations.visual,
            "report": model.associations.report,
            "output_proj": model.output_projection,
            "inputs_llama": model.projector,
        }
    )
    pixels = torch.stack([io["view0"], io["view1"]], dim=1)
    model.zero_grad()
    features = model.get_image_features(pixels)
    case.assert_close("io/inputs_llama_layer_norm", features.embeddings, io["inputs_llama_layer_norm"])
    case.assert_close("io/inputs_llama", found["inputs_llama"][0], io["inputs_llama"])
    case.assert_close("debug/visual_features", features.last_hidden_state, debug["visual_features"])
    compared = {"visual_features"}
    for name in debug.keys() & found.keys():
        output = found[name][0]
        output = getattr(output, "last_hidden_state", output)
        case.assert_close(f"debug/{name}", output[0] if isinstance(output, tuple) else output, debug[name])
        compared.add(name)
    for name in ("visual", "report"):
        recalled, weights = found[name][0]
        case.assert_close(f"debug/{name}_hopfield_out", recalled, debug[f"{name}_hopfield_out"])
        case.assert_close(f"debug/{name}_association", weights, debug[f"{name}_association"])
        compared |= {f"{name}_hopfield_out", f"{name}_association"}
    for name, part in zip(("query", "visual", "report"), found["output_proj"][0].chunk(3, dim=1), strict=True):
        case.assert_close(f"debug/output_proj_{name}", part, debug[f"output_proj_{name}"])
        compared.add(f"output_proj_{name}")
    assert compared == debug.keys()

    (found["inputs_llama"][0] * io["cotangent"]).sum().backward()
    expected = case.tensors("grads")
    for official, gradient in expected.items():
        ((name, _),) = convert_state_dict({official: gradient}, "ammrg").items()
        parameter = model.get_parameter(name)
        assert parameter.requires_grad, name
        case.assert_close(f"grads/{official}", parameter.grad.reshape(gradient.shape), gradient)


@pytest.fixture(scope="module")
def model():
    return tiny_ammrg()


def inputs_of(model, studies=3, seed=1, views=1):
    """Prompts of a placeholder for each image token and two words, and X-rays that differ."""
    torch.manual_seed(seed)
    size = model.config.vision_config.image_size
    image = torch.full((studies, model.config.num_image_tokens), IMAGE_TOKEN_ID)
    ids = torch.cat([torch.ones(studies, 1, dtype=torch.long), image, torch.full((studies, 2), 5)], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": 3 * torch.randn(studies, views, 3, size, size),
    }


def bank_of(model, name):
    """A memory as the model reads it."""
    return model.associations.bank(name, model.study_memory[name], model.device)


GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


def test_the_released_sizes_are_the_defaults_and_make_239_image_tokens():
    config = AMMRGConfig(
        {"model_type": "vision_mamba", "hidden_size": 1024, "num_hidden_layers": 24, "image_size": 224}
    )
    assert config.num_image_tokens == 197 + 14 + 14 + 14 == 239
    sizes = (config.encoder_hidden_size, config.query_hidden_size, config.query_hidden_layers)
    assert sizes == (1408, 768, 12)
    assert (config.hopfield_heads, config.hopfield_head_size, config.hopfield_value_size) == (6, 1024, 768)
    assert (config.hopfield_beta, config.hopfield_update_steps, config.memory_sizes) == (
        4.0,
        0,
        {"visual": 768, "report": 768},
    )


def test_a_fresh_recall_starts_as_that_of_hflayers():
    fresh = AMMRGForConditionalGeneration(tiny_ammrg(hopfield_head_size=64, hopfield_value_size=32).config)
    for name, width in (("visual", 16), ("report", 12)):
        association = fresh.associations.get_submodule(name)
        for part, inputs, outputs in (("q_proj", 16, 128), ("k_proj", width, 128), ("v_proj", width, 64)):
            weight = association.get_submodule(part).weight.detach()
            bound = (6 / (inputs + outputs)) ** 0.5
            assert weight.shape == (outputs, inputs)
            assert 0.9 * bound < weight.abs().max() <= bound
            assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.1)
            assert not association.get_submodule(part).bias.any()


def test_adapters_on_the_language_model_train_what_is_new_and_load_again(stage1, tmp_path):
    model = started(stage1)
    model.save_pretrained(tmp_path / "base")
    model = AMMRGForConditionalGeneration.from_pretrained(tmp_path / "base")
    parts = ["associations", "output_projection", "projector", "layer_norm"]
    adapted = get_peft_model(
        model, LoraConfig(target_modules=["q_proj"], exclude_modules=r"associations.*", modules_to_save=parts)
    )
    inputs = inputs_of(model)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    adapted(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = adapted.eval()(**inputs).logits
        base = AMMRGForConditionalGeneration.from_pretrained(tmp_path / "base")
        assert not torch.allclose(base(**inputs).logits, expected)
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        torch.testing.assert_close(loaded(**inputs).logits, expected)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(merged(**inputs).logits, expected)


@pytest.mark.parametrize("off", [("visual",), ("report",), ("visual", "report")])
def test_each_memory_can_be_left_out_and_takes_its_tokens_and_weights_along(off):
    whole, part = tiny_ammrg(), tiny_ammrg(**{f"{name}_memory_size": None for name in off})
    assert part.config.num_image_tokens == whole.config.num_image_tokens - 14 * len(off)
    assert {name for name, _ in part.associations.named_children()} == {"visual", "report"} - set(off)
    assert part(**inputs_of(part)).image_hidden_states.shape[1] == part.config.num_image_tokens
    part.load_state_dict({name: weight for name, weight in whole.state_dict().items() if name in part.state_dict()})
    if part.config.memory_sizes:
        part.set_memories({name: whole.study_memory[name] for name in part.config.memory_sizes})
    embeddings = {each: each.get_image_features(inputs_of(each)["pixel_values"]).embeddings for each in (whole, part)}
    image = part.config.visual_sequence_length
    torch.testing.assert_close(embeddings[part][:, : image + 14], embeddings[whole][:, : image + 14])
    with pytest.raises(ValueError, match=re.escape(f"there is no memory {sorted(off)[0]}")):
        part.set_memories(whole.study_memory)


def test_the_tokens_of_each_disease_can_stand_side_by_side():
    blocks, interleaved = tiny_ammrg(), tiny_ammrg(token_order="interleaved")
    interleaved.load_state_dict(blocks.state_dict())
    pixels = inputs_of(blocks)["pixel_values"]
    by_block, by_disease = (model.get_image_features(pixels).embeddings for model in (blocks, interleaved))
    image = blocks.config.visual_sequence_length
    torch.testing.assert_close(by_disease[:, :image], by_block[:, :image])
    expected = by_block[:, image:].unflatten(1, (3, 14)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(by_disease[:, image:], expected)


@pytest.mark.parametrize("options", [{}, {"hopfield_update_steps": 2}, {"hopfield_update_steps": -1}])
def test_a_study_gets_the_same_report_alone_in_a_batch_and_continuously(options):
    model = tiny_ammrg(seed=1, **options)
    inputs = inputs_of(model, seed=2)
    together = model.generate(**inputs, **GREEDY)
    each = [{name: value[[row]] for name, value in inputs.items()} for row in range(3)]
    alone = torch.cat([model.generate(**study, **GREEDY) for study in each])
    assert torch.equal(alone, together)
    assert len({tuple(row.tolist()) for row in together}) > 1
    written = dict(generate_continuously(model, each, batch_size=2, **GREEDY))
    length = inputs["input_ids"].shape[1]
    assert [written[row].tolist() for row in range(3)] == together[:, length:].tolist()


def test_the_report_depends_on_what_each_memory_holds(model):
    inputs = inputs_of(model)
    with torch.no_grad():
        logits = model(**inputs).logits
        for name in ("visual", "report"):
            other = tiny_ammrg()
            memories = dict(other.study_memory)
            values = memories[name].vectors["values"]
            other.set_memories(memories | {name: made_memory(torch.randn_like(values))})
            assert not torch.allclose(other(**inputs).logits, logits)
            other.set_memories(memories)
            assert torch.equal(other(**inputs).logits, logits)


def test_gradients_reach_every_projection_and_no_memory(model):
    model = tiny_ammrg().train()
    inputs = inputs_of(model)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    for name in ("visual", "report"):
        assert not bank_of(model, name).requires_grad
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            assert model.associations.get_submodule(name).get_parameter(f"{part}.weight").grad.abs().sum() > 0


def test_a_model_can_be_trained_after_it_was_used_in_inference_mode():
    model = tiny_ammrg()
    inputs = inputs_of(model)
    with torch.inference_mode():
        expected = model(**inputs).logits.clone()
    logits = model(**inputs).logits
    logits.sum().backward()
    assert torch.equal(logits, expected)
    assert model.associations.visual.k_proj.weight.grad is not None


def test_memories_are_used_where_and_in_the_dtype_that_the_model_is(model):
    exact = tiny_ammrg()
    inputs = inputs_of(exact)
    expected = exact(**inputs).image_hidden_states
    assert bank_of(exact, "visual").dtype == torch.float32
    rounded = exact.bfloat16()
    hidden = rounded(**inputs).image_hidden_states
    assert bank_of(rounded, "visual").dtype == hidden.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(hidden.float().flatten(), expected.flatten(), dim=0) > 0.99
    back = rounded.float()
    assert bank_of(back, "visual").dtype == torch.float32
    torch.testing.assert_close(bank_of(back, "visual"), bank_of(model, "visual"))
    with torch.device("meta"):
        assert bank_of(model.to("cpu"), "report").device.type == "cpu"


def test_the_memories_travel_with_the_model_in_the_folder_that_is_not_pushed(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    inputs = inputs_of(model)
    assert torch.equal(loaded.generate(**inputs, **GREEDY), model.generate(**inputs, **GREEDY))
    assert loaded.study_memory["visual"].study_ids == model.study_memory["visual"].study_ids
    assert not [str(path) for path in published_files(tmp_path / "model") if "memory" in str(path)]
    weights = model.state_dict()
    assert not [name for name, tensor in weights.items() if tensor.shape == bank_of(model, "visual").shape]


def test_a_model_without_its_memories_refuses_to_write(model, tmp_path):
    model.save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "_patient_text")
    stripped = AutoModelForImageTextToText.from_pretrained(tmp_path)
    message = "has no visual memory, without which its reports would be wrong.*mambaxray memory build"
    with pytest.raises(MissingMemoryError, match=message):
        stripped.generate(**inputs_of(model), **GREEDY)
    stripped.set_memories(model.study_memory)
    assert torch.equal(stripped.generate(**inputs_of(model), **GREEDY), model.generate(**inputs_of(model), **GREEDY))


def test_memories_of_a_language_models_width_are_recalled():
    model = tiny_ammrg(report_memory_size=4096)
    assert model(**inputs_of(model)).logits.isfinite().all()
    with pytest.raises(ValueError, match=re.escape("the memory report must have vectors of widths {'values': 4096}")):
        model.set_memories({**model.study_memory, "report": made_memory(torch.randn(3, 768))})


class Stage1(torch.nn.Module):
    """The children that a model of stage 1 has."""

    def __init__(self, model):
        super().__init__()
        self.disease_queries, self.qformer_projection = model.disease_queries, model.qformer_projection


def started(stage1, **options):
    fields = AMMRGForConditionalGeneration.fields_from_stage1(stage1)
    model = tiny_ammrg(seed=3, **fields | options)
    model.start_from_stage1(stage1)
    return model


@pytest.fixture(scope="module")
def stage1():
    """With a classifier, as stage 1 leaves it."""
    return Stage1(tiny_ammrg(seed=2, queries_from_stage1=True, query_hidden_layers=3))


def test_the_queries_of_stage_1_are_taken_over_and_stay_as_they_are(stage1):
    model = started(stage1).train()
    for name in ("disease_queries", "qformer_projection"):
        for key, weight in getattr(stage1, name).state_dict().items():
            assert torch.equal(getattr(model, name).state_dict()[key], weight), key
            assert not model.get_parameter(f"{name}.{key}").requires_grad
    assert not model.disease_queries.training
    assert len(model.disease_queries.qformer.encoder.layer) == 3
    inputs = inputs_of(model)
    losses = [model(**inputs, labels=inputs["input_ids"]).loss for _ in range(2)]
    assert torch.equal(*losses)
    losses[0].backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    model.unfreeze_part("disease_queries")
    assert model.train().disease_queries.training


def test_frozen_queries_stay_frozen_when_the_model_is_loaded(stage1, tmp_path):
    started(stage1).save_pretrained(tmp_path)
    loaded = AMMRGForConditionalGeneration.from_pretrained(tmp_path)
    trained = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert not [name for name in trained if name.startswith(("disease_queries.", "qformer_projection."))]
    assert "associations.visual.q_proj.weight" in trained
    assert "associations.visual.k_proj.bias" not in trained


def test_a_stage_1_that_does_not_fit_is_refused(stage1, model):
    with pytest.raises(ValueError, match="has no Q-Former with disease queries"):
        AMMRGForConditionalGeneration.fields_from_stage1(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="queries_from_stage1 is false"):
        model.start_from_stage1(stage1)
    with pytest.raises(
        ValueError, match=r"qformer_projection\.weight of stage 1 is \(20, 24\), this model's \(20, 32\)"
    ):
        started(stage1, vision="vit_mae")


def test_evidence_names_probability_place_and_the_studies_that_are_recalled_most(stage1):
    model = started(stage1)
    memories = dict(model.study_memory)
    values = memories["visual"].vectors["values"]
    regions = made_memory(values, "visual", observations=[OBSERVATIONS[row % 14] for row in range(len(values))])
    reports = made_memory(torch.randn(2, 12), "report", reports=["The heart is large.", "Clear lungs."])
    model.set_memories({"visual": regions, "report": reports})
    inputs = inputs_of(model, views=2)
    with torch.no_grad():
        output = model(**inputs)
        found = stage1.disease_queries(
            stage1.qformer_projection(model.encode_views(inputs["pixel_values"])), output_attentions=True
        )
        _, weights = model.associations.visual(found.last_hidden_state, values, output_weights=True)
    assert len(output.evidence) == 3
    for study, evidence in enumerate(output.evidence):
        assert [each.observation for each in evidence] == list(OBSERVATIONS)
        for disease, each in enumerate(evidence):
            assert each.probability == pytest.approx(found.logits[study, disease].sigmoid().item(), rel=1e-5)
            # Four patches around the cls token, and the mean over both layers with cross-attention and their heads.
            attended = sum(layer[study, :, disease].mean(0) for layer in found.cross_attentions if len(layer)) / 2
            torch.testing.assert_close(each.map.flatten(), attended[[0, 1, 3, 4]])
            recalled = [related for related in each.studies if related.memory == "visual"]
            best = weights[study, :, disease].mean(0).topk(3)
            assert [related.study_id for related in recalled] == [f"visual-{row}" for row in best.indices.tolist()]
            assert [related.weight for related in recalled] == pytest.approx(best.values.tolist(), rel=1e-4)
            assert [related.observation for related in recalled] == [regions.observations[i] for i in best.indices]
            assert all(related.text is None for related in recalled)
            texts = {related.study_id: related.text for related in each.studies if related.memory == "report"}
            assert texts == {"report-0": "The heart is large.", "report-1": "Clear lungs."}


def test_queries_that_no_stage_1_has_taught_give_no_probability_and_training_no_evidence(model):
    inputs = inputs_of(model)
    assert model.disease_queries.classifier is None
    evidence = model(**inputs).evidence[0]
    assert all(each.probability is None and each.map.shape == (2, 2) for each in evidence)
    training = tiny_ammrg().train()
    assert training(**inputs).evidence is None


def test_views_are_averaged_before_the_queries_look(model):
    pixels = inputs_of(model, views=2)["pixel_values"]
    tokens = (model.encode_views(pixels[:, :1]) + model.encode_views(pixels[:, 1:])) / 2
    expected = model.get_image_features(visual_tokens=tokens).embeddings
    torch.testing.assert_close(model.get_image_features(pixels).embeddings, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_order": "mixed"}, "token_order must be one of blocks, interleaved, got 'mixed'"),
        ({"hopfield_beta": 0.0}, "hopfield_beta must be positive, got 0.0"),
        ({"query_hidden_size": 15}, "query_hidden_size 15 is not a multiple of the 2 query_attention_heads"),
        ({"hopfield_heads": 0}, "hopfield_heads must be a positive integer, got 0"),
        ({"visual_memory_size": -1}, "visual_memory_size must be a positive integer, got -1"),
        ({"query_dropout": 1.0}, "query_dropout must be at least 0 and below 1, got 1.0"),
    ],
)
def test_impossible_values_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_ammrg(**options)


def test_it_is_the_base_generator_in_all_else(model):
    assert isinstance(model, MambaXrayForConditionalGeneration)
    inputs = inputs_of(model)
    hidden = model.base_model(**inputs).last_hidden_state
    torch.testing.assert_close(model.get_output_embeddings()(hidden), model(**inputs).logits)
