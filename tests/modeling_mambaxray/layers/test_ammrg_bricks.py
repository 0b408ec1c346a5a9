"""Disease queries and both memories put together as AM-MRG's stage 2: every value and gradient of the golden case."""

import torch
from golden_cases import load_case
from torch import nn

from mambaxray.modeling_mambaxray.layers.disease_queries import DiseaseQueries, qformer_key
from mambaxray.modeling_mambaxray.layers.hopfield import HopfieldAssociation
from mambaxray.train.convert import convert_hopfield


def linear(weights, name):
    layer = nn.Linear(*reversed(weights[f"{name}.weight"].shape))
    layer.load_state_dict({part: weights[f"{name}.{part}"] for part in ("weight", "bias")})
    return layer


def recall(case, name):
    config = case.config
    module = HopfieldAssociation(
        config["bert"]["hidden_size"],
        num_heads=config["heads"],
        head_size=config["hop_head"],
        value_size=config["hop_pattern"],
        beta=config["beta"],
        update_steps=config["update_steps_max"],
    )
    prefix = f"{name}.hopfield."
    weights = case.tensors("weights")
    module.load_state_dict(
        convert_hopfield({n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)})
    )
    return module, weights[f"{name}.lookup_weights"][0]


def test_stage_2_of_am_mrg_from_visual_features_to_the_language_models_input():
    case = load_case("ammrg")
    weights, debug, io, bert = case.tensors("weights"), case.tensors("debug"), case.tensors("io"), case.config["bert"]
    qformer_proj, output_proj, llama_proj = (
        linear(weights, name) for name in ("Qformer_proj", "output_proj", "llama_proj")
    )
    queries = DiseaseQueries(
        case.config["qf_width"],
        hidden_size=bert["hidden_size"],
        num_hidden_layers=bert["num_hidden_layers"],
        num_attention_heads=bert["num_attention_heads"],
        intermediate_size=bert["intermediate_size"],
    ).eval()
    queries.load_qformer_weights(weights)
    queries.queries.data = weights["disease_tokens"][0]
    (visual, visual_memories), (report, report_memories) = (
        recall(case, name) for name in ("HopfieldLayers", "R_HopfieldLayers")
    )

    image = debug["visual_features"]
    states = queries(qformer_proj(image)).last_hidden_state
    case.assert_close("debug/query_output", states, debug["query_output"])
    recalled = []
    for name, module, memories in (("visual", visual, visual_memories), ("report", report, report_memories)):
        with torch.no_grad():
            _, association = module(states, memories, output_weights=True)
        case.assert_close(f"debug/{name}_association", association, debug[f"{name}_association"])
        recalled.append(module(states, memories)[0])
        case.assert_close(f"debug/{name}_hopfield_out", recalled[-1], debug[f"{name}_hopfield_out"])
    parts = [output_proj(part) for part in (states, *recalled)]
    for name, part in zip(("query", "visual", "report"), parts, strict=True):
        case.assert_close(f"debug/output_proj_{name}", part, debug[f"output_proj_{name}"])
    inputs = llama_proj(torch.cat([image, *parts], dim=1))
    case.assert_close("io/inputs_llama", inputs, io["inputs_llama"])
    norm = nn.LayerNorm(inputs.shape[-1])
    norm.load_state_dict({part: weights[f"layer_norm.{part}"] for part in ("weight", "bias")})
    case.assert_close("io/inputs_llama_layer_norm", norm(inputs), io["inputs_llama_layer_norm"])

    (inputs * io["cotangent"]).sum().backward()
    parameters = {
        "disease_tokens": queries.queries,
        "output_proj.weight": output_proj.weight,
        "HopfieldLayers.hopfield.association_core.q_proj_weight": visual.q_proj.weight,
        "HopfieldLayers.hopfield.norm_pattern_projection.bias": visual.value_norm.bias,
        "R_HopfieldLayers.hopfield.norm_stored_pattern.weight": report.key_norm.weight,
    }
    for name, expected in case.tensors("grads").items():
        if name.startswith("Qformer."):
            parameters[name] = queries.qformer.get_parameter(qformer_key(name))
        case.assert_close(f"grads/{name}", parameters[name].grad.reshape(expected.shape), expected)
