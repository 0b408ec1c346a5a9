"""Building memories of training studies: what is chosen, what is refused, and the same bits however it is done."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import datasets
import pytest
import torch
from tiny_classifier import save_classifier, save_outside_classifier
from transformers import AutoModel, BertConfig, LlamaConfig

from mambaxray import MambaXrayDualEncoder, VisionMambaConfig, VisionMambaModel, load_studies
from mambaxray.data.output_lock import OutputInUseError, locked_output
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.modeling_mambaxray.layers.activation_maps import (
    class_activation_maps,
    region_tokens,
    strongest_regions,
)
from mambaxray.modeling_mambaxray.layers.exemplar_retriever import ExemplarRetriever
from mambaxray.modeling_mambaxray.layers.report_encoder import ReportEncoder
from mambaxray.modeling_mambaxray.layers.study_memory import HeldOutStudyError, StudyMemory
from mambaxray.modeling_mambaxray.layers.views import encode_images
from mambaxray.train.build_memories import build_am_mrg_memories, build_retrieval_memory
from mambaxray.train.memory_building import build_memory
from mambaxray.train.memory_schedule import Schedule, Track
from mambaxray.train.report_memory import ReportMemoryOptions, choose_by_share
from mambaxray.train.retrieval_memory import plan_retrieval_memory
from mambaxray.train.stage_one import NoClassifierError, StageOneEncoder
from mambaxray.train.stored_models import StoredModel
from mambaxray.train.tokenizer import train_report_tokenizer
from mambaxray.train.training_studies import MemoryBuildError, TrainingStudies
from mambaxray.train.visual_memory import VisualMemoryOptions

FEW = VisualMemoryOptions(per_disease=7)
FILES = {"memory.json", "memory.safetensors"}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    return save_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data() -> datasets.DatasetDict:
    return load_studies("phantoms", num_studies=40, image_size=32, views=("PA", "LATERAL"))


@pytest.fixture(scope="module")
def reports(data) -> list[str]:
    return list(data["train"]["report"])


def save_text_encoder(folder: Path, config, reports: list[str]) -> str:
    tokenizer = train_report_tokenizer(reports, vocab_size=320)
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory, reports) -> str:
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    return save_text_encoder(tmp_path_factory.mktemp("bert"), config, reports)


@pytest.fixture(scope="module")
def visual(classifier, data, tmp_path_factory) -> StudyMemory:
    """A visual bank, as others are compared with."""
    folder = tmp_path_factory.mktemp("visual")
    built = build_am_mrg_memories(folder, classifier, data, kinds=["visual"], visual=FEW, batch_size=4)
    assert {path.name for path in (folder / "visual").iterdir()} == FILES
    return built["visual"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def exemplars(memory: StudyMemory, k: int) -> dict[str, list[int]]:
    """Rows that are found for the memory's own studies."""
    vectors = memory.vectors["visual"], memory.vectors["disease"]
    found = ExemplarRetriever(memory).search(*vectors, memory.study_ids, memory.patient_ids, k)
    assert found.rows.shape == (len(memory), k)
    return dict(zip(memory.study_ids, found.rows.tolist(), strict=True))


def changed(data: datasets.DatasetDict, split: str = "train", **columns) -> datasets.DatasetDict:
    """The data set with other values, given by functions of a row, in columns of one split."""
    new = data[split].cast_column("images", datasets.List(datasets.Image(decode=False)))
    new = new.map(lambda row: {name: value(row) for name, value in columns.items()}, keep_in_memory=True)
    return datasets.DatasetDict({**data, split: new.cast(data[split].features)})


# ------------------------------------------------------------------------------------------------- what is in it


