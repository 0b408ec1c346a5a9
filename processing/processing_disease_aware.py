"""`DiseaseAwareProcessor`: prompts with the report of a similar study."""

import re
from collections.abc import Mapping
from typing import Any

from ..configuration.configuration_disease_aware import EXEMPLAR_INPUTS
from .processing_mambaxray import DEFAULT_INSTRUCTION, DEFAULT_PROMPT_TEMPLATE, MambaXrayProcessor

DEFAULT_EXEMPLAR_TEMPLATE = (
    "Human: The report of a similar chest xray image: {exemplar} \n<Img>{image}</Img> {instruction} \nAssistant:"
)
"""The papers' wrapper with a similar study's report before the image, the order that the dual-stage paper states; the
words are ours."""


class DiseaseAwareProcessor(MambaXrayProcessor):
    """As `MambaXrayProcessor`, with the report of a similar study in the prompt of a study that has an `exemplar`.

    Args:
        image_processor, tokenizer, num_image_tokens, image_token, instruction, prompt_template, chat_template: as
            there. `prompt_template` is for studies without an exemplar.
        exemplar_template: wrapper with the fields `{exemplar}`, `{image}` and `{instruction}`, for studies with one.
        max_exemplar_tokens: an exemplar's report is cut to this many tokens; ours, since the paper states no budget.
    """

    study_inputs = EXEMPLAR_INPUTS

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_image_tokens: int = 197,
        image_token: str = "<image>",
        instruction: str = DEFAULT_INSTRUCTION,
        prompt_template: str = DEFAULT_PROMPT_TEMPLATE,
        chat_template: str | None = None,
        exemplar_template: str = DEFAULT_EXEMPLAR_TEMPLATE,
        max_exemplar_tokens: int = 100,
    ) -> None:
        super().__init__(
            image_processor, tokenizer, num_image_tokens, image_token, instruction, prompt_template, chat_template
        )
        for name in ("{exemplar}", "{image}", "{instruction}"):
            if exemplar_template.count(name) != 1:
                raise ValueError(f"exemplar_template must hold {name} once; it is {exemplar_template!r}")
        if max_exemplar_tokens < 1:
            raise ValueError(f"max_exemplar_tokens must be positive, got {max_exemplar_tokens}")
        self.exemplar_template = exemplar_template
        self.max_exemplar_tokens = max_exemplar_tokens

    def prompt_for(self, study: Mapping[str, Any], instruction: str | None = None) -> str:
        """As in the base class; with the study's `exemplar`, a dict with the `report` of a similar one, in the prompt.
        An instruction that holds the image token stays the whole prompt."""
        exemplar = study.get("exemplar")
        if exemplar is None or (instruction is not None and self.image_token in instruction):
            return super().prompt_for(study, instruction)
        values = {
            "{image}": self.image_token,
            "{instruction}": self.instruction if instruction is None else instruction,
            "{exemplar}": self._shortened(exemplar["report"]),
        }
        # At once, so that nothing in a report or an instruction is taken for a field.
        return re.sub("|".join(map(re.escape, values)), lambda field: values[field[0]], self.exemplar_template)

    def study_inputs_for(self, study: Mapping[str, Any]) -> dict[str, Any]:
        if "exemplar" not in study:
            return {}
        exemplar = study["exemplar"] or {}
        similarities = [exemplar.get(name) or 0.0 for name in ("visual", "disease")]
        row = exemplar.get("row")
        return {"exemplar_row": -1 if row is None else row, "exemplar_similarities": similarities}

    def _shortened(self, report: str) -> str:
        """A report of at most `max_exemplar_tokens` tokens, in which nothing is a special token."""
        tokenizer = self.tokenizer
        special = [re.escape(token) for token in {*tokenizer.all_special_tokens, self.image_token}]
        text = " ".join(re.sub("|".join(special), " ", report).split())
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= self.max_exemplar_tokens:
            return text
        # A last word of which only a part is left goes, too.
        cut = tokenizer.decode(ids[: self.max_exemplar_tokens])
        following = tokenizer.decode(ids[: self.max_exemplar_tokens + 1])
        is_whole = following[len(cut) :][:1].isspace() or cut[-1:].isspace()
        return (cut if is_whole else cut.rpartition(" ")[0]).strip()


__all__ = ["DEFAULT_EXEMPLAR_TEMPLATE", "DiseaseAwareProcessor"]
