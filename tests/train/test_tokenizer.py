"""The tokenizer trained on reports."""

import pytest

from mambaxray.train.tokenizer import train_report_tokenizer

REPORTS = ["The heart is normal in size.", "No pleural effusion or pneumothorax.", "The lungs are clear."] * 5


@pytest.mark.parametrize("text", ["The heart is large.", "Ödem, größer als 3 µm\n\n— 胸水", "", "  two  blanks "])
def test_any_text_comes_back_unchanged(text):
    tokenizer = train_report_tokenizer(REPORTS, vocab_size=320)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_frequent_words_become_single_tokens():
    tokenizer = train_report_tokenizer(REPORTS, vocab_size=400)
    assert len(tokenizer.tokenize(" effusion")) == 1
    assert len(tokenizer) <= 400


def test_special_tokens_have_fixed_ids():
    tokenizer = train_report_tokenizer(REPORTS, vocab_size=320)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_training_is_deterministic():
    first, second = (train_report_tokenizer(REPORTS, vocab_size=350) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()


def test_a_vocabulary_without_room_for_all_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size 100 cannot hold the 256 bytes"):
        train_report_tokenizer(REPORTS, vocab_size=100)
