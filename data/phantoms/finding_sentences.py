"""The sentences that state a phantom's findings, in the findings section and in the impression."""

import numpy as np

from .findings import Finding, ribs_of
from .grammar import as_sentence, join, pick, with_article

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
    lobe = pick(rng, _LOBES[finding.side, finding.zone])
    return f"{'at' if 'base' in lobe else 'in'} the {lobe}"


def _adjective(finding: Finding, rng: np.random.Generator) -> str:
    return pick(rng, _ADJECTIVES[finding.side, finding.zone])


# --------------------------------------------------------------------------------- what is present


def state(finding: Finding, rng: np.random.Generator) -> str:
    """The sentence of the findings section."""
    return as_sentence(pick(rng, _STATEMENTS[finding.observation](finding, rng)))


def _cardiomegaly(f: Finding, rng: np.random.Generator) -> list[str]:
    extent, extently = pick(rng, _EXTENT[f.degree]), pick(rng, _EXTENTLY[f.degree])
    return [
        f"the heart is {extently} enlarged",
        f"there is {extent} cardiomegaly",
        f"{extent} cardiomegaly is present",
        f"the cardiac silhouette is {extently} enlarged",
        f"the heart size is {extently} enlarged",
    ]


def _mediastinum(f: Finding, rng: np.random.Generator) -> list[str]:
    extent, extently = pick(rng, _EXTENT[f.degree]), pick(rng, _EXTENTLY[f.degree])
    return [
        f"the mediastinum is {extently} widened",
        f"there is {extent} widening of the mediastinum",
        f"the superior mediastinum is {extently} widened",
        f"{extent} mediastinal widening is present",
        f"the mediastinal silhouette is {extently} enlarged",
    ]


def _opacity(f: Finding, rng: np.random.Generator) -> list[str]:
    veil, place = pick(rng, _VEIL[f.degree]), _place(f, rng)
    noun = pick(rng, ("hazy opacity", "ground-glass opacity", "airspace opacity"))
    if f.side == "bilateral":
        many = noun.replace("opacity", "opacities")
        return [
            f"there are {veil} {many} {place}",
            f"{veil} {many} are seen {place}",
            f"{veil} {many} are present {place}",
        ]
    return [
        f"there is {with_article(veil)} {noun} {place}",
        f"{with_article(veil)} {noun} is seen {place}",
        f"{veil} {noun} is present {place}",
        f"{veil} ill-defined {noun} is noted {place}",
    ]


def _lesion(f: Finding, rng: np.random.Generator) -> list[str]:
    noun = _lesion_noun(f, rng)
    place = _place(f, rng)
    size, bare = noun.split(" ", 1)
    shaped = f"{size} {pick(rng, ('', 'well-circumscribed ', 'round ', 'solitary '))}{bare}"
    if f.side == "bilateral":
        return [f"there are {noun} {place}", f"{noun} are seen {place}", f"{noun} are present {place}"]
    return [
        f"there is {with_article(noun)} {place}",
        f"{with_article(noun)} is seen {place}",
        f"{with_article(shaped)} is present {place}",
        f"{with_article(noun)} projects over the {place.split(' the ')[1]}",
    ]


def _lesion_noun(f: Finding, rng: np.random.Generator) -> str:
    noun = (
        pick(rng, ("small nodule", "small pulmonary nodule")),
        pick(rng, ("moderate-sized nodule", "moderate-sized pulmonary nodule")),
        pick(rng, ("large mass", "large lung mass")),
    )[f.degree]
    return noun + ("es" if noun.endswith("s") else "s") if f.side == "bilateral" else noun


def _edema(f: Finding, rng: np.random.Generator) -> list[str]:
    extent = pick(rng, _EXTENT[f.degree])
    return [
        f"there is {extent} pulmonary edema",
        f"{extent} interstitial pulmonary edema is present" if f.degree < 2 else f"{extent} pulmonary edema is present",
        f"perihilar haziness is consistent with {extent} pulmonary edema",
        f"there is pulmonary vascular congestion with {extent} edema",
        f"indistinct pulmonary vasculature is compatible with {extent} pulmonary edema",
    ]


