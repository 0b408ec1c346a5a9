"""Pushing to and loading from a local server that speaks the Hub's protocol. It proves nothing about the real Hub."""

import json
import resource
import shutil

import pytest
import torch
from fresh_environment import FreshEnvironment
from huggingface_hub.errors import HTTPError
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments, pipeline
from typer.testing import CliRunner

from mambaxray import (
    MambaXrayConfig,
    MambaXrayDualEncoderConfig,
    MambaXrayForConditionalGeneration,
    PushError,
    ReportTrainer,
    push_folder,
)
from mambaxray.cli import app
from mambaxray.data.phantoms import make_study
from mambaxray.modeling_mambaxray.hub.local_parts import LocalPartError
from mambaxray.modeling_mambaxray.hub.repository_code import LOCAL_PARTS_FILE
from mambaxray.modeling_mambaxray.hub.separate_parts import PartNotFoundError
from mambaxray.modeling_mambaxray.ops.selective_scan import use_scan_backend


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def push(folder, **options):
    return push_folder(folder, "me/model", examples=False, **options)


def test_a_pushed_folder_holds_model_code_processor_and_card_and_nothing_of_the_run(hub, folder):
    for name in (
        "optimizer.pt",
        "training_args.bin",
        "checkpoint-5/model.safetensors",
        ".cache/x",
        "_patient_text/a.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")
    url = push(folder)
    assert b'model="me/model"' in hub.files("me/model")["README.md"]
    assert url.startswith(f"{hub.url}/me/model/commit/")
    assert set(hub.files("me/model")) == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "image_processing_mambaxray.py",
        "model.safetensors",
        "modeling_mambaxray.py",
        "processing_mambaxray.py",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_texts_of_patients_are_pushed_only_when_asked_for_by_the_risks_name(hub, folder):
    (folder / "_patient_text").mkdir()
    (folder / "_patient_text" / "bank.json").write_text("{}", encoding="utf-8")
    push(folder)
    assert "_patient_text/bank.json" not in hub.files("me/model")
    push(folder, include_patient_text=True)
    assert "_patient_text/bank.json" in hub.files("me/model")


def test_a_models_own_push_leaves_texts_of_patients_behind_and_takes_the_code(hub, tmp_path):
    (tmp_path / "own" / "_patient_text").mkdir(parents=True)
    (tmp_path / "own" / "_patient_text" / "bank.json").write_text("{}", encoding="utf-8")
    tiny_model().save_pretrained(tmp_path / "own", push_to_hub=True, repo_id="me/own")
    assert {"modeling_mambaxray.py", "image_processing_mambaxray.py", "config.json"} <= set(hub.files("me/own"))
    assert not [path for path in hub.files("me/own") if "patient" in path]


def test_parts_pushed_one_by_one_make_a_whole_repository(hub, folder):
    AutoModelForImageTextToText.from_pretrained(folder).push_to_hub("me/parts")
    AutoProcessor.from_pretrained(folder).push_to_hub("me/parts")
    files = hub.files("me/parts")
    assert b"class MambaXrayForConditionalGeneration" in files["modeling_mambaxray.py"]
    assert b"class MambaXrayProcessor" in files["processing_mambaxray.py"]
    loaded = pipeline("image-to-text", model="me/parts", device="cpu")
    assert loaded(make_study(0)["images"][0], max_new_tokens=4)


def test_paths_of_this_machine_do_not_leave_it(hub, folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["_name_or_path"] = str(folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    push(folder)
    assert all(str(folder.parent).encode() not in content for content in hub.files("me/model").values())


def test_a_language_model_in_a_folder_of_this_machine_must_be_named_on_the_hub(hub, folder, tmp_path):
    with pytest.raises(PushError, match="needs no other model"):
        push(folder, base_model="someone/decoder")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"language_model_source": str(tmp_path)}), encoding="utf-8")
    with pytest.raises(PushError, match=r"a folder of this machine.*--base-model"):
        push(folder)
    assert "me/model" not in hub.heads
    push(folder, base_model="meta-llama/Llama-2-7b-chat-hf")
    part = json.loads(hub.files("me/model")["config.json"])["separate_parts"]["language_model"]
    assert part["source"] == "meta-llama/Llama-2-7b-chat-hf"
    card = hub.files("me/model")["README.md"].decode()
    assert "Llama 2 Community License" in card
    assert "license: llama2" in card


