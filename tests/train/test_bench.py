"""CXPMRG-Bench: the grid, its cells, and the table."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from html_page import Page
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mambaxray.cli import app
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.evaluation.evaluate_model import generate_predictions
from mambaxray.train import bench_run
from mambaxray.train.bench_grid import list_benches, load_bench, make_bench
from mambaxray.train.bench_run import CellResult, read_bench, run_bench
from mambaxray.train.bench_table import render_observations, render_table
from mambaxray.train.recipe import RecipeError

VISION = {"model_type": "vision_mamba", "hidden_size": 24, "num_hidden_layers": 1, "image_size": 32, "state_size": 4}
TEXT = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": 256}


def tiny(**more):
    """A bench of one cell that is done in seconds."""
    return {
        "recipe": "finetune_phantoms",
        "set": {
            "data.options": {"num_studies": 30, "image_size": 32},
            "model.vision_encoder": VISION,
            "model.language_model": TEXT,
            "model.vocab_size": 320,
            "model.max_report_length": 20,
            "generation.max_new_tokens": 5,
            "training.max_steps": 2,
            "training.per_device_train_batch_size": 4,
            "training.eval_strategy": "no",
            "training.save_strategy": "no",
        },
        "test": {"max_studies": 3, "batch_size": 2, "metrics": ["BLEU", "clinical"]},
    } | more


def grid(**more):
    return make_bench(tiny(**more))


def test_a_cell_is_one_choice_from_each_axis_and_the_last_axis_changes_fastest():
    cells = grid(dataset={"A": {}, "B": {}}, decoder={"x": {}, "y": {}}).cells()
    assert [cell.title for cell in cells] == ["A / x", "A / y", "B / x", "B / y"]
    assert [str(cell.folder) for cell in cells][-1] == "cells/b/y"
    (only,) = grid().cells()
    assert only.title == "the only cell"


def test_choices_replace_the_benchs_values_and_later_axes_those_of_earlier_ones():
    (cell,) = grid(
        vision_encoder={"v": {"set": {"model.vision_encoder": {"model_type": "vit"}, "seed": 1}}},
        checkpoint={"c": {"set": {"model.vision_encoder": "some/stage2"}}},
    ).cells()
    assert cell.recipe.model.vision_encoder == "some/stage2"
    assert cell.recipe.seed == 1
    assert cell.recipe.training["max_steps"] == 2


def test_the_cells_and_steps_of_the_bundled_benches_have_recipes():
    """Numbers of cells, and of different steps before them."""
    counts = {
        "phantoms": (6, 0),
        "cxpmrg": (3 * 4 + 14, 0),
        "cxpmrg_stages": (2 * 8, 0),
        "cxpmrg_text_encoders": (2 * 3, 0),
        "emrrg_components": (3 * 9, 0),
        "emrrg_tuned_parts": (3 * 11, 0),
        # A stage 1 and its memories for each data set; with another loss in stage 1, both once more.
        "ammrg": (3, 3 * 2),
        "ammrg_components": (2 * 6, 2 * 2 * 2),
        # One stage 1; memories of another kind in all lines but those of tables VII and X.
        "ammrg_settings": (1 + 4 + 5 + 5 + 4 + 4 + 5, 1 + 1 + 4 + 5 + 4 + 4),
        # Of all seeds: the phantoms, the whole model, its language model.
        "ammrg_components_phantoms": (3 * 5, 3 + 3 * 2 * 2),
        "ammrg_settings_phantoms": (3 * 19, 3 + 3 * (1 + 1 + 3 + 3 + 2 + 4)),
        "disease_aware": (3, 1 + 3),
        "disease_aware_components": (2 * 4, 1 + 2),
        "disease_aware_lambda": (2 * 5, 1 + 2),
        "disease_aware_fusion": (2 * 5, 1),
        "disease_aware_components_phantoms": (3 * 4, 3 + 3 * 2),
        "disease_aware_lambda_phantoms": (3 * 5, 3 + 3 * 2),
        "disease_aware_fusion_phantoms": (3 * 5, 3 + 3),
        "bidirectional": (2, 0),
        "bidirectional_components": (2 * 4, 0),
        "bidirectional_r2gengpt": (2, 0),
        "bidirectional_components_phantoms": (3 * 4, 3),
        "bidirectional_r2gengpt_phantoms": (3 * 2, 3),
    }
    found = {}
    for name in counts:
        cells = load_bench(name).cells()
        found[name] = (len(cells), len({step.key for cell in cells for step in cell.steps}))
    assert found == counts
    assert [*sorted(counts)] == list(list_benches())
    assert all(list_benches().values()), "a bench without a description"


def test_cxpmrgs_decoders_are_table_2s_on_chexpert_plus_and_iu_x_ray_keeps_its_own():
    cells = load_bench("cxpmrg").cells()
    of_iu = {cell.recipe.model.language_model for cell in cells if cell.names["dataset"] == "IU X-ray"}
    assert of_iu == {"Qwen/Qwen1.5-1.8B-Chat"}
    table_2 = {cell.recipe.model.language_model: cell for cell in cells if not cell.names["decoder"].startswith("the ")}
    assert len(table_2) == 14
    assert {"Qwen/Qwen2-7B-Instruct", "lmsys/vicuna-7b-v1.5", "01-ai/Yi-1.5-9B-Chat"} <= set(table_2)
    assert {cell.names["dataset"] for cell in table_2.values()} == {"CheXpert Plus"}
    assert {cell.names["vision_encoder"] for cell in table_2.values()} == {"Swin-B"}


def test_a_choice_can_be_kept_to_choices_of_other_axes():
    axes = {"dataset": {"A": {}, "B": {}}, "decoder": {"x": {}, "y": {"only": {"dataset": ["B"]}}}}
    assert [cell.title for cell in grid(**axes).cells()] == ["A / x", "B / x", "B / y"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"decoders": {}}, "unknown key decoders; did you mean decoder"),
        ({"seeds": [1, 1]}, "seeds must be different integers, got"),
        ({"decoder": {}}, "decoder must hold choices by name"),
        ({"decoder": {"x": {"sets": {}}}}, r"unknown key decoder\.x\.sets; did you mean set"),
        ({"decoder": {"x": {"set": {"model.lora_rank": 1}}}}, "cell x: unknown key model.lora_rank"),
        ({"decoder": {"x": {"set": {"stage.y": 1}}}}, "stage has no keys below it"),
        ({"decoder": {"x": {"train": False}}}, "cell x: train: false needs model.checkpoint"),
        ({"decoder": {"Llama 2": {}, "llama-2": {}}}, "would share cells/llama-2"),
        ({"processes": 0}, "processes must be positive"),
        ({"published": "some"}, "published must be own, all or none"),
        ({"published": {"AM-MRG": ["IV", "40"]}}, "published names table 40 of 'AM-MRG'; there are AM-MRG I"),
        ({"columns": ["epoch"]}, "columns can be Bleu_1, .*copied_by_chance, or eval_ and a name, got 'epoch'"),
        ({"test": {"batch_size": 0}}, r"test\.batch_size must be positive"),
        ({"test": {"batch_size": "huge"}}, r"test\.batch_size must be a number or largest, got 'huge'"),
        ({"test": {"batch_size": "largest"}, "processes": 2}, "largest needs processes: 1"),
        ({"decoder": {"x": {"only": {"decoder": ["x"]}}}}, r"decoder\.x\.only maps dataset, .* got decoder"),
        ({"decoder": {"x": {"only": {"dataset": "A"}}}}, r"got dataset: 'A'"),
        ({"decoder": {"x": {"only": {"dataset": ["B"]}}}, "dataset": {"A": {}}}, "names 'B'; dataset has A"),
        (
            {
                "decoder": {"x": {"only": {"dataset": ["A"]}}},
                "dataset": {"A": {"only": {"variant": ["v"]}}, "B": {}},
                "variant": {"v": {"only": {"dataset": ["B"]}}},
            },
            "no cell is left",
        ),
        ({"decoder": {"x": {"predictions": "p.csv", "train": True}}}, "cell x: predictions and train: true exclude"),
        ({"test": {"metrics": ["BLUE"]}}, r"test\.metrics: .*BLUE"),
    ],
)
def test_an_error_in_a_bench_is_told_before_anything_runs(more, message):
    with pytest.raises(RecipeError, match=message):
        grid(**more).cells()


def test_an_unknown_bench_is_told_with_the_known_ones():
    with pytest.raises(FileNotFoundError, match=r"no bench 'nothing'.*phantoms"):
        load_bench("nothing")


def test_a_bench_can_extend_another_and_replaces_whole_keys_of_it(tmp_path):
    files = {name: tmp_path / f"{name}.yaml" for name in ("base", "more", "round")}
    files["base"].write_text(json.dumps(tiny(seeds=[1], decoder={"x": {}}, description="the base")))
    files["more"].write_text(json.dumps({"extends": str(files["base"]), "decoder": {"y": {}, "z": {}}}))
    bench = load_bench(files["more"])
    assert [cell.title for cell in bench.cells()] == ["y, seed 1", "z, seed 1"]
    assert bench.description == "the base"
    files["round"].write_text(json.dumps({"extends": str(files["round"])}))
    with pytest.raises(RecipeError, match="extends must name another bench"):
        load_bench(files["round"])
    files["round"].write_text(json.dumps({"extends": 3}))
    with pytest.raises(RecipeError, match="extends must name another bench, got 3"):
        load_bench(files["round"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a cell that is done, and cells that can't be."""
    folder = tmp_path_factory.mktemp("bench")
    bench = grid(
        dataset={
            "phantoms": {},
            "IU X-ray": {"set": {"data.source": "no/such/iu_xray", "data.options": {}}},
        },
        vision_encoder={
            "tiny": {},
            "absent": {"set": {"model.vision_encoder": str(folder / "no_such_encoder")}},
            "wrong": {"set": {"model.freeze": ["no_such_part"]}},
        },
    )
    calls = []
    results = run_bench(bench, folder, progress=lambda cell, result: calls.append((cell.title, result)))
    return folder, bench, results, calls


