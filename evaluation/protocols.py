"""What exactly is scored: named protocols, and the signature that says it beside every score."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Protocol = Literal["full-reference", "r2gen-compat"]


def check_protocol(protocol: str, tokenizer: "PreTrainedTokenizerBase | None", max_tokens: int | None) -> None:
    """Raises ValueError for an unknown protocol, or one whose tokenizer and limit are missing or of no use."""
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol={protocol!r}: must be one of {', '.join(get_args(Protocol))}")
    if protocol == "full-reference" and (tokenizer is not None or max_tokens is not None):
        raise ValueError("tokenizer and max_tokens truncate reports, which only protocol='r2gen-compat' does")
    if protocol == "r2gen-compat":
        if tokenizer is None or max_tokens is None:
            raise ValueError(
                "protocol='r2gen-compat' truncates reports to max_tokens tokens of a tokenizer: give both (the papers: "
                "the language model's tokenizer, with 60 tokens for IU X-ray and 100 for MIMIC-CXR)"
            )
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}: must be at least 1")


def apply_protocol(
    texts: Sequence[str], protocol: Protocol, tokenizer: "PreTrainedTokenizerBase | None", max_tokens: int | None
) -> list[str]:
    """The texts as the protocol scores them.

    - "full-reference": complete, as the CXPMRG-Bench paper asks.
    - "r2gen-compat": cut after `max_tokens` tokens and written again from these, as the released code of R2Gen and
      its descendants treats references and hypotheses. Scores come out higher than on complete references.
    """
    if protocol == "full-reference":
        return list(texts)
    if not texts:
        return []
    if tokenizer is None:
        raise ValueError("r2gen-compat needs a tokenizer")
    cut = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=max_tokens)
    return [text.strip() for text in tokenizer.batch_decode(cut["input_ids"], skip_special_tokens=True)]


def signature(
    *,
    studies: int,
    section: str,
    tokenize: str,
    protocol: Protocol,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_tokens: int | None = None,
    intervals: str | None = None,
    radeval: str | None = None,
) -> str:
    """All that a reader needs to compare scores, in one line of `key:value` parted by `|`, as sacrebleu has it."""
    name: str = protocol
    if protocol == "r2gen-compat" and tokenizer is not None:
        name += f"[{max_tokens},{tokenizer.name_or_path or type(tokenizer).__name__}]"
    parts = {
        "nrefs": "1",
        "studies": str(studies),
        "section": section,
        "tok": tokenize,
        "protocol": name,
        "bleu/rouge/cider": "coco",
        "meteor": "1.5-en-norm",
        "labels": "CheXpertStyleLabeler",
        **({"radeval": radeval} if radeval else {}),
        "ci": intervals or "no",
        "version": f"mambaxray-{version('mambaxray')}",
    }
    return "|".join(f"{key}:{value}" for key, value in parts.items())
