"""The authors' checkpoints, in their layout but with the golden weights, through the command to equal outputs."""

import argparse
import os
import pickle
import re
import sys
from contextlib import contextmanager

import pytest
import torch
from golden_cases import load_case
from safetensors.torch import load_file
from tiny import tiny_emrrg, tiny_tokenizer
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    BertConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from typer.testing import CliRunner

from mambaxray import (
    MambaXrayImageProcessor,
    VMambaConfig,
    VMambaModel,
    convert_checkpoint,
    load_vision_encoder,
)
from mambaxray.cli import app
from mambaxray.configuration.configuration_vmamba import vmamba_v0_options
from mambaxray.modeling_mambaxray.hub.published_files import published_files
from mambaxray.modeling_mambaxray.layers.study_memories import MissingMemoryError
from mambaxray.modeling_mambaxray.layers.study_memory import StudyMemory
from mambaxray.train.convert_checkpoint import CheckpointError, read_checkpoint


def command(*arguments):
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


@contextmanager
def pickled_as(module_name, class_name):
    """A kind of dict that pickles as the class of a package that is not installed."""
    names = [module_name[: match.start()] for match in re.finditer(r"\.|$", module_name)]
    modules = {name: type(os)(name) for name in names}
    settings = type(class_name, (dict,), {"__module__": module_name})
    setattr(modules[module_name], class_name, settings)
    sys.modules |= modules
    try:
        yield settings
    finally:
        for name in names:
            del sys.modules[name]


def save_pretraining(case, file, **changes):
    """As stage 1 of the released code saves."""
    weights = {**case.tensors("weights"), **changes}
    args = argparse.Namespace(model="arm_base_pz16", batch_size=256, lr=1.5e-4)
    torch.save(
        {"model": weights, "optimizer": {"state": {}}, "epoch": 99, "scaler": {"scale": 1.0}, "args": args}, file
    )


@pytest.fixture
def pretrain():
    return load_case("arm_pretrain")


@pytest.fixture
def contrastive(tmp_path):
    case = load_case("clip_stage")
    BertConfig(**case.config["bert"]).save_pretrained(tmp_path / "text")
    tiny_tokenizer("heart lungs").save_pretrained(tmp_path / "text")
    return case


@pytest.fixture
def downstream(tmp_path):
    """The case and its trainable weights; the frozen language model lies in a folder of its own."""
    case = load_case("downstream")
    weights, extra = case.tensors("weights"), case.config["llama_extra"]
    config = LlamaConfig(
        **case.config["llama"],
        rms_norm_eps=extra["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": extra["rope_theta"]},
        bos_token_id=extra["bos"],
        eos_token_id=extra["eos"],
        pad_token_id=extra["pad"],
    )
    llm = LlamaForCausalLM(config)
    prefix = "llama_model."
    llm.load_state_dict({name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)})
    llm.save_pretrained(tmp_path / "llm")
    words = " ".join(f"w{i}" for i in range(case.config["llama"]["vocab_size"] - 4))
    tiny_tokenizer(words).save_pretrained(tmp_path / "llm")
    return case, {name: w for name, w in weights.items() if not name.startswith(prefix)}


def test_a_pretraining_checkpoint_computes_what_the_released_code_does(pretrain, tmp_path):
    save_pretraining(pretrain, tmp_path / "official.pth")
    result = command(tmp_path / "official.pth", "--stage", "pretrain", "--output", tmp_path / "model")
    assert "MambaXrayForPreTraining" in result.output
    io = pretrain.tensors("io")
    output = AutoModel.from_pretrained(tmp_path / "model")(io["image"])
    pretrain.assert_close("io/pred", output.logits, io["pred"])
    pretrain.assert_close("io/loss_per_token", output.loss_per_token, io["loss_per_token"])
    assert MambaXrayImageProcessor.from_pretrained(tmp_path / "model").size == {"height": 128, "width": 128}


def oldest_vmamba_name(name):
    """What VMamba's first public checkpoints call a weight (the authors' `_load_from_state_dict` renames them)."""
    for new, old in (
        (r"^patch_embed\.0\.", "patch_embed.proj."),
        (r"^patch_embed\.2\.", "patch_embed.norm."),
        (r"(blocks\.\d+)\.norm\.", r"\1.ln_1."),
        (r"\.op\.", ".self_attention."),
        (r"^classifier\.", ""),
    ):
        name = re.sub(new, old, name)
    return name


