"""The disease-aware dual-stage system: its equations, what is trained, its retrieval, one prompt for every entrance."""

import json
import logging

import pytest
import torch
from disease_aware import (
    disease_aware_processor,
    phantoms,
    retrieval_memory,
    tiny_disease_aware,
    with_memory,
)
from tiny import VISION_CONFIGS
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, pipeline

from mambaxray import (
    DiseaseAwareConfig,
    DiseaseAwareForConditionalGeneration,
    DiseaseAwareForPreTraining,
    DiseaseAwarePreTrainingConfig,
    ReportCollator,
    evaluate_model,
    explain_report,
    prepare_for_generation,
    push_folder,
    write_attention_page,
    write_model_card,
)
from mambaxray.data.phantoms import make_study
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.evaluation.made_with import MadeWith
from mambaxray.modeling_mambaxray import modeling_disease_aware
from mambaxray.modeling_mambaxray.generation.continuous_generation import generate_continuously
from mambaxray.modeling_mambaxray.layers.disease_visual_fusion import DiseaseVisualFusion
from mambaxray.modeling_mambaxray.layers.study_memory import MemorySource, StudyMemory, TrainingSplit
from mambaxray.train.recalled_studies import with_recalled

SHORT = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}


@pytest.fixture(scope="module")
def processor():
    return disease_aware_processor()


@pytest.fixture(scope="module")
def model(processor):
    return with_memory(tiny_disease_aware(processor), processor)


@pytest.fixture(scope="module")
def studies():
    return [*phantoms()["test"], *phantoms()["validation"]][:4]


# Equations


def attention(block, tokens, context):
    """LayerNorm(X + softmax(Q K' / sqrt(width of a head)) V W_o), head by head."""
    width = tokens.shape[-1] // block.num_heads
    heads = []
    for head in range(block.num_heads):
        part = slice(head * width, (head + 1) * width)
        q, k, v = (
            F.linear(states, layer.weight[part], layer.bias[part])
            for states, layer in ((tokens, block.q_proj), (context, block.k_proj), (context, block.v_proj))
        )
        heads.append((q @ k.T / width**0.5).softmax(dim=-1) @ v)
    return block.norm(tokens + block.out_proj(torch.cat(heads, dim=-1)))


@pytest.mark.parametrize(("visual", "feature"), [(16, 16), (24, 16)])
def test_the_fusion_token_is_that_of_equations_5_to_7(visual, feature):
    torch.manual_seed(0)
    dvaf = DiseaseVisualFusion(visual, feature, num_attention_heads=4)
    for parameter in dvaf.parameters():
        nn.init.normal_(parameter, std=0.5)
    features, patches = torch.randn(3, 14, feature), torch.randn(3, 9, visual)
    fused = dvaf(features, patches)
    assert fused.shape == (3, 1, visual)
    for t, v, found in zip(features, patches, fused[:, 0], strict=True):
        t1 = attention(dvaf.cross_attention, t, v)  # 5
        t2 = attention(dvaf.self_attention, t1, t1)
        a = (torch.tanh(dvaf.pool_proj(t2)) @ dvaf.pool_score.weight[0]).softmax(dim=0)  # 6
        u = dvaf.to_visual(a @ t2)
        mean = v.mean(dim=0)
        g = torch.sigmoid(dvaf.gate.weight @ torch.cat([u, mean]) + dvaf.gate.bias)  # 7
        torch.testing.assert_close(found, g * u + (1 - g) * mean)


def test_a_semantic_token_is_one_layer_of_cross_attention_alone(processor):
    one = tiny_disease_aware(processor, query_attention_heads=1)
    dast, tokens = one.disease_queries, torch.randn(2, 5, 16)
    cross = dast.qformer.encoder.layer[0].crossattention
    output = dast(tokens, output_attentions=True)
    queries = dast.qformer.layernorm(dast.queries)
    weights = (cross.attention.query(queries) @ cross.attention.key(tokens).mT / queries.shape[-1] ** 0.5).softmax(-1)
    expected = cross.output.LayerNorm(cross.output.dense(weights @ cross.attention.value(tokens)) + queries)
    torch.testing.assert_close(output.last_hidden_state, expected)
    torch.testing.assert_close(output.cross_attentions[-1].mean(dim=1), weights)
    by_disease = [dast.classifier.weight[i] @ expected[0, i] + dast.classifier.bias[i] for i in range(14)]
    torch.testing.assert_close(output.logits[0], torch.stack(by_disease))


