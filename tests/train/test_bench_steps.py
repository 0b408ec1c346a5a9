"""What runs before a benchmark's cells: pre-training, contrast and fine-tuning, each once, and anew when it must."""

import copy
import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mambaxray.cli import app
from mambaxray.train import bench_step_run
from mambaxray.train.bench_grid import make_bench
from mambaxray.train.bench_run import read_bench, run_bench
from mambaxray.train.recipe import RecipeError

DATA = {"data.options": {"num_studies": 30, "image_size": 32}, "data.max_validation": 4}
SHORT = {"training.max_steps": 2, "training.eval_strategy": "no", "training.save_strategy": "no"}
SHORT |= {"training.per_device_train_batch_size": 4, "training.report_to": []}
PRETRAINING = {"model_type": "mambaxray_pretraining", "hidden_size": 24, "num_hidden_layers": 1, "image_size": 32}
PRETRAINING |= {"patch_size": 4, "state_size": 4, "decoder_hidden_size": 16}
BERT = {"model_type": "bert", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}
BERT |= {"num_attention_heads": 2, "max_position_embeddings": 160}
LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
LLAMA |= {"num_attention_heads": 2, "max_position_embeddings": 256}

BENCH = {
    "recipe": "finetune_phantoms",
    "published": "none",
    "set": {
        **DATA,
        **SHORT,
        "model.vision_encoder": "${contrast}",
        "model.language_model": LLAMA,
        "model.vocab_size": 320,
        "model.max_report_length": 20,
        "generation.max_new_tokens": 5,
    },
    "test": {"max_studies": 3, "batch_size": 3, "metrics": ["BLEU"]},
    "steps": {
        "contrast": {
            "recipe": "contrast_phantoms",
            "set": {
                **DATA,
                **SHORT,
                "model.vision_encoder": "${pretrain}",
                "model.text_encoder": BERT,
                "model.vocab_size": 320,
                "model.max_report_length": 20,
            },
        },
        "pretrain": {
            "recipe": "pretrain_phantoms",
            "set": {**DATA, **SHORT, "picture_every": None, "model.config": PRETRAINING},
        },
    },
    "variant": {
        "all stages": {},
        "longer contrast": {"steps": {"contrast": {"set": {"training.max_steps": 3}}}},
        "stage 1 only": {"set": {"model.vision_encoder": "${pretrain}"}},
        "no stage": {"set": {"model.vision_encoder": {"model_type": "vision_mamba", **PRETRAINING}}},
    },
}
del BENCH["variant"]["no stage"]["set"]["model.vision_encoder"]["decoder_hidden_size"]
BENCH["variant"]["no stage"]["set"]["model.vision_encoder"]["model_type"] = "vision_mamba"


def changed(**more):
    return make_bench(copy.deepcopy(BENCH) | more)


def variants(*names):
    return {name: BENCH["variant"][name] for name in names}


def names(cell):
    return [step.name for step in cell.steps]


def test_a_cell_is_preceded_by_the_steps_that_it_refers_to_and_by_those_that_they_refer_to():
    all_stages, longer, first_only, none = changed().cells()
    assert names(all_stages) == names(longer) == ["pretrain", "contrast"]
    assert names(first_only) == ["pretrain"]
    assert names(none) == []


def test_cells_share_a_step_unless_it_or_one_that_it_needs_differs():
    all_stages, longer, first_only, _ = changed().cells()
    pretrain, contrast = all_stages.steps
    assert longer.steps[0] == first_only.steps[0] == pretrain
    assert longer.steps[1].key != contrast.key
    bench = copy.deepcopy(BENCH)
    bench["steps"]["pretrain"]["set"]["training.max_steps"] = 3
    other_pretrain, other_contrast = make_bench(bench).cells()[0].steps
    assert other_pretrain.key != pretrain.key
    assert other_contrast.key != contrast.key
    assert other_contrast.recipe == contrast.recipe


def test_a_description_is_no_part_of_what_a_step_does():
    bench = copy.deepcopy(BENCH)
    bench["steps"]["pretrain"]["set"]["description"] = "the same in other words"
    assert make_bench(bench).cells()[0].steps[1].key == changed().cells()[0].steps[1].key


