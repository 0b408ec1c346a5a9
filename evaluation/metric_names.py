"""What scores are called in words, for pages and cards; files and tooltips keep the identifiers."""

import re

_AVERAGE = re.compile(
    r"(?P<measure>precision|recall|F1)_(?P<average>micro|macro|example)_(?P<size>14|5)_uncertain-(?P<uncertain>\w+)"
)
_OBSERVATION = re.compile(r"(?P<measure>precision|recall|F1|support)_(?P<name>.+)_uncertain-(?P<uncertain>\w+)")
_CAPTIONS = {f"Bleu_{size}": f"BLEU-{size}" for size in (1, 2, 3, 4)} | {"ROUGE_L": "ROUGE-L"}
_AVERAGES = {"micro": "micro", "macro": "macro", "example": "mean over studies"}
_UNCERTAIN = {
    "negative": "uncertain as negative",
    "positive": "uncertain as positive",
    "ignore": "uncertain left out",
}


def metric_in_words(name: str) -> str:
    """The words for a score's identifier: `F1_micro_14_uncertain-negative` is "Finding F1, micro, 14 observations,
    uncertain as negative". An identifier that is not known here stands for itself."""
    if match := _AVERAGE.fullmatch(name):
        average, size, uncertain = _AVERAGES[match["average"]], match["size"], match["uncertain"]
        if uncertain in _UNCERTAIN:
            return f"Finding {match['measure']}, {average}, {size} observations, {_UNCERTAIN[uncertain]}"
    elif (match := _OBSERVATION.fullmatch(name)) and match["uncertain"] in _UNCERTAIN:
        measure = "studies with it" if match["measure"] == "support" else match["measure"]
        return f"{match['name']}, {measure}, {_UNCERTAIN[match['uncertain']]}"
    return _CAPTIONS.get(name, name)


__all__ = ["metric_in_words"]