@pytest.mark.parametrize(("fusion", "further"), [("dvaf", 1), ("mean", 1), ("concatenation", 14), ("none", 0)])
@pytest.mark.parametrize("width", [16, 12])
def test_every_fusion_appends_its_tokens_to_the_visual_tokens(processor, fusion, further, width):
    one = tiny_disease_aware(
        processor, fusion=fusion, exemplars=False, query_hidden_size=width, fusion_attention_heads=4
    )
    tokens = torch.randn(2, one.config.visual_sequence_length, 16)
    with torch.no_grad():
        embeddings = one.fuse(tokens).embeddings
        features = one.disease_queries(tokens).last_hidden_state
        appended = {
            "dvaf": lambda: one.fusion(features, tokens),
            "mean": lambda: one.fusion.to_visual(features.mean(dim=1, keepdim=True)),
            "concatenation": lambda: one.fusion.to_visual(features),
            "none": lambda: tokens[:, :0],
        }[fusion]()
        expected = one.layer_norm(one.projector(torch.cat([tokens, appended], dim=1)))
    assert one.config.num_image_tokens == embeddings.shape[1] == tokens.shape[1] + further
    torch.testing.assert_close(embeddings, expected)


# What is trained


def trained_parts(model):
    return {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_fusion_projection_and_norms_are_trained_and_stage_1_is_not(processor, tmp_path):
    one = tiny_disease_aware(processor, exemplars=False)
    assert trained_parts(one) == {"fusion", "projector", "layer_norm", "language_model"}
    one.train()
    assert not one.disease_queries.training
    assert not one.vision_encoder.training
    one.language_model.save_pretrained(tmp_path / "llm")
    one.vision_encoder.save_pretrained(tmp_path / "vision")
    built = DiseaseAwareForConditionalGeneration.from_encoder_decoder_pretrained(
        str(tmp_path / "vision"), str(tmp_path / "llm"), exemplars=False
    )
    built.freeze_part("language_model")
    built.save_pretrained(tmp_path / "model")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert trained_parts(loaded) == trained_parts(built) == {"fusion", "projector", "layer_norm"}


def test_the_papers_words_leave_the_fusion_as_it_was_drawn(processor, studies):
    one = tiny_disease_aware(processor, exemplars=False, trainable="projection").train()
    one.freeze_part("language_model")
    assert trained_parts(one) == {"projector", "layer_norm"}
    before = {name: parameter.clone() for name, parameter in one.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in one.parameters() if p.requires_grad], lr=1e-2)
    one(**processor.prepare_studies(studies, with_reports=True)).loss.backward()
    optimizer.step()
    changed = {name for name, parameter in one.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name.partition(".")[0] for name in changed} == {"projector", "layer_norm"}


def stage1(seed=0, **options):
    torch.manual_seed(seed)
    text = {"model_type": "bert", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes = {"query_hidden_size": 16, "query_attention_heads": 2} | options
    config = DiseaseAwarePreTrainingConfig(VISION_CONFIGS["vmamba"](), text | {"num_attention_heads": 2}, **sizes)
    return DiseaseAwareForPreTraining(config).eval()


def test_it_starts_from_stage_1_and_finds_the_same_in_an_image(processor, studies):
    one, first = tiny_disease_aware(processor, exemplars=False), stage1()
    projector = one.projector.weight.clone()
    one.start_from_stage1(first)
    assert torch.equal(one.projector.weight, projector)
    images = processor.prepare_images(studies)
    with torch.no_grad():
        found = first(**images)
        tokens = one.encode_views(**images)
        diseases = one.disease_queries(tokens)
    assert torch.equal(tokens, found.visual_tokens)
    assert torch.equal(diseases.logits, found.logits)
    assert torch.equal(diseases.last_hidden_state, found.disease_features)


def test_another_model_or_one_of_other_sizes_is_no_stage_1_of_it(processor):
    one = tiny_disease_aware(processor, exemplars=False)
    with pytest.raises(ValueError, match="starts from a disease_aware_pretraining model, got a disease_aware model"):
        one.start_from_stage1(one)
    with pytest.raises(ValueError, match="its query_attention_heads is 4, this model's 2"):
        one.start_from_stage1(stage1(query_attention_heads=4))
    other = stage1()
    other.vision_encoder = tiny_disease_aware(processor, vision="swin", exemplars=False).vision_encoder
    with pytest.raises(ValueError, match="its vision_encoder does not fit"):
        one.start_from_stage1(other)
    with pytest.raises(ValueError, match="its observations must be No Finding"):
        one.start_from_stage1(stage1(id2label=dict(enumerate(reversed(OBSERVATIONS)))))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fusion": "sum"}, "fusion must be one of dvaf, mean, concatenation, none, got 'sum'"),
        ({"trainable": "all"}, "trainable must be one of fusion, projection, got 'all'"),
        ({"retrieval_weight": 1.5}, "retrieval_weight must be between 0 and 1, got 1.5"),
        ({"training_exemplars": 0}, "training_exemplars must be positive"),
        ({"retrieval_index": "lsh"}, "retrieval_index must be one of exact, ivf, hnsw, got 'lsh'"),
    ],
)
def test_a_configuration_that_says_something_impossible_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DiseaseAwareConfig(**values)