@pytest.fixture
def with_local_decoder(tmp_path):
    """A report generator whose language model came from a folder, is frozen, and so is left out."""
    tiny_model().language_model.save_pretrained(tmp_path / "decoder")
    return put_together(tmp_path / "decoder")


def put_together(decoder, **options):
    model = MambaXrayForConditionalGeneration.from_encoder_decoder_pretrained(
        tiny_model().vision_encoder, str(decoder), image_token_id=48, text_kwargs=options
    )
    model.freeze_language_model()
    return model


PUSHES = {
    "push_to_hub": lambda model, folder: model.push_to_hub("me/model"),
    "save_pretrained": lambda model, folder: model.save_pretrained(folder, push_to_hub=True, repo_id="me/model"),
    "push_folder": lambda model, folder: (model.save_pretrained(folder), push_folder(folder, "me/model"))[1],
}


@pytest.mark.parametrize("push", PUSHES.values(), ids=PUSHES)
def test_every_push_refuses_a_part_that_is_in_a_folder_of_this_machine(hub, tmp_path, with_local_decoder, push):
    with pytest.raises(ValueError, match=rf"language_model from {tmp_path}.* a folder of this machine.*whole"):
        push(with_local_decoder, tmp_path / "model")
    assert hub.repositories == {}
    with_local_decoder.language_model_reference = None
    push(with_local_decoder, tmp_path / "model")
    files = hub.files("me/model")
    assert [path for path, content in files.items() if str(tmp_path).encode() in content] == []
    assert not any(path.startswith((".cache", "_")) for path in files)
    loaded = MambaXrayForConditionalGeneration.from_pretrained("me/model")
    assert torch.equal(loaded.get_input_embeddings().weight, with_local_decoder.get_input_embeddings().weight)