def test_a_cell_leaves_its_scores_time_and_number_of_trained_parameters(finished):
    folder, _, results, _ = finished
    cell, result = results[0]
    assert cell.title == "phantoms / tiny"
    assert result.state == "done"
    assert result.studies == 3
    assert result.minutes > 0
    assert result.trained_parameters > 1000
    assert 0 <= result.scores["F1_macro_14_uncertain-negative"] <= 1
    assert 0 <= result.scores["Bleu_4"] <= 1
    assert "protocol:full-reference" in result.signature
    page = Page((folder / result.page).read_text(encoding="utf-8"))
    assert len(page.all("article")) == len(page.all("img")) == 3
    assert {"best constant report", "random training report"} <= set(page.text)


def test_cells_that_lack_data_or_weights_or_fail_say_why_and_stop_no_other(finished):
    _, _, results, _ = finished
    told = {cell.title: (result.state, result.reason) for cell, result in results[1:]}
    assert told["phantoms / absent"][0] == "lacking"
    assert "no_such_encoder" in told["phantoms / absent"][1]
    assert told["phantoms / wrong"][0] == "failed"
    assert "no_such_part" in told["phantoms / wrong"][1]
    assert {state for title, (state, _) in told.items() if title.startswith("IU")} == {"lacking"}
    assert "no/such/iu_xray" in told["IU X-ray / tiny"][1]