# Retrieval


def rows_of(model, studies, tokens):
    return [each["exemplar"]["row"] for each in model.recall(tokens, studies)]


def test_an_exemplar_is_never_of_the_query_or_its_patient_however_often_a_study_id_repeats(processor):
    one = tiny_disease_aware(processor)
    generator = torch.Generator().manual_seed(0)
    visual, disease = (torch.randn(12, width, generator=generator) for width in (16, 14))
    # Each study has two views and so two rows, each patient two studies.
    ids = [f"s{row // 2}" for row in range(12)]
    patients = [f"p{row // 4}" for row in range(12)]
    split = TrainingSplit(dict(zip(ids, patients, strict=True)), {}, {})
    reports = [f"report {row}" for row in range(12)]
    memory = StudyMemory(
        {"visual": visual, "disease": disease}, ids, patients, MemorySource("made", "made"), split, reports=reports
    )
    one.set_memories({"retrieval": memory})
    one.config.retrieval_weight = 1.0
    tokens = visual[:, None].expand(-1, 4, -1)
    unknown = [{}] * 12
    assert rows_of(one, unknown, tokens) == [*range(12)]
    for study_id, row in zip(ids, rows_of(one, [{"study_id": each} for each in ids], tokens), strict=True):
        assert ids[row] != study_id
    both = [{"study_id": None, "patient_id": each} for each in patients]
    for patient, row in zip(patients, rows_of(one, both, tokens), strict=True):
        assert patients[row] != patient
    # The table for training, with the study's own two rows as the query.
    known = [{"study_id": f"s{number}", "patient_id": f"p{number // 2}"} for number in range(6)]
    for study, found in zip(known, one.recall_for_training(known), strict=True):
        row = found["exemplar"]["row"]
        assert patients[row] != study["patient_id"]
        assert found["exemplar"]["report"] == reports[row]


def test_the_weight_changes_what_is_found_without_building_anything_anew(model, processor, studies):
    tokens = model.encode_views(**processor.prepare_images(studies))
    retriever, found = model.retriever, {}
    memory = model.study_memory["retrieval"]
    logits = model.disease_queries(tokens).logits
    try:
        for weight in (0.0, 1.0):
            model.config.retrieval_weight = weight
            found[weight] = rows_of(model, studies, tokens)
            assert model.retriever is retriever
    finally:
        model.config.retrieval_weight = 0.5
    assert found[0.0] != found[1.0]
    for weight, query, name in ((0.0, logits, "disease"), (1.0, tokens.mean(dim=1), "visual")):
        cosines = F.cosine_similarity(query[:, None], memory.vectors[name][None], dim=-1)
        assert found[weight] == cosines.argmax(dim=1).tolist()


def test_the_table_for_training_is_what_the_search_finds_for_the_images(model, processor):
    train = phantoms()["train"]
    table = model.recall_for_training([{k: row[k] for k in ("study_id", "patient_id")} for row in train])
    tokens = model.encode_views(**processor.prepare_images([*train]))
    by_image = model.recall(tokens, train.select_columns(["study_id", "patient_id"]).to_list())
    assert [each["exemplar"]["row"] for each in table] == [each["exemplar"]["row"] for each in by_image]
    assert model.recall_for_training([{"study_id": "elsewhere", "patient_id": "p"}]) == [None]


