"""Memories from a data set and a stage-1 classifier by their names: what the commands do, and benches."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.schema import STUDY_KEYS
from ..data.studies import load_studies
from ..modeling_mambaxray.layers.study_memory import StudyMemory
from .memory_building import MemoryPlan, build_memory
from .report_memory import ReportMemoryOptions, plan_report_memory
from .retrieval_memory import plan_retrieval_memory
from .stage_one import check_classifier
from .stored_models import StoredModel
from .training_studies import TrainingStudies
from .visual_memory import VisualMemoryOptions, plan_visual_memory

if TYPE_CHECKING:
    import datasets

VISUAL, REPORT, RETRIEVAL = "visual", "report", "retrieval"
REPORT_ENCODER = "emilyalsentzer/Bio_ClinicalBERT"
Progress = Callable[[str, int, int], None]
"""Called with the kind of the memory, and with what is finished and all there is."""


def build_am_mrg_memories(
    output: str | Path,
    model: str,
    source: "str | Path | datasets.DatasetDict",
    *,
    data_options: Mapping[str, Any] | None = None,
    kinds: Sequence[str] = (VISUAL, REPORT),
    visual: VisualMemoryOptions | None = None,
    report: ReportMemoryOptions | None = None,
    report_encoder: str = REPORT_ENCODER,
    report_encoder_revision: str | None = None,
    with_reports: bool = True,
    leave_out_shared_patients: bool = False,
    seed: int = 0,
    batch_size: int = 32,
    processes: int = 1,
    devices: Sequence[str] = ("cpu",),
    on_progress: Progress | None = None,
) -> dict[str, StudyMemory]:
    """Builds the memories of AM-MRG, or resumes: `output/visual` and `output/report`.

    Args:
        output: folder for the memories' folders.
        model: a stage-1 classifier, a folder or Hub id; for the visual bank.
        source: what `load_studies` takes or gives, with labels.
        data_options: its options.
        kinds: which memories, "visual" and "report".
        visual, report: what they are made of.
        report_encoder: text encoder or language model of the report memory, a folder or Hub id.
        report_encoder_revision: branch, tag or commit of it on the Hub.
        with_reports: whether the report memory also holds the text.
        leave_out_shared_patients: go without training studies of patients who have studies in other splits.
        seed: decides which studies are chosen.
        batch_size, processes, devices: see `build_memory`; they do not change the result, but for the last bits by the
            batch size, which must stay the same to resume.
        on_progress: see `Progress`.

    Returns:
        By kind.

    Raises:
        HeldOutStudyError, MemoryBuildError, NoClassifierError, FileNotFoundError: before any model works.
        ValueError: an unknown kind, or as `load_studies`.
    """
    unknown = [kind for kind in kinds if kind not in (VISUAL, REPORT)]
    if unknown or not kinds:
        raise ValueError(f"kinds must be {VISUAL}, {REPORT} or both, got {', '.join(unknown) or 'none'}")
    classifier = _find_classifier(model) if VISUAL in kinds else None
    encoder = StoredModel.find(report_encoder, report_encoder_revision) if REPORT in kinds else None
    studies = _training_studies(source, data_options, leave_out_shared_patients)
    name = _name(source)
    drawn: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    plans: dict[str, MemoryPlan] = {}
    if classifier is not None:
        plans[VISUAL] = plan_visual_memory(studies, *classifier, name, visual, **drawn)
    if encoder is not None:
        plans[REPORT] = plan_report_memory(studies, encoder, name, report, with_reports=with_reports, **drawn)
    return {
        kind: build_memory(
            Path(output) / kind,
            studies,
            plan,
            processes=processes,
            devices=devices,
            on_progress=_of_kind(kind, on_progress),
        )
        for kind, plan in plans.items()
    }


def build_retrieval_memory(
    output: str | Path,
    model: str,
    source: "str | Path | datasets.DatasetDict",
    *,
    data_options: Mapping[str, Any] | None = None,
    leave_out_shared_patients: bool = False,
    batch_size: int = 32,
    processes: int = 1,
    devices: Sequence[str] = ("cpu",),
    on_progress: Progress | None = None,
) -> StudyMemory:
    """Builds the memory that exemplars are retrieved from, or resumes; arguments and errors as above.

    Args:
        output: folder of the memory.
    """
    classifier, _ = _find_classifier(model)
    studies = _training_studies(source, data_options, leave_out_shared_patients)
    return build_memory(
        output,
        studies,
        plan_retrieval_memory(studies, classifier, _name(source), batch_size=batch_size),
        processes=processes,
        devices=devices,
        on_progress=_of_kind(RETRIEVAL, on_progress),
    )


def _find_classifier(name: str) -> tuple[StoredModel, list[str]]:
    """The classifier and its observations."""
    found = StoredModel.find(name)
    return found, check_classifier(found.folder, name)


def _training_studies(source: Any, options: Mapping[str, Any] | None, leave_out: bool) -> TrainingStudies:
    in_schema = isinstance(source, Mapping) and all(part.column_names == [*STUDY_KEYS] for part in source.values())
    splits = source if in_schema and not options else load_studies(source, **(options or {}))
    return TrainingStudies(splits, leave_out_shared_patients=leave_out)


def _name(source: Any) -> str:
    """What the data set is called, without where it lies on this machine."""
    return Path(source).name if isinstance(source, str | Path) else "a data set in memory"


def _of_kind(kind: str, on_progress: Progress | None) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, total: on_progress(kind, done, total)


__all__ = ["REPORT_ENCODER", "Progress", "build_am_mrg_memories", "build_retrieval_memory"]