def test_a_second_run_tries_only_what_is_not_done(finished):
    folder, bench, results, calls = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "cells/phantoms/tiny").rglob("*")}
    again = []
    assert run_bench(bench, folder, progress=lambda c, r: again.append((c.title, r))) == results
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert ("phantoms / tiny", None) in calls
    assert ("phantoms / tiny", None) not in again
    assert ("phantoms / absent", None) in again


def test_an_interrupted_cell_goes_on_from_its_trained_model(finished, tmp_path):
    folder, bench, results, _ = finished
    copy = tmp_path / "bench"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    cell = copy / "cells/phantoms/tiny"
    (cell / "result.json").unlink()
    lines = (cell / "predictions.jsonl").read_text().splitlines(keepends=True)
    weights = (cell / "run/model/model.safetensors").stat().st_mtime_ns
    (cell / "predictions.jsonl").write_text(lines[0])
    # Its path is part of what the predictions say about their model.
    lines[0] = lines[0].replace(str(folder), str(copy))
    (cell / "predictions.jsonl").write_text(lines[0])
    assert run_bench(bench, copy)[0][1].scores == results[0][1].scores
    assert (cell / "run/model/model.safetensors").stat().st_mtime_ns == weights
    assert (cell / "predictions.jsonl").read_text().startswith(lines[0])