@pytest.mark.parametrize(
    ("case_id", "old_names"),
    [("vmamba.csr_v3noz", False), ("vmamba.v2_with_gate", False), ("vmamba.v2_with_gate", True)],
)
def test_a_vmamba_classifier_becomes_the_encoder_that_computes_what_the_released_code_does(
    case_id, old_names, tmp_path
):
    case = load_case(case_id)
    weights = case.tensors("weights") | {"classifier.head.weight": torch.ones(10, 32)}
    weights["classifier.head.bias"] = torch.ones(10)
    if old_names:
        weights = {oldest_vmamba_name(name): weight for name, weight in weights.items()}
        assert {"patch_embed.proj.weight", "layers.0.blocks.0.ln_1.weight", "norm.weight", "head.bias"} < set(weights)
    with pickled_as("yacs.config", "CfgNode") as settings:
        torch.save({"model": weights, "epoch": 237, "config": settings(MODEL=1)}, tmp_path / "official.pth")
    result = command(tmp_path / "official.pth", "--stage", "vmamba", "--output", tmp_path / "model")
    assert "VMambaModel" in result.output
    assert MambaXrayImageProcessor.from_pretrained(tmp_path / "model").size == {"height": 224, "width": 224}
    model = load_vision_encoder(tmp_path / "model", image_size=32)
    assert model.config.time_step_rank is None
    io = case.tensors("io")
    output = model(io["image"], output_hidden_states=True)
    case.assert_close("io/output", output.reshaped_hidden_states[-1].permute(0, 2, 3, 1), io["output"])
    case.assert_close("io/global_features", output.pooler_output, io["global_features"])


@pytest.mark.parametrize(
    "options", [vmamba_v0_options(), {"ssm_ratio": 2.0}, {"time_step_rank": 3}, {"embed_dim": 24, "mlp_ratio": 2.0}]
)
def test_a_vmambas_sizes_are_read_off_its_weights(options, tmp_path):
    torch.manual_seed(0)
    model = VMambaModel(VMambaConfig(**{"embed_dim": 16, "depths": [1, 2, 1]} | options)).eval()
    keys = official_vmamba_names(model)
    torch.save({"model": {keys[name]: weight for name, weight in model.state_dict().items()}}, tmp_path / "o.pth")
    converted = convert_checkpoint(tmp_path / "o.pth", "vmamba", tmp_path / "model")
    expected = model.config.to_diff_dict()
    assert {name: value for name, value in converted.config.to_diff_dict().items() if name in expected} == expected
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in converted.state_dict().items())


def official_vmamba_names(model):
    """The authors' names of a model's weights, the other way than the converter."""
    convolutional = model.config.patch_embedding == "convolutional"
    positions = {"0": "0", "1": "2", "3": "5", "4": "7"}
    names = {}
    for name in model.state_dict():
        official = re.sub(r"^embeddings\.(\d)", lambda found: f"patch_embed.{positions[found[1]]}", name)
        official = re.sub(r"^stages\.(\d+)\.layers", r"layers.\1.blocks", official)
        official = re.sub(r"^stages\.(\d+)\.downsample\.0", r"layers.\1.downsample.1", official)
        official = re.sub(r"^stages\.(\d+)\.downsample\.1", r"layers.\1.downsample.3", official)
        official = re.sub(r"^stages\.", "layers.", official)
        official = official.replace(".norm1.", ".norm.") if ".norm1." in official else official
        official = official.replace(".mixer.norm.", ".op.out_norm.").replace(".mixer.", ".op.")
        official = official.replace("dt_proj_", "dt_projs_").replace("A_log", "A_logs")
        official = re.sub(r"\.D$", ".Ds", official)
        names[name] = re.sub(r"^norm\.", "classifier.norm.", official)
    assert convolutional == ("patch_embed.5.weight" in names.values())
    return names


def test_a_contrastive_checkpoint_computes_what_the_released_code_does(contrastive, tmp_path):
    torch.save({"model": contrastive.tensors("weights"), "epoch": 1, "step": 5}, tmp_path / "official.pth")
    command(tmp_path / "official.pth", "-s", "contrast", "--text-model", tmp_path / "text", "-o", tmp_path / "model")
    io = contrastive.tensors("io")
    views = torch.stack([io["view0"], io["view1"]], dim=1)
    model = AutoModel.from_pretrained(tmp_path / "model")
    output = model(pixel_values=views, input_ids=io["input_ids"], attention_mask=io["attention_mask"])
    contrastive.assert_close("io/logits_per_image", output.logits_per_image, io["logits_per_image"])
    contrastive.assert_close("io/loss", output.loss.reshape(1), io["loss"])


