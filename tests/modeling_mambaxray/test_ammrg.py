"""AM-MRG's stage 2: equal to the released code, its options, and its memories."""

import pytest
import torch
from golden_cases import load_case

from mambaxray import VisionMambaConfig
from mambaxray.configuration.configuration_ammrg import AMMRGConfig
from mambaxray.modeling_mambaxray.layers.disease_queries import qformer_key
from mambaxray.modeling_mambaxray.layers.study_memory import MemorySource, StudyMemory, TrainingSplit
from mambaxray.modeling_mambaxray.modeling_ammrg import AMMRGForConditionalGeneration
from mambaxray.train.convert import convert_state_dict

LLAMA = {"model_type": "llama", "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA |= {"vocab_size": 48, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def memory_of(values, observations=None, reports=None):
    """A memory with these vectors."""
    ids = [f"study-{row}" for row in range(len(values))]
    split = TrainingSplit({name: f"patient-{name}" for name in ids}, {}, {})
    patients = [split.patients[name] for name in ids]
    source = MemorySource("made", "nothing")
    return StudyMemory({"values": values}, ids, patients, source, split, observations=observations, reports=reports)


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
    memories = {name: memory_of(weights.pop(official)[0]) for name, official in names.items()}
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
            "visual": model.associations["visual"],
            "report": model.associations["report"],
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
    assert qformer_key(next(name for name in expected if name.startswith("Qformer.")))