def test_a_checkpoint_is_evaluated_as_it_is(finished, tmp_path):
    folder, _, results, _ = finished
    model = {"model.checkpoint": str(folder / "cells/phantoms/tiny/run/model")}
    model |= {"model.vision_encoder": None, "model.language_model": None, "model.vocab_size": 1000}
    bench = grid(variant={"ready": {"set": model, "train": False}})
    ((_, result),) = run_bench(bench, tmp_path / "bench")
    assert result.state == "done", result.reason
    assert result.scores == results[0][1].scores
    assert result.trained_parameters is None
    assert not (tmp_path / "bench/cells/ready/run").exists()


def test_a_cell_whose_model_was_trained_anew_in_its_folder_is_run_again(finished, tmp_path, caplog):
    checkpoint = tmp_path / "model"
    shutil.copytree(finished[0] / "cells/phantoms/tiny/run/model", checkpoint)
    model = {"model.checkpoint": str(checkpoint)}
    model |= {"model.vision_encoder": None, "model.language_model": None, "model.vocab_size": 1000}
    bench = grid(variant={"ready": {"set": model, "train": False}})
    run_bench(bench, tmp_path / "bench")
    predictions = tmp_path / "bench/cells/ready/predictions.jsonl"
    before = predictions.read_text(encoding="utf-8")
    run_bench(bench, tmp_path / "bench")
    assert predictions.read_text(encoding="utf-8") == before
    weights = load_file(checkpoint / "model.safetensors")
    save_file(
        {name: weight * 2 for name, weight in weights.items()}, checkpoint / "model.safetensors", {"format": "pt"}
    )
    ((_, result),) = run_bench(bench, tmp_path / "bench")
    assert result.state == "done", result.reason
    assert "parts have changed" in caplog.text
    assert predictions.read_text(encoding="utf-8") != before


def test_somebodys_prediction_file_is_a_row_scored_as_ours(finished, tmp_path):
    folder, _, results, _ = finished
    theirs = tmp_path / "theirs.jsonl"
    lines = [json.loads(line) for line in (folder / "cells/phantoms/tiny/predictions.jsonl").read_text().splitlines()]
    theirs.write_text("".join(json.dumps({k: line[k] for k in ("study_id", "report")}) + "\n" for line in lines))
    bench = grid(vision_encoder={"theirs": {"predictions": str(theirs)}})
    ((_, result),) = run_bench(bench, tmp_path / "bench")
    assert result.state == "done", result.reason
    assert result.scores == results[0][1].scores
    assert result.minutes is None
    assert result.trained_parameters is None
    # Other content is another row; a study too few is said by name.
    theirs.write_text(theirs.read_text().split("\n", 1)[1])
    ((_, result),) = run_bench(bench, tmp_path / "bench")
    assert result.state == "failed"
    assert f"no report for 1 of 3 test studies: {lines[0]['study_id']}" in result.reason
    theirs.unlink()
    ((_, result),) = run_bench(bench, tmp_path / "bench")
    assert result.state == "lacking"


