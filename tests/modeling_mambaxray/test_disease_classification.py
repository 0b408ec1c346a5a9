"""What both models do that tell diseases by one query each: losses by their equations, gradients, views, saving."""

import math

import pytest
import torch
from safetensors import safe_open
from tiny import VISION_CONFIGS
from torch import nn
from transformers import AutoModel, BertConfig, BertModel, LlamaConfig

from mambaxray import (
    AMMRGClassificationConfig,
    AMMRGForDiseaseClassification,
    DiseaseAwareForPreTraining,
    DiseaseAwarePreTrainingConfig,
    load_vision_encoder,
)
from mambaxray.data.schema import OBSERVATIONS
from mambaxray.modeling_mambaxray.layers.classification import classification_loss

NAN = math.nan
QUERIES = {"query_hidden_size": 32, "query_attention_heads": 4, "query_dropout": 0.0}
BERT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def ammrg(**options):
    torch.manual_seed(0)
    sizes = {"query_hidden_layers": 2, "query_intermediate_size": 48, "encoder_hidden_size": 40}
    config = AMMRGClassificationConfig(VISION_CONFIGS["vision_mamba"](), **QUERIES, **sizes | options)
    return AMMRGForDiseaseClassification(config)


def disease_aware(vision="vmamba", **options):
    torch.manual_seed(0)
    text = BertConfig(**BERT)
    return DiseaseAwareForPreTraining(
        DiseaseAwarePreTrainingConfig(VISION_CONFIGS[vision](), text, **QUERIES | options)
    )


def batch(count=3, reports=True, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count, 14), generator=generator).float()
    labels[0, 3] = labels[-1, 7] = NAN
    inputs = {"pixel_values": torch.randn(count, 3, 32, 32, generator=generator), "labels": labels}
    if reports:
        inputs["input_ids"] = torch.randint(1, 40, (count, 7), generator=generator)
        inputs["attention_mask"] = torch.ones(count, 7, dtype=torch.long)
    return inputs


# The losses


@pytest.mark.parametrize("weights", [None, [1.0] * 13 + [5.0], [0.5 + n for n in range(14)]])
def test_classification_is_the_mean_cross_entropy_over_known_labels(weights):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 14, generator=generator) * 3
    labels = torch.randint(0, 2, (4, 14), generator=generator).float()
    labels[0] = NAN
    labels[2, 5] = NAN
    terms = []
    for study in range(4):
        for disease in range(14):
            y, p = labels[study, disease].item(), torch.sigmoid(logits[study, disease]).item()
            if not math.isnan(y):
                weight = 1.0 if weights is None else weights[disease]
                terms.append(-weight * y * math.log(p) - (1 - y) * math.log(1 - p))
    loss = classification_loss(logits, labels, weights)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_labels_that_are_left_out_give_no_gradient_and_a_batch_without_any_costs_nothing():
    logits = torch.randn(2, 14, requires_grad=True)
    labels = torch.full((2, 14), NAN)
    loss = classification_loss(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
    labels[1, 4] = 1
    logits.grad = None
    classification_loss(logits, labels).backward()
    assert logits.grad.nonzero().tolist() == [[1, 4]]


@pytest.mark.parametrize("value", [-1.0, 2.0, math.inf, -math.inf])
def test_a_label_that_is_neither_present_nor_absent_is_refused(value):
    labels = torch.zeros(2, 14)
    labels[1, 3] = value
    with pytest.raises(ValueError, match=r"1 \(present\), 0 \(absent\) or NaN \(left out\), got -?[12]"):
        classification_loss(torch.zeros(2, 14), labels)


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"labels must be \(2, 14\) as the logits, got \(2, 13\)"):
        classification_loss(torch.zeros(2, 14), torch.zeros(2, 13))


def test_the_losses_of_ammrg_are_those_of_the_equations():
    model = ammrg(loss_weights={"orthogonality": 0.25}, positive_weights=[2.0] * 14).eval()
    inputs = batch(reports=False)
    output = model(**inputs)
    queries = model.disease_queries.queries.detach().double()
    cosines = [
        torch.cosine_similarity(queries[first], queries[second], dim=0) ** 2
        for first in range(14)
        for second in range(14)
        if first != second
    ]
    assert output.losses["orthogonality"].item() == pytest.approx((sum(cosines) / len(cosines)).item(), rel=1e-5)
    known = ~inputs["labels"].isnan()
    positive, logits = inputs["labels"][known], output.logits[known]
    expected = -(2 * positive * logits.sigmoid().log() + (1 - positive) * (1 - logits.sigmoid()).log()).mean()
    torch.testing.assert_close(output.losses["classification"], expected)
    torch.testing.assert_close(output.loss, output.losses["classification"] + 0.25 * output.losses["orthogonality"])