def check_downstream(case, folder):
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    io = case.tensors("io")
    image = [processor.image_token_id] * processor.num_image_tokens
    bos = case.config["llama_extra"]["bos"]
    prompt = torch.tensor([[bos, *io["prompt_before_ids"].tolist(), *image, *io["prompt_after_ids"].tolist()]] * 2)
    output = model(
        input_ids=torch.cat([prompt, io["report_ids"]], dim=1),
        pixel_values=torch.stack([io["view0"], io["view1"]], dim=1),
        attention_mask=io["attention_mask"],
        labels=io["labels"],
    )
    case.assert_close("io/logits", output.logits, io["logits"])
    case.assert_close("io/loss", output.loss.reshape(1), io["loss"])


def test_a_downstream_checkpoint_computes_what_the_released_code_does(downstream, tmp_path):
    case, weights = downstream
    torch.save({"model": weights, "config": {"max_length": 60}, "epoch": 1, "step": 5}, tmp_path / "official.pth")
    command(tmp_path / "official.pth", "-s", "finetune", "--text-model", tmp_path / "llm", "-o", tmp_path / "model")
    check_downstream(case, tmp_path / "model")
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert not any(name.startswith("language_model.") for name in saved)  # referred to, not copied


def test_a_frozen_vision_encoder_comes_from_the_stage_before(downstream, tmp_path):
    case, weights = downstream
    torch.save({"model": weights}, tmp_path / "whole.pth")
    convert_checkpoint(tmp_path / "whole.pth", "downstream", tmp_path / "whole", text_model=str(tmp_path / "llm"))
    own = {name: w for name, w in weights.items() if not name.startswith("visual_encoder.")}
    torch.save({"model": own}, tmp_path / "frozen.pth")
    options = {"text_model": str(tmp_path / "llm")}
    with pytest.raises(ValueError, match="was frozen and is not in the file"):
        convert_checkpoint(tmp_path / "frozen.pth", "downstream", tmp_path / "frozen", **options)
    options["vision_encoder"] = str(tmp_path / "whole")
    convert_checkpoint(tmp_path / "frozen.pth", "downstream", tmp_path / "frozen", **options)
    check_downstream(case, tmp_path / "frozen")
    with pytest.raises(ValueError, match="holds a vision encoder of its own"):
        convert_checkpoint(tmp_path / "whole.pth", "downstream", tmp_path / "again", **options)


def save_emrrg(model, file):
    """As the released code would save this model's trained parts, with the adapters and biases that it makes."""
    layer = re.compile(r"^cross_attention\.layers\.(\d+)\.(.*)$")
    names = {"gate.weight": "gate_proj.0.weight", "gate.bias": "gate_proj.0.bias", "gate.warm_up": "warm_up_gate"}
    hybrid = tuple(f"language_model.model.layers.{index}." for index in model.config.hybrid_layers)
    official = {}
    for name, weight in model.state_dict().items():
        if match := layer.match(name):
            part = names.get(match[2], match[2])
            official[f"llama_model.model.layers.{match[1]}.self_attn.cross_attn_{part}"] = weight
        elif name.startswith(hybrid):
            official[name.replace("language_model.", "llama_model.")] = weight
        elif name.startswith(("projector.", "layer_norm.")):
            official[name.replace("projector.", "llama_proj.")] = weight
    adapter = "visual_encoder.layers.0.mixer.lora_X.adapter"
    official |= {f"{adapter}_down.weight": torch.ones(4, 24), f"{adapter}_up.weight": torch.ones(12, 4)}
    if model.config.text_config.model_type == "llama":
        official[f"llama_model.model.layers.{model.config.hybrid_layers[0]}.self_attn.q_proj.bias"] = torch.ones(32)
    torch.save({"model": official, "config": {}, "epoch": 1}, file)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_hybrid_layers_of_an_emrrg_checkpoint_arrive_and_what_does_not_is_told(family, tmp_path, caplog):
    model = tiny_emrrg(family, hybrid_layers=[1])
    model.vision_encoder.save_pretrained(tmp_path / "encoder")
    model.language_model.save_pretrained(tmp_path / "llm")
    tiny_tokenizer("a b c").save_pretrained(tmp_path / "llm")
    with torch.no_grad():  # as training leaves the layer
        for parameter in model.language_model.model.layers[1].parameters():
            parameter.mul_(1.1)
    save_emrrg(model, tmp_path / "official.pth")
    options = {"text_model": str(tmp_path / "llm"), "vision_encoder": str(tmp_path / "encoder")}
    convert_checkpoint(tmp_path / "official.pth", "emrrg", tmp_path / "model", **options)
    assert "adapters that the released code adds" in caplog.text
    assert ("a llama model has no such bias" in caplog.text) == (family == "llama")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert loaded.config.hybrid_layers == [1]
    image = torch.full((1, 5), loaded.config.image_token_id)
    ids = torch.cat([torch.tensor([[1, 5]]), image, torch.tensor([[6, 9]])], dim=1)
    pixels = torch.rand(1, 3, 32, 32)
    model.config.image_token_id = loaded.config.image_token_id
    with torch.no_grad():
        logits = [m(input_ids=ids, pixel_values=pixels).logits for m in (loaded, model)]
    torch.testing.assert_close(*logits)
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert {name.split(".")[3] for name in saved if name.startswith("language_model.")} == {"1"}