def test_the_largest_batch_that_fits_is_found(finished, tmp_path, monkeypatch):
    folder, _, results, _ = finished
    tried = []

    def generate(*arguments, batch_size, **options):
        tried.append(batch_size)
        if batch_size > 64:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate_predictions(*arguments, batch_size=batch_size, **options)

    monkeypatch.setattr(bench_run, "generate_predictions", generate)
    model = {"model.checkpoint": str(folder / "cells/phantoms/tiny/run/model")}
    model |= {"model.vision_encoder": None, "model.language_model": None, "model.vocab_size": 1000}
    test = tiny()["test"] | {"batch_size": "largest"}
    bench = grid(variant={"ready": {"set": model, "train": False}}, test=test)
    ((_, result),) = run_bench(bench, tmp_path / "bench")
    assert result.state == "done", result.reason
    assert tried[0] == 256
    assert 55 < tried[-1] <= 64 < tried[-2]
    assert result.scores == results[0][1].scores


def test_the_folder_tells_the_bench_and_its_results(finished, tmp_path):
    folder, bench, results, _ = finished
    assert read_bench(folder) == (bench, results)
    with pytest.raises(FileNotFoundError, match="holds no bench"):
        read_bench(tmp_path)


def outcome(**more):
    scores = {"Bleu_4": 0.1234, "CIDEr": 0.5} | {
        f"{name}_{average}_14_uncertain-negative": value
        for average, value in (("micro", 0.5), ("macro", 0.25))
        for name in ("precision", "recall", "F1")
    }
    return CellResult("done", scores=scores, signature="nrefs:1", minutes=12.5, trained_parameters=57_310_000, **more)


def example(published="own"):
    bench = grid(
        description="A & B_1",
        published=published,
        dataset={"CheXpert Plus": {}},
        vision_encoder={"Swin": {}, "ViT|x": {}},
        decoder={"Llama": {}},
    )
    return bench, list(zip(bench.cells(), [outcome(), CellResult("lacking", "no\nweights")], strict=True))


def rows_of(markdown):
    table = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table]


def test_the_markdown_table_has_the_papers_columns_and_own_rows_beside_ours():
    rows = rows_of(render_table(*example(), "markdown"))
    averages = ["P micro", "R micro", "F1 micro", "P macro", "R macro", "F1 macro"]
    assert rows[0][4:16] == ["B4", "R-L", "M", "C", *averages, "min", "M par."]
    assert rows[2][:4] == ["CheXpert Plus", "this run", "Swin", "Llama"]
    assert rows[2][4:16] == ["0.123", "–", "–", "0.500", *["0.500"] * 3, *["0.250"] * 3, "12.50", "57.31"]
    assert rows[3][2] == "ViT\\|x"
    assert rows[3][-1] == "lacking: no weights"
    assert rows[3][4:16] == ["–"] * 12
    published = {row[1]: row for row in rows[4:]}
    assert published["MambaXray-VL-L"][2:] == [
        *("MambaXray-VL", "Llama2", "0.112", "0.276", "0.157", "0.139"),
        *("–", "–", "–", "0.377", "0.319", "0.335", "55.18", "202.32"),
        "MambaXray-VL, table 1",
    ]
    # One line of three tables.
    assert published["EMRRG"][4:] == [
        *("0.104", "0.273", "0.152", "0.167", "–", "–", "–", "0.341", "0.273", "0.272", "26.84", "1.32"),
        "EMRRG, table 1, 3, 4",
    ]


def test_the_papers_own_clinical_scores_on_mimic_stand_in_the_micro_columns():
    bench = grid(published="all", dataset={"MIMIC-CXR": {}})
    rows = rows_of(render_table(bench, [(bench.cells()[0], CellResult("open"))], "markdown"))
    of = {(row[1], row[-1]): row[8:14] for row in rows}
    assert of["EMRRG", "EMRRG, table 1, 2"] == ["0.421", "0.372", "0.395", "–", "–", "–"]
    assert of["KiUT", "EMRRG, table 2"] == ["–", "–", "–", "0.371", "0.318", "0.321"]


