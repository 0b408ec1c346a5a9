"""What stands in the prompt of a study: the papers' wrapper, the clinical context and the section that is asked for."""

import re
from collections.abc import Mapping
from typing import Any

DEFAULT_INSTRUCTION = "Generate a comprehensive and detailed diagnosis report for this chest xray image."
DEFAULT_PROMPT_TEMPLATE = "Human: <Img>{image}</Img> {instruction} \nAssistant:"

WITHHELD_KEYS = frozenset({"report", "findings", "impression", "labels"})
"""What a study's prompt must not depend on."""

CONTEXT: Mapping[str, str] = {
    "indication": "Indication: {}",
    "technique": "Technique: {}",
    "comparison": "Comparison: {}",
    "prior_images": "Prior image: {}",
    "prior_report": "Prior report: {}",
}
"""What a prompt can say of a study's clinical context, by its key in the study, in the order in which it is said."""

SECTION_INSTRUCTIONS: Mapping[str, str] = {
    "findings": "Write the findings section of the report.",
    "impression": "Write the impression section of the report.",
    "findings+impression": "Write the findings and the impression of the report.",
}
"""What a model that writes several sections is asked for each, unless the processor says otherwise."""


class StudyPromptMixin:
    """For processors: the prompt of a study as text, made of the settings that `MambaXrayProcessor` documents."""

    tokenizer: Any
    image_token: str
    instruction: str
    prompt_template: str
    context: list[str]
    max_prior_report_length: int | None
    prior_image_token: str
    section_instructions: dict[str, str]

    @property
    def default_prompt(self) -> str:
        """The prompt of a study for which no text is given, with one `image_token`."""
        return self.build_prompt(self.instruction)

    def build_prompt(self, instruction: str) -> str:
        """Put `instruction` and one `image_token` into the wrapper."""
        return self.prompt_template.replace("{image}", self.image_token).replace("{instruction}", instruction)

    def prompt_for(self, study: Mapping[str, Any], instruction: str | None = None) -> str:
        """The prompt of one study. A system overrides it to put what it knows of the study into the prompt.

        Args:
            study: in the package's schema, without what is to be predicted (`WITHHELD_KEYS`): in training as in
                generation.
            instruction: in place of the processor's own; one that holds `image_token` is the whole prompt.

        Returns:
            Text with one `image_token`, and one `prior_image_token` where the study has prior images that the prompt
            shows.
        """
        if instruction is not None and self.image_token in instruction:
            return instruction
        said = self.instruction_for(study) if instruction is None else instruction
        return self.build_prompt(" ".join([*self.context_of(study), said]))

    def instruction_for(self, study: Mapping[str, Any]) -> str:
        """What a study's prompt asks for: its `section`, or what the processor asks for by itself.

        Raises:
            ValueError: a section that this model does not write by request.
        """
        section = study.get("section")
        if not section:
            return self.instruction
        if section not in self.section_instructions:
            known = ", ".join(self.section_instructions) or "none"
            raise ValueError(f"the model can't be asked for the section {section!r}; those it was trained for: {known}")
        return self.section_instructions[section]

    def context_of(self, study: Mapping[str, Any]) -> list[str]:
        """What the prompt says of a study's clinical context: a sentence for each part that `context` names and the
        study has, nothing for others."""
        said = []
        for name in self.context:
            if name == "prior_images":
                if study.get(name) is not None and len(study[name]):
                    said.append(CONTEXT[name].format(self.prior_image_token))
            elif text := self.one_line(study.get(name) or ""):
                limit = self.max_prior_report_length if name == "prior_report" else None
                kept = text if limit is None else self.cut_to_tokens(text, limit)
                end = " ..." if kept != text else "" if text[-1] in ".!?:;" else "."
                said.append(CONTEXT[name].format(kept + end))
        return said

    def one_line(self, text: str) -> str:
        """A text for a prompt, without line breaks and without words that would be taken for special tokens."""
        added = (token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        special = {*self.tokenizer.all_special_tokens, *added, self.image_token}
        return " ".join(re.sub("|".join(map(re.escape, special)), " ", text).split())

    def cut_to_tokens(self, text: str, limit: int) -> str:
        """The words of a text that fit into that many tokens; the text itself when all do."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= limit:
            return text
        # A last word of which only a part is left goes, too.
        cut = self.tokenizer.decode(ids[:limit])
        following = self.tokenizer.decode(ids[: limit + 1])
        is_whole = following[len(cut) :][:1].isspace() or cut[-1:].isspace()
        return (cut if is_whole else cut.rpartition(" ")[0]).strip()

    @staticmethod
    def without_withheld(study: Mapping[str, Any]) -> dict[str, Any]:
        """A study without what is to be predicted (`WITHHELD_KEYS`)."""
        return {key: value for key, value in study.items() if key not in WITHHELD_KEYS}


__all__ = [
    "CONTEXT",
    "DEFAULT_INSTRUCTION",
    "DEFAULT_PROMPT_TEMPLATE",
    "SECTION_INSTRUCTIONS",
    "WITHHELD_KEYS",
    "StudyPromptMixin",
]
