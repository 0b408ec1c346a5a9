"""`generate` for many studies, a batch after the other: what every option of `generate` works with."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ..layers.image_features import Evidence
from .attention_kernels import attention_for_changing_shapes
from .study_batch import stack_studies


def generate_in_batches(
    model: PreTrainedModel,
    studies: Iterable[tuple[int, Mapping[str, Tensor]]],
    *,
    batch_size: int = 8,
    on_evidence: Callable[[int, list[Evidence]], None] | None = None,
    **generate_kwargs: Any,
) -> Iterator[tuple[int, Tensor]]:
    """Generates for studies in batches.

    Args:
        model: a `MambaXrayForConditionalGeneration`, in evaluation mode.
        studies: what the processor makes of one study each, with its position.
        batch_size: studies in a batch.
        on_evidence: called with a study's position and its evidence, before its report is yielded.
        generate_kwargs: arguments of `model.generate`.

    Yields:
        Each study's position and its new tokens `(tokens,)`, or `(sequences, tokens)` with `num_return_sequences`, in
        the order of the studies.
    """
    studies = iter(studies)
    while batch := list(islice(studies, batch_size)):
        positions = [position for position, _ in batch]
        inputs = stack_studies([study for _, study in batch], model.generation_config.pad_token_id, model.study_inputs)
        inputs = {name: value.to(model.device) for name, value in inputs.items()}
        with attention_for_changing_shapes():
            outputs = model.generate(**inputs, **{**generate_kwargs, "return_dict_in_generate": True})
        if on_evidence is not None:
            for position, evidence in zip(positions, outputs.get("evidence") or (), strict=False):
                on_evidence(position, evidence)
        sequences = outputs.sequences[:, inputs["input_ids"].shape[1] :].unflatten(0, (len(batch), -1))
        yield from zip(positions, sequences.squeeze(1) if sequences.shape[1] == 1 else sequences, strict=True)


__all__ = ["generate_in_batches"]