def test_seeds_make_cells_of_their_own_and_one_line_with_intervals():
    bench = grid(published="none", seeds=[3, 5, 8], dataset={"A": {}}, vision_encoder={"Swin": {}, "ViT": {}})
    cells = bench.cells()
    assert [cell.recipe.seed for cell in cells] == [3, 5, 8, 3, 5, 8]
    assert [cell.title for cell in cells[:2]] == ["A / Swin, seed 3", "A / Swin, seed 5"]
    assert cells[4].folder == Path("cells/a/vit/seed-5")
    results = []
    for bleu in (0.1, 0.2, 0.3):
        done = outcome()
        results.append(replace(done, scores=done.scores | {"Bleu_4": bleu}))
    results += [outcome(), CellResult("open"), CellResult("failed", "no memory")]
    pairs = list(zip(cells, results, strict=True))
    rows = rows_of(render_table(bench, pairs, "markdown"))
    # Student's t with two degrees of freedom is 4.303; the standard error is 0.1 / sqrt(3).
    assert rows[2][4:8] == ["0.200 ± 0.248", "–", "–", "0.500"]
    assert len(rows[2]) == 16  # no remark
    assert rows[3][4] == "0.123"
    assert rows[3][-1] == "1 of 3 seeds; failed: no memory"
    assert "seeds 3, 5, 8" in render_table(bench, pairs, "markdown")
    assert r"0.200 $\pm$ 0.248" in render_table(bench, pairs, "latex")


def test_all_or_no_published_rows_can_be_asked_for():
    counts = [len(rows_of(render_table(*example(which), "markdown"))) for which in ("none", "own", "all")]
    assert counts[0] == 4
    assert counts[1] == 4 + 5
    assert counts[2] > 50


def test_the_rows_of_named_tables_stand_below_ours_whatever_their_data_set():
    bench = grid(published={"AM-MRG": ["IV"]}, dataset={"phantoms": {}, "MIMIC-CXR": {}})
    rows = rows_of(render_table(bench, [(cell, CellResult("open")) for cell in bench.cells()], "markdown"))[2:]
    assert [(row[0], row[1]) for row in rows] == [
        ("phantoms", "this run"),
        ("MIMIC-CXR", "this run"),
        *(("MIMIC-CXR", name) for name in ("setting #01", "setting #02", "setting #03", "AM-MRG")),
        *(("CheXpert Plus", name) for name in ("setting #01", "setting #02", "setting #03", "AM-MRG")),
    ]
    # The ablations of the paper's own system have micro averages on MIMIC-CXR, and others elsewhere.
    assert rows[5][8:14] == ["0.555", "0.429", "0.484", "–", "–", "–"]
    assert rows[9][8:14] == ["–", "–", "–", "0.396", "0.318", "0.336"]


def test_a_bench_can_have_more_columns_and_says_which_metrics_could_not_be_computed():
    columns = ["Bleu_1", "RadGraph_F1", "epochs", "loss_gap", "eval_text_to_vision"]
    bench = grid(published={"Bidirectional": ["3"]}, dataset={"MIMIC-CXR": {}}, columns=columns)
    result = replace(
        outcome(),
        numbers={"epochs": 2.0, "loss_gap": 0.25, "eval_text_to_vision": 7},
        unavailable={"RadGraph": "needs radeval"},
    )
    text = render_table(bench, [(bench.cells()[0], result)], "markdown")
    rows = rows_of(text)
    assert rows[0][4:10] == ["B1", "RadGraph F1", "epochs", "loss gap", "text_to_vision", "B4"]
    assert rows[2][4:10] == ["–", "–", "2.00", "0.250", "7.000", "0.123"]
    assert rows[6][1:10] == ["V2T + T2V + image reconstruction", "", "", "–", "0.203", "5.00", "–", "–", "0.144"]
    assert "- Not available: RadGraph: needs radeval" in text
    assert "loss gap: validation loss less training loss" in text