@pytest.fixture
def ammrg(tmp_path):
    """The golden case, its trained weights, and the released memories as pickled arrays of a list and a dict."""
    case = load_case("ammrg")
    weights = case.tensors("weights")
    visual, report = (weights.pop(f"{name}HopfieldLayers.lookup_weights")[0].numpy() for name in ("", "R_"))
    (tmp_path / "visual.pkl").write_bytes(pickle.dumps([visual[:14], visual[14:]], protocol=4))
    (tmp_path / "report.pkl").write_bytes(pickle.dumps({"feature": report[None]}, protocol=2))
    width = weights["llama_proj.weight"].shape[0]
    config = LlamaConfig(
        vocab_size=10, hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llm")
    tiny_tokenizer("a b c d e f").save_pretrained(tmp_path / "llm")
    torch.save({"model": weights, "config": {"beta": 4.0}, "epoch": 2, "step": 9}, tmp_path / "official.pth")
    return case


def check_ammrg(case, folder):
    io = case.tensors("io")
    features = AutoModelForImageTextToText.from_pretrained(folder).get_image_features(
        torch.stack([io["view0"], io["view1"]], dim=1)
    )
    case.assert_close("io/inputs_llama_layer_norm", features.embeddings, io["inputs_llama_layer_norm"])


def test_an_ammrg_checkpoint_with_its_memories_computes_what_the_released_code_does(ammrg, tmp_path, caplog):
    heads = f"query_attention_heads={ammrg.config['bert']['num_attention_heads']}"
    arguments = [tmp_path / "official.pth", "-s", "ammrg", "--text-model", tmp_path / "llm", "--option", heads]
    memories = ["--memory", f"visual={tmp_path / 'visual.pkl'}", "--memory", f"report={tmp_path / 'report.pkl'}"]
    command(*arguments, *memories, "-o", tmp_path / "model")
    assert caplog.text.count("does not say which studies it is of") == 2
    caplog.clear()
    check_ammrg(ammrg, tmp_path / "model")
    assert caplog.text.count("does not say which studies it is of") == 2
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert processor.num_image_tokens == 17 + 3 * 14
    assert not any("memory" in str(path) for path in published_files(tmp_path / "model"))
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    again.save_pretrained(tmp_path / "again")
    check_ammrg(ammrg, tmp_path / "again")


def test_without_its_memories_an_ammrg_checkpoint_says_what_it_needs(ammrg, tmp_path, caplog):
    options = {"text_model": str(tmp_path / "llm"), "options": {"query_attention_heads": 4}}
    convert_checkpoint(tmp_path / "official.pth", "ammrg", tmp_path / "model", **options)
    assert "before it writes reports, the model needs visual, report" in caplog.text
    with pytest.raises(MissingMemoryError):
        check_ammrg(ammrg, tmp_path / "model")


def test_a_memory_of_unknown_studies_is_no_training_memory(ammrg, tmp_path):
    options = {"text_model": str(tmp_path / "llm"), "options": {"query_attention_heads": 4}}
    files = {name: tmp_path / f"{name}.pkl" for name in ("visual", "report")}
    model = convert_checkpoint(tmp_path / "official.pth", "ammrg", tmp_path / "model", memories=files, **options)
    with pytest.raises(ValueError, match="the memory visual is a UnattributedMemory, not a StudyMemory"):
        model.set_memories(model.study_memory)
    (folder,) = (tmp_path / "model" / "_patient_text").rglob("visual")
    with pytest.raises(FileNotFoundError, match=r"holds no memory\.json"):  # what recipes read it with
        StudyMemory.from_pretrained(folder)
    evidence = model.get_image_features(torch.rand(1, 3, 64, 64)).evidence[0]
    assert {study.study_id for each in evidence for study in each.studies} == {"unknown"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"query_heads": 4}}, "ammrg has no field query_heads"),
        ({"memories": {"retrieval": "report.pkl"}}, "there is no memory retrieval; the memories are visual, report"),
        ({"memories": {"report": "report.pkl"}}, "the memory visual is missing"),
        ({"memories": {"visual": "harm.pkl", "report": "report.pkl"}}, "mkdir, which could run code"),
    ],
)
def test_what_an_ammrg_checkpoint_cannot_be_given_is_refused(ammrg, changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harm.pkl").write_bytes(pickle.dumps(_Harm(str(tmp_path / "harm"))))
    options = {"text_model": "llm", "options": {"query_attention_heads": 4}} | changes
    with pytest.raises(ValueError, match=message):
        convert_checkpoint("official.pth", "ammrg", "model", **options)
    assert not (tmp_path / "harm").exists()


def test_settings_of_lightning_are_read_without_lightning(pretrain, tmp_path):
    with pickled_as("pytorch_lightning.utilities.parsing", "AttributeDict") as settings:
        torch.save({"model": {"x": torch.ones(1)}, "config": settings(batch_size=3)}, tmp_path / "official.pth")
    assert read_checkpoint(tmp_path / "official.pth")["x"].item() == 1


class _Harm:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (self.file,)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path):
    harmed = tmp_path / "harmed"
    torch.save({"model": {"x": torch.ones(1)}, "config": _Harm(str(harmed))}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"it holds \S*mkdir, which could run code"):
        read_checkpoint(tmp_path / "bad.pth")
    assert not harmed.exists()


