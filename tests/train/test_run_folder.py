"""What becomes of a folder that holds a run already, and of one that holds something else."""

import json
import re
import shutil

import pytest
from tiny_training import TINY

from mambaxray import load_recipe, make_phantoms, run_recipe
from mambaxray.data.output_lock import OutputInUseError, locked_output
from mambaxray.train.recipe import RecipeError

SHORT = [*TINY, "training.eval_strategy=no", "metrics=null"]


def recipe(*overrides):
    return load_recipe("finetune_phantoms", [*SHORT, *overrides])


def steps(result):
    return [entry["step"] for entry in result.history if "loss" in entry]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, run_recipe(recipe(), folder)


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    return tmp_path / "run"


def test_a_finished_run_is_extended_from_its_last_checkpoint(trained, folder):
    result = run_recipe(recipe("training.max_steps=6", "training.logging_steps=1"), folder)
    assert result.steps == 6
    assert steps(result) == [1, 2, 3, 4, 5, 6]
    assert [e["loss"] for e in result.history if "loss" in e][:4] == [
        e["loss"] for e in trained[1].history if "loss" in e
    ]
    assert load_recipe(folder / "recipe.yaml").training["max_steps"] == 6
    # And is finished then.
    assert run_recipe(recipe("training.max_steps=6"), folder) == result


def test_a_run_that_was_killed_after_its_last_step_takes_no_further_one(trained, folder):
    """Four steps end in the middle of an epoch."""
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "model")
    result = run_recipe(recipe(), folder)
    assert steps(result) == [1, 2, 3, 4]
    weights = "model/model.safetensors"
    assert (folder / weights).read_bytes() == (trained[0] / weights).read_bytes()


def test_a_run_of_another_recipe_is_refused_with_what_differs(folder):
    before = (folder / "recipe.yaml").read_bytes()
    with pytest.raises(RecipeError, match=r"training\.learning_rate is 0\.002 there, 0\.001 here.*--restart"):
        run_recipe(recipe("training.learning_rate=1e-3"), folder)
    assert (folder / "recipe.yaml").read_bytes() == before
    assert (folder / "result.json").is_file()


def test_restart_deletes_the_run_alone_and_begins_again(folder):
    (folder / "notes.txt").write_text("mine")
    result = run_recipe(recipe("training.max_steps=1", "training.learning_rate=1e-3"), folder, restart=True)
    assert steps(result) == [1]
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in (folder / "checkpoints").glob("checkpoint-*")] == ["checkpoint-1"]


