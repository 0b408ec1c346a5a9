"""`DiseaseAwareProcessor`: prompts with the report of a similar study."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..configuration.configuration_disease_aware import EXEMPLAR_INPUTS
from .processing_mambaxray import MambaXrayProcessor
from .study_prompts import DEFAULT_INSTRUCTION, DEFAULT_PROMPT_TEMPLATE

DEFAULT_EXEMPLAR_TEMPLATE = (
    "Human: The report of a similar chest xray image: {exemplar} \n<Img>{image}</Img> {instruction} \nAssistant:"
)
"""The papers' wrapper with a similar study's report before the image, the order that the dual-stage paper states; the
words are ours."""


class DiseaseAwareProcessor(MambaXrayProcessor):
    """As `MambaXrayProcessor`, with the report of a similar study in the prompt of a study that has an `exemplar`.

    Args:
        image_processor, tokenizer, num_image_tokens, image_token, instruction, prompt_template, chat_template, context,
            max_prior_report_length, num_prior_image_tokens, prior_image_token, section_instructions: as there.
            `prompt_template` is for studies without an exemplar.
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
        context: Sequence[str] = (),
        max_prior_report_length: int | None = 100,
        num_prior_image_tokens: int | None = None,
        prior_image_token: str = "<prior_image>",
        section_instructions: Mapping[str, str] | Sequence[str] = (),
        exemplar_template: str = DEFAULT_EXEMPLAR_TEMPLATE,
        max_exemplar_tokens: int = 100,
    ) -> None:
        super().__init__(
            image_processor,
            tokenizer,
            num_image_tokens,
            image_token,
            instruction,
            prompt_template,
            chat_template,
            context,
            max_prior_report_length,
            num_prior_image_tokens,
            prior_image_token,
            section_instructions,
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
        said = self.instruction_for(study) if instruction is None else instruction
        values = {
            "{image}": self.image_token,
            "{instruction}": " ".join([*self.context_of(study), said]),
            "{exemplar}": self.cut_to_tokens(self.one_line(exemplar["report"]), self.max_exemplar_tokens),
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


__all__ = ["DEFAULT_EXEMPLAR_TEMPLATE", "DiseaseAwareProcessor"]
