"""`model.stage1` and `model.memories` of fine-tuning recipes: what they hand to a system, and what they refuse."""

import re
from pathlib import Path

import pytest
import torch
from tiny_training import TINY
from transformers import AutoModelForImageTextToText

from mambaxray import load_recipe, load_studies, make_phantoms, run_recipe
from mambaxray.configuration import families
from mambaxray.modeling_mambaxray.layers.study_memory import MemorySource, StudyMemory, TrainingSplit
from mambaxray.train import stage_parts
from mambaxray.train.recipe import RecipeError, make_recipe
from mambaxray.train.stage_parts import load_memories, load_sources
from mambaxray.train.stored_models import StoredModel

SYSTEM = ["plugins=[recalling_system]", "model.system=outside_recall", "training.max_steps=2"]
WIDTH = 24


@pytest.fixture(scope="module", autouse=True)
def _unregistered_afterwards():
    yield
    families._FAMILIES.pop("outside_recall", None)


@pytest.fixture(scope="module")
def studies():
    splits = make_phantoms(30, image_size=32)
    return {name: split.select_columns(["study_id", "patient_id", "split"]) for name, split in splits.items()}


def memory_of(studies, rows, folder: Path, width: int = WIDTH, **options) -> Path:
    """A memory of these studies, whatever their split: as one who built it elsewhere could have it."""
    torch.manual_seed(0)
    split = TrainingSplit({row["study_id"]: row["patient_id"] for row in rows}, {}, {})
    memory = StudyMemory(
        {"values": torch.randn(len(rows), width)},
        [row["study_id"] for row in rows],
        [row["patient_id"] for row in rows],
        MemorySource("phantoms", "stage1", options=options),
        split,
    )
    memory.save_pretrained(folder)
    return folder


def recall_recipe(*overrides):
    return load_recipe("finetune_phantoms", [*TINY, *SYSTEM, *overrides])


@pytest.fixture(scope="module")
def stage1(tmp_path_factory, studies):
    """A run from nothing, whose model is the next run's stage 1."""
    folder = tmp_path_factory.mktemp("stage1")
    memory = memory_of(studies, list(studies["train"])[:5], folder / "memory")
    result = run_recipe(recall_recipe(f"model.memories={{seen: {memory}}}"), folder / "run")
    return result.model_dir, memory


def test_a_system_starts_from_stage_1_and_its_encoder_and_keeps_its_memory(stage1, tmp_path):
    model_dir, memory = stage1
    overrides = [f"model.stage1={model_dir}", "model.vision_encoder=null", f"model.memories={{seen: {memory}}}"]
    frozen = "model.freeze=[vision_encoder]"
    seen = {}
    result = run_recipe(
        recall_recipe(*overrides, frozen),
        tmp_path / "run",
        on_start=lambda model: seen.update(scale=model.scale.detach().clone()),
    )
    before, after = (AutoModelForImageTextToText.from_pretrained(folder) for folder in (model_dir, result.model_dir))
    assert before.scale.item() != 1.0
    assert torch.equal(seen["scale"], before.scale)
    for name, weight in before.vision_encoder.state_dict().items():
        assert torch.equal(after.vision_encoder.state_dict()[name], weight), name
    expected = StudyMemory.from_pretrained(memory)
    assert torch.equal(after.study_memory["seen"].vectors["values"], expected.vectors["values"])
    assert after.study_memory["seen"].study_ids == expected.study_ids


def test_the_data_is_loaded_once_for_training_and_for_the_memories(stage1, tmp_path, monkeypatch):
    loads = []

    def load(*arguments, **options):
        loads.append(arguments)
        return load_studies(*arguments, **options)

    monkeypatch.setattr(stage_parts, "load_studies", load)
    run_recipe(recall_recipe(f"model.memories={{seen: {stage1[1]}}}"), tmp_path / "run")
    assert loads == [("phantoms",)]


def test_the_checkpoints_and_the_model_of_a_run_share_one_copy_of_the_memory(stage1, tmp_path):
    memories = f"model.memories={{seen: {stage1[1]}}}"
    run_recipe(recall_recipe(memories, "training.save_steps=1", "training.save_total_limit=1"), tmp_path / "run")
    files = sorted((tmp_path / "run").rglob("memory.safetensors"))
    assert len(files) == 2
    assert len({file.stat().st_ino for file in files}) == 1
    assert files[0].stat().st_ino != (stage1[1] / "memory.safetensors").stat().st_ino


