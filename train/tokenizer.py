"""A small tokenizer trained on reports, for decoders that are trained from scratch."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


def train_report_tokenizer(texts: Iterable[str], vocab_size: int = 1000) -> PreTrainedTokenizerFast:
    """Trains byte-level BPE on texts; every unicode text can be encoded and comes back unchanged.

    Args:
        texts: reports, and the prompt if it is to be short.
        vocab_size: maximum number of tokens, including the 256 bytes and the special tokens.

    Returns:
        A tokenizer with `<pad>` (0), `<s>` (1) and `</s>` (2).

    Raises:
        ValueError: the vocabulary is too small to hold all bytes.
    """
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(special) + len(alphabet):
        raise ValueError(f"vocab_size {vocab_size} cannot hold the {len(alphabet)} bytes and {len(special)} others")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


__all__ = ["train_report_tokenizer"]