def _consolidation(f: Finding, rng: np.random.Generator) -> list[str]:
    area, place, where = pick(rng, _AREA[f.degree]), _place(f, rng), _adjective(f, rng)
    bronchogram = pick(rng, ("", "", " with air bronchograms"))
    return [
        f"there is {area} consolidation {place}{bronchogram}",
        f"{area} consolidation is seen {place}",
        f"{area} consolidation is present {place}{bronchogram}",
        f"there is {area} {where} consolidation{bronchogram}",
    ]


def _pneumonia(f: Finding, rng: np.random.Generator) -> list[str]:
    extent, place, where = pick(rng, _INFECTION[f.degree]), _place(f, rng), _adjective(f, rng)
    return [
        f"patchy changes {place} are consistent with {extent} pneumonia",
        f"findings {place} are compatible with {extent} pneumonia",
        f"there is {extent} {where} pneumonia",
        f"{extent} patchy pneumonia is present {place}",
        f"the appearance is consistent with {extent} {where} pneumonia",
    ]


def _atelectasis(f: Finding, rng: np.random.Generator) -> list[str]:
    extent, place, where = pick(rng, _EXTENT[f.degree]), _place(f, rng), _adjective(f, rng)
    kind = pick(rng, ("", "linear ", "plate-like ", "subsegmental ", "bandlike "))
    lift = "both hemidiaphragms" if f.side == "bilateral" else f"the {f.side} hemidiaphragm"
    loss = pick(rng, ("", f" with elevation of {lift}")) if f.degree else ""
    return [
        f"there is {extent} {kind}atelectasis {place}{loss}",
        f"{extent} {kind}atelectasis is seen {place}",
        f"{extent} {where} {kind}atelectasis is present{loss}",
        f"bands of {extent} atelectasis are noted {place}",
    ]


def _pneumothorax(f: Finding, rng: np.random.Generator) -> list[str]:
    size = pick(rng, _SIZE[f.degree])
    side = pick(rng, (f.side, f"{f.side}-sided"))
    apical = pick(rng, ("", " apical")) if f.degree == 0 else ""
    return [
        f"there is {with_article(size)} {side}{apical} pneumothorax",
        f"{with_article(size)} {side}{apical} pneumothorax is present",
        f"{with_article(size)} pneumothorax is seen on the {f.side}",
        f"{size} {side}{apical} pneumothorax is noted",
    ]


def _effusion(f: Finding, rng: np.random.Generator) -> list[str]:
    size = pick(rng, _SIZE[f.degree])
    if f.side == "bilateral":
        return [
            f"there are {size} bilateral pleural effusions",
            f"{size} bilateral pleural effusions are present",
            f"{size} pleural effusions are seen bilaterally",
        ]
    side = pick(rng, (f.side, f"{f.side}-sided"))
    options = [
        f"there is {with_article(size)} {side} pleural effusion",
        f"{with_article(size)} {side} pleural effusion is present",
        f"{size} {side} pleural effusion is noted",
        f"{with_article(size)} pleural effusion is seen on the {f.side}",
    ]
    if f.degree == 0:
        options.append(
            f"blunting of the {f.side} costophrenic angle is consistent with {with_article(size)} pleural effusion"
        )
    return options


def _pleural_noun(f: Finding, rng: np.random.Generator) -> str:
    if f.kind == "plaques":
        amount = (pick(rng, ("a few", "small")), "several", pick(rng, ("extensive", "numerous")))[f.degree]
        return f"{amount} {f.side} calcified pleural plaques"
    zone = {"upper": "apical", "mid": "lateral", "lower": "basilar"}[f.zone]
    extent = pick(rng, _EXTENT[f.degree])
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
    age = pick(rng, ("displaced", "acute", "acute displaced") if f.kind == "acute" else ("healed", "old healed", "old"))
    if len(ribs) == 1:
        return [
            f"there is {with_article(age)} fracture of the {f.side} {ribs[0]} rib",
            f"{with_article(age)} {f.side} {ribs[0]} rib fracture is seen",
            f"{age} fracture of the {f.side} {ribs[0]} rib is noted",
        ]
    named = join(ribs, "and")
    return [
        f"there are {age} fractures of the {f.side} {named} ribs",
        f"{age} {f.side} rib fractures are seen involving the {named} ribs",
        f"{age} fractures of the {f.side} {named} ribs are noted",
    ]


def _device(f: Finding, rng: np.random.Generator) -> list[str]:
    side = pick(rng, (f.side, f"{f.side}-sided"))
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