def test_recall_by_observation_has_the_most_frequent_first_and_a_column_for_each_line():
    bench = grid(published="none", seeds=[1, 2], dataset={"A": {}}, variant={"without": {}, "with": {}})

    def recalls(value):
        return {f"{name}_{o}_uncertain-negative": 0 for name in ("support", "recall") for o in OBSERVATIONS} | {
            "support_Edema_uncertain-negative": 30,
            "support_Fracture_uncertain-negative": 3,
            "recall_Edema_uncertain-negative": 0.5,
            "recall_Fracture_uncertain-negative": value,
        }

    values = (0.0, 0.0, 0.25, 0.75)
    results = [replace(outcome(), scores=recalls(value)) for value in values]
    pairs = list(zip(bench.cells(), results, strict=True))
    text = render_observations(bench, pairs, "markdown")
    rows = rows_of(text)
    assert rows[0] == ["data set", "observation", "studies", "without", "with"]
    assert rows[2] == ["A", "Edema", "30", "0.500", "0.500"]
    # Student's t with one degree of freedom is 12.706; the standard error is 0.25.
    assert rows[3] == ["A", "Fracture", "3", "0.000", "0.500 ± 3.177"]
    assert len(rows) == 2 + 14
    assert "seeds 1, 2" in text
    with pytest.raises(ValueError, match=r"name clinical in test\.metrics"):
        render_observations(bench, [(bench.cells()[0], CellResult("open"))], "markdown")


def test_the_latex_table_is_escaped_and_balanced():
    text = render_table(*example(), "latex")
    assert r"A \& B\_1" in text
    assert r"ViT\textbar{}x" in text
    for kind in ("table", "tabular"):
        assert text.count(rf"\begin{{{kind}}}") == text.count(rf"\end{{{kind}}}") == 1
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in lines} == {16}


def test_the_html_table_fetches_nothing_and_tells_ours_from_theirs():
    shown = Page(render_table(*example(), "html"))
    assert len(shown.all("tr", **{"class": "own"})) == 2
    assert len(shown.all("tr", **{"class": "published"})) == 5
    assert not shown.all("script")
    assert {"0.123", "EMRRG, table 1, 3, 4", "Scored as: nrefs:1"} <= set(shown.text)


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="'pdf': must be one of markdown, latex, html"):
        render_table(*example(), "pdf")


def test_the_command_prints_and_writes_the_table(finished, tmp_path):
    folder, *_ = finished
    runner = CliRunner()
    printed = runner.invoke(app, ["bench", "table", str(folder)])
    assert printed.exit_code == 0, printed.output
    assert "| phantoms |" in printed.stdout
    recalls = runner.invoke(app, ["bench", "table", str(folder), "--observations"])
    assert recalls.exit_code == 0, recalls.output
    assert "| phantoms | Pleural Effusion |" in recalls.stdout
    file = tmp_path / "new" / "table.html"
    written = runner.invoke(app, ["bench", "table", str(folder), "--format", "html", "--output", str(file)])
    assert written.exit_code == 0, written.output
    assert Page(file.read_text(encoding="utf-8")).all("table")
    absent = runner.invoke(app, ["bench", "table", str(tmp_path)])
    assert absent.exit_code == 2
    assert "holds no bench" in absent.stderr


@pytest.mark.slow
def test_a_phantom_grid_of_three_encoders_and_two_decoders_takes_less_than_three_minutes(tmp_path):
    started = time.perf_counter()
    program = Path(sys.executable).with_name("mambaxray")
    ran = subprocess.run(
        [program, "bench", "run", "phantoms", "--output", tmp_path],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "6 of 6 cells are done" in ran.stderr
    assert seconds < 180
    assert len(list(tmp_path.rglob("result.json"))) == 12, "one of each run and one of each cell"
    for file in tmp_path.glob("cells/*/*/*/result.json"):
        assert json.loads(file.read_text())["result"]["studies"] == 16


@pytest.mark.slow
def test_two_processes_train_and_evaluate_a_cell_together(tmp_path):
    ((_, result),) = run_bench(grid(processes=2), tmp_path)
    assert result.state == "done", result.reason
    assert result.studies == 3
    environment = json.loads((tmp_path / "cells/cell/run/environment.json").read_text())
    assert environment["processes"] == 2