def test_one_of_the_most_similar_is_drawn_by_the_seed_whatever_the_order(model):
    rows = phantoms()["train"].select_columns(["study_id", "patient_id"]).to_list()
    best = {
        row["study_id"]: each["exemplar"]["row"]
        for row, each in zip(rows, model.recall_for_training(rows), strict=True)
    }
    model.config.training_exemplars = 3
    try:
        drawn = [
            {
                row["study_id"]: each["exemplar"]["row"]
                for row, each in zip(order, model.recall_for_training(order, seed), strict=True)
            }
            for seed, order in ((0, rows), (0, rows[::-1]), (1, rows))
        ]
    finally:
        model.config.training_exemplars = 1
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert 0 < sum(best[name] == row for name, row in drawn[0].items()) < len(best)


def test_a_memory_without_reports_or_of_other_widths_is_refused(processor):
    one = tiny_disease_aware(processor)
    memory = retrieval_memory(one, processor)
    split = TrainingSplit(dict(zip(memory.study_ids, memory.patient_ids, strict=True)), {}, {})
    parts = (memory.study_ids, memory.patient_ids, memory.source, split)
    with pytest.raises(ValueError, match="holds no reports"):
        one.set_memories({"retrieval": StudyMemory(memory.vectors, *parts)})
    assert one.study_memory is None
    wide = {name: F.pad(tensor, (0, 1)) for name, tensor in memory.vectors.items()}
    with pytest.raises(ValueError, match="retrieval must have vectors of widths"):
        one.set_memories({"retrieval": StudyMemory(wide, *parts, reports=memory.reports)})


# One prompt for every entrance


def reports_of(model, processor, inputs):
    written = model.generate(**inputs, **SHORT)[:, inputs["input_ids"].shape[1] :]
    return processor.post_process_image_text_to_text(written)


@pytest.fixture(scope="module")
def expected(model, processor, studies):
    """Reports of single studies whose exemplars were looked up by hand."""
    reports = []
    for study in studies:
        tokens = model.encode_views(**processor.prepare_images([study]))
        logits = model.disease_queries(tokens).logits
        found = model.retriever.search(tokens.mean(dim=1), logits, [study["study_id"]], [study["patient_id"]])
        exemplar = {"report": model.study_memory["retrieval"].reports[found.rows.item()], "row": found.rows.item()}
        inputs = processor.prepare_studies([{**study, "exemplar": exemplar}])
        assert "Similar:" in processor.tokenizer.decode(inputs["input_ids"][0])
        reports += reports_of(model, processor, inputs)
    return reports


def test_the_exemplar_decides_what_is_written(model, processor, studies, expected):
    without = processor.prepare_studies([{**study, "exemplar": None} for study in studies])
    assert reports_of(model, processor, without) != expected


def test_the_pipeline_writes_with_exemplars_one_study_a_list_and_a_data_set(model, processor, studies, expected):
    reporter = pipeline("image-to-text", model=model, processor=processor)
    given = [
        {"images": each["images"], "study_id": each["study_id"], "patient_id": each["patient_id"]} for each in studies
    ]
    assert reporter(given[0], **SHORT)[0]["generated_text"] == expected[0]
    assert [each[0]["generated_text"] for each in reporter(given, batch_size=3, **SHORT)] == expected
    several = reporter(
        given[0], num_return_sequences=2, num_beams=2, max_new_tokens=8, min_new_tokens=8, do_sample=False
    )
    assert len(several) == 2


def test_evaluation_with_and_without_worker_processes_writes_with_exemplars(
    model, processor, studies, expected, tmp_path
):
    for workers in (0, 1):
        done = evaluate_model(
            model,
            processor,
            studies,
            batch_size=3,
            num_workers=workers,
            scoring={"metrics": ["BLEU"]},
            output=tmp_path / f"{workers}.jsonl",
            evidence=True,
            **SHORT,
        )
        assert [prediction.report for prediction in done.predictions] == expected
    lines = [json.loads(line) for line in (tmp_path / "0.jsonl").read_text().splitlines()]
    memory = model.study_memory["retrieval"]
    for line in lines:
        assert list(line["evidence"]) == list(OBSERVATIONS)
        for each in line["evidence"].values():
            (study,) = each["studies"]
            assert study["text"] == memory.reports[memory.study_ids.index(study["study_id"])]
            assert study["similarities"].keys() == {"visual", "disease"}