@pytest.mark.parametrize("projection_dim", [None, 12])
def test_the_contrastive_loss_compares_mean_patches_with_reports(projection_dim):
    model = disease_aware(projection_dim=projection_dim, loss_weights={"contrastive": 0.5}).eval()
    inputs = batch()
    output = model(**inputs)
    text = model.text_encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    text = text.last_hidden_state[:, 0]
    if projection_dim is not None:
        text = model.text_projection(text)
    image = model.visual_projection(model.vision_encoder(inputs["pixel_values"]).last_hidden_state.mean(dim=1))
    logits = torch.stack([torch.cosine_similarity(row, text, dim=-1) for row in image]) / 0.07
    rows, columns = logits.log_softmax(dim=1), logits.log_softmax(dim=0)
    expected = -(rows.diagonal().mean() + columns.diagonal().mean()) / 2
    torch.testing.assert_close(output.losses["contrastive"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, output.losses["classification"] + 0.5 * output.losses["contrastive"])
    assert output.image_embeds.shape == output.text_embeds.shape == (3, projection_dim or 16)


def test_a_dast_is_one_cross_attention_and_knows_nothing_of_the_others():
    model = disease_aware().eval()
    (layer,) = model.disease_queries.qformer.encoder.layer
    assert not [name for name, _ in layer.named_parameters() if not name.startswith("crossattention")]
    tokens = torch.randn(1, 4, 16)
    before = model.query_diseases(tokens)
    with torch.no_grad():
        model.disease_queries.queries[5] += 1.0
    after = model.query_diseases(tokens)
    changed = (after.logits != before.logits)[0].tolist()
    assert changed == [number == 5 for number in range(14)]


# Gradients


GRADIENTS = {
    "classification": {"vision_encoder", "disease_queries", "qformer_projection"},
    "orthogonality": {"disease_queries"},
    "contrastive": {"vision_encoder", "visual_projection", "logit_scale"},
}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (ammrg, "classification"),
        (ammrg, "orthogonality"),
        (disease_aware, "classification"),
        (disease_aware, "contrastive"),
    ],
)
def test_each_loss_trains_the_parts_that_it_is_about_and_no_others(make, name):
    model = make().train()
    model(**batch(reports=make is disease_aware)).losses[name].backward()
    parts = {part.partition(".")[0] for part, _ in model.named_parameters()}
    moved = {part.partition(".")[0] for part, w in model.named_parameters() if w.grad is not None and w.grad.any()}
    assert moved == GRADIENTS[name] & parts


def test_the_text_encoder_is_never_trained_and_never_drops_out():
    model = disease_aware().train()
    assert not any(weight.requires_grad for weight in model.text_encoder.parameters())
    assert not any(module.training for module in model.text_encoder.modules())
    assert model.vision_encoder.training
    inputs = batch()
    assert torch.equal(model(**inputs).text_embeds, model(**inputs).text_embeds)
    # Also when somebody asks for it.
    model.text_encoder.requires_grad_(True)
    model(**inputs).loss.backward()
    assert all(weight.grad is None for weight in model.text_encoder.parameters())


# Views and inputs


@pytest.mark.parametrize("make", [ammrg, disease_aware])
def test_a_missing_view_is_as_if_it_were_not_there(make):
    model = make().eval()
    images = batch()["pixel_values"]
    two = torch.stack([images, torch.full_like(images, NAN)], dim=1)
    two[0, 1] = images[1]
    mask = torch.tensor([[True, True], [True, False], [True, False]])
    padded = model(two, mask)
    torch.testing.assert_close(padded.logits[1:], model(images).logits[1:], rtol=1e-5, atol=1e-5)
    mean = (model(images).visual_tokens[0] + model(images).visual_tokens[1]) / 2
    torch.testing.assert_close(padded.visual_tokens[0], mean, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"without any view in the batch, at positions \[2\]"):
        model(two, torch.tensor([[True, True], [True, False], [False, False]]))


@pytest.mark.parametrize("make", [ammrg, disease_aware])
def test_attention_maps_come_when_asked_for(make):
    model = make().eval()
    images = batch()["pixel_values"]
    output = model(images, output_attentions=True)
    tokens = output.visual_tokens.shape[1]
    assert [tuple(each.shape) for each in output.cross_attentions] == [(3, 4, 14, tokens)]
    torch.testing.assert_close(output.cross_attentions[0].sum(dim=-1), torch.ones(3, 4, 14))


def test_reports_that_are_no_pairs_with_the_studies_are_refused():
    model, inputs = disease_aware().eval(), batch()
    with pytest.raises(ValueError, match="3 studies and 2 reports are no pairs"):
        model(inputs["pixel_values"], input_ids=inputs["input_ids"][:2])
    with pytest.raises(ValueError, match="attention_mask belongs to reports: give input_ids too"):
        model(inputs["pixel_values"], attention_mask=inputs["attention_mask"])


