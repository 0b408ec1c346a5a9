"""Misspelt words that the labeler's rules depend on: "pneumothroax", "consolidaton".

A word counts as misspelt when it is no word of its own here and one edit (Damerau, Communications of the ACM 1964: a
letter too many, missing, wrong, or two exchanged) from a single long word that the rules know. Short words, and words
that are one edit from a second real one ("nodule", "module"), are left as they are.
"""

import re
from functools import lru_cache

from .labeler_sentences import Sentence

_LONG_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        pneumothorax pneumothoraces hydropneumothorax hemothorax pneumonia pneumonias consolidation consolidations
        consolidated atelectasis atelectatic cardiomegaly effusion effusions opacity opacities opacification infiltrate
        infiltrates fracture fractures fractured enlarged enlargement pulmonary congestion congested vascular
        cardiomediastinal mediastinum mediastinal silhouette catheter catheters pacemaker endotracheal nasogastric
        tracheostomy unremarkable evidence resolved interstitial airspace bilateral unchanged
        """,
    )
)
"""In lower case, of at least seven letters: the shorter a word, the more real words are one edit from it."""
_REAL_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        pneumonic pneumonitis hemithorax hemithoraces hydrothorax haemothorax consolidating consolidative consolidate
        opacified effusive infiltrated infiltrating enlarges enlarge enlargements bilaterally revolved dissolved
        vasculature mediastinally pacemakers silhouettes airspaces interstitium congestive evidenced resolves resolve
        opaque
        """,
    )
)
"""Real words one edit from one of them."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORD = re.compile(r"[a-z]{7,}")


def mend(sentence: Sentence) -> Sentence:
    """The sentence with misspelt words as they are meant; its `span` still gives places in the report."""
    wrong = [(m, meant) for m in _WORD.finditer(sentence.words) if (meant := _meant(m.group()))]
    if not wrong:
        return sentence
    words: list[str] = []
    places: list[int] = []  # in `sentence.words`, of each letter
    done = 0
    for match, meant in wrong:
        start, end = match.span()
        words += [sentence.words[done:start], meant]
        places += range(done, start)
        places += [min(start + i, end - 1) for i in range(len(meant) - 1)] + [end - 1]
        done = end
    words.append(sentence.words[done:])
    places += range(done, len(sentence.words))
    return Sentence("".join(words), sentence.start, tuple(sentence.span(i, i + 1)[0] for i in places))


@lru_cache(maxsize=20_000)
def _meant(word: str) -> str | None:
    """The word that is meant, if `word` is misspelt."""
    if word in _LONG_WORDS or word in _REAL_WORDS:
        return None
    found = _one_edit_from(word) & _LONG_WORDS
    return found.pop() if len(found) == 1 else None


def _one_edit_from(word: str) -> set[str]:
    parts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    return {
        *(a + b[1:] for a, b in parts if b),
        *(a + b[1] + b[0] + b[2:] for a, b in parts if len(b) > 1),
        *(a + c + b[1:] for a, b in parts if b for c in _LETTERS),
        *(a + c + b for a, b in parts for c in _LETTERS),
    }
