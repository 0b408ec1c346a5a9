"""Reports as vectors: each pooling, sentences and reports, frozen or trained."""

import json

import pytest
import torch
from tiny import TEXT_CONFIGS, VOCABULARY, tiny_tokenizer
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertModel

from mambaxray.modeling_mambaxray.layers.report_encoder import ReportEncoder, pool_tokens

REPORTS = ["heart normal . lungs clear . no effusion .", "heart large .", "lungs clear . heart normal ."]


def tiny_bert():
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=VOCABULARY
    )
    return BertModel(config, add_pooling_layer=False)


def tokenizer():
    return tiny_tokenizer("heart lungs normal clear no effusion large .")


def sentences(report):
    return [f"{part.strip()} ." for part in report.split(".") if part.strip()]


@pytest.mark.parametrize("side", ["left", "right"])
def test_poolings_take_what_their_names_say_whichever_side_is_padded(side):
    states = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1] if side == "left" else [1, 1, 0, 0]])
    valid = slice(2, 4) if side == "left" else slice(0, 2)
    row = states[1, valid]
    expected = {"last": row[-1], "cls": row[0], "mean": row.mean(0)}
    for pooling, vector in expected.items():
        pooled = pool_tokens(states, mask, pooling)
        torch.testing.assert_close(pooled[1], vector)
        torch.testing.assert_close(pooled[:1], pool_tokens(states[:1], None, pooling))
    assert pool_tokens(states, mask, "tokens") is states


@pytest.mark.parametrize("text", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("pooling", ["last", "cls", "mean"])
def test_a_padded_batch_gives_what_single_reports_give(text, pooling):
    torch.manual_seed(0)
    model = tiny_bert() if text == "bert" else AutoModel.from_config(TEXT_CONFIGS[text]())
    encoder = ReportEncoder(model, pooling=pooling).train()
    together = encoder.encode(REPORTS, tokenizer(), batch_size=3)
    alone = torch.cat([encoder.encode([report], tokenizer()) for report in REPORTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert encoder.training
    assert together.shape == (3, encoder.hidden_size)


def test_sentences_are_encoded_one_by_one_and_averaged():
    encoder = ReportEncoder(tiny_bert(), pooling="cls", unit="sentence").eval()
    whole = ReportEncoder(encoder.model, pooling="cls").eval()
    encoded = encoder.encode(REPORTS, tokenizer(), split=sentences, batch_size=2)
    expected = [whole.encode(sentences(report), tokenizer()).mean(0) for report in REPORTS]
    torch.testing.assert_close(encoded, torch.stack(expected), atol=1e-6, rtol=1e-5)
    rows = tokenizer()([s for r in REPORTS for s in sentences(r)], return_tensors="pt", padding=True)
    counts = torch.tensor([len(sentences(report)) for report in REPORTS])
    batch = encoder(rows["input_ids"], rows["attention_mask"], counts)
    torch.testing.assert_close(batch, encoded, atol=1e-6, rtol=1e-5)


def test_a_frozen_encoder_is_never_trained_and_another_is():
    batch = tokenizer()(REPORTS, return_tensors="pt", padding=True)
    frozen, free = ReportEncoder(tiny_bert(), frozen=True).train(), ReportEncoder(tiny_bert()).train()
    assert not frozen.model.training
    assert free.model.training
    output = frozen(batch["input_ids"], batch["attention_mask"])
    assert not output.requires_grad
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    free(batch["input_ids"], batch["attention_mask"]).sum().backward()
    assert any(parameter.grad is not None for parameter in free.parameters())


def test_token_states_come_as_they_are():
    batch = tokenizer()(REPORTS, return_tensors="pt", padding=True)
    model = tiny_bert().eval()
    states = ReportEncoder(model, pooling="tokens").eval()(batch["input_ids"], batch["attention_mask"])
    expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    assert torch.equal(states, expected)


def test_the_body_of_a_saved_language_model_is_taken_and_no_pooler_is_made(tmp_path):
    AutoModelForCausalLM.from_config(TEXT_CONFIGS["llama"]()).save_pretrained(tmp_path / "llm")
    BertModel(tiny_bert().config).save_pretrained(tmp_path / "bert")
    language = ReportEncoder.from_pretrained(tmp_path / "llm", pooling="last")
    assert type(language.model).__name__ == "LlamaModel"
    assert ReportEncoder.from_pretrained(tmp_path / "bert", pooling="cls").model.pooler is None


def test_a_text_encoder_with_code_of_its_own_is_loaded_when_it_is_trusted(tmp_path):
    model = tiny_bert()
    model.save_pretrained(tmp_path)
    (tmp_path / "own_bert.py").write_text(
        "from transformers import BertConfig, BertModel\n\n\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own_bert'\n\n\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
    )
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "own_bert",
        "auto_map": {"AutoConfig": "own_bert.OwnConfig", "AutoModel": "own_bert.OwnModel"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = ReportEncoder.from_pretrained(str(tmp_path), trust_remote_code=True)
    assert type(loaded.model).__name__ == "OwnModel"
    assert torch.equal(loaded.model.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ReportEncoder(tiny_bert(), pooling="max"), "pooling must be one of"),
        (lambda: ReportEncoder(tiny_bert(), unit="word"), "unit must be one of"),
        (lambda: ReportEncoder(tiny_bert(), pooling="tokens", unit="sentence"), "one vector each"),
        (lambda: ReportEncoder(tiny_bert(), pooling="tokens").encode(REPORTS, tokenizer()), "no vector per report"),
        (lambda: ReportEncoder(tiny_bert(), unit="sentence").encode(REPORTS, tokenizer()), "split goes with"),
        (lambda: ReportEncoder(tiny_bert())(torch.ones(2, 3).long(), counts=torch.tensor([2])), "counts"),
        (
            lambda: ReportEncoder(tiny_bert(), unit="sentence")(torch.ones(2, 3).long(), counts=torch.tensor([2, 0])),
            "positive and add up to the 2 rows",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