def test_without_labels_or_reports_there_are_no_losses():
    model, inputs = disease_aware().eval(), batch()
    assert model(inputs["pixel_values"]).loss is None
    assert model(**inputs, return_loss=False).losses == {}
    assert model(inputs["pixel_values"], labels=inputs["labels"]).losses.keys() == {"classification"}
    reports = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    assert model(**reports).losses.keys() == {"contrastive"}


@pytest.mark.parametrize("text", [BertConfig(**BERT), LlamaConfig(**BERT)], ids=["bert", "llama"])
@pytest.mark.parametrize("pooling", ["cls", "last", "mean"])
def test_any_text_encoder_and_pooling_ignores_padding(text, pooling):
    torch.manual_seed(0)
    config = DiseaseAwarePreTrainingConfig(VISION_CONFIGS["vmamba"](), text, **QUERIES, text_pooling=pooling)
    model, inputs = DiseaseAwareForPreTraining(config).eval(), batch()
    padded = {
        "input_ids": nn.functional.pad(inputs["input_ids"], (0, 3)),
        "attention_mask": nn.functional.pad(inputs["attention_mask"], (0, 3)),
    }
    plain = model(**inputs).text_embeds
    torch.testing.assert_close(model(**inputs | padded).text_embeds, plain, rtol=1e-4, atol=1e-5)


# Configuration


def test_the_observations_are_chexperts_unless_others_are_named():
    config = AMMRGClassificationConfig()
    assert tuple(config.id2label.values()) == OBSERVATIONS
    assert config.label2id["Edema"] == 5
    assert AMMRGClassificationConfig(num_labels=3).num_labels == 3
    model = ammrg(num_labels=3, positive_weights=[1.0, 2.0, 3.0])
    assert model(torch.randn(1, 3, 32, 32)).logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (AMMRGClassificationConfig, {"query_attention_heads": 5}, "768 must be a multiple of query_attention_heads 5"),
        (
            AMMRGClassificationConfig,
            {"query_hidden_layers": 0},
            "layers must be a positive integer, got 0",
        ),
        (AMMRGClassificationConfig, {"encoder_hidden_size": "a"}, "encoder_hidden_size must be a positive integer"),
        (AMMRGClassificationConfig, {"loss_weights": {"contrastive": 1}}, "losses are classification, orthogonality"),
        (AMMRGClassificationConfig, {"loss_weights": {"orthogonality": -1}}, "not negative, got -1"),
        (AMMRGClassificationConfig, {"positive_weights": [1.0]}, "positive_weights must be 14 numbers"),
        (AMMRGClassificationConfig, {"positive_weights": [0.0] * 14}, "must be positive numbers, got 0.0"),
        (AMMRGClassificationConfig, {"positive_weights": [NAN] * 14}, "must be positive numbers, got nan"),
        (DiseaseAwarePreTrainingConfig, {"text_pooling": "first"}, "must be cls, mean or last, got 'first'"),
        (DiseaseAwarePreTrainingConfig, {"projection_dim": 0}, "projection_dim must be a positive integer, got 0"),
        (
            DiseaseAwarePreTrainingConfig,
            {"loss_weights": {"orthogonality": 1}},
            "are classification, contrastive",
        ),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(config, values, message):
    with pytest.raises(ValueError, match=message):
        config(**values)


# Saving


@pytest.fixture
def bert(tmp_path):
    torch.manual_seed(0)
    BertModel(BertConfig(**BERT)).save_pretrained(tmp_path / "bert")  # with a pooler, which is never used
    return str(tmp_path / "bert")


def test_a_text_encoder_from_elsewhere_is_saved_by_reference(bert, tmp_path):
    vision = AutoModel.from_config(VISION_CONFIGS["vmamba"]())
    model = DiseaseAwareForPreTraining.from_vision_text_pretrained(vision, bert, **QUERIES).eval()
    model.save_pretrained(tmp_path / "model")
    stored = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    loaded, report = stored
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs = batch()
    assert torch.equal(loaded(**inputs).loss, model(**inputs).loss)
    assert not any(weight.requires_grad for weight in loaded.text_encoder.parameters())
    loaded.save_pretrained(tmp_path / "again")
    for folder in (tmp_path / "model", tmp_path / "again"):
        with safe_open(folder / "model.safetensors", "pt") as weights:
            names = set(weights.keys())
        assert not [name for name in names if name.startswith("text_encoder.")]
        assert bert not in (folder / "config.json").read_text()
    assert loaded.config.separate_parts["text_encoder"]["fingerprint"]


def test_a_new_text_encoder_is_saved_with_the_model(tmp_path):
    model = disease_aware().eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch()).loss, model(**batch()).loss)
    assert not any(weight.requires_grad for weight in loaded.text_encoder.parameters())


def test_the_vision_encoder_comes_out_for_other_stages(tmp_path):
    model = disease_aware()
    model.save_pretrained(tmp_path)
    encoder = load_vision_encoder(str(tmp_path), image_size=64)
    assert encoder.config.image_size == 64
    for name, weight in model.vision_encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], weight), name