def test_a_visual_bank_holds_at_most_so_many_regions_of_studies_that_have_the_observation(visual, data) -> None:
    labels = dict(zip(data["train"]["study_id"], data["train"]["labels"], strict=True))
    assert all(labels[s][o] == 1 for s, o in zip(visual.study_ids, visual.observations, strict=True))
    counts = visual.counts()["rows_by_observation"]
    assert max(counts.values()) == 7
    assert list(counts) == [name for name in OBSERVATIONS if name in counts]
    assert visual.reports is None
    assert visual.vectors["values"].shape == (len(visual), 24)
    # An observation with fewer regions than wanted has used all of its studies up.
    few = [name for name in counts if counts[name] < 7]
    assert few
    per_image = Counter(zip(visual.study_ids, visual.observations, strict=True))
    assert max(per_image.values()) <= 2 * 6  # two views


def test_its_rows_are_the_tokens_of_the_masked_images_of_both_views(visual, classifier, data) -> None:
    name = visual.observations[0]
    study = visual.study_ids[0]
    row = data["train"][data["train"]["study_id"].index(study)]
    model, image_processor = StageOneEncoder(classifier).parts
    images = image_processor([row["images"]], return_tensors="pt")["pixel_values"][0]
    with torch.no_grad():
        tokens = encode_images(model.vision_encoder, images)
    maps = class_activation_maps(model, tokens, [OBSERVATIONS.index(name)], 2)
    expected = region_tokens(model, images, strongest_regions(maps, 0.5, 6))
    assert torch.allclose(visual.vectors["values"][: len(expected)], expected[:7], atol=1e-4)


def test_where_it_comes_from_is_recorded(visual, classifier) -> None:
    source = visual.source
    assert (source.data_set, source.encoder, source.seed) == ("a data set in memory", classifier, 0)
    assert source.options["cam"] == "gradcam"
    assert source.options["threshold"] == 0.5
    assert source.options["model"]
    assert source.options["studies"]


def test_another_seed_chooses_other_studies_and_another_map_other_regions(visual, classifier, data, tmp_path) -> None:
    settings = {"kinds": ["visual"], "batch_size": 4}
    other = build_am_mrg_memories(tmp_path / "a", classifier, data, visual=FEW, seed=1, **settings)["visual"]
    assert other.study_ids != visual.study_ids
    hires = VisualMemoryOptions(cam="hirescam", per_disease=7)
    assert build_am_mrg_memories(tmp_path / "b", classifier, data, visual=hires, **settings)["visual"].source != (
        visual.source
    )


def test_a_report_memory_holds_each_report_once_and_its_vector_is_the_encoders(bert, data, tmp_path) -> None:
    options = ReportMemoryOptions(reports=12, unit="report")
    memory = build_am_mrg_memories(tmp_path, "", data, kinds=["report"], report=options, report_encoder=bert)["report"]
    assert len(memory) == 12
    assert len(set(memory.study_ids)) == 12
    labels = dict(zip(data["train"]["study_id"], data["train"]["labels"], strict=True))
    assert all(labels[s][o] == 1 for s, o in zip(memory.study_ids, memory.observations, strict=True))
    texts = dict(zip(data["train"]["study_id"], data["train"]["report"], strict=True))
    assert list(memory.reports) == [texts[study] for study in memory.study_ids]
    from transformers import AutoTokenizer

    encoder = ReportEncoder.from_pretrained(bert, pooling="cls")
    expected = encoder.encode(memory.reports, AutoTokenizer.from_pretrained(bert))
    assert torch.allclose(memory.vectors["values"], expected, atol=1e-5)