def test_of_several_parts_each_is_named(hub, folder, tmp_path):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    entry = {"source": None, "revision": "1", "dtype": "float32", "fingerprint": None}
    hub_entry = entry | {"source": "someone/bert"}
    for others, names, expected in (
        ({"text_encoder": hub_entry}, "me/llm", {"language_model": "me/llm", "text_encoder": "someone/bert"}),
        ({"text_encoder": entry}, {"language_model": "me/llm", "text_encoder": "me/bert"}, None),
    ):
        values = config | {"separate_parts": {"language_model": entry} | others}
        (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
        push(folder, base_model=names)
        found = json.loads(hub.files("me/model")["config.json"])["separate_parts"]
        assert {part: entry["source"] for part, entry in found.items()} == (expected or names)
        assert found["language_model"]["revision"] is None
        assert "me/llm (its language_model)" in hub.files("me/model")["README.md"].decode()
    with pytest.raises(PushError, match="give base_model by name"):
        push(folder, base_model="me/llm")
    with pytest.raises(PushError, match="does not need decoder; it needs its language_model, text_encoder"):
        push(folder, base_model={"decoder": "me/llm"})


def test_no_saved_model_of_parts_tells_where_they_came_from(tmp_path):
    tiny = tiny_model()
    for config_class in (MambaXrayConfig, MambaXrayDualEncoderConfig):
        config = config_class(tiny.config.vision_config.to_dict(), tiny.config.text_config.to_dict())
        config.vision_config.name_or_path, config.text_config.name_or_path = str(tmp_path), "someone/model"
        config.save_pretrained(tmp_path / config.model_type)
        text = (tmp_path / config.model_type / "config.json").read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert "someone/model" in text


def test_a_part_by_its_name_on_the_hub_is_pinned_and_loads_whatever_comes_there_later(hub, tmp_path):
    tiny_model(seed=0).language_model.push_to_hub("me/decoder")
    pinned = hub.heads["me/decoder"]
    model = put_together("me/decoder")
    model.push_to_hub("me/model")
    tiny_model(seed=1).language_model.push_to_hub("me/decoder")
    part = json.loads(hub.files("me/model")["config.json"])["separate_parts"]["language_model"]
    assert (part["source"], part["revision"]) == ("me/decoder", pinned)
    loaded = MambaXrayForConditionalGeneration.from_pretrained("me/model")
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize("strategy", ["end", "every_save", "all_checkpoints"])
def test_the_trainers_push_tells_no_path_of_this_machine(
    hub, tmp_path, monkeypatch, with_local_decoder, tiny_folder, strategy
):
    monkeypatch.chdir(tmp_path)
    tokens = with_local_decoder.config.num_image_tokens
    ids = torch.tensor([1, *[48] * tokens, 5, 2])
    row = {"input_ids": ids, "labels": ids.masked_fill(ids == 48, -100), "pixel_values": torch.zeros(3, 32, 32)}
    arguments = {"max_steps": 2, "save_steps": 1, "remove_unused_columns": False, "use_cpu": True, "report_to": []}
    arguments |= {"push_to_hub": True, "hub_model_id": "me/model", "hub_strategy": strategy}
    arguments |= {"hub_always_push": True}  # also while the push before goes on
    arguments = TrainingArguments("run", **arguments)
    processor = AutoProcessor.from_pretrained(tiny_folder)
    trainer = Trainer(with_local_decoder, arguments, train_dataset=[row] * 4, processing_class=processor)
    trainer.train()
    trainer.push_to_hub()
    notes = (tmp_path / "run" / "checkpoint-2" / LOCAL_PARTS_FILE).read_text(encoding="utf-8")
    assert str(tmp_path / "decoder") in notes
    files = hub.files("me/model")
    assert "config.json" in files
    assert ("checkpoint-2/config.json" in files) == (strategy == "all_checkpoints")
    assert [path for path, content in files.items() if str(tmp_path).encode() in content] == []
    with pytest.raises(PartNotFoundError, match="language_model=FOLDER"):
        MambaXrayForConditionalGeneration.from_pretrained("me/model")
    MambaXrayForConditionalGeneration.from_pretrained("me/model", language_model=tmp_path / "decoder")
    # The folder of the run itself needs no help.
    MambaXrayForConditionalGeneration.from_pretrained("run/checkpoint-2")
    with pytest.raises(LocalPartError, match="a folder of this machine"):
        ReportTrainer(processing_class=processor, model=with_local_decoder, args=arguments, train_dataset=[row])


def test_an_adapter_to_a_model_in_a_folder_is_refused_however_its_path_was_noted(hub, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lora = LoraConfig(target_modules=r"language_model\..*\.q_proj", init_lora_weights=False)
    adapted = get_peft_model(MambaXrayForConditionalGeneration.from_pretrained("model"), lora)
    adapted.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    assert values["base_model_name_or_path"] == str(folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter")
    # As earlier versions noted them, relative to where they were trained; two could be names on the Hub.
    for base in (str(folder), "model", "./model", "runs/1/base", "../model"):
        file.write_text(json.dumps(values | {"base_model_name_or_path": base}), encoding="utf-8")
        with pytest.raises(PushError, match=r"a folder of this machine.*--base-model"):
            push_folder(tmp_path / "adapter", "me/adapter", examples=False)
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    loaded.load_adapter(str(tmp_path / "adapter"))
    with pytest.raises(LocalPartError, match="base model"):
        loaded.push_to_hub("me/adapter")
    assert hub.repositories == {}
    push_folder(tmp_path / "adapter", "me/adapter", base_model="me/model", examples=False)
    assert [p for p, content in hub.files("me/adapter").items() if str(tmp_path).encode() in content] == []


@pytest.mark.parametrize(
    ("request_", "how", "message"),
    [
        ("POST /api/models/me/model/preupload", 401, "hf auth login"),
        ("POST /api/models/me/model/preupload", 403, "may not write"),
        ("PUT /objects", 500, "model.safetensors"),
        ("POST /api/models/me/model/commit", 500, "500"),
    ],
)
def test_a_push_that_fails_says_why_changes_nothing_and_succeeds_the_next_time(hub, folder, request_, how, message):
    push(folder)
    before = hub.heads["me/model"]
    weights = {name: weight + 1 for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with hub.failing(request_, how), pytest.raises(PushError, match=f"was not pushed to me/model: .*{message}"):
        push(folder)
    assert hub.heads["me/model"] == before
    push(folder)
    assert hub.files("me/model")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_damaged_weights_are_not_pushed(hub, folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        push(folder)
    assert "me/model" not in hub.heads


def test_a_hub_that_is_not_there_is_told(hub, folder):
    hub.__exit__()
    with pytest.raises(PushError, match=r"was not pushed.*is this machine online"):
        push(folder)


@pytest.mark.parametrize("how", [401, 403, 500, "cut"])
def test_a_download_that_fails_leaves_no_half_model_and_succeeds_the_next_time(hub, folder, tmp_path, how):
    push(folder)
    with hub.failing("GET /me/model/resolve/.*/model.safetensors", how), pytest.raises((OSError, HTTPError)) as error:
        MambaXrayForConditionalGeneration.from_pretrained("me/model")
    assert str(error.value).strip()
    assert list((tmp_path / "cache").rglob("model.safetensors")) == []
    _same(MambaXrayForConditionalGeneration.from_pretrained("me/model"), folder)


def test_a_full_disk_leaves_no_half_model_and_the_next_try_succeeds(hub, folder, tmp_path):
    push(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond this, so writing fails in its middle as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            MambaXrayForConditionalGeneration.from_pretrained("me/model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache").rglob("model.safetensors")) == []
    _same(MambaXrayForConditionalGeneration.from_pretrained("me/model"), folder)


def _same(model, folder):
    expected = MambaXrayForConditionalGeneration.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_the_command_tells_the_address_and_tells_errors_in_one_line(hub, folder):
    result = CliRunner().invoke(app, ["push", str(folder), "me/model", "--no-examples"])
    assert result.exit_code == 0, result.output
    assert hub.heads["me/model"] in result.output
    with hub.failing("POST /api/models/me/model/preupload", 403):
        result = CliRunner().invoke(app, ["push", str(folder), "me/model", "--no-examples"])
    assert result.exit_code == 2
    assert "may not write" in result.output


@pytest.mark.slow
def test_an_adapter_repository_loads_with_peft_and_with_ours(hub, folder, tmp_path):
    peft = pytest.importorskip("peft")
    push(folder)
    lora = peft.LoraConfig(target_modules=r"language_model\..*\.(q_proj|v_proj)", init_lora_weights=False)
    adapted = peft.get_peft_model(MambaXrayForConditionalGeneration.from_pretrained(folder), lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    processor = AutoProcessor.from_pretrained(folder)
    processor.save_pretrained(tmp_path / "adapter")
    with pytest.raises(PushError, match="--base-model"):
        push_folder(tmp_path / "adapter", "me/adapter", examples=False)
    push_folder(tmp_path / "adapter", "me/adapter", base_model="me/model", examples=False)
    assert "model.safetensors" not in hub.files("me/adapter")
    inputs = processor(images=[make_study(0)["images"][0]])
    base = MambaXrayForConditionalGeneration.from_pretrained("me/model")
    with torch.no_grad():
        expected = adapted(**inputs).logits
        assert not torch.equal(base(**inputs).logits, expected)
        ours = AutoModelForImageTextToText.from_pretrained("me/adapter")
        for loaded in (peft.PeftModel.from_pretrained(base, "me/adapter"), ours):
            assert torch.equal(loaded.eval()(**inputs).logits, expected)
    assert type(AutoProcessor.from_pretrained("me/adapter")) is type(processor)


@pytest.mark.slow
def test_a_stranger_loads_what_was_pushed_and_gets_the_same_report_online_and_offline(hub, folder, tmp_path):
    push(folder)
    make_study(3)["images"][0].save(tmp_path / "xray.png")
    with use_scan_backend("torch"):
        expected = pipeline("image-to-text", model=str(folder), device="cpu")(
            str(tmp_path / "xray.png"), max_new_tokens=8
        )
    code = """
import json, sys
from transformers import pipeline
reporter = pipeline("image-to-text", model="me/model", trust_remote_code=True)
print(json.dumps(reporter(sys.argv[1], max_new_tokens=8)))
"""
    stranger = FreshEnvironment(tmp_path / "stranger")
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ""}
    assert stranger.answer(code, tmp_path / "xray.png", **settings) == expected
    asked = len(hub.requests)
    assert stranger.answer(code, tmp_path / "xray.png", HF_HUB_OFFLINE="1", **settings) == expected
    assert len(hub.requests) == asked