@pytest.mark.parametrize("mistake", ["model.freeze=[decoder]", "model.lora={target_modules: [nothing]}"])
def test_a_refused_restart_deletes_nothing(folder, mistake):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RecipeError, match=r"model\.freeze|model\.lora"):
        run_recipe(recipe(mistake), folder, restart=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_that_a_killed_restart_has_set_aside_comes_back_or_goes(trained, folder):
    """It comes back when the new run had not begun."""
    aside = folder / ".replaced"
    aside.mkdir()
    for path in [path for path in folder.iterdir() if path != aside]:
        path.rename(aside / path.name)
    assert run_recipe(recipe(), folder).history == trained[1].history
    assert not aside.exists()
    shutil.copytree(folder / "checkpoints", aside / "checkpoints")
    assert run_recipe(recipe(), folder).history == trained[1].history
    assert not aside.exists()


@pytest.fixture
def annotated(tmp_path):
    """A data set in R2Gen's format of drawn X-rays."""
    source = tmp_path / "data"
    (source / "images").mkdir(parents=True)
    lists = {}
    for split, studies in make_phantoms(12, image_size=32).items():
        lists[split] = []
        for row in studies:
            row["images"][0].save(source / "images" / f"{row['study_id']}.png")
            study = {"id": row["study_id"], "report": row["report"], "image_path": [f"{row['study_id']}.png"]}
            lists[split].append(study | {"patient_id": row["patient_id"]})
    (source / "annotation.json").write_text(json.dumps(lists))
    return source


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_is_not_gone_on_with_when_its_data_or_models_have_changed(annotated, finished, tmp_path):
    of_data = [f"data.source={annotated}", "data.options={}", "training.save_steps=1", "training.max_steps=2"]
    first = run_recipe(recipe(*of_data), tmp_path / "first")
    # A second run begins with the encoder of the first one.
    encoder = ["model.image_size=null", f"model.vision_encoder={first.model_dir}"]
    run_recipe(recipe(*of_data, *encoder), tmp_path / "run")
    if not finished:
        (tmp_path / "run/result.json").unlink()
    assert run_recipe(recipe(*of_data, *encoder), tmp_path / "run").steps == 2
    weights, annotation = first.model_dir / "model.safetensors", annotated / "annotation.json"
    for file, key in ((weights, "model.vision_encoder"), (annotation, "data.source")):
        content = file.read_bytes()
        file.write_bytes(content[:-9] + b"}" + content[-8:] if file == weights else content.replace(b"the", b"THE"))
        with pytest.raises(RecipeError, match=rf"began with other content of {re.escape(key)}\. Choose another"):
            run_recipe(recipe(*of_data, *encoder), tmp_path / "run")
        file.write_bytes(content)
    (tmp_path / "data").rename(tmp_path / "moved")
    if finished:
        # The result of what is there no more can still be had.
        assert run_recipe(recipe(*of_data, *encoder), tmp_path / "run").steps == 2


def test_a_run_that_failed_can_be_corrected_in_its_folder(tmp_path):
    for mistake in ("model.freeze=[decoder]", "data.source=no/such/folder"):
        with pytest.raises((RecipeError, FileNotFoundError)):
            run_recipe(recipe(mistake, "data.options={}" if "data" in mistake else "seed=0"), tmp_path / "run")
        assert not (tmp_path / "run" / "recipe.yaml").exists(), "the folder is claimed when training starts"
    # Something that fails after that, before any checkpoint.
    with pytest.raises(RuntimeError, match="stop"):
        run_recipe(recipe("training.learning_rate=1e-3"), tmp_path / "run", on_start=stop_later)
    assert (tmp_path / "run" / "recipe.yaml").is_file()
    assert run_recipe(recipe("training.max_steps=1"), tmp_path / "run").steps == 1


def stop_later(model):
    def stop(*arguments):
        raise RuntimeError("stop")

    model.register_forward_pre_hook(stop)


@pytest.mark.parametrize("name", ["model/config.json", "recipe.yaml", "environment.json", "checkpoints/a", "base/a"])
def test_a_folder_of_something_else_is_refused_and_left_as_it_is(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    for restart in (False, True):
        with pytest.raises(RecipeError, match="choose another output folder"):
            run_recipe(recipe(), tmp_path, restart=restart)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "mine"


def test_an_empty_seal_vouches_for_no_checkpoint(folder):
    (folder / "result.json").unlink()
    for content in ("", "{}", "[]", "null", "3", '{"a": 1}', "\x00"):
        (folder / "checkpoints/checkpoint-4/complete.json").write_text(content)
        assert last_step(folder) == 2
    assert run_recipe(recipe(), folder).steps == 4


def last_step(folder):
    from mambaxray.train.checkpoints import last_complete_checkpoint

    return int(last_complete_checkpoint(folder / "checkpoints").name.partition("-")[2])


def test_a_second_process_in_the_folder_is_told_in_one_line(folder):
    with locked_output(folder, is_folder=True), pytest.raises(OutputInUseError, match="another process") as caught:
        run_recipe(recipe(), folder)
    assert len(str(caught.value).splitlines()) == 1
    assert not (folder / ".lock").exists()
    assert run_recipe(recipe(), folder).steps == 4


def test_a_recipe_file_that_is_damaged_is_told(folder):
    (folder / "recipe.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match=r"recipe\.yaml can't be read"):
        run_recipe(recipe(), folder)
    assert json.loads((folder / "result.json").read_text())["steps"] == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.vision_encoder=runs/mambaxray_base_contrast/model", "no such folder; give model.vision_encoder=FOLDER"),
        ("model.vision_encoder=/nowhere", "model.vision_encoder=/nowhere: no such folder"),
        (
            "model.language_model=runs/of/nobody",
            "give model.language_model=FOLDER, or its name on the Hugging Face Hub",
        ),
        ("model.language_model=setup.cfg", "model.language_model=setup.cfg is a file"),
        ("model.vision_encoder=models/stage2", "neither a folder here nor a model that the Hub serves"),
    ],
)
def test_a_part_that_is_absent_is_told_by_the_key_that_names_it(tmp_path, monkeypatch, override, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError) as caught:
        run_recipe(recipe(override), tmp_path / "run")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
