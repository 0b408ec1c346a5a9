"""`MambaXrayProcessor`: X-ray views, prompts and reports to what the models take, and back to text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from transformers import AddedToken
from transformers.image_processing_base import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessorMixin

from ..configuration.study_inputs import PRIOR_IMAGE_INPUTS, StudyInputs
from ..modeling_mambaxray.generation.study_batch import stack_study_inputs
from ..modeling_mambaxray.hub.repository_code import ProcessorCodeMixin
from .chat_template import default_chat_template
from .report_text import SECTIONS
from .study_prompts import (
    CONTEXT,
    DEFAULT_INSTRUCTION,
    DEFAULT_PROMPT_TEMPLATE,
    SECTION_INSTRUCTIONS,
    StudyPromptMixin,
)
from .view_groups import group_views


class MambaXrayProcessor(ProcessorCodeMixin, StudyPromptMixin, ProcessorMixin):
    """An image processor and a tokenizer that together make the inputs of report generation.

    The sequence is the one of the released code: bos, the prompt before the image, `num_image_tokens`
    placeholders, the prompt after the image, and in training the report and eos. The parts are tokenized one by
    one without special tokens. All views of a study share one run of placeholders.

    Args:
        image_processor: usually a `MambaXrayImageProcessor`.
        tokenizer: the language model's. `image_token` is added to it as a special token when it is missing; the model
            never looks its embedding up, so its embeddings need no resizing. No other token is ever added; without a
            pad token, padding uses eos (or id 0) and the attention mask tells it apart.
        num_image_tokens: placeholders per study, `model.config.num_image_tokens`.
        image_token: the placeholder.
        instruction: what the default prompt asks for; by default the papers' words.
        prompt_template: wrapper with the fields `{image}` and `{instruction}`; by default the papers'.
        chat_template: Jinja template for `apply_chat_template`; by default one that says what `prompt_template` and
            `instruction` say, and goes on to when they are changed.
        context: what a prompt says of a study's clinical context, where the study has it: keys of `CONTEXT`. It stands
            before the instruction. By default nothing.
        max_prior_report_length: most tokens of a prior report in the prompt; None for all.
        num_prior_image_tokens: placeholders of a study's prior images, `model.config.num_prior_image_tokens`; by
            default as many as of its own.
        prior_image_token: the placeholder of prior images, added to the tokenizer like `image_token` when `context`
            names `prior_images`.
        section_instructions: the instruction for each section that the model can be asked for by a study's `section`,
            in place of `instruction`. Names alone (a list) stand for those of `SECTION_INSTRUCTIONS`. By default none.
        further: what a system's processor holds beside these two, such as a second tokenizer, by its name in the
            subclass's `__init__`.

    Attributes:
        study_inputs: what a study hands the model beside images and prompt, by name; the model of the same system
            declares the same. With prior images, theirs are among them.
    """

    auto_class_name = "AutoProcessor"
    study_inputs: StudyInputs = {}

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
        **further: Any,
    ) -> None:
        if num_image_tokens < 1:
            raise ValueError(f"num_image_tokens is {num_image_tokens}; give model.config.num_image_tokens")
        for name in ("{image}", "{instruction}"):
            if prompt_template.count(name) != 1:
                raise ValueError(f"prompt_template must hold {name} once; it is {prompt_template!r}")
        if unknown := [name for name in context if name not in CONTEXT]:
            raise ValueError(f"unknown context {', '.join(unknown)}; there are {', '.join(CONTEXT)}")
        if unknown := [name for name in section_instructions if name not in SECTIONS]:
            raise ValueError(f"unknown section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
        if max_prior_report_length is not None and max_prior_report_length < 1:
            raise ValueError(f"max_prior_report_length is {max_prior_report_length}; give a positive number or None")
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **further)
        self.tokenizer.add_tokens([AddedToken(image_token, special=True, normalized=False)], special_tokens=True)
        # Prompts of different lengths must end together to be generated from, also where a pipeline batches them.
        self.tokenizer.padding_side = "left"
        self.image_token = image_token
        self.image_token_id: int = self.tokenizer.convert_tokens_to_ids(image_token)
        self.num_image_tokens = num_image_tokens
        self.instruction = instruction
        self.prompt_template = prompt_template
        self.context = [name for name in CONTEXT if name in context]
        self.max_prior_report_length = max_prior_report_length
        self.num_prior_image_tokens = num_prior_image_tokens
        self.prior_image_token = prior_image_token
        self.prior_image_token_id: int | None = None
        if not isinstance(section_instructions, Mapping):
            section_instructions = {name: SECTION_INSTRUCTIONS[name] for name in section_instructions}
        self.section_instructions = dict(section_instructions)
        if "prior_images" in self.context:
            token = AddedToken(prior_image_token, special=True, normalized=False)
            self.tokenizer.add_tokens([token], special_tokens=True)
            self.prior_image_token_id = self.tokenizer.convert_tokens_to_ids(prior_image_token)
            self.study_inputs = {**type(self).study_inputs, **PRIOR_IMAGE_INPUTS}

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Self:
        # What was saved as the default follows what is changed while loading; a user's own template stays.
        names = ("image_token", "instruction", "prompt_template")
        saved = [processor_dict[name] for name in names if name in processor_dict]
        if len(saved) == len(names) and processor_dict.get("chat_template") == default_chat_template(*saved):
            processor_dict = {name: value for name, value in processor_dict.items() if name != "chat_template"}
        return super().from_args_and_dict(args, processor_dict, **kwargs)

    @classmethod
    def from_parts(cls, image_processor: Any, tokenizer: Any, parts: Mapping[str, Any], **kwargs: Any) -> Self:
        """The processor of a model that is put together from pre-trained parts. A system overrides it to take what it
        needs of those.

        Args:
            image_processor, tokenizer, kwargs: as for the class.
            parts: the further parts of the model by name: folder or Hub name, or the part.
        """
        return cls(image_processor, tokenizer, **kwargs)

    def fit_to(self, config: Any) -> None:
        """Takes over what a model's configuration decides. A system overrides it where that is more.

        Args:
            config: the model's.
        """
        self.num_image_tokens = config.num_image_tokens

    @property
    def chat_template(self) -> str | dict[str, str]:
        """The user's own chat template, or the one that says what `prompt_template` and `instruction` say."""
        if self._own_chat_template is not None:
            return self._own_chat_template
        return default_chat_template(self.image_token, self.instruction, self.prompt_template)

    @chat_template.setter
    def chat_template(self, template: str | dict[str, str] | None) -> None:
        self._own_chat_template = template

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As usual; what says of the context and of sections is left out of a processor without them."""
        values = super().to_dict(*args, **kwargs)
        if not self.context:
            for name in ("context", "max_prior_report_length", "num_prior_image_tokens", "prior_image_token"):
                values.pop(name, None)
        if not self.section_instructions:
            values.pop("section_instructions", None)
        return values

    @property
    def model_input_names(self) -> list[str]:
        of_images = self.image_processor.model_input_names
        names = ["pixel_attention_mask" if name == "view_mask" else name for name in of_images]
        return [*names, "input_ids", "attention_mask"]

    def study_inputs_for(self, study: Mapping[str, Any]) -> dict[str, Any]:
        """The values of `study_inputs` for one study, without the batch; those that it lacks are left out.

        Args:
            study: in the package's schema.
        """
        return {name: study[name] for name in self.study_inputs if study.get(name) is not None}

    def prepare_studies(
        self,
        studies: Sequence[Mapping[str, Any]],
        *,
        instruction: str | None = None,
        with_reports: bool = False,
        max_report_length: int | None = None,
        include_prompt: bool = False,
    ) -> BatchFeature:
        """Prepare studies of the package's schema: the one way from a study to a batch, for training, evaluation,
        generation and pipelines.

        Args:
            studies: each with `images`, with `report` for training, and whatever the system's `prompt_for` and
                `study_inputs_for` look at; `crop_positions` where its views are not to be cut in the middle, see
                `MambaXrayImageProcessor`.
            instruction: passed to `prompt_for`.
            with_reports: for training: with targets, and with the study inputs that are for training only.
            max_report_length, include_prompt: as in `__call__`.

        Returns:
            As `__call__` with `view_mask` under its own name, and the `study_inputs`.

        Raises:
            ValueError: a study has no `images` (or one `image`), or no `report` in training.
            ValueError: as `__call__`, or a study input that does not fit its declaration.
        """
        known = [self.without_withheld(study) for study in studies]
        batch = self(
            images=[_views_of(study) for study in studies],
            text=[self.prompt_for(study, instruction) for study in known],
            reports=[_report_of(study) for study in studies] if with_reports else None,
            max_report_length=max_report_length,
            include_prompt=include_prompt,
            prior_images=self._prior_images_of(studies),
            **_crop_positions_of(studies),
        )
        if "pixel_attention_mask" in batch:
            batch["view_mask"] = batch.pop("pixel_attention_mask")
        # Targets may be made of the report or the labels; what generation gets may not.
        for name, value in self._stacked_inputs(studies if with_reports else known, with_reports).items():
            batch.setdefault(name, value)
        return batch

    def prepare_images(self, studies: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """The images of studies alone: `pixel_values` and `view_mask`, as `prepare_studies` gives them."""
        views = group_views([_views_of(study) for study in studies])
        return self.image_processor(views, return_tensors="pt", **_crop_positions_of(studies))

    def prepare_prompts(self, studies: Sequence[Mapping[str, Any]], *, instruction: str | None = None) -> BatchFeature:
        """The prompts of studies alone, without reports: `input_ids`, `attention_mask` and the `study_inputs`, as
        `prepare_studies` gives them. The studies' own images are not looked at."""
        known = [self.without_withheld(study) for study in studies]
        batch = self(
            text=[self.prompt_for(study, instruction) for study in known],
            prior_images=self._prior_images_of(studies),
            return_tensors="pt",
        )
        for name, value in self._stacked_inputs(known, False).items():
            batch.setdefault(name, value)
        return batch

    def _stacked_inputs(self, studies: Sequence[Mapping[str, Any]], for_training: bool) -> dict[str, torch.Tensor]:
        declared = {
            name: each for name, each in self.study_inputs.items() if for_training or not each.for_training_only
        }
        return stack_study_inputs([self.study_inputs_for(study) for study in studies], declared)

    def replace_image_token(self, image_inputs: Any = None, image_idx: int = 0, **kwargs: Any) -> str:
        """The run of placeholders that stands for one study."""
        return self.image_token * self.num_image_tokens

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Sequence[int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """How many placeholders and rows of `pixel_values` images of these sizes take, each a study of one view."""
        count = len(image_sizes or ())
        return MultiModalData(num_image_tokens=[self.num_image_tokens] * count, num_image_patches=[1] * count)

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As usual. Tokenized without `return_tensors`, ids come as unpadded lists and images as arrays, as other
        processors give them; the call itself gives tensors when there are images."""
        if len(args) < 8 and "return_tensors" not in (kwargs.get("processor_kwargs") or {}):
            kwargs.setdefault("return_tensors", None)
        return super().apply_chat_template(conversation, *args, **kwargs)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        reports: str | Sequence[str] | None = None,
        *,
        return_tensors: str | None = "auto",
        padding: bool | str | None = None,
        padding_side: str | None = None,
        pad_to_multiple_of: int | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        max_report_length: int | None = None,
        include_prompt: bool = False,
        prior_images: Sequence[Any] | None = None,
        return_mm_token_type_ids: bool = False,
        return_text_replacement_offsets: bool = False,
        **image_kwargs: Any,
    ) -> BatchFeature:
        """Prepare studies for generation, or with `reports` for training.

        Args:
            images: views of one or more studies in the forms of `MambaXrayImageProcessor`. Without them only
                `text` is prepared.
            text: one for all studies or one per study. Text that holds the image token is taken as the whole
                prompt; text without it is the instruction within the wrapper (with images) or the whole prompt
                (without). By default the papers' instruction.
            reports: the target of each study. Gives right-padded prompt + report + eos and `labels`; without
                reports the prompts are left-padded for `generate`.
            return_tensors: `"pt"`, `"np"`, or None for lists of ids and arrays of images. By default `"pt"` with
                images, and None for text alone, as tokenizers do.
            padding: True or `"longest"` to pad to the longest of the batch, False for lists of different lengths; by
                default True where tensors or arrays are returned.
            padding_side: `"left"` or `"right"`; by default left without reports and right with them.
            pad_to_multiple_of: pad to a length that is divisible by this.
            truncation: whether sequences longer than `max_length` are cut on the right.
            max_length: most tokens of a sequence, with `truncation`.
            add_special_tokens: whether bos is put before a text that does not begin with it.
            max_report_length: keep at most this many tokens of report + eos. As in the released code, a truncated
                report has no eos.
            include_prompt: with `reports`, also return the left-padded prompts as `prompt_input_ids` and
                `prompt_attention_mask`, for generation at evaluation.
            prior_images: of each study the views of its prior study, None where there is none; those whose prompt holds
                `prior_image_token` are prepared, others are left out.
            return_mm_token_type_ids: also return `mm_token_type_ids`, 1 at image placeholders and 0 elsewhere.
            return_text_replacement_offsets: also return `text_replacement_offsets`: where each prompt's placeholder
                is and what it was replaced with, as in `ProcessorMixin.get_text_with_replacements`.
            **image_kwargs: passed on to the image processor, such as `size`.

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` (batch, tokens) int64; with images `pixel_values`
            (batch, views, 3, height, width) and the image processor's `view_mask` (batch, views) under the name that
            trainers and pipelines know, `pixel_attention_mask`; with reports `labels` (batch, tokens), -100 everywhere
            but on the report's own tokens (its eos included). With prior images `prior_pixel_values` (batch, views, 3,
            height, width) and `prior_view_mask` (batch, views), zeros and False for a study without them.

        Raises:
            ImageReadError: an image that can't be read.
            TypeError: an option that neither this class nor the image processor has.
            ValueError: neither images nor text, counts that don't match, a prompt with images whose number of
                image tokens is not one, a truncation that cuts placeholders, reports for a tokenizer without eos, or a
                prompt with a placeholder of prior images for a study that has none.
        """
        # `apply_chat_template` hands over every modality.
        for name in ("videos", "audio"):
            if image_kwargs.pop(name, None) is not None:
                raise ValueError(f"MambaXrayProcessor takes images and text, not {name}")
        if image_kwargs.pop("return_offsets_mapping", False):
            raise ValueError(
                "MambaXrayProcessor tokenizes a prompt in parts and has no offsets, which assistant masks are made of; "
                "give prompt and completion apart to learn from the completion alone"
            )
        if images is None and image_kwargs:
            raise TypeError(f"MambaXrayProcessor takes no {', '.join(sorted(image_kwargs))} for text alone")
        if return_tensors == "auto":
            return_tensors = None if images is None else "pt"
        if padding is None:
            padding = return_tensors is not None
        if padding not in (True, False, "longest"):
            raise ValueError(f"padding is {padding!r}; give True, 'longest' or False")
        if padding_side not in (None, "left", "right"):
            raise ValueError(f"padding_side is {padding_side!r}; give 'left' or 'right'")
        limit = max_length if truncation else None
        multiple = pad_to_multiple_of or 1

        def side(default: str) -> str | None:
            return (padding_side or default) if padding else None

        studies = None if images is None else group_views(images)
        prompts = self._prompts(text, None if studies is None else len(studies))
        prompt_ids = [self._tokenize_prompt(prompt, add_special_tokens) for prompt in prompts]
        data: dict[str, Any] = {}
        if reports is None:
            prompt_ids = [self._truncate(row, limit) for row in prompt_ids]
            data |= self._pad(prompt_ids, side("left"), multiple)
        else:
            report_ids = self._tokenize_reports(reports, len(prompts), max_report_length)
            sequences = [prompt + report for prompt, report in zip(prompt_ids, report_ids, strict=True)]
            labels = [[-100] * len(prompt) + report for prompt, report in zip(prompt_ids, report_ids, strict=True)]
            sequences = [self._truncate(row, limit) for row in sequences]
            data |= self._pad(sequences, side("right"), multiple)
            data["labels"] = _pad_rows([row[:limit] for row in labels], -100, side("right"), multiple)
            if include_prompt:
                prompt_only = self._pad(prompt_ids, "left" if padding else None, multiple)
                data |= {f"prompt_{name}": rows for name, rows in prompt_only.items()}
        if return_mm_token_type_ids:
            data["mm_token_type_ids"] = self.create_mm_token_type_ids(data["input_ids"])
        features = BatchFeature(data, tensor_type=return_tensors)
        if return_text_replacement_offsets:
            # One per placeholder, which of a study's prompt is the one of its views.
            replacements = [self.replace_image_token()] * sum(prompt.count(self.image_token) for prompt in prompts)
            _, offsets = self.get_text_with_replacements(list(prompts), replacements)
            features["text_replacement_offsets"] = offsets
        if studies is not None:
            features.update(self.image_processor(studies, return_tensors=return_tensors, **image_kwargs))
            if "view_mask" in features:
                # TRL carries the mask under this name, and stops at inputs that it does not know.
                features["pixel_attention_mask"] = features.pop("view_mask")
        if studies is not None or prior_images is not None:
            features.update(self._prior_inputs(prompts, prior_images, return_tensors, image_kwargs))
        return features

    def _prior_images_of(self, studies: Sequence[Mapping[str, Any]]) -> list[Any] | None:
        if self.prior_image_token_id is None:
            return None
        return [study.get("prior_images") for study in studies]

    def _prior_inputs(
        self, prompts: Sequence[str], prior_images: Sequence[Any] | None, return_tensors: str | None, image_kwargs: Any
    ) -> dict[str, Any]:
        """The prior images that the prompts show; nothing when none does."""
        if self.prior_image_token_id is None:
            if prior_images is not None:
                raise ValueError("this processor takes no prior images: its context does not name prior_images")
            return {}
        priors = [None] * len(prompts) if prior_images is None else list(prior_images)
        if len(priors) != len(prompts):
            raise ValueError(f"prior images of {len(priors)} studies for {len(prompts)} prompts; None stands for none")
        rows: list[dict[str, Any]] = []
        for prompt, views in zip(prompts, priors, strict=True):
            count = prompt.count(self.prior_image_token)
            if count > 1 or (count and (views is None or not len(views))):
                raise ValueError(
                    f"a prompt holds {self.prior_image_token} {count} times, and its study has "
                    f"{0 if views is None else len(views)} prior images; all of them share one: {prompt!r}"
                )
            if not count:
                rows.append({})
                continue
            # Where the study's own views are cut says nothing of its prior's.
            options = {name: value for name, value in image_kwargs.items() if name != "crop_positions"}
            made = self.image_processor([list(views or ())], return_tensors="pt", **options)
            mask = made.get("view_mask")
            mask = torch.ones(made["pixel_values"].shape[:2], dtype=torch.bool) if mask is None else mask
            rows.append({"prior_pixel_values": made["pixel_values"][0], "prior_view_mask": mask[0]})
        stacked = stack_study_inputs(rows, PRIOR_IMAGE_INPUTS)
        return stacked if return_tensors == "pt" else {name: value.numpy() for name, value in stacked.items()}

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, prompt_length: int = 0, **kwargs: Any
    ) -> list[str]:
        """Decode what `generate` returned.

        Args:
            generated_outputs: ids (batch, tokens) or (tokens,).
            skip_special_tokens: leave out bos, eos, padding and image placeholders.
            prompt_length: number of leading tokens to drop: `inputs["input_ids"].shape[1]`, so that only the
                report remains.

        Returns:
            One text per sequence, without surrounding white space.
        """
        rows = [generated_outputs] if _is_flat(generated_outputs) else generated_outputs
        ids = [row[prompt_length:] for row in rows]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=skip_special_tokens, **kwargs)
        return [text.strip() for text in texts]

    def _prompts(self, text: str | Sequence[str] | None, studies: int | None) -> list[str]:
        if text is None:
            if studies is None:
                raise ValueError("give images, text, or both")
            return [self.default_prompt] * studies
        texts = [text] * (studies or 1) if isinstance(text, str) else list(text)
        if studies is None:
            return texts
        if len(texts) != studies:
            raise ValueError(f"{len(texts)} texts for {studies} studies; give one for all or one per study")
        prompts = [text if self.image_token in text else self.build_prompt(text) for text in texts]
        for prompt in prompts:
            if (count := prompt.count(self.image_token)) != 1:
                raise ValueError(
                    f"a prompt holds {self.image_token} {count} times; all views of a study share one: {prompt!r}"
                )
        return prompts

    def _tokenize_prompt(self, prompt: str, add_bos: bool = True) -> list[int]:
        bos = self.tokenizer.bos_token
        has_bos = bos is not None and (add_bos or prompt.startswith(bos))
        ids = [self.tokenizer.bos_token_id] if has_bos else []
        placeholders = {self.image_token: self.image_token_id}
        if self.prior_image_token_id is not None:
            placeholders[self.prior_image_token] = self.prior_image_token_id
        text = prompt if bos is None else prompt.removeprefix(bos)
        for part in re.split(f"({'|'.join(map(re.escape, placeholders))})", text):
            if part in placeholders:
                ids += [placeholders[part]] * self._length_of(part)
            elif part:
                ids += self.tokenizer(part, add_special_tokens=False)["input_ids"]
        return ids

    def _length_of(self, placeholder: str) -> int:
        """How many ids a placeholder of the prompt becomes."""
        if placeholder == self.prior_image_token and self.num_prior_image_tokens is not None:
            return self.num_prior_image_tokens
        return self.num_image_tokens

    def _tokenize_reports(self, reports: str | Sequence[str], studies: int, max_length: int | None) -> list[list[int]]:
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise ValueError("the tokenizer has no eos token, so a report could never end: set tokenizer.eos_token")
        reports = [reports] if isinstance(reports, str) else list(reports)
        if len(reports) != studies:
            raise ValueError(f"{len(reports)} reports for {studies} studies; give one per study")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_report_length is {max_length}; give a positive number or None")
        # Words in a report that look like special tokens are only words.
        rows = self.tokenizer(reports, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [[*row, eos][:max_length] for row in rows]

    def _truncate(self, row: list[int], limit: int | None) -> list[int]:
        if limit is not None and {self.image_token_id, self.prior_image_token_id} & set(row[limit:]):
            raise ValueError(
                f"max_length={limit} cuts the image placeholders of a prompt, which has {len(row)} tokens: raise it, "
                "or set it to None"
            )
        return row[:limit]

    def _pad(self, rows: list[list[int]], side: str | None, multiple: int) -> dict[str, list[list[int]]]:
        tokenizer = self.tokenizer
        candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        pad = next(token for token in candidates if token is not None)
        return {
            "input_ids": _pad_rows(rows, pad, side, multiple),
            "attention_mask": _pad_rows([[1] * len(row) for row in rows], 0, side, multiple),
        }


def _crop_positions_of(studies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    positions = [study.get("crop_positions") for study in studies]
    return {} if all(each is None for each in positions) else {"crop_positions": positions}


def _views_of(study: Mapping[str, Any]) -> Any:
    """The views of a study, or the one image of a row of a two-column table."""
    if study.get("images") is not None:
        return study["images"]
    if study.get("image") is None:
        raise ValueError(
            f"a study has no images; its keys are {', '.join(map(str, study)) or 'none'}. Name the column `images` or "
            "`image`, or load the table with mambaxray.load_studies, which takes other names"
        )
    return [study["image"]]


def _report_of(study: Mapping[str, Any]) -> str:
    report = study.get("report")
    if not isinstance(report, str):
        raise ValueError(f"study {study.get('study_id', '')!r} has no report to learn from: `report` is {report!r}")
    return report


def _pad_rows(rows: list[list[int]], value: int, side: str | None, multiple: int) -> list[list[int]]:
    if side is None:
        return rows
    longest = -(-max(len(row) for row in rows) // multiple) * multiple
    fill = [[value] * (longest - len(row)) for row in rows]
    return [extra + row if side == "left" else row + extra for row, extra in zip(rows, fill, strict=True)]


def _is_flat(ids: Any) -> bool:
    if isinstance(ids, (torch.Tensor, np.ndarray)):
        return ids.ndim == 1
    return len(ids) > 0 and isinstance(ids[0], int)


__all__ = ["MambaXrayProcessor"]
