"""`BidirectionalProcessor`: what bidirectional learning needs of a study's report, beside what is to be written."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

from transformers import AutoTokenizer

from ..configuration.configuration_bidirectional import BIDIRECTIONAL_STUDY_INPUTS
from .processing_mambaxray import MambaXrayProcessor
from .study_prompts import DEFAULT_INSTRUCTION, DEFAULT_PROMPT_TEMPLATE
from .view_groups import group_views

DEFAULT_VISION_PROMPT = "Human: {report} Show the chest X-ray that this report describes. \nAssistant: <Img>"
"""Ours: the paper's prompts are not legible in what was published."""

VIEW_SENTENCES = {
    "PA": "This is a frontal chest X-ray, taken from back to front.",
    "AP": "This is a frontal chest X-ray, taken from front to back.",
    "LATERAL": "This is a lateral chest X-ray.",
}
"""What is said of an image's view, by its name in a study; nothing of one that is not known."""


class BidirectionalProcessor(MambaXrayProcessor):
    """As `MambaXrayProcessor`, with the report in the tokens of a text encoder, once for each view.

    Args:
        image_processor, tokenizer, num_image_tokens, image_token, instruction, prompt_template, chat_template: as in
            `MambaXrayProcessor`.
        text_tokenizer: the text encoder's; a copy of `tokenizer` when not given, for a text encoder that is trained
            from nothing.
        vision_prompt: the language model's prompt for image embeddings, with `{report}` where the encoded text goes and
            words behind it.
        max_text_length: tokens of a report and its view's sentence, the most; longer reports are cut.
        context, max_prior_report_length, num_prior_image_tokens, prior_image_token, section_instructions: as in
            `MambaXrayProcessor`.

    Raises:
        ValueError: the prompt has no place for the text, or nothing behind it.
    """

    study_inputs = BIDIRECTIONAL_STUDY_INPUTS

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        text_tokenizer: Any = None,
        num_image_tokens: int = 196,
        image_token: str = "<image>",
        instruction: str = DEFAULT_INSTRUCTION,
        prompt_template: str = DEFAULT_PROMPT_TEMPLATE,
        chat_template: str | None = None,
        vision_prompt: str = DEFAULT_VISION_PROMPT,
        max_text_length: int = 512,
        context: Sequence[str] = (),
        max_prior_report_length: int | None = 100,
        num_prior_image_tokens: int | None = None,
        prior_image_token: str = "<prior_image>",
        section_instructions: Mapping[str, str] | Sequence[str] = (),
    ) -> None:
        if vision_prompt.count("{report}") != 1 or not vision_prompt.partition("{report}")[2].strip():
            raise ValueError(f"vision_prompt must hold {{report}} once, and words behind it; it is {vision_prompt!r}")
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
            text_tokenizer=copy.deepcopy(tokenizer) if text_tokenizer is None else text_tokenizer,
        )
        self.vision_prompt = vision_prompt
        self.max_text_length = max_text_length

    @classmethod
    def from_parts(cls, image_processor: Any, tokenizer: Any, parts: Mapping[str, Any], **kwargs: Any) -> Self:
        """As in the base class; the text encoder's tokenizer is taken from where the text encoder is."""
        encoder = parts.get("text_encoder")
        source = encoder if encoder is None or isinstance(encoder, str) else encoder.name_or_path
        text_tokenizer = AutoTokenizer.from_pretrained(source) if source else None
        return cls(image_processor, tokenizer, text_tokenizer, **kwargs)

    def fit_to(self, config: Any) -> None:
        """As in the base class; texts get no longer than the text encoder's positions."""
        super().fit_to(config)
        positions = getattr(config.text_encoder_config, "max_position_embeddings", None) or self.max_text_length
        self.max_text_length = min(self.max_text_length, positions)

    def text_of(self, report: str, view: str | None) -> str:
        """What the text encoder reads for an image: a sentence about its view, and the report."""
        sentence = VIEW_SENTENCES.get(view or "", "")
        return f"{sentence} {report}".strip()

    def study_inputs_for(self, study: Mapping[str, Any]) -> dict[str, Any]:
        report = study.get("report")
        if not isinstance(report, str):
            return {}
        # As many texts as images, and no sentence where the view is not said.
        count = len(group_views([study["images"] if study.get("images") is not None else [study["image"]]])[0])
        views = [*(study.get("views") or ()), *[""] * count][:count]
        texts = [self.text_of(report, view) for view in views]
        rows = self.text_tokenizer(texts, truncation=True, max_length=self.max_text_length, split_special_tokens=True)
        longest = max(len(row) for row in rows["input_ids"])
        words = self.tokenizer(report, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return {
            "report_input_ids": [row + [-1] * (longest - len(row)) for row in rows["input_ids"]],
            # A report without a word is still one.
            "report_word_ids": words or [self.tokenizer.eos_token_id],
            "vision_prompt_ids": self._vision_prompt_ids(),
        }

    def _vision_prompt_ids(self) -> list[int]:
        before, behind = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            for text in self.vision_prompt.split("{report}")
        )
        bos = self.tokenizer.bos_token_id
        return [*([] if bos is None else [bos]), *before, self.image_token_id, *behind]


__all__ = ["DEFAULT_VISION_PROMPT", "VIEW_SENTENCES", "BidirectionalProcessor"]