def test_a_decoder_encodes_reports_too_and_the_text_can_be_left_out(data, reports, tmp_path) -> None:
    config = LlamaConfig(hidden_size=24, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    folder = save_text_encoder(tmp_path / "llama", config, reports)
    options = ReportMemoryOptions(reports=5, pooling="last", dtype="bfloat16")
    built = build_am_mrg_memories(
        tmp_path, "", data, kinds=["report"], report=options, report_encoder=folder, with_reports=False
    )
    assert built["report"].vectors["values"].shape == (5, 24)
    assert built["report"].reports is None
    saved = b"".join(contents(tmp_path / "report").values()).decode("utf-8", errors="ignore")
    assert not any(report in saved for report in reports)
    # Its first token has seen nothing, so all reports would have the same vector.
    with pytest.raises(MemoryBuildError, match="a llama model has seen nothing of the text"):
        build_am_mrg_memories(tmp_path / "cls", "", data, kinds=["report"], report_encoder=folder)
    assert not (tmp_path / "cls").exists()


def test_the_text_encoder_of_a_dual_encoder_encodes_reports(data, bert, reports, tmp_path) -> None:
    from transformers import AutoTokenizer

    encoder = VisionMambaModel(VisionMambaConfig(hidden_size=16, num_hidden_layers=1, image_size=32, patch_size=16))
    dual = MambaXrayDualEncoder.from_vision_text_pretrained(encoder, bert, projection_dim=8)
    dual.save_pretrained(tmp_path / "dual")
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "dual")
    options = ReportMemoryOptions(reports=4)
    by_dual, by_bert = (
        build_am_mrg_memories(tmp_path / name, "", data, kinds=["report"], report=options, report_encoder=folder)
        for name, folder in (("of_dual", str(tmp_path / "dual")), ("of_bert", bert))
    )
    torch.testing.assert_close(by_dual["report"].vectors, by_bert["report"].vectors)


def test_shares_follow_the_frequencies_the_rare_come_first_and_nothing_is_chosen_twice() -> None:
    candidates = {"common": list(range(80)), "rare": [0, 1], "middle": list(range(70, 100))}
    chosen = choose_by_share(candidates, 28)
    assert {name: len(items) for name, items in chosen.items()} == {"common": 20, "rare": 1, "middle": 7}
    assert chosen["rare"] == [0]
    everything = [item for items in chosen.values() for item in items]
    assert len(set(everything)) == len(everything)
    # More than there are: each once.
    assert sorted(item for items in choose_by_share(candidates, 500).values() for item in items) == list(range(100))
    assert choose_by_share({"a": [1], "b": [1]}, 2) == {"a": [1], "b": []}


def test_a_retrieval_memory_holds_every_study_with_a_report_and_finds_no_own_study(classifier, data, tmp_path) -> None:
    silent = data["train"]["study_id"][3]
    data = changed(data, report=lambda row: "  " if row["study_id"] == silent else row["report"])
    memory = build_retrieval_memory(tmp_path, classifier, data, batch_size=8)
    assert list(memory.study_ids) == [study for study in data["train"]["study_id"] if study != silent]
    assert memory.vectors["disease"].shape == (31, 14)
    row = data["train"][0]
    model, image_processor = StageOneEncoder(classifier).parts
    with torch.no_grad():
        output = model(**image_processor([row["images"]], return_tensors="pt"))
    assert torch.allclose(memory.vectors["visual"][0], output.visual_tokens[0].mean(dim=0), atol=1e-4)
    assert torch.allclose(memory.vectors["disease"][0], output.logits[0], atol=1e-4)
    for study, found in exemplars(memory, k=2).items():
        assert study not in {memory.study_ids[row] for row in found}