def test_continuous_and_plain_generation_write_the_same(model, processor, studies, expected):
    batch = prepare_for_generation(model, processor, studies)
    assert reports_of(model, processor, batch) == expected
    single = [dict(prepare_for_generation(model, processor, [study])) for study in studies]
    written = dict(generate_continuously(model, single, batch_size=2, **SHORT))
    tokens = [written[position] for position in range(len(studies))]
    assert processor.post_process_image_text_to_text(tokens) == expected


def test_the_trainers_prompts_at_evaluation_are_the_same(model, processor, studies, expected):
    split = phantoms()["validation"]
    recalled = with_recalled(split, model, processor, is_training=False, batch_size=3)
    batch = ReportCollator(processor, for_generation=True)([*recalled])
    plain = prepare_for_generation(model, processor, [*split])
    assert torch.equal(batch["prompt_input_ids"], plain["input_ids"])
    for name in ("exemplar_row", "exemplar_similarities"):
        torch.testing.assert_close(batch[name], plain[name])


def test_a_step_of_training_looks_nothing_up(model, processor, monkeypatch):
    recalled = with_recalled(phantoms()["train"], model, processor, is_training=True)

    def search(*args, **kwargs):
        raise AssertionError("searched")

    monkeypatch.setattr(model.retriever, "search", search)
    batch = ReportCollator(processor)([*recalled.select(range(3))])
    assert model(**batch).loss.isfinite()


def test_prompts_that_were_written_without_looking_anything_up_are_refused(model, processor, studies):
    inputs = processor.prepare_studies(studies[:1])
    with pytest.raises(ValueError, match="prepare_for_generation"):
        model.generate(**inputs, **SHORT)
    with pytest.raises(ValueError, match="prepare_for_generation"):
        model(**processor.prepare_studies(studies[:1], with_reports=True))


def test_without_its_memory_the_model_writes_without_exemplars_and_says_so(processor, studies, caplog):
    one = tiny_disease_aware(processor)
    modeling_disease_aware._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        written = reports_of(one, processor, prepare_for_generation(one, processor, studies[:1]))
        prepare_for_generation(one, processor, studies[:1])
    assert [record.message for record in caplog.records if "its memory is not here" in record.message].__len__() == 1
    without = processor.prepare_studies([{**studies[0], "exemplar": None}])
    assert written == reports_of(one, processor, without)


def test_a_study_keeps_the_exemplar_that_it_was_given(model, processor, studies):
    own = {**studies[0], "exemplar": {"report": "The heart is enlarged."}}
    inputs = prepare_for_generation(model, processor, [own])
    assert "The heart is enlarged." in processor.tokenizer.decode(inputs["input_ids"][0])
    assert inputs["exemplar_row"].tolist() == [-1]


# Batches


def test_studies_with_and_without_exemplars_in_one_batch_are_as_they_are_alone(model, processor, studies):
    recalled = [prepare_for_generation(model, processor, [study]) for study in studies[:2]]
    exemplars = [
        {"report": model.study_memory["retrieval"].reports[row], "row": row, "visual": 0.5, "disease": 0.5}
        for row in (each["exemplar_row"].item() for each in recalled)
    ]
    mixed = [
        {**studies[0], "exemplar": exemplars[0]},
        {**studies[1], "exemplar": None},
        {**studies[2], "exemplar": exemplars[1]},
    ]
    together = processor.prepare_studies(mixed)
    assert len({row.sum().item() for row in together["attention_mask"]}) > 1
    alone = [reports_of(model, processor, processor.prepare_studies([study])) for study in mixed]
    assert reports_of(model, processor, together) == [report for (report,) in alone]
    batch = processor.prepare_studies(mixed, with_reports=True)
    with torch.no_grad():
        logits = model(**batch).logits
        for row, study in zip(logits, mixed, strict=True):
            single = model(**processor.prepare_studies([study], with_reports=True)).logits[0]
            torch.testing.assert_close(row[: len(single)], single, rtol=1e-4, atol=1e-4)


# Evidence, saving, pushing


