"""What label metrics are called in words, for pages and cards; files and tooltips keep the identifiers."""

import re

_AVERAGE = re.compile(
    r"(?P<measure>precision|recall|F1)_(?P<average>micro|macro|example)_(?P<size>14|5)_uncertain-(?P<uncertain>\w+)"
)
_OBSERVATION = re.compile(r"(?P<measure>precision|recall|F1|support)_(?P<name>.+)_uncertain-(?P<uncertain>\w+)")
_LOCATED = {
    "severity_agreement": "Size agrees, of findings on a side whose size both reports say",
    "severity_compared": "Findings whose size both reports say",
    "wrong_side_rate": "Findings on the wrong side, per report",
    "wrong_sides": "Findings on the wrong side",
    "contradiction_rate": "Findings that the reference rules out, per report",
    "contradictions": "Findings that the reference rules out",
}
_AVERAGES = {"micro": "micro", "macro": "macro", "example": "mean over studies"}
_ENTITIES = {
    "entities_hit": "Findings hit",
    "entities_near": "Findings nearly hit",
    "entities_missed": "Findings missed",
    "entities_invented": "Findings invented",
    "normal_left_out": "Normal findings left out",
}
_UNCERTAIN = {
    "negative": "uncertain as negative",
    "positive": "uncertain as positive",
    "ignore": "uncertain left out",
}


def metric_in_words(name: str) -> str:
    """The words for a score's identifier: `F1_micro_14_uncertain-negative` is "Finding F1, micro, 14 observations,
    uncertain as negative". Others, such as Bleu_4, are names that everybody knows and stand for themselves."""
    if name in _LOCATED:
        return _LOCATED[name]
    located = name.startswith("located_")
    if match := _AVERAGE.fullmatch(name.removeprefix("located_")):
        average, size, uncertain = _AVERAGES[match["average"]], match["size"], match["uncertain"]
        if uncertain in _UNCERTAIN:
            unit = "Located finding" if located else "Finding"
            return f"{unit} {match['measure']}, {average}, {size} observations, {_UNCERTAIN[uncertain]}"
    elif (match := _OBSERVATION.fullmatch(name)) and match["uncertain"] in _UNCERTAIN:
        measure = "studies with it" if match["measure"] == "support" else match["measure"]
        return f"{match['name']}, {measure}, {_UNCERTAIN[match['uncertain']]}"
    return _ENTITIES.get(name, name)


def observation_of(name: str) -> str | None:
    """The observation that a score is of; None for averages and others."""
    match = None if _AVERAGE.fullmatch(name) else _OBSERVATION.fullmatch(name)
    return None if match is None else match["name"]


__all__ = ["metric_in_words", "observation_of"]