@pytest.mark.parametrize("content", [{"model": {"x": 1}}, {"epoch": 1}, [1], {"model": {}}])
def test_files_without_weights_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_checkpoint(tmp_path / "bad.pth")


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(print))
    for name in ("text.pth", "pickle.pth"):
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none.pth is absent"):
        read_checkpoint(tmp_path / "none.pth")


def test_unknown_missing_and_misshapen_weights_are_listed(pretrain, tmp_path):
    file = tmp_path / "official.pth"
    save_pretraining(pretrain, file, surprise=torch.ones(1))
    result = CliRunner().invoke(app, ["convert", str(file), "-s", "pretrain", "-o", str(tmp_path / "model")])
    assert result.exit_code == 2
    assert "1 keys are not those of stage 'pretrain': surprise" in result.output
    weights = pretrain.tensors("weights")
    gone = {name: w for name, w in weights.items() if name not in ("enc2dec.bias", "dec_block.2.attn2.kv.weight")}
    torch.save({"model": gone}, file)
    with pytest.raises(CheckpointError, match="lacks 2 weights") as error:
        convert_checkpoint(file, "pretrain", tmp_path / "model")
    assert "encoder_to_decoder.bias" in str(error.value)
    assert "decoder_layers.2.attention.kv_proj.weight" in str(error.value)
    save_pretraining(pretrain, file, **{"enc2dec.bias": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"encoder_to_decoder.bias \(3,\), not \(256,\)"):
        convert_checkpoint(file, "pretrain", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_text_encoder_whose_heads_cannot_be_told_is_asked_for(contrastive, tmp_path):
    torch.save({"model": contrastive.tensors("weights")}, tmp_path / "official.pth")
    with pytest.raises(ValueError, match="48 channels, so its number of heads is not known"):
        convert_checkpoint(tmp_path / "official.pth", "contrastive", tmp_path / "model")


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("contrasting", {}, "choose from pretrain, contrast, finetune, emrrg"),
        ("finetune", {}, "give the folder or Hub id as text_model"),
        ("contrast", {"vision_encoder": "x"}, "leave vision_encoder out"),
        ("emrrg", {}, "give the folder or Hub id as text_model"),
        ("downstream", {}, "give the folder or Hub id as text_model"),
        ("pretrain", {"text_model": "x"}, "leave text_model out"),
        ("vmamba", {"text_model": "x"}, "leave text_model out"),
        ("contrastive", {"vision_encoder": "x"}, "leave vision_encoder out"),
    ],
)
def test_options_that_do_not_fit_the_stage_are_refused(stage, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(tmp_path / "official.pth", stage, tmp_path / "model", **options)


def test_a_folder_that_holds_something_is_neither_mixed_with_nor_overwritten(pretrain, tmp_path):
    save_pretraining(pretrain, tmp_path / "official.pth")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        convert_checkpoint(tmp_path / "official.pth", "pretrain", tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]
    assert (tmp_path / "model/config.json").read_text() == "mine"