def test_a_study_id_that_repeats_across_views_is_never_its_own_exemplar(classifier, data, tmp_path) -> None:
    names = data["train"]["study_id"]
    per_view = changed(
        data,
        study_id=lambda row: names[names.index(row["study_id"]) // 2 * 2],
        patient_id=lambda row: names[names.index(row["study_id"]) // 2 * 2],
    )
    studies = TrainingStudies(per_view)
    memory = build_memory(tmp_path, studies, plan_retrieval_memory(studies, StoredModel.find(classifier), "phantoms"))
    assert len(memory) == 2 * len(set(memory.study_ids))
    for study, found in exemplars(memory, k=1).items():
        assert memory.study_ids[found[0]] != study


# -------------------------------------------------------------------------------------------- what is refused


def test_studies_of_patients_of_other_splits_are_refused_or_left_out(classifier, data, tmp_path) -> None:
    shared = data["train"]["study_id"][5]
    patient = data["test"]["patient_id"][0]
    leaky = changed(data, patient_id=lambda row: patient if row["study_id"] == shared else row["patient_id"])
    for build in (build_am_mrg_memories, build_retrieval_memory):
        with pytest.raises(HeldOutStudyError, match=f"patient {patient} of study {shared} has studies in the test"):
            build(tmp_path / "refused", classifier, leaky, **({"kinds": ["visual"]} if "am" in build.__name__ else {}))
    assert not (tmp_path / "refused").exists()
    memory = build_retrieval_memory(tmp_path / "kept", classifier, leaky, leave_out_shared_patients=True)
    assert shared not in memory.study_ids
    assert len(memory) == len(data["train"]) - 1
    StudyMemory.from_pretrained(tmp_path / "kept", TrainingStudies(leaky, leave_out_shared_patients=True).split)


def test_a_study_that_is_in_two_splits_is_refused(classifier, data, tmp_path) -> None:
    twin = data["test"]["study_id"][0]
    first = data["train"]["study_id"][0]
    leaky = changed(data, study_id=lambda row: twin if row["study_id"] == first else row["study_id"])
    with pytest.raises(ValueError, match=f"in two splits, the first is {twin}"):
        TrainingStudies(leaky)
    with pytest.raises(ValueError, match=twin):
        build_retrieval_memory(tmp_path / "m", classifier, leaky)


def test_no_study_of_another_split_is_in_any_memory(visual, data) -> None:
    held_out = {study for name in ("validation", "test") for study in data[name]["study_id"]}
    assert held_out
    assert not held_out & set(visual.study_ids)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kinds": ["audio"]}, ValueError, "kinds must be visual, report or both, got audio"),
        ({"kinds": []}, ValueError, "got none"),
        ({"processes": 0}, ValueError, "processes is 0"),
        ({"model": "no/such/folder/at/all"}, FileNotFoundError, "no such folder, and no such model"),
        ({"source": "elsewhere"}, FileNotFoundError, "names no studies"),
    ],
)
def test_mistakes_are_named_before_any_model_works(change, error, message, classifier, data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(StageOneEncoder, "parts", property(lambda self: pytest.fail("a model was loaded")))
    settings = {"model": classifier, "source": data, "kinds": ["visual"]} | change
    with pytest.raises(error, match=message):
        build_am_mrg_memories(tmp_path / "m", **settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: VisualMemoryOptions(cam="scorecam"), "must be one of gradcam"),
        (lambda: VisualMemoryOptions(threshold=1.0), "threshold must be at least 0 and below 1, got 1.0"),
        (lambda: VisualMemoryOptions(regions=0), "regions must be 1 or more, got 0"),
        (lambda: ReportMemoryOptions(pooling="tokens"), "pooling must be one of last, cls, mean, got 'tokens'"),
        (lambda: ReportMemoryOptions(unit="word"), "unit must be one of report, sentence, got 'word'"),
        (lambda: ReportMemoryOptions(dtype="float"), None),
        (lambda: ReportMemoryOptions(dtype="bf16"), "dtype must be one of torch's, such as bfloat16, got 'bf16'"),
        (lambda: ReportMemoryOptions(reports=0), "reports must be 1 or more, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    if message is None:
        options()
        return
    with pytest.raises(ValueError, match=message):
        options()


def test_a_model_that_is_no_classifier_is_refused(bert, data, tmp_path) -> None:
    with pytest.raises(NoClassifierError, match="is a bert model, not a classifier with disease queries"):
        build_retrieval_memory(tmp_path / "m", bert, data)


def test_without_training_studies_labels_or_reports_there_is_nothing_to_keep(classifier, bert, data, tmp_path) -> None:
    unlabelled = changed(data, labels=lambda row: dict.fromkeys(OBSERVATIONS))
    silent = changed(data, report=lambda row: "")
    with pytest.raises(MemoryBuildError, match="there are no training studies, only test"):
        build_retrieval_memory(tmp_path / "m", classifier, datasets.DatasetDict(test=data["test"]))
    with pytest.raises(MemoryBuildError, match="prepare the data set with labels"):
        build_am_mrg_memories(tmp_path / "m", classifier, unlabelled, kinds=["visual"])
    for source in (unlabelled, silent):
        with pytest.raises(MemoryBuildError, match="both a report and a label"):
            build_am_mrg_memories(tmp_path / "m", "", source, kinds=["report"], report_encoder=bert)
    with pytest.raises(MemoryBuildError, match="no training study has a report"):
        build_retrieval_memory(tmp_path / "m", classifier, silent)


def test_a_threshold_that_no_region_passes_leaves_an_observation_out_not_the_bank(classifier, data, tmp_path) -> None:
    """The strongest patch is at 1, so only a map without contrast keeps nothing."""
    strict = VisualMemoryOptions(threshold=0.999, per_disease=3)
    memory = build_am_mrg_memories(tmp_path, classifier, data, kinds=["visual"], visual=strict)["visual"]
    assert 0 < max(memory.counts()["rows_by_observation"].values()) <= 3


def test_an_empty_bank_is_an_error_and_leaves_no_memory(classifier, data, tmp_path, monkeypatch) -> None:
    nothing = "mambaxray.train.visual_memory.strongest_regions"
    monkeypatch.setattr(nothing, lambda maps, *limits: torch.zeros_like(maps, dtype=torch.bool))
    with pytest.raises(MemoryBuildError, match="nothing came out of the 32 training studies"):
        build_am_mrg_memories(tmp_path, classifier, data, kinds=["visual"], batch_size=32)
    assert not (tmp_path / "visual" / "memory.json").exists()


def test_a_folder_in_use_or_of_something_else_is_refused(classifier, data, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(MemoryBuildError, match="is not empty and was not begun by this command"):
        build_retrieval_memory(tmp_path / "other", classifier, data)
    assert contents(tmp_path / "other") == {"notes.txt": b"mine"}
    with locked_output(tmp_path / "busy", is_folder=True), pytest.raises(OutputInUseError):
        build_retrieval_memory(tmp_path / "busy", classifier, data)


# ------------------------------------------------------------------------------------ resuming, and processes


class Interruption(Exception):
    """In place of a kill."""


def interrupted_after(batches: int, monkeypatch) -> None:
    from mambaxray.train import memory_building

    encode, left = memory_building._encode_batch, [batches]

    def encode_until(*arguments):
        if not left[0]:
            raise Interruption
        left[0] -= 1
        return encode(*arguments)

    monkeypatch.setattr(memory_building, "_encode_batch", encode_until)


def test_an_interrupted_build_resumes_with_the_missing_batches_and_the_same_result(
    visual, classifier, data, tmp_path, monkeypatch
) -> None:
    settings = {"kinds": ["visual"], "visual": FEW, "batch_size": 4}
    with monkeypatch.context() as patch:
        interrupted_after(5, patch)
        with pytest.raises(Interruption):
            build_am_mrg_memories(tmp_path, classifier, data, **settings)
    finished = sorted((tmp_path / "visual" / ".in_progress").glob("*.safetensors"))
    assert len(finished) == 5
    assert not (tmp_path / "visual" / "memory.json").exists()
    times = {file: file.stat().st_mtime_ns for file in finished}
    with monkeypatch.context() as patch:
        interrupted_after(1, patch)
        with pytest.raises(Interruption):
            build_am_mrg_memories(tmp_path, classifier, data, **settings)
    assert {file: file.stat().st_mtime_ns for file in finished} == times
    resumed = build_am_mrg_memories(tmp_path, classifier, data, **settings)["visual"]
    assert torch.equal(resumed.vectors["values"], visual.vectors["values"])
    for name in ("study_ids", "patient_ids", "observations", "source"):
        assert getattr(resumed, name) == getattr(visual, name), name
    assert {path.name for path in (tmp_path / "visual").iterdir()} == FILES


def test_resuming_other_work_is_refused_by_what_differs(classifier, data, tmp_path, tmp_path_factory, monkeypatch):
    settings = {"kinds": ["visual"], "visual": FEW, "batch_size": 4}
    with monkeypatch.context() as patch:
        interrupted_after(2, patch)
        with pytest.raises(Interruption):
            build_am_mrg_memories(tmp_path, classifier, data, **settings)
    other_model = save_classifier(tmp_path_factory.mktemp("other"), seed=1)
    other_labels = changed(data, labels=lambda row: {**row["labels"], "Fracture": 1})
    for name, changes in {
        "model": {"model": other_model},
        "studies": {"source": other_labels},
        "seed": {"seed": 3},
        "batch_size": {"batch_size": 5},
        "cam": {"visual": VisualMemoryOptions("eigencam", per_disease=7)},
    }.items():
        with pytest.raises(MemoryBuildError, match=rf"built differently \({name}\): give the same"):
            build_am_mrg_memories(tmp_path, **{"model": classifier, "source": data} | settings | changes)
    # The same model elsewhere is the same work.
    moved = save_classifier(tmp_path_factory.mktemp("moved"))
    assert build_am_mrg_memories(tmp_path, moved, data, **settings)["visual"].source.encoder == moved


def test_a_finished_memory_is_read_again_and_another_one_does_not_replace_it(classifier, data, tmp_path, monkeypatch):
    first = build_retrieval_memory(tmp_path, classifier, data)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(StageOneEncoder, "parts", property(lambda self: pytest.fail("it was built again")))
        again = build_retrieval_memory(tmp_path, classifier, data)
        assert torch.equal(again.vectors["visual"], first.vectors["visual"])
        fewer = datasets.DatasetDict({**data, "train": data["train"].select(range(9))})
        with pytest.raises(MemoryBuildError, match=r"built differently \(studies"):
            build_retrieval_memory(tmp_path, classifier, fewer)
    assert contents(tmp_path) == before


def test_a_batch_whose_images_have_changed_is_made_again(classifier, tmp_path, monkeypatch) -> None:
    pixels = [load_studies("phantoms", num_studies=20, image_size=32, seed=seed) for seed in (0, 1)]
    rows = pixels[0]["train"].cast_column("images", datasets.List(datasets.Image(decode=False)))[:]
    other = pixels[1]["train"].cast_column("images", datasets.List(datasets.Image(decode=False)))[:]
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        with pytest.raises(Interruption):
            build_retrieval_memory(tmp_path / "a", classifier, pixels[0], batch_size=4)
    mixed = datasets.Dataset.from_dict({**rows, "images": other["images"][:4] + rows["images"][4:]})
    mixed = datasets.DatasetDict({**pixels[0], "train": mixed.cast(pixels[0]["train"].features)})
    resumed = build_retrieval_memory(tmp_path / "a", classifier, mixed, batch_size=4)
    expected = build_retrieval_memory(tmp_path / "b", classifier, mixed, batch_size=4)
    assert torch.equal(resumed.vectors["visual"], expected.vectors["visual"])


def test_a_damaged_or_half_written_batch_is_made_again(classifier, data, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        with pytest.raises(Interruption):
            build_retrieval_memory(tmp_path / "a", classifier, data, batch_size=8)
    work = tmp_path / "a" / ".in_progress"
    file = work / "00-000001.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    (work / "00-000003.12345.tmp").write_bytes(b"half")
    resumed = build_retrieval_memory(tmp_path / "a", classifier, data, batch_size=8)
    expected = build_retrieval_memory(tmp_path / "b", classifier, data, batch_size=8)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(resumed) == len(expected)


def test_which_batches_count_does_not_depend_on_the_order_in_which_they_end() -> None:
    tracks = [Track("a", range(10), most=5), Track("b", range(4)), Track("c", [])]
    rows = {(0, 0): 1, (0, 1): 3, (0, 2): 2, (0, 3): 4, (0, 4): 1, (1, 0): 0, (1, 1): 5}
    counting = set()
    for order in (1, -1):
        schedule = Schedule(tracks, 2)
        given = [batch for _ in range(9) if (batch := schedule.next()) is not None]
        assert len(given) == 7
        for batch in given[::order]:
            schedule.finish(batch, rows[batch.track, batch.number])
        counting.add(tuple((batch.track, batch.number) for batch in schedule.counting()))
        assert schedule.progress() == (9, 9)
    assert counting == {((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))}


def test_a_full_track_hands_out_no_more_batches_and_one_that_is_used_up_lowers_the_total() -> None:
    schedule = Schedule([Track("a", range(100), most=3), Track("b", range(2), most=3)], 1)
    assert schedule.progress() == (0, 6)
    handed = []
    while (batch := schedule.next()) is not None:
        handed.append((batch.track, batch.number))
        schedule.finish(batch, 1)
    assert handed == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]
    assert schedule.progress() == (5, 5)


COMMAND = [sys.executable, "-m", "mambaxray.cli", "--plugin", "outside_classifier"]


def command(output: Path, model: str, *more: str) -> list[str]:
    source = ["--dataset", "phantoms", "--dataset-option", "num_studies=60", "--dataset-option", "image_size=32"]
    kinds = ["--kind", "visual", "--per-disease", "7", "--batch-size", "2"]
    return [*COMMAND, "memory", "build", "--model", model, "--output", str(output), *source, *kinds, *more]


@pytest.mark.slow
def test_a_killed_build_resumes_with_other_processes_and_the_same_bits(tmp_path) -> None:
    """Of a plugin's classifier, which the worker processes must know too."""
    model = save_outside_classifier(tmp_path / "model")
    support = Path(__file__).parents[1] / "support"
    environment = {**os.environ, "PYTHONPATH": str(support), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    quiet = subprocess.run(command(tmp_path / "quiet", model, "--processes", "1"), env=environment, text=True,
                           capture_output=True, check=False)  # fmt: skip
    assert quiet.returncode == 0, quiet.stderr
    process = subprocess.Popen(command(tmp_path / "killed", model, "--processes", "2"), env=environment)
    work = tmp_path / "killed" / "visual" / ".in_progress"
    until = time.monotonic() + 300
    while len(list(work.glob("*.safetensors"))) < 4:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "visual" / "memory.json").exists()
    resumed = subprocess.run(command(tmp_path / "killed", model, "--processes", "2"), env=environment, text=True,
                             capture_output=True, check=False)  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert "fewer than 7 regions" in resumed.stderr
    assert "It holds data of patients" in resumed.stderr
    assert contents(tmp_path / "killed") == contents(tmp_path / "quiet")


def test_the_commands_name_mistakes_in_one_line(classifier, tmp_path) -> None:
    from typer.testing import CliRunner

    from mambaxray.cli import app

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "m"), "--processes", "1"])
        assert result.exit_code == 2
        return result.stderr

    phantoms = ["--dataset", "phantoms", "--dataset-option"]
    build = ["memory", "build", "--model", classifier]
    assert "expected key=value" in run(*build, *phantoms, "num_studies")
    assert "phantoms has no option studies" in run("retrieval", "build", "-m", classifier, *phantoms, "studies=3")
    assert "must be one of gradcam" in run(*build, *phantoms, "num_studies=3", "--cam", "scorecam")
    assert not (tmp_path / "m").exists()


def test_a_model_of_the_hub_is_named_with_its_commit_and_is_the_same_work_as_its_folder(hub, classifier) -> None:
    files = {path.name: path.read_bytes() for path in Path(classifier).iterdir() if path.is_file()}
    commit = hub.commit("me/classifier", {**files, "_patient_text/memory.json": b"reports", "tf_model.h5": b"unread"})
    found = StoredModel.find("me/classifier")
    assert (found.name, found.revision) == ("me/classifier", commit)
    assert found.content == StoredModel.find(classifier).content
    assert {path.name for path in Path(found.folder).rglob("*") if path.is_file()} == set(files)
    with pytest.raises(FileNotFoundError, match="me/other: no such folder, and no such model"):
        StoredModel.find("me/other")
