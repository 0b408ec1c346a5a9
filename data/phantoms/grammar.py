"""Small grammar for the sentences of phantom reports."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sentence:
    """A sentence, the block of the findings section that it belongs to, and the observations that it denies."""

    block: str
    text: str
    denies: tuple[str, ...] = ()


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def as_sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    text = text.strip()
    return text[0].upper() + text[1:] + "."


def join(items: Sequence[str], word: str) -> str:
    """ "a, b or c" for the word "or"."""
    if len(items) < 3:
        return f" {word} ".join(items)
    return ", ".join(items[:-1]) + f" {word} " + items[-1]


def with_article(phrase: str) -> str:
    """The phrase after "a" or "an"."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
