"""The sentences of a phantom's report on what it does not show: denials and normal remarks."""

from collections.abc import Iterator

import numpy as np

from .grammar import Sentence, as_sentence, join, pick

LUNG_OBSERVATIONS = ("Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")

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


def normal_sentences(present: set[str], rng: np.random.Generator) -> Iterator[Sentence]:
    """Denials and normal remarks that are true here, the more usual ones first."""
    usual = [*_denials(present, rng)]
    clear = any("lungs are clear" in sentence.text for sentence in usual)
    if rng.uniform() < 0.85:
        usual.extend(_heart_remarks(present, rng))
    rare = [None if clear else _lung_remark(present, rng), _bone_remark(present, rng)]
    rare = [sentence for sentence in rare if sentence is not None]
    yield from (usual[i] for i in rng.permutation(len(usual)))
    yield from (rare[i] for i in rng.permutation(len(rare)))


def fillers(present: set[str], rng: np.random.Generator) -> Iterator[Sentence]:
    """Remarks for a report that is still short."""
    texts = ["the soft tissues are unremarkable", "the upper abdomen is unremarkable"]
    if "Edema" not in present:
        texts.append("the pulmonary vasculature is normal")
    if not present & {"Pneumothorax", "Pleural Effusion", "Atelectasis", "Enlarged Cardiomediastinum"}:
        texts += ["the trachea is midline", "the diaphragm is normal in contour"]
    yield from (Sentence("lungs", as_sentence(texts[i])) for i in rng.permutation(len(texts)))


def _denials(present: set[str], rng: np.random.Generator) -> Iterator[Sentence]:
    """ "No focal consolidation, pleural effusion or pneumothorax." in one or two sentences."""
    names = [name for name, chance in _DENIAL.items() if name not in present and rng.uniform() < chance]
    names = [names[i] for i in rng.permutation(len(names))]
    clear = False
    while names:
        take = min(len(names), int(rng.integers(1, 4)) if len(names) < 4 else int(rng.integers(2, 4)))
        group, names = names[:take], names[take:]
        # "or mass" must close its list.
        group.sort(key=lambda name: name == "Lung Lesion")
        listed = join([pick(rng, _DENIED_NOUNS[name]) for name in group], "or")
        text = pick(
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
        if not clear and not present & set(LUNG_OBSERVATIONS) and rng.uniform() < 0.2:
            clear = True
            text = f"the lungs are clear without {listed}"
        pleural = {"Pleural Effusion", "Pneumothorax", "Pleural Other"} & set(group)
        yield Sentence("pleura" if pleural else "lungs", as_sentence(text), tuple(group))


def _heart_remarks(present: set[str], rng: np.random.Generator) -> Iterator[Sentence]:
    heart = pick(
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
    vessels = pick(
        rng,
        (
            "the mediastinal contours are normal",
            "mediastinal contours are within normal limits",
            "the mediastinum is unremarkable",
            "normal mediastinal contours",
            "the mediastinal silhouette is normal",
        ),
    )
    both = pick(
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
        yield Sentence("heart", as_sentence(both), names)
        return
    if names[0] not in present:
        yield Sentence("heart", as_sentence(heart), names[:1])
    if names[1] not in present and rng.uniform() < 0.5:
        yield Sentence("heart", as_sentence(vessels), names[1:])


def _lung_remark(present: set[str], rng: np.random.Generator) -> Sentence | None:
    lungs = present & set(LUNG_OBSERVATIONS)
    if lungs - {"Edema"} and "Edema" not in lungs:
        return Sentence("lungs", pick(rng, ("The lungs are otherwise clear.", "Otherwise clear lungs.")))
    if lungs or present & {"Pneumothorax", "Pleural Effusion"}:
        return None
    options = ("the lungs are clear", "lungs are clear", "both lungs are clear and expanded", "clear lungs bilaterally")
    return Sentence("lungs", as_sentence(pick(rng, options)))


def _bone_remark(present: set[str], rng: np.random.Generator) -> Sentence | None:
    if "Fracture" in present:
        return None
    if rng.uniform() < 0.4:
        options: tuple[str, ...] = (
            "no acute fracture",
            "no displaced rib fracture",
            "no rib fracture is seen",
            "there is no acute fracture",
        )
        return Sentence("bones", as_sentence(pick(rng, options)), ("Fracture",))
    options = (
        "the osseous structures are intact",
        "no acute bony abnormality",
        "the bony thorax is intact",
        "visualized osseous structures are unremarkable",
        "the skeletal structures are normal",
    )
    return Sentence("bones", as_sentence(pick(rng, options)))