# --------------------------------------------------------------------------------- how it has changed

_COMPARED = ("since the prior study", "compared with the prior radiograph")
_CHANGED = {
    "new": ("new",),
    "improved": ("improved", "decreased"),
    "unchanged": ("unchanged", "stable"),
    "worse": ("worse", "increased"),
}


def with_change(sentence: str, change: str, rng: np.random.Generator) -> str:
    """The sentence of a finding with how it compares with the prior study, for all changes but "resolved"."""
    # "Atelectasis with elevation of the hemidiaphragm, decreased" would leave open what has decreased.
    said = sentence.removesuffix(".").partition(" with elevation")[0]
    return f"{said}, {pick(rng, _CHANGED[change])} {pick(rng, _COMPARED)}."


def summarize_change(summary: str, change: str, rng: np.random.Generator) -> str:
    """The few words of a finding with how it compares with the prior study."""
    return f"{summary}, {pick(rng, _CHANGED[change])}"


def state_resolved(f: Finding, rng: np.random.Generator) -> str:
    """The sentence on a finding of the prior study that is gone."""
    noun = _noun(f, rng)
    return as_sentence(pick(rng, (f"the previously seen {noun} has resolved", f"{noun} has resolved {_COMPARED[0]}")))


def summarize_resolved(f: Finding, rng: np.random.Generator) -> str:
    """The same in a few words."""
    return f"{_noun(f, rng)}, resolved"


def _noun(f: Finding, rng: np.random.Generator) -> str:
    where = f"{_adjective(f, rng)} " if f.zone else ""
    nouns = {
        "Cardiomegaly": "cardiomegaly",
        "Enlarged Cardiomediastinum": "mediastinal widening",
        "Lung Opacity": f"{where}airspace opacity",
        "Lung Lesion": f"{where}pulmonary nodule",
        "Edema": "pulmonary edema",
        "Consolidation": f"{where}consolidation",
        "Pneumonia": f"{where}pneumonia",
        "Atelectasis": f"{where}atelectasis",
        "Pneumothorax": f"{f.side} pneumothorax",
        "Pleural Effusion": f"{f.side} pleural effusion",
    }
    return nouns[f.observation]


def summarize_device(f: Finding) -> str:
    """A device in a few words."""
    return f"{f.kind} in place"


def summarize(f: Finding, rng: np.random.Generator) -> str:
    """A finding in a few words."""
    where = _adjective(f, rng) if f.zone else ""
    extent = pick(rng, _EXTENT[f.degree])
    match f.observation:
        case "Cardiomegaly":
            return pick(rng, (f"{extent} cardiomegaly", f"{pick(rng, _EXTENTLY[f.degree])} enlarged heart"))
        case "Enlarged Cardiomediastinum":
            return pick(rng, (f"{extent} mediastinal widening", f"{extent} widening of the mediastinum"))
        case "Lung Opacity":
            noun = "opacities" if f.side == "bilateral" else "opacity"
            return pick(rng, (f"{pick(rng, _VEIL[f.degree])} {where} {noun}", f"{where} {noun}"))
        case "Lung Lesion":
            size, noun = _lesion_noun(f, rng).split(" ", 1)
            return f"{size} {where} {noun}"
        case "Edema":
            return f"{extent} pulmonary edema"
        case "Consolidation":
            return pick(rng, (f"{where} consolidation", f"{pick(rng, _AREA[f.degree])} {where} consolidation"))
        case "Pneumonia":
            return pick(rng, (f"{where} pneumonia", f"{pick(rng, _INFECTION[f.degree])} {where} pneumonia"))
        case "Atelectasis":
            return pick(rng, (f"{where} atelectasis", f"{extent} {where} atelectasis"))
        case "Pneumothorax":
            return f"{pick(rng, _SIZE[f.degree])} {f.side} pneumothorax"
        case "Pleural Effusion":
            noun = "effusions" if f.side == "bilateral" else "effusion"
            return f"{pick(rng, _SIZE[f.degree])} {f.side} pleural {noun}"
        case "Pleural Other":
            return _pleural_noun(f, rng)
    age = "acute" if f.kind == "acute" else "healed"
    return f"{age} {f.side} rib fracture{'s' if f.degree else ''}"
