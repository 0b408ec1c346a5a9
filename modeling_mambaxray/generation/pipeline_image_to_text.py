"""`pipeline("image-to-text")`: from X-ray images to reports in one call."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import AutoProcessor, GenerationConfig, Pipeline
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator
from transformers.processing_utils import ProcessorMixin

from ..layers.image_features import Evidence
from .attention_kernels import attention_for_changing_shapes
from .plain_generation import generate_in_batches
from .recalled_prompts import prepare_study, recalls, with_recalled_prompts

try:
    from .continuous_generation import generate_continuously
except ImportError:
    # In a repository's file, which does without it.
    def generate_continuously(
        model: Any, studies: Iterable[Mapping[str, Tensor]], **options: Any
    ) -> Iterator[tuple[int, Tensor]]:
        """Generates in batches; the package itself lets studies come and go."""
        return generate_in_batches(model, enumerate(studies), **options)


# Keys of a dictionary that stands for one study, the preferred one first.
_IMAGE_KEYS = ("images", "image")


class ImageToTextPipeline(Pipeline):
    """Writes one report per study.

    What the tasks of this name gave before transformers 5 dropped them, plus studies of several views. An image is
    whatever the processor reads: a path (DICOM, PNG, JPEG, …), a URL, bytes, a PIL image, an array or a tensor.

    Args:
        model: the report generator.
        processor: the model's processor. When it is not given, it is made of `tokenizer` and `image_processor`, or
            loaded from where the model came from.
        tokenizer: with `image_processor`, instead of `processor`.
        image_processor: with `tokenizer`, instead of `processor`.
        kwargs: as for every pipeline (`device`, `batch_size`, …), and defaults of the arguments of the call.

    Raises:
        ValueError: there is no processor, or none can be made of the parts.

    Example:

        >>> reporter = pipeline("image-to-text", model="path/or/hub-id")
        >>> reporter("chest.dcm")
        [{'generated_text': 'The heart is normal in size. ...'}]
        >>> reporter([["frontal.png", "lateral.png"], ["other.png"]], batch_size=2, max_new_tokens=120)
    """

    # None: use the folder's processor when it has one. Whether one is needed is decided below.
    _load_processor = None
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(
        self,
        model: Any,
        processor: ProcessorMixin | None = None,
        tokenizer: Any = None,
        image_processor: Any = None,
        **kwargs: Any,
    ):
        if processor is None:
            processor = _make_processor(model.config, tokenizer, image_processor)
        super().__init__(
            model=model,
            processor=processor,
            tokenizer=processor.tokenizer,
            image_processor=processor.image_processor,
            **kwargs,
        )

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        """Write reports.

        Args:
            images: one image, or a dictionary `{"images": image or list of views, "text": prompt}` (the prompt is
                optional, and a system may look at more keys): one study. A list, whose members are images, lists of
                views of one study, or such dictionaries: one study each. So is an array or tensor
                `(studies, 3, height, width)` or `(studies, views, 3, height, width)`. A data set or a generator of
                such members is read as the results are asked for.
            prompt: instruction for all studies, in place of the processor's own.
            max_new_tokens: most tokens per report; 256 when neither this nor the model's generation config says.
            generate_kwargs: arguments of `model.generate` (`num_beams`, `do_sample`, …). They can also be given
                directly.
            batch_size: studies per batch.
            num_workers: processes that read and prepare images.

        Returns:
            For one study a list `[{"generated_text": report}]`, with `num_return_sequences` as many members; for a
            list of studies a list of such lists; for a data set or a generator an iterator over such lists. The
            reports hold neither the prompt nor special tokens.

        Raises:
            ImageReadError: an image that can't be read; names the file and the reason.
            ValueError: a study without images, or an argument of `generate` given twice.
        """
        studies = _as_studies(images)
        return [] if isinstance(studies, list) and not studies else super().__call__(studies, **kwargs)

    def _sanitize_parameters(
        self,
        prompt: str | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        **generation_parameters: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        generate_kwargs = generate_kwargs or {}
        if twice := sorted(generate_kwargs.keys() & generation_parameters.keys()):
            raise ValueError(f"{', '.join(twice)} given both directly and in generate_kwargs; give it once")
        generate_kwargs = {**generate_kwargs, **generation_parameters}
        return (
            {} if prompt is None else {"prompt": prompt},
            {"generate_kwargs": generate_kwargs} if generate_kwargs else {},
            {},
        )

    def preprocess(self, study: Any, prompt: str | None = None) -> dict[str, Tensor]:
        study = as_study(study)
        text = study.pop("text", None)
        return prepare_study(self.processor, study, prompt if text is None else text, recalls(self.model))

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[list[dict[str, str]]]:
        # Not the base class's way, which stacks whole batches: studies come and go one by one.
        dataset_class = PipelineDataset if hasattr(inputs, "__len__") else PipelineIterator
        dataset = dataset_class(inputs, self.preprocess, preprocess_params)
        if isinstance(dataset, PipelineIterator):
            num_workers = min(num_workers, 1)  # each worker would go through the whole generator
        loader = DataLoader(dataset, num_workers=num_workers, batch_size=None, collate_fn=_unchanged)
        arguments = self.generation_arguments(**forward_params.get("generate_kwargs", {}))
        finished: dict[int, list[str]] = {}
        position = 0
        for number, reports in self.reports_of(loader, batch_size=batch_size, **arguments):
            finished[number] = reports
            while position in finished:
                yield [{"generated_text": report} for report in finished.pop(position)]
                position += 1

    def reports_of(
        self,
        studies: Iterable[Mapping[str, Tensor]],
        *,
        batch_size: int = 8,
        on_evidence: Callable[[int, list[Evidence]], None] | None = None,
        **arguments: Any,
    ) -> Iterator[tuple[int, list[str]]]:
        """The engine below this pipeline, `mambaxray generate` and evaluation: reports of prepared studies.

        Args:
            studies: what `preprocess` makes of each, read as far ahead as a batch needs.
            batch_size: studies in work at a time.
            on_evidence: called with a study's position and its evidence, where the model gives any.
            arguments: of `model.generate`, from `generation_arguments`.

        Yields:
            Each study's position and its reports (one, or `num_return_sequences`), in the order in which they are
            finished.
        """
        options = {"batch_size": batch_size, "on_evidence": on_evidence, **arguments}
        studies = with_recalled_prompts(self.model, self.processor, studies, batch_size)
        config = arguments.get("generation_config", self.model.generation_config)
        if (arguments.get("num_return_sequences") or config.num_return_sequences or 1) > 1:
            generated = generate_in_batches(self.model, enumerate(studies), **options)
        else:
            generated = generate_continuously(self.model, studies, **options)
        for number, tokens in generated:
            yield number, self.processor.post_process_image_text_to_text(tokens.reshape(-1, tokens.shape[-1]))

    def _forward(
        self, model_inputs: dict[str, Tensor], generate_kwargs: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        (model_inputs,) = with_recalled_prompts(self.model, self.processor, [model_inputs], 1)
        with attention_for_changing_shapes():
            sequences = self.model.generate(**model_inputs, **self.generation_arguments(**(generate_kwargs or {})))
        studies, prompt_length = model_inputs["input_ids"].shape
        # One row per study, or unbatching would hand one study's second sequence to the next study.
        return {"sequences": sequences[:, prompt_length:].unflatten(0, (studies, -1))}

    def postprocess(self, model_outputs: dict[str, Tensor]) -> list[dict[str, str]]:
        reports = self.processor.post_process_image_text_to_text(model_outputs["sequences"].flatten(0, 1))
        return [{"generated_text": report} for report in reports]

    def generation_arguments(self, **generate_kwargs: Any) -> dict[str, Any]:
        """What `model.generate` is given for arguments of the call: they, and the pipeline's own and its defaults."""
        return self._prepare_generate_kwargs(generate_kwargs, return_dict_in_generate=False)

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> None:
        """Saves the model with its processor, so that the folder makes this pipeline again."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


def _make_processor(config: Any, tokenizer: Any, image_processor: Any) -> ProcessorMixin:
    if tokenizer is None and image_processor is None:
        if not config.name_or_path:
            raise ValueError(
                "the model was not loaded from a folder or the Hub, so its processor can't be found: give "
                "processor=…, or tokenizer=… and image_processor=…"
            )
        return AutoProcessor.from_pretrained(config.name_or_path)
    if tokenizer is None or image_processor is None:
        missing = "tokenizer" if tokenizer is None else "image_processor"
        raise ValueError(f"{missing} is missing: give both tokenizer and image_processor, or a processor")
    if isinstance(tokenizer, str) or isinstance(image_processor, str):
        raise ValueError("give tokenizer and image_processor as objects, or processor as a path or Hub id")
    processor_class = PROCESSOR_MAPPING.get(type(config), None)
    if processor_class is None:
        raise ValueError(f"no processor is registered for {type(config).__name__}: give processor=…")
    processor = processor_class(
        tokenizer=tokenizer, image_processor=image_processor, num_image_tokens=config.num_image_tokens
    )
    if processor.image_token_id != config.image_token_id:
        raise ValueError(
            f"this tokenizer's {processor.image_token} has id {processor.image_token_id}, the model's image_token_id "
            f"is {config.image_token_id}: they don't belong together"
        )
    return processor


def _as_studies(images: Any) -> Any:
    """A list, a lazily read collection or generator of studies, or the single study unchanged."""
    if isinstance(images, tuple):
        return list(images)
    if isinstance(images, (str, bytes, bytearray, memoryview, Mapping, list, Dataset)):
        return images
    if hasattr(images, "ndim"):
        return list(images) if images.ndim > 3 else images
    if isinstance(images, Iterator):
        return (study for study in images)  # the base class knows generators only
    if hasattr(images, "__len__") and hasattr(images, "__getitem__"):
        return _Studies(images)
    return images


class _Studies(Dataset):
    """Anything indexable, such as a `datasets.Dataset` or one of its columns, as torch's kind of data set."""

    def __init__(self, members: Any):
        self._members = members

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Any:
        return self._members[index]


def _unchanged(study: Any) -> Any:
    return study


def as_study(study: Any) -> dict[str, Any]:
    """A study in the package's schema from its views, one view, or a dictionary of either under `images` or `image`.

    Raises:
        ValueError: a dictionary without images.
    """
    rest: dict[str, Any] = {}
    if isinstance(study, Mapping) and not ({"bytes", "path"} & study.keys()):
        key = next((key for key in _IMAGE_KEYS if study.get(key) is not None), None)
        if key is None:
            raise ValueError(f"a study given as a dictionary needs 'images'; this one has {sorted(study)}")
        rest = {name: value for name, value in study.items() if name not in _IMAGE_KEYS}
        study = study[key]
    is_several = isinstance(study, (list, tuple)) or getattr(study, "ndim", 0) > 3
    return {**rest, "images": list(study) if is_several else [study]}


__all__ = ["ImageToTextPipeline", "as_study"]