def test_the_evidence_is_each_diseases_probability_map_and_exemplar(model, processor, studies):
    inputs = prepare_for_generation(model, processor, studies[:2])
    with torch.no_grad():
        output = model(**inputs)
        diseases = model.disease_queries(inputs["visual_tokens"], output_attentions=True)
    found = model.retriever.search(
        inputs["visual_tokens"].mean(dim=1),
        diseases.logits,
        [study["study_id"] for study in studies[:2]],
        [study["patient_id"] for study in studies[:2]],
    )
    for index, of_study in enumerate(output.evidence):
        assert [each.observation for each in of_study] == list(OBSERVATIONS)
        for disease, each in enumerate(of_study):
            assert each.probability == pytest.approx(diseases.logits[index, disease].sigmoid().item(), abs=1e-6)
            expected = diseases.cross_attentions[-1][index, :, disease].mean(dim=0)
            torch.testing.assert_close(each.map.flatten(), expected)
            (study,) = each.studies
            assert study.weight == pytest.approx(found.scores[index, 0].item(), abs=1e-5)
            assert study.similarities["visual"] == pytest.approx(found.visual[index, 0].item(), abs=1e-5)
            assert study.similarities["disease"] == pytest.approx(found.disease[index, 0].item(), abs=1e-5)
    assert model.train()(**inputs).evidence is None
    model.eval()


def test_the_model_compiles_as_one_graph_which_gives_no_evidence(model, processor, studies):
    inputs = dict(prepare_for_generation(model, processor, studies[:1]))
    pixels = {"pixel_values": processor.prepare_images(studies[:1])["pixel_values"]}
    inputs = {name: value for name, value in inputs.items() if name not in ("visual_tokens", "view_mask")} | pixels
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        found, expected = compiled(**inputs), model(**inputs)
    torch.testing.assert_close(found.logits, expected.logits)
    assert found.evidence is None
    assert expected.evidence is not None


def test_the_page_shows_the_exemplar_once_with_both_similarities(model, processor, studies, tmp_path):
    explanation = explain_report(model, processor, studies[0]["images"], max_new_tokens=6, min_new_tokens=6)
    page = write_attention_page(tmp_path / "page.html", explanation, title="t", summary="s").read_text()
    (study,) = explanation.evidence[0].studies
    assert page.count(study.text) == 1
    assert "Similar study of the training data" in page
    for name, value in study.similarities.items():
        assert f"{name} {value:.2f}" in page


def test_it_is_saved_with_its_memory_and_pushed_without(model, processor, studies, tmp_path, hub, expected):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval()
    again = type(processor).from_pretrained(tmp_path / "model")
    assert (again.exemplar_template, again.max_exemplar_tokens) == (processor.exemplar_template, 100)
    assert reports_of(loaded, again, prepare_for_generation(loaded, again, studies)) == expected
    push_folder(tmp_path / "model", "me/disease-aware", examples=False)
    model.push_to_hub("me/by-itself")
    text = model.study_memory["retrieval"].reports[0].encode()
    for files in (hub.files("me/disease-aware"), hub.files("me/by-itself")):
        assert "model.safetensors" in files
        assert not any("memory" in name or text in content for name, content in files.items())
    assert b"Disease-Aware Dual-Stage" in hub.files("me/disease-aware")["README.md"]


def test_a_cards_examples_are_written_without_the_patients_reports(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    reports = []
    for one in (model, AutoModelForImageTextToText.from_pretrained(tmp_path).eval()):
        reporter = pipeline("image-to-text", model=one, processor=processor)
        if one is not model:
            one.study_memory = None
        reports.append(reporter(make_study(10**6, image_size=32)["images"][0])[0]["generated_text"])
    card = write_model_card(tmp_path).read_text()
    with_memory, without = (" ".join(report.split()).replace("|", "\\|").replace("<", "&lt;") for report in reports)
    assert with_memory != without
    assert without in card
    assert with_memory not in card


def test_reports_of_another_memory_or_weight_are_not_taken_for_the_same(model, processor):
    one, made = tiny_disease_aware(processor), set()
    memory = retrieval_memory(one, processor)
    for given in (None, memory, memory.select(range(3)), memory.select([0, 1, 3])):
        one.study_memory = None
        if given is not None:
            one.set_memories({"retrieval": given})
        made.add(MadeWith.of_loaded(one, processor, {}).model)
    one.config.retrieval_weight = 0.75
    made.add(MadeWith.of_loaded(one, processor, {}).model)
    assert len(made) == 5
