"""Reports for phantoms: a grammar whose every sentence knows which labels it states.

The rules of the labels, exact by construction (no hedged sentence is ever written, so there is no -1):

- every finding is mentioned: its observation is 1;
- an absent observation is 0 where a sentence denies it *by name* ("No pleural effusion", "The heart size is
  normal" for Cardiomegaly, "The mediastinal contours are normal" for Enlarged Cardiomediastinum), else None;
- a general remark ("The lungs are clear", "No acute bony abnormality") names no observation and sets none;
- an observation's words are used for it alone: only Lung Opacity is called an opacity, only Consolidation a
  consolidation, and so on;
- No Finding is 1 when no observation but Support Devices is present, else 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .phantom_findings import Finding, ribs_of
from .schema import ABSENT, NOT_MENTIONED, OBSERVATIONS, PRESENT


@dataclass(frozen=True)
class Report:
    """A report by section, and what it states."""

    findings: str
    impression: str
    labels: dict[str, int | None]

    @property
    def text(self) -> str:
        """Both sections as one text."""
        return f"{self.findings} {self.impression}"


@dataclass(frozen=True)
class _Sentence:
    block: str
    text: str
    denies: tuple[str, ...] = ()


_SHORTEST = 27
"""Words below which a report is filled up with normal remarks."""
_LUNG = ("Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
_BLOCK = {
    **dict.fromkeys(_LUNG, "lungs"),
    "Cardiomegaly": "heart",
    "Enlarged Cardiomediastinum": "heart",
    "Pneumothorax": "pleura",
    "Pleural Effusion": "pleura",
    "Pleural Other": "pleura",
    "Fracture": "bones",
    "Support Devices": "devices",
}
_ORDERS = (
    ("heart", "lungs", "pleura", "bones", "devices"),
    ("devices", "heart", "lungs", "pleura", "bones"),
    ("lungs", "pleura", "heart", "bones", "devices"),
    ("lungs", "pleura", "heart", "devices", "bones"),
    ("heart", "lungs", "pleura", "devices", "bones"),
    ("devices", "lungs", "pleura", "heart", "bones"),
)


def write_report(findings: Sequence[Finding], rng: np.random.Generator) -> Report:
    """A report of what these findings (their kinds filled in) and nothing else show.

    Args:
        findings: what is to be seen.
        rng: decides wording, order and which absent observations are denied.
    """
    present = {finding.observation for finding in findings}
    shuffled = [findings[i] for i in rng.permutation(len(findings))]
    stated = [_Sentence(_BLOCK[f.observation], _state(f, rng)) for f in shuffled]
    impression = _impression(findings, rng)
    words = len(impression.split()) + sum(len(s.text.split()) for s in stated)
    goal = rng.integers(30, 58)
    for sentence in _normal_sentences(present, rng):
        length = len(sentence.text.split())
        if words + length <= goal or words < _SHORTEST:
            stated.append(sentence)
            words += length
    for sentence in _fillers(present, rng):
        if words < (goal - 5 if not present else _SHORTEST):
            stated.append(sentence)
            words += len(sentence.text.split())
    order = _ORDERS[rng.integers(len(_ORDERS))]
    stated.sort(key=lambda sentence: order.index(sentence.block))
    denied = {observation for sentence in stated for observation in sentence.denies}
    return Report(" ".join(s.text for s in stated), impression, _labels(present, denied))


def _labels(present: set[str], denied: set[str]) -> dict[str, int | None]:
    labels: dict[str, int | None] = {
        name: PRESENT if name in present else ABSENT if name in denied else NOT_MENTIONED for name in OBSERVATIONS
    }
    labels["No Finding"] = ABSENT if present - {"Support Devices"} else PRESENT
    return labels


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[rng.integers(len(options))]


def _sentence(text: str) -> str:
    text = text.strip()
    return text[0].upper() + text[1:] + "."


def _join(items: Sequence[str], word: str) -> str:
    if len(items) < 3:
        return f" {word} ".join(items)
    return ", ".join(items[:-1]) + f" {word} " + items[-1]


def _an(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


# ------------------------------------------------------------------------------------- words for places

_LOBES = {
    ("right", "upper"): ("right upper lobe", "right upper lung", "right upper lung zone"),
    ("right", "mid"): ("right middle lobe", "right mid lung", "right midlung zone"),
    ("right", "lower"): ("right lower lobe", "right lung base", "right base"),
    ("left", "upper"): ("left upper lobe", "left upper lung", "left upper lung zone"),
    ("left", "mid"): ("lingula", "left mid lung", "left midlung zone"),
    ("left", "lower"): ("left lower lobe", "left lung base", "left base"),
    ("bilateral", "upper"): ("upper lobes bilaterally", "upper lungs bilaterally"),
    ("bilateral", "mid"): ("mid lungs bilaterally", "mid lung zones bilaterally"),
    ("bilateral", "lower"): ("lower lobes bilaterally", "lung bases bilaterally"),
}
_ADJECTIVES = {
    ("right", "upper"): ("right upper lobe",),
    ("right", "mid"): ("right middle lobe", "right midlung"),
    ("right", "lower"): ("right lower lobe", "right basilar"),
    ("left", "upper"): ("left upper lobe",),
    ("left", "mid"): ("lingular", "left midlung"),
    ("left", "lower"): ("left lower lobe", "left basilar"),
    ("bilateral", "upper"): ("bilateral upper lobe",),
    ("bilateral", "mid"): ("bilateral midlung",),
    ("bilateral", "lower"): ("bibasilar", "bilateral lower lobe"),
}
_EXTENT = (("mild",), ("moderate",), ("severe", "marked"))
_EXTENTLY = (("mildly", "slightly"), ("moderately",), ("severely", "markedly"))
_SIZE = (("small",), ("moderate",), ("large",))
_VEIL = (("faint", "subtle"), ("moderate",), ("extensive", "prominent"))
_AREA = (("a small area of", "mild"), ("moderate",), ("dense", "extensive"))
_INFECTION = (("mild", "early"), ("moderate",), ("extensive", "severe"))
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def _place(finding: Finding, rng: np.random.Generator) -> str:
    """ "in the right lower lobe" or "at the right lung base"."""
    lobe = _pick(rng, _LOBES[finding.side, finding.zone])
    return f"{'at' if 'base' in lobe else 'in'} the {lobe}"


def _adjective(finding: Finding, rng: np.random.Generator) -> str:
    return _pick(rng, _ADJECTIVES[finding.side, finding.zone])


# --------------------------------------------------------------------------------- what is present


def _state(finding: Finding, rng: np.random.Generator) -> str:
    """The sentence of the findings section."""
    return _sentence(_pick(rng, _STATEMENTS[finding.observation](finding, rng)))


def _cardiomegaly(f: Finding, rng: np.random.Generator) -> list[str]:
    extent, extently = _pick(rng, _EXTENT[f.degree]), _pick(rng, _EXTENTLY[f.degree])
    return [
        f"the heart is {extently} enlarged",
        f"there is {extent} cardiomegaly",
        f"{extent} cardiomegaly is present",
        f"the cardiac silhouette is {extently} enlarged",
        f"the heart size is {extently} enlarged",
    ]


def _mediastinum(f: Finding, rng: np.random.Generator) -> list[str]:
    extent, extently = _pick(rng, _EXTENT[f.degree]), _pick(rng, _EXTENTLY[f.degree])
    return [
        f"the mediastinum is {extently} widened",
        f"there is {extent} widening of the mediastinum",
        f"the superior mediastinum is {extently} widened",
        f"{extent} mediastinal widening is present",
        f"the mediastinal silhouette is {extently} enlarged",
    ]


def _opacity(f: Finding, rng: np.random.Generator) -> list[str]:
    veil, place = _pick(rng, _VEIL[f.degree]), _place(f, rng)
    noun = _pick(rng, ("hazy opacity", "ground-glass opacity", "airspace opacity"))
    if f.side == "bilateral":
        many = noun.replace("opacity", "opacities")
        return [
            f"there are {veil} {many} {place}",
            f"{veil} {many} are seen {place}",
            f"{veil} {many} are present {place}",
        ]
    return [
        f"there is {_an(veil)} {noun} {place}",
        f"{_an(veil)} {noun} is seen {place}",
        f"{veil} {noun} is present {place}",
        f"{veil} ill-defined {noun} is noted {place}",
    ]


def _lesion(f: Finding, rng: np.random.Generator) -> list[str]:
    noun = _lesion_noun(f, rng)
    place = _place(f, rng)
    size, bare = noun.split(" ", 1)
    shaped = f"{size} {_pick(rng, ('', 'well-circumscribed ', 'round ', 'solitary '))}{bare}"
    if f.side == "bilateral":
        return [f"there are {noun} {place}", f"{noun} are seen {place}", f"{noun} are present {place}"]
    return [
        f"there is {_an(noun)} {place}",
        f"{_an(noun)} is seen {place}",
        f"{_an(shaped)} is present {place}",
        f"{_an(noun)} projects over the {place.split(' the ')[1]}",
    ]


def _lesion_noun(f: Finding, rng: np.random.Generator) -> str:
    noun = (
        _pick(rng, ("small nodule", "small pulmonary nodule")),
        _pick(rng, ("moderate-sized nodule", "moderate-sized pulmonary nodule")),
        _pick(rng, ("large mass", "large lung mass")),
    )[f.degree]
    return noun + ("es" if noun.endswith("s") else "s") if f.side == "bilateral" else noun


def _edema(f: Finding, rng: np.random.Generator) -> list[str]:
    extent = _pick(rng, _EXTENT[f.degree])
    return [
        f"there is {extent} pulmonary edema",
        f"{extent} interstitial pulmonary edema is present" if f.degree < 2 else f"{extent} pulmonary edema is present",
        f"perihilar haziness is consistent with {extent} pulmonary edema",
        f"there is pulmonary vascular congestion with {extent} edema",
        f"indistinct pulmonary vasculature is compatible with {extent} pulmonary edema",
    ]


def _consolidation(f: Finding, rng: np.random.Generator) -> list[str]:
    area, place, where = _pick(rng, _AREA[f.degree]), _place(f, rng), _adjective(f, rng)
    bronchogram = _pick(rng, ("", "", " with air bronchograms"))
    return [
        f"there is {area} consolidation {place}{bronchogram}",
        f"{area} consolidation is seen {place}",
        f"{area} consolidation is present {place}{bronchogram}",
        f"there is {area} {where} consolidation{bronchogram}",
    ]


def _pneumonia(f: Finding, rng: np.random.Generator) -> list[str]:
    extent, place, where = _pick(rng, _INFECTION[f.degree]), _place(f, rng), _adjective(f, rng)
    return [
        f"patchy changes {place} are consistent with {extent} pneumonia",
        f"findings {place} are compatible with {extent} pneumonia",
        f"there is {extent} {where} pneumonia",
        f"{extent} patchy pneumonia is present {place}",
        f"the appearance is consistent with {extent} {where} pneumonia",
    ]


def _atelectasis(f: Finding, rng: np.random.Generator) -> list[str]:
    extent, place, where = _pick(rng, _EXTENT[f.degree]), _place(f, rng), _adjective(f, rng)
    kind = _pick(rng, ("", "linear ", "plate-like ", "subsegmental ", "bandlike "))
    lift = "both hemidiaphragms" if f.side == "bilateral" else f"the {f.side} hemidiaphragm"
    loss = _pick(rng, ("", f" with elevation of {lift}")) if f.degree else ""
    return [
        f"there is {extent} {kind}atelectasis {place}{loss}",
        f"{extent} {kind}atelectasis is seen {place}",
        f"{extent} {where} {kind}atelectasis is present{loss}",
        f"bands of {extent} atelectasis are noted {place}",
    ]


def _pneumothorax(f: Finding, rng: np.random.Generator) -> list[str]:
    size = _pick(rng, _SIZE[f.degree])
    side = _pick(rng, (f.side, f"{f.side}-sided"))
    apical = _pick(rng, ("", " apical")) if f.degree == 0 else ""
    return [
        f"there is {_an(size)} {side}{apical} pneumothorax",
        f"{_an(size)} {side}{apical} pneumothorax is present",
        f"{_an(size)} pneumothorax is seen on the {f.side}",
        f"{size} {side}{apical} pneumothorax is noted",
    ]


def _effusion(f: Finding, rng: np.random.Generator) -> list[str]:
    size = _pick(rng, _SIZE[f.degree])
    if f.side == "bilateral":
        return [
            f"there are {size} bilateral pleural effusions",
            f"{size} bilateral pleural effusions are present",
            f"{size} pleural effusions are seen bilaterally",
        ]
    side = _pick(rng, (f.side, f"{f.side}-sided"))
    options = [
        f"there is {_an(size)} {side} pleural effusion",
        f"{_an(size)} {side} pleural effusion is present",
        f"{size} {side} pleural effusion is noted",
        f"{_an(size)} pleural effusion is seen on the {f.side}",
    ]
    if f.degree == 0:
        options.append(f"blunting of the {f.side} costophrenic angle is consistent with {_an(size)} pleural effusion")
    return options


def _pleural_noun(f: Finding, rng: np.random.Generator) -> str:
    if f.kind == "plaques":
        amount = (_pick(rng, ("a few", "small")), "several", _pick(rng, ("extensive", "numerous")))[f.degree]
        return f"{amount} {f.side} calcified pleural plaques"
    zone = {"upper": "apical", "mid": "lateral", "lower": "basilar"}[f.zone]
    extent = _pick(rng, _EXTENT[f.degree])
    if (f.side, f.zone) == ("bilateral", "upper"):
        return f"{extent} biapical pleural thickening"
    return f"{extent} {f.side} {zone} pleural thickening"


def _pleural_other(f: Finding, rng: np.random.Generator) -> list[str]:
    noun = _pleural_noun(f, rng)
    if f.kind == "plaques":
        return [f"there are {noun}", f"{noun} are seen", f"{noun} are present", f"{noun} are noted"]
    return [f"there is {noun}", f"{noun} is seen", f"{noun} is present", f"{noun} is noted"]


def _fracture(f: Finding, rng: np.random.Generator) -> list[str]:
    ribs = [_ORDINALS[rib] for rib in ribs_of(f)]
    age = _pick(
        rng, ("displaced", "acute", "acute displaced") if f.kind == "acute" else ("healed", "old healed", "old")
    )
    if len(ribs) == 1:
        return [
            f"there is {_an(age)} fracture of the {f.side} {ribs[0]} rib",
            f"{_an(age)} {f.side} {ribs[0]} rib fracture is seen",
            f"{age} fracture of the {f.side} {ribs[0]} rib is noted",
        ]
    named = _join(ribs, "and")
    return [
        f"there are {age} fractures of the {f.side} {named} ribs",
        f"{age} {f.side} rib fractures are seen involving the {named} ribs",
        f"{age} fractures of the {f.side} {named} ribs are noted",
    ]


def _device(f: Finding, rng: np.random.Generator) -> list[str]:
    side = _pick(rng, (f.side, f"{f.side}-sided"))
    return {
        "endotracheal tube": [
            "an endotracheal tube is in place with its tip above the carina",
            "the endotracheal tube tip is above the carina",
            "endotracheal tube terminates above the carina",
        ],
        "central venous catheter": [
            f"a {side} central venous catheter terminates in the SVC",
            f"{side} central line tip overlies the SVC",
            f"a {side} central venous catheter is present with its tip in the superior vena cava",
        ],
        "pacemaker": [
            f"a {side} pacemaker is present with leads in the right atrium and right ventricle",
            f"{side} dual-lead cardiac pacemaker is in place",
            f"a {side} chest pacemaker is noted",
        ],
        "nasogastric tube": [
            "a nasogastric tube extends into the stomach",
            "the nasogastric tube courses below the diaphragm",
            "enteric tube tip is in the stomach",
        ],
        "chest tube": [
            f"a {side} chest tube is in place",
            f"{side} chest tube tip is at the apex",
            f"a {side} chest tube is present",
        ],
    }[f.kind]


_STATEMENTS = {
    "Cardiomegaly": _cardiomegaly,
    "Enlarged Cardiomediastinum": _mediastinum,
    "Lung Opacity": _opacity,
    "Lung Lesion": _lesion,
    "Edema": _edema,
    "Consolidation": _consolidation,
    "Pneumonia": _pneumonia,
    "Atelectasis": _atelectasis,
    "Pneumothorax": _pneumothorax,
    "Pleural Effusion": _effusion,
    "Pleural Other": _pleural_other,
    "Fracture": _fracture,
    "Support Devices": _device,
}


# ------------------------------------------------------------------------------------- the impression


def _impression(findings: Sequence[Finding], rng: np.random.Generator) -> str:
    shown = [f for f in findings if f.observation != "Support Devices"]
    devices = [f for f in findings if f.observation == "Support Devices"]
    lines = [_summary(f, rng) for f in rng.permutation(np.array(shown, dtype=object))]
    if not shown:
        lines.append(
            _pick(
                rng,
                (
                    "no acute cardiopulmonary abnormality",
                    "no acute cardiopulmonary disease",
                    "no acute cardiopulmonary findings",
                    "no acute cardiopulmonary process",
                    "no evidence of active disease",
                    "no acute disease",
                    "negative for acute abnormality",
                    "no acute radiographic cardiopulmonary process",
                )
                + (() if devices else ("normal chest", "normal chest radiograph")),
            )
        )
    if devices and rng.uniform() < 0.4:
        lines.append(
            _pick(
                rng,
                (
                    "support devices as described",
                    "support devices in satisfactory position",
                    _device_summary(devices[0]),
                ),
            )
        )
    sentences = [_sentence(line) for line in lines]
    if len(sentences) > 1 and rng.uniform() < 0.5:
        sentences = [f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)]
    return " ".join(sentences)


def _device_summary(f: Finding) -> str:
    return f"{f.kind} in place"


def _summary(f: Finding, rng: np.random.Generator) -> str:
    """A finding in a few words."""
    where = _adjective(f, rng) if f.zone else ""
    extent = _pick(rng, _EXTENT[f.degree])
    match f.observation:
        case "Cardiomegaly":
            return _pick(rng, (f"{extent} cardiomegaly", f"{_pick(rng, _EXTENTLY[f.degree])} enlarged heart"))
        case "Enlarged Cardiomediastinum":
            return _pick(rng, (f"{extent} mediastinal widening", f"{extent} widening of the mediastinum"))
        case "Lung Opacity":
            noun = "opacities" if f.side == "bilateral" else "opacity"
            return _pick(rng, (f"{_pick(rng, _VEIL[f.degree])} {where} {noun}", f"{where} {noun}"))
        case "Lung Lesion":
            size, noun = _lesion_noun(f, rng).split(" ", 1)
            return f"{size} {where} {noun}"
        case "Edema":
            return f"{extent} pulmonary edema"
        case "Consolidation":
            return _pick(rng, (f"{where} consolidation", f"{_pick(rng, _AREA[f.degree])} {where} consolidation"))
        case "Pneumonia":
            return _pick(rng, (f"{where} pneumonia", f"{_pick(rng, _INFECTION[f.degree])} {where} pneumonia"))
        case "Atelectasis":
            return _pick(rng, (f"{where} atelectasis", f"{extent} {where} atelectasis"))
        case "Pneumothorax":
            return f"{_pick(rng, _SIZE[f.degree])} {f.side} pneumothorax"
        case "Pleural Effusion":
            noun = "effusions" if f.side == "bilateral" else "effusion"
            return f"{_pick(rng, _SIZE[f.degree])} {f.side} pleural {noun}"
        case "Pleural Other":
            return _pleural_noun(f, rng)
    age = "acute" if f.kind == "acute" else "healed"
    return f"{age} {f.side} rib fracture{'s' if f.degree else ''}"


# --------------------------------------------------------------------------------- what is not present

_DENIED_NOUNS = {
    "Consolidation": ("focal consolidation", "consolidation", "focal airspace consolidation"),
    "Pleural Effusion": ("pleural effusion", "effusion"),
    "Pneumothorax": ("pneumothorax",),
    "Edema": ("pulmonary edema", "edema"),
    "Pneumonia": ("pneumonia",),
    "Lung Lesion": ("pulmonary nodule", "suspicious pulmonary nodule or mass"),
    "Lung Opacity": ("focal opacity", "airspace opacity"),
    "Atelectasis": ("atelectasis",),
    "Pleural Other": ("pleural thickening",),
}
_DENIAL = {
    "Consolidation": 0.75,
    "Pleural Effusion": 0.85,
    "Pneumothorax": 0.85,
    "Edema": 0.3,
    "Pneumonia": 0.15,
    "Lung Lesion": 0.1,
    "Lung Opacity": 0.12,
    "Atelectasis": 0.04,
    "Pleural Other": 0.05,
}
"""How often an absent observation is denied."""


def _normal_sentences(present: set[str], rng: np.random.Generator) -> Iterator[_Sentence]:
    """Denials and normal remarks that are true here, the more usual ones first."""
    usual = [*_denials(present, rng)]
    clear = any("lungs are clear" in sentence.text for sentence in usual)
    if rng.uniform() < 0.85:
        usual.extend(_heart_remarks(present, rng))
    rare = [None if clear else _lung_remark(present, rng), _bone_remark(present, rng)]
    rare = [sentence for sentence in rare if sentence is not None]
    yield from (usual[i] for i in rng.permutation(len(usual)))
    yield from (rare[i] for i in rng.permutation(len(rare)))


def _fillers(present: set[str], rng: np.random.Generator) -> Iterator[_Sentence]:
    """Remarks for a report that is still short."""
    texts = ["the soft tissues are unremarkable", "the upper abdomen is unremarkable"]
    if "Edema" not in present:
        texts.append("the pulmonary vasculature is normal")
    if not present & {"Pneumothorax", "Pleural Effusion", "Atelectasis", "Enlarged Cardiomediastinum"}:
        texts += ["the trachea is midline", "the diaphragm is normal in contour"]
    yield from (_Sentence("lungs", _sentence(texts[i])) for i in rng.permutation(len(texts)))


def _denials(present: set[str], rng: np.random.Generator) -> Iterator[_Sentence]:
    """ "No focal consolidation, pleural effusion or pneumothorax." in one or two sentences."""
    names = [name for name, chance in _DENIAL.items() if name not in present and rng.uniform() < chance]
    names = [names[i] for i in rng.permutation(len(names))]
    clear = False
    while names:
        take = min(len(names), int(rng.integers(1, 4)) if len(names) < 4 else int(rng.integers(2, 4)))
        group, names = names[:take], names[take:]
        # "or mass" must close its list.
        group.sort(key=lambda name: name == "Lung Lesion")
        listed = _join([_pick(rng, _DENIED_NOUNS[name]) for name in group], "or")
        text = _pick(
            rng,
            (
                f"no {listed}",
                f"there is no {listed}",
                f"there is no evidence of {listed}",
                f"no {listed} is seen",
                f"no {listed} is identified",
                f"no evidence of {listed}",
                f"negative for {listed}",
            ),
        )
        if not clear and not present & set(_LUNG) and rng.uniform() < 0.2:
            clear = True
            text = f"the lungs are clear without {listed}"
        pleural = {"Pleural Effusion", "Pneumothorax", "Pleural Other"} & set(group)
        yield _Sentence("pleura" if pleural else "lungs", _sentence(text), tuple(group))


def _heart_remarks(present: set[str], rng: np.random.Generator) -> Iterator[_Sentence]:
    heart = _pick(
        rng,
        (
            "the heart size is normal",
            "heart size is within normal limits",
            "the heart is normal in size",
            "heart size normal",
            "normal heart size",
            "the cardiac silhouette is normal in size",
        ),
    )
    vessels = _pick(
        rng,
        (
            "the mediastinal contours are normal",
            "mediastinal contours are within normal limits",
            "the mediastinum is unremarkable",
            "normal mediastinal contours",
            "the mediastinal silhouette is normal",
        ),
    )
    both = _pick(
        rng,
        (
            "heart size and mediastinal contours are within normal limits",
            "the heart size and mediastinal contours are normal",
            "the heart and mediastinum are within normal limits",
            "normal heart size and mediastinal contours",
        ),
    )
    names = ("Cardiomegaly", "Enlarged Cardiomediastinum")
    if not present & set(names) and rng.uniform() < 0.45:
        yield _Sentence("heart", _sentence(both), names)
        return
    if names[0] not in present:
        yield _Sentence("heart", _sentence(heart), names[:1])
    if names[1] not in present and rng.uniform() < 0.5:
        yield _Sentence("heart", _sentence(vessels), names[1:])


def _lung_remark(present: set[str], rng: np.random.Generator) -> _Sentence | None:
    lungs = present & set(_LUNG)
    if lungs - {"Edema"} and "Edema" not in lungs:
        return _Sentence("lungs", _pick(rng, ("The lungs are otherwise clear.", "Otherwise clear lungs.")))
    if lungs or present & {"Pneumothorax", "Pleural Effusion"}:
        return None
    options = ("the lungs are clear", "lungs are clear", "both lungs are clear and expanded", "clear lungs bilaterally")
    return _Sentence("lungs", _sentence(_pick(rng, options)))


def _bone_remark(present: set[str], rng: np.random.Generator) -> _Sentence | None:
    if "Fracture" in present:
        return None
    if rng.uniform() < 0.4:
        options = (
            "no acute fracture",
            "no displaced rib fracture",
            "no rib fracture is seen",
            "there is no acute fracture",
        )
        return _Sentence("bones", _sentence(_pick(rng, options)), ("Fracture",))
    options = (
        "the osseous structures are intact",
        "no acute bony abnormality",
        "the bony thorax is intact",
        "visualized osseous structures are unremarkable",
        "the skeletal structures are normal",
    )
    return _Sentence("bones", _sentence(_pick(rng, options)))
