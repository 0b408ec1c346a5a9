"""What a report generator makes of a study before its decoder runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import ModelOutput


@dataclass(frozen=True)
class RelatedStudy:
    """A study of the training data that was recalled or retrieved.

    Attributes:
        study_id: in its data set.
        weight: how much it counted, or how similar it is.
        text: of its report, where the caller's own memory holds it.
        memory: name of the memory that holds it, where a system has several.
        observation: what it is remembered for, where the memory says it.
        similarities: what `weight` is made of, by name, where it is made of several.
    """

    study_id: str
    weight: float
    text: str | None = None
    memory: str | None = None
    observation: str | None = None
    similarities: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self, digits: int = 4) -> dict[str, Any]:
        """Plain data for a JSON file, numbers rounded to `digits`; what is absent is left out."""
        similarities = {name: round(value, digits) for name, value in self.similarities.items()}
        optional = {
            "similarities": similarities or None,
            "text": self.text,
            "memory": self.memory,
            "observation": self.observation,
        }
        values = {"study_id": self.study_id, "weight": round(self.weight, digits)}
        return values | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True)
class Evidence:
    """What a report says or leaves out one observation for.

    Attributes:
        observation: what it is called.
        probability: of its presence.
        map: `(rows, columns)` over the image, larger where it counted more; None when there is none.
        studies: recalled or retrieved, the most important first.
    """

    observation: str
    probability: float | None = None
    map: Tensor | None = None
    studies: tuple[RelatedStudy, ...] = field(default=())

    def to_dict(self, digits: int = 4) -> dict[str, Any]:
        """Plain data for a JSON file, without the observation's name, numbers rounded to `digits`; what is absent is
        left out."""
        values: dict[str, Any] = {}
        if self.probability is not None:
            values["probability"] = round(self.probability, digits)
        if self.map is not None:
            values["map"] = [[round(value, digits) for value in row] for row in self.map.float().tolist()]
        if self.studies:
            values["studies"] = [study.to_dict(digits) for study in self.studies]
        return values


@dataclass
class ImageFeatures(ModelOutput):
    """What `fuse` makes of the visual tokens of a batch of studies.

    Attributes:
        embeddings: `(batch, image_tokens, llm_hidden)`, what takes the place of the placeholders.
        losses: scalars by name, each a mean over the batch unless the system's documentation says otherwise.
        evidence: for each study its `Evidence` by observation.
        last_hidden_state: the visual tokens `(batch, tokens, vision_hidden)`.
        pooler_output: the embeddings as a list of one `(image_tokens, llm_hidden)` tensor per study, the form in which
            `generate` repeats them per beam and transformers' own code looks for them. Made of `embeddings`.
        metrics: scalars by name for the log, on which nothing is trained.
        prior_output: the embeddings of each study's prior images, `(prior_image_tokens, llm_hidden)`, or of length 0
            for a study without a prior; None where none was given.
    """

    embeddings: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    evidence: list[list[Evidence]] | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: list[Tensor] | None = None
    metrics: dict[str, Tensor] | None = None
    prior_output: list[Tensor] | None = None

    def __post_init__(self) -> None:
        # First, since this may be made of a dict of the fields, as where accelerate moves it to a device.
        super().__post_init__()
        if self.pooler_output is None and self.embeddings is not None:
            self["pooler_output"] = list(self.embeddings)


__all__ = ["Evidence", "ImageFeatures", "RelatedStudy"]