def test_each_seed_has_steps_of_its_own_unless_the_step_has_a_seed():
    cells = changed(seeds=[3, 5], variant=variants("all stages")).cells()
    assert [step.recipe.seed for cell in cells for step in cell.steps] == [3, 3, 5, 5]
    assert len({step.key for cell in cells for step in cell.steps}) == 4
    bench = copy.deepcopy(BENCH) | {"seeds": [3, 5], "variant": variants("all stages")}
    bench["steps"]["pretrain"]["seed"] = 0
    first, second = make_bench(bench).cells()
    assert first.steps[0] == second.steps[0]
    assert first.steps[0].recipe.seed == 0
    assert first.steps[1].key != second.steps[1].key


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("steps.contrast.set", {"model.vision_encoder": "${pre}"}, r"\$\{pre\} names no step; there are contrast, pre"),
        ("steps.contrast", {}, "step contrast: give its recipe or its command"),
        ("steps.contrast.recipe", "no_such", "no recipe 'no_such'"),
        ("steps.contrast.set", {"model.lora_rank": 1}, "step contrast: unknown key model.lora_rank"),
        ("steps.contrast", {"command": "memory burn"}, "command must be one of"),
        ("steps.contrast.command", "memory build", "a recipe or a command, not both: contrast_phantoms, memory build"),
        ("steps.contrast.recipes", "x", r"unknown key steps\.contrast\.recipes; did you mean recipe"),
        ("steps.pretrain.set", {"model.config": None, "model.checkpoint": "${contrast}"}, "need each other: .* -> "),
        (
            "steps.a step",
            {"recipe": "pretrain_phantoms"},
            "steps are named with letters, digits, - and _, got 'a step'",
        ),
        ("variant.stage 1 only.steps", {"memory": {}}, "names 'memory'; the bench has contrast, pretrain"),
        ("variant.stage 1 only.steps", 3, "variant.stage 1 only.steps must hold steps by name, got 3"),
    ],
)
def test_an_error_in_a_step_is_told_before_anything_runs(path, value, message):
    bench = copy.deepcopy(BENCH)
    *above, last = path.split(".")
    place = bench
    for name in above:
        place = place[name]
    if isinstance(value, dict) and isinstance(place.get(last), dict) and last == "set":
        place[last] |= value
    else:
        place[last] = value
    with pytest.raises((RecipeError, FileNotFoundError), match=message):
        make_bench(bench).cells()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    steps = []
    bench = changed(variant=variants("all stages", "longer contrast", "stage 1 only"))
    results = run_bench(bench, folder, on_step=lambda cell, step: steps.append((cell.title, step.name)))
    return folder, bench, results, steps


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished bench, and a function that runs it and says which steps ran."""
    shutil.copytree(finished[0], tmp_path / "bench")

    def run(bench=finished[1]):
        steps = []
        results = run_bench(bench, tmp_path / "bench", on_step=lambda cell, step: steps.append(step.name))
        assert [result.state for _, result in results] == ["done"] * len(results), results
        return steps, results

    return tmp_path / "bench", run


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_each_step_runs_once_and_what_follows_starts_from_its_model(finished):
    folder, _, results, steps = finished
    assert [result.state for _, result in results] == ["done"] * 3, results
    assert steps == [
        ("all stages", "pretrain"),
        ("all stages", "contrast"),
        ("longer contrast", "contrast"),
    ]
    pretrain, contrast = results[0][0].steps
    recipe = (folder / contrast.folder / "run/recipe.yaml").read_text()
    assert str(folder / pretrain.result) in recipe
    assert str(folder / contrast.result) in (folder / "cells/all-stages/run/recipe.yaml").read_text()
    assert len(list((folder / "steps").iterdir())) == 3


def test_a_second_run_does_nothing_wherever_the_folder_lies(copied):
    folder, run = copied
    before = times(folder)
    assert run()[0] == []
    assert times(folder) == before


def test_a_changed_early_stage_runs_again_with_all_that_follow_and_with_nothing_else(copied):
    folder, run = copied
    bench = copy.deepcopy(BENCH) | {"variant": variants("all stages", "stage 1 only")}
    bench["steps"]["contrast"]["set"]["training.max_steps"] = 1
    before = times(folder)
    steps, _ = run(make_bench(bench))
    assert steps == ["contrast"]
    changed_files = {
        path.relative_to(folder).parts[:2] for path, time in times(folder).items() if before.get(path) != time
    }
    assert ("cells", "stage-1-only") not in changed_files
    assert ("cells", "all-stages") in changed_files
    # What was replaced is still there, for going back.
    assert all(path.is_file() for path in before)


def test_a_model_that_was_changed_where_it_lies_makes_all_that_follows_run_again(copied, finished):
    folder, run = copied
    file = folder / finished[2][0][0].steps[0].result / "model.safetensors"
    weights = load_file(file)
    save_file({name: weight * 1.5 for name, weight in weights.items()}, file, {"format": "pt"})
    _, read = read_bench(folder)
    assert {result.state for _, result in read} == {"open"}
    steps, _ = run()
    assert steps == ["contrast", "contrast"]
    assert {result.state for _, result in read_bench(folder)[1]} == {"done"}


def test_results_stand_when_the_steps_are_deleted_to_make_room(copied, finished):
    folder, _ = copied
    shutil.rmtree(folder / finished[2][0][0].steps[0].folder)
    assert [result.state for _, result in read_bench(folder)[1]] == ["done", "done", "open"]


def test_an_interrupted_step_goes_on(tmp_path, monkeypatch):
    bench = copy.deepcopy(BENCH) | {"variant": variants("stage 1 only")}
    bench["steps"] = {"pretrain": bench["steps"]["pretrain"]}
    bench["steps"]["pretrain"]["set"] |= {"training.max_steps": 4, "training.save_strategy": "steps"}
    bench["steps"]["pretrain"]["set"] |= {"training.save_steps": 2}
    bench = make_bench(bench)

    class Killed(BaseException):
        pass

    original = bench_step_run.run_recipe

    def killed(recipe, folder):
        original(recipe, folder)
        # As a kill after the first checkpoint leaves it.
        (folder / "result.json").unlink()
        shutil.rmtree(folder / "model")
        shutil.rmtree(folder / "checkpoints/checkpoint-4")
        raise Killed

    monkeypatch.setattr(bench_step_run, "run_recipe", killed)
    with pytest.raises(Killed):
        run_bench(bench, tmp_path)
    monkeypatch.undo()
    first = (tmp_path / bench.cells()[0].steps[0].folder / "run/checkpoints/checkpoint-2").stat().st_mtime_ns
    ((cell, result),) = run_bench(bench, tmp_path)
    assert result.state == "done", result.reason
    run = tmp_path / cell.steps[0].folder / "run"
    assert json.loads((run / "result.json").read_text())["steps"] == 4
    assert (run / "checkpoints/checkpoint-2").stat().st_mtime_ns == first, "begun anew"


def test_a_step_that_fails_is_named_and_not_tried_again_for_each_cell(tmp_path):
    bench = copy.deepcopy(BENCH) | {"variant": variants("all stages", "longer contrast", "stage 1 only")}
    bench["variant"]["no data"] = {
        "steps": {"pretrain": {"set": {"data.source": "no/such/folder", "data.options": {}}}}
    }
    bench["steps"]["pretrain"]["set"] |= {"training.max_steps": 1, "model.config": {"model_type": "no_such_type"}}
    tried = []
    results = run_bench(make_bench(bench), tmp_path, on_step=lambda cell, step: tried.append((cell.title, step.name)))
    assert [result.state for _, result in results] == ["failed"] * 3 + ["lacking"]
    assert all(result.reason.startswith("step pretrain: ") for _, result in results)
    assert "no_such_type" in results[0][1].reason
    assert "no/such/folder" in results[3][1].reason
    assert tried == [("all stages", "pretrain"), ("no data", "pretrain")]


def test_a_dry_run_shows_steps_and_cells_and_runs_nothing(finished, tmp_path):
    file = tmp_path / "bench.yaml"
    file.write_text(json.dumps(BENCH), encoding="utf-8")
    runner = CliRunner()
    planned = runner.invoke(app, ["bench", "run", str(file), "--output", str(tmp_path / "new"), "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert not (tmp_path / "new").exists()
    lines = [line.split("  ") for line in planned.stdout.splitlines()]
    shown = {line[0]: [part.strip() for part in line[1:] if part.strip()] for line in lines}
    assert "3 steps, 4 cells" in planned.stdout
    assert any("pretrain" in part for part in shown["all stages"])
    done = runner.invoke(app, ["bench", "run", str(file), "--output", str(finished[0]), "--dry-run"])
    assert "no stage" in done.stdout
    assert done.stdout.count("open") == 1


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"command": "part", "set": {"part": "language_model"}}, "step extra: lacks the option model"),
        (
            {"command": "part", "set": {"model": "x", "parts": "y"}},
            "step extra: unknown option parts; known: model, part",
        ),
        (
            {"command": "memory build", "set": {"model": "x", "dataset": "y", "beta": 4}},
            "unknown option beta; known: model",
        ),
        ({"command": "retrieval build", "set": {"model": "x"}}, "lacks the option dataset"),
    ],
)
def test_an_option_that_a_command_does_not_have_or_lacks_is_told_before_anything_runs(step, message):
    bench = copy.deepcopy(BENCH) | {"variant": {"one": {"set": {"model.vision_encoder": "${extra}"}}}}
    bench["steps"]["extra"] = step
    with pytest.raises(RecipeError, match=message):
        make_bench(bench).cells()


def test_only_a_command_that_draws_gets_the_seed():
    bench = copy.deepcopy(BENCH) | {
        "variant": {"one": {"set": {"model.memories": {"visual": "${m}", "report": "${r}"}}}}
    }
    bench["steps"]["m"] = {"command": "memory build", "set": {"model": "x", "dataset": "y"}}
    bench["steps"]["r"] = {"command": "retrieval build", "set": {"model": "x", "dataset": "y"}}
    (cell,) = make_bench(bench | {"seeds": [7]}).cells()
    options = {step.name: step.options for step in cell.steps if step.command is not None}
    assert options == {"m": {"model": "x", "dataset": "y", "seed": 7}, "r": {"model": "x", "dataset": "y"}}


@pytest.fixture
def phantoms_and_part():
    """A bench whose data are drawn in a step, and whose language model is a part of a model that was trained whole."""
    bench = copy.deepcopy(BENCH) | {"variant": {"one": {}}}
    data = {"data.source": "${data}", "data.options": {}}
    vision = BENCH["variant"]["no stage"]["set"]["model.vision_encoder"]
    whole = bench["set"] | {"model.vision_encoder": vision, "metrics": None} | data
    bench["set"] = whole | {"model.language_model": "${decoder}", "model.freeze": ["language_model"]}
    bench["steps"] = {
        "data": {"command": "phantoms", "set": {"num_studies": 30, "image_size": 32}},
        "whole": {"recipe": "finetune_phantoms", "set": whole},
        "decoder": {"command": "part", "set": {"model": "${whole}", "part": "language_model"}},
    }
    return bench


def test_a_part_of_a_trained_model_and_drawn_data_are_steps(phantoms_and_part, tmp_path):
    ((cell, result),) = run_bench(make_bench(phantoms_and_part), tmp_path)
    assert result.state == "done", result.reason
    assert names(cell) == ["data", "whole", "decoder"]
    weights = load_file(tmp_path / cell.steps[2].result / "model.safetensors")
    whole = load_file(tmp_path / cell.steps[1].result / "model.safetensors")
    assert all((whole[f"language_model.{name}"] == weight).all() for name, weight in weights.items())
    phantoms_and_part["steps"]["decoder"]["set"]["part"] = "no_such_part"
    ((_, result),) = run_bench(make_bench(phantoms_and_part), tmp_path)
    assert result.state == "failed"
    assert "step decoder: " in result.reason
    assert "no part 'no_such_part' that can be saved; it has vision_encoder, language_model" in result.reason


@pytest.mark.slow
@pytest.mark.parametrize("system", ["ammrg", "disease_aware"])
def test_stage_1_and_memories_are_steps_of_both_systems(phantoms_and_part, system, tmp_path):
    bench = phantoms_and_part
    stage1 = {**DATA, **SHORT, "data.source": "${data}", "data.options": {}}
    if system == "ammrg":
        stage1["model.vision_encoder"] = bench["set"]["model.vision_encoder"]
        command = {"command": "memory build"}
        options = {"report_encoder": "${decoder}", "pooling": "mean", "per_disease": 3, "reports": 5}
        memories = {"visual": "${memories}/visual", "report": "${memories}/report"}
    else:
        stage1 |= {
            "model.vision_encoder": {"model_type": "vmamba", "image_size": 32, "embed_dim": 24, "depths": [1, 1]}
        }
        command, options, memories = {"command": "retrieval build"}, {}, {"retrieval": "${memories}"}
    bench["steps"]["stage1"] = {"recipe": f"{system}_stage1_phantoms", "set": stage1}
    bench["steps"]["memories"] = command | {"set": {"model": "${stage1}", "dataset": "${data}", **options}}
    bench["recipe"] = f"{system}_phantoms"
    bench["set"] |= {"model.stage1": "${stage1}", "model.vision_encoder": None, "model.memories": memories}
    bench["test"] |= {"evidence": True}
    ((cell, result),) = run_bench(make_bench(bench), tmp_path)
    assert result.state == "done", result.reason
    assert sorted(names(cell)) == ["data", "decoder", "memories", "stage1", "whole"]
    lines = (tmp_path / cell.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    known = {study for line in lines for each in json.loads(line)["evidence"].values() for study in each["studies"][0]}
    assert known >= {"study_id", "weight"}
    assert ("copied" in result.numbers) == (system == "disease_aware")