def test_a_memory_of_held_out_studies_is_refused_by_study_and_by_patient(studies, tmp_path):
    row = studies["test"][0]
    memory = memory_of(studies, [studies["train"][0], row], tmp_path / "memory")
    message = f"model.memories.seen={memory}: study {row['study_id']} is in the test split"
    with pytest.raises(RecipeError, match=re.escape(message)):
        run_recipe(recall_recipe(f"model.memories={{seen: {memory}}}"), tmp_path / "run")
    renamed = {**row, "study_id": "elsewhere"}
    memory = memory_of(studies, [renamed], tmp_path / "by_patient")
    with pytest.raises(RecipeError, match=f"patient {row['patient_id']} of study elsewhere has studies in the test"):
        run_recipe(recall_recipe(f"model.memories={{seen: {memory}}}"), tmp_path / "run")


def test_a_memory_of_images_is_of_the_model_that_looks_at_them(studies, stage1, tmp_path):
    model_dir, _ = stage1
    content = StoredModel.find(str(model_dir)).content
    rows = [studies["train"][0]]
    other = memory_of(studies, rows, tmp_path / "other", memory="visual", model="another")
    message = f"model.memories.seen={other} was built with stage1, which is another model than model.stage1={model_dir}"
    with pytest.raises(RecipeError, match=re.escape(message)):
        run_recipe(recall_recipe(f"model.stage1={model_dir}", f"model.memories={{seen: {other}}}"), tmp_path / "run")
    # Reports are read by an encoder of their own.
    for name, model in (("report", "another"), ("visual", content)):
        memory = memory_of(studies, rows, tmp_path / name, memory=name, model=model)
        sources = load_sources(load_recipe("finetune_phantoms", TINY).data)
        assert len(load_memories({"seen": str(memory)}, sources, str(model_dir))["seen"]) == 1


def test_training_studies_beyond_max_train_may_be_remembered(studies, stage1, tmp_path):
    memory = memory_of(studies, list(studies["train"])[-2:], tmp_path / "memory")
    recipe = recall_recipe(f"model.memories={{seen: {memory}}}", "data.max_train=8", "data.max_validation=1")
    assert run_recipe(recipe, tmp_path / "run").steps == 2


def test_what_does_not_fit_the_system_is_named(studies, stage1, tmp_path):
    model_dir, memory = stage1
    wide = memory_of(studies, [studies["train"][0]], tmp_path / "wide", width=7)
    for overrides, message in [
        ([], "looks up memories: give model.memories.seen=FOLDER"),
        ([f"model.memories={{scene: {memory}}}"], "give model.memories.seen=FOLDER"),
        ([f"model.memories={{seen: {memory}, scene: {memory}}}"], "there is no memory scene; the memories are seen"),
        ([f"model.memories={{seen: {memory}}}", "model.options={recalls: false}"], "configuration switches all off"),
        ([f"model.memories={{seen: {wide}}}"], "the memory seen must have vectors of widths {'values': 24}, got"),
        (["model.system=mambaxray", f"model.memories={{seen: {memory}}}"], "looks up no memories; got seen"),
        (["model.system=mambaxray", f"model.stage1={model_dir}"], "starts from no stage 1; got a RecallFor"),
    ]:
        with pytest.raises(RecipeError, match=re.escape(message)):
            run_recipe(recall_recipe(*overrides), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"model\.stage1=\./nothing: no such folder"):
        run_recipe(recall_recipe("model.stage1=./nothing"), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"model\.memories\.seen=nothing: nothing holds no memory.json"):
        run_recipe(recall_recipe("model.memories={seen: nothing}"), tmp_path / "run")


def test_a_whole_model_takes_another_memory_and_no_stage_1(studies, stage1, tmp_path):
    model_dir, _ = stage1
    values = {"stage": "finetune", "model": {"checkpoint": str(model_dir), "stage1": str(model_dir)}}
    with pytest.raises(RecipeError, match=re.escape("which model.stage1 can't change")):
        make_recipe(values)
    memory = memory_of(studies, list(studies["train"])[:3], tmp_path / "memory")
    parts = ["model.vision_encoder=null", "model.language_model=null", "model.system=mambaxray"]
    recipe = load_recipe(
        "finetune_phantoms",
        [
            *(override for override in TINY if not override.startswith(("model.v", "model.l"))),
            *SYSTEM,
            *parts,
            "model.vocab_size=1000",
            "model.image_size=null",
            f"model.checkpoint={model_dir}",
            f"model.memories={{seen: {memory}}}",
        ],
    )
    result = run_recipe(recipe, tmp_path / "run")
    assert len(AutoModelForImageTextToText.from_pretrained(result.model_dir).study_memory["seen"]) == 3
