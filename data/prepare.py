"""From a data set's own files to parquet files in one schema, with images that any program can decode.

The work is cut into shards, each written by one process into one file that is put in place when it is complete. A run
that was killed therefore resumes with the missing shards.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..processing.image_reading import ImageReadError, load_xray
from .annotation_json import read_annotation_json
from .chexpert_plus import read_chexpert_plus
from .csv_table import read_csv_lines, write_csv
from .iu_xray import read_iu_xray
from .mimic_cxr import read_mimic_cxr
from .options import call_with_options
from .output_lock import LOCK_FILE, locked_output
from .plain_image import ImageStructureError, strip_metadata
from .prepared import CARD_FILE, LEFT_OUT_FILE, PreparedError, read_card
from .priors import count_priors
from .schema import study_features
from .source import LeftOut, Source, SourceError, compare_counts, count_reasons, count_splits
from .table import read_table
from .whole_file import put_in_place, write_whole
from .worker_processes import worker_processes

if TYPE_CHECKING:
    from .view_classifier import ViewClassifier

logger = logging.getLogger(__name__)

READERS: Mapping[str, Callable[..., Source]] = {
    "iu-xray": read_iu_xray,
    "mimic-cxr": read_mimic_cxr,
    "chexpert-plus": read_chexpert_plus,
    "annotation-json": read_annotation_json,
    "table": read_table,
}
"""The data sets that can be prepared, each with the function that reads its files."""


def read_source(name: str, source: str | Path, **options: Any) -> Source:
    """Reads the files of a data set.

    Args:
        name: one of `READERS`.
        source: its folder.
        options: those of its reader; `section` must be among them.

    Raises:
        ValueError: an unknown name.
        TypeError: an option that this data set does not have, or lacks one that it needs.
        FileNotFoundError, SourceError: as the reader.
    """
    if name not in READERS:
        raise ValueError(f"unknown data set {name!r}; there are {', '.join(READERS)}")
    return call_with_options(READERS[name], name, {"source": source}, options)


FORMAT_VERSION = 3
# In progress: which settings the shards of this folder were made with, and what each left out.
_WORK = ".in_progress"
_ROW_GROUP = 64
_KEPT_FORMATS = ("PNG", "JPEG")
ABSENT = "no such file"
"""Why an image that is not there is left out."""


@dataclass(frozen=True)
class _Shard:
    """One parquet file to write."""

    file: Path
    problems: Path
    studies: list[dict[str, Any]]
    shorter_side: int | None
    view_classifier: Path | None


@dataclass
class _ShardResult:
    """What making a shard found out: what it leaves out, and how many views were predicted, by view."""

    left_out: list[LeftOut] = field(default_factory=list)
    predicted_views: dict[str, int] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        write_whole(file, json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> "_ShardResult":
        values = json.loads(file.read_text(encoding="utf-8"))
        return cls([LeftOut(**problem) for problem in values["left_out"]], values["predicted_views"])


def prepare_studies(
    source: Source,
    output: str | Path,
    *,
    shorter_side: int | None = None,
    studies_per_shard: int = 500,
    num_proc: int = 1,
    view_classifier: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes a data set as parquet files that `load_prepared` reads, or resumes after an interruption.

    PNG and JPEG images of 8 bits keep their compressed pixels, without metadata, texts and thumbnails; all others
    (DICOM, 16 bits, transparency, rotated by EXIF) become the 8-bit image that `load_xray` makes of them, in PNG. An
    image that can't be read is left out and named; a study whose images all can't be is left out whole.

    Args:
        source: what to prepare, from one of `READERS`.
        output: folder to write into, made when absent: parquet files by split, `prepared.json` (the card, written
            last) and `left_out.csv` (what is not in them, and why).
        shorter_side: shrinks larger images to that many pixels on their shorter side (JPEG and PNG alike become PNG).
        studies_per_shard: studies of one file.
        num_proc: processes to work with. More than one need a main module that can be imported, as always with
            `multiprocessing`'s spawn.
        view_classifier: folder of a `ViewClassifier`, which tells the view of each image whose view the data set does
            not state.
        on_progress: called with the finished and all studies, at the start and after each shard.

    Returns:
        The card: data set, source of the split, section, cleaning, counts beside the published ones, what was left
        out, patients in two splits, how many studies have a prior where these were linked, how many views were
        predicted where they were, settings and versions.

    Raises:
        PreparedError: the folder holds something else, or was begun from other studies or settings.
        OutputInUseError: another process writes into this folder.
        SourceError: no image at all could be read.
        FileNotFoundError: the folder of the view classifier holds none.
        ValueError: a number below 1, or a view classifier that is none.
    """
    for name, value in (
        ("studies_per_shard", studies_per_shard),
        ("num_proc", num_proc),
        ("shorter_side", shorter_side),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    output = Path(output)
    with locked_output(output, is_folder=True):
        settings: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "shorter_side": shorter_side,
            "studies_per_shard": studies_per_shard,
        }
        if view_classifier is not None:
            from .view_classifier import ViewClassifier, classifier_digest

            views = ViewClassifier.from_pretrained(view_classifier).views
            settings["view_classifier"] = {"views": list(views), "sha256": classifier_digest(view_classifier)}
        plan = list(_plan(source, output, shorter_side, studies_per_shard, view_classifier))
        return _prepare(source, output, plan, settings, num_proc, on_progress)


def _prepare(
    source: Source,
    output: Path,
    shards: list[_Shard],
    settings: Mapping[str, Any],
    num_proc: int,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    fingerprint = _fingerprint(source, settings)
    if (output / CARD_FILE).is_file():
        card = read_card(output)
        if card["fingerprint"] != fingerprint:
            raise PreparedError(f"{output} holds other studies, or other settings made it: choose another folder")
        _refuse_images_since(output)
        return card
    _begin(output, fingerprint)
    open_shards = [shard for shard in shards if not _is_done(shard)]
    _write_all(shards, open_shards, num_proc, on_progress or (lambda done, total: None))
    try:
        return _finish(source, output, shards, {"fingerprint": fingerprint, **settings})
    except SourceError:
        # Nothing of it is of any use when the images are where they should be.
        for shard in shards:
            shard.file.unlink()
        shutil.rmtree(output / _WORK)
        raise


def _refuse_images_since(output: Path) -> None:
    """Refuses to call a folder finished that lacks images which are there now.

    Raises:
        PreparedError: there are some.
    """
    absent = [row["item"] for _, row in read_csv_lines(output / LEFT_OUT_FILE) if row["reason"].endswith(ABSENT)]
    if since := [path for path in absent if Path(path).is_file()]:
        raise PreparedError(
            f"{output} lacks {len(since):,} images that were absent and are there now, such as {since[0]}: choose "
            "another folder, or delete this one to prepare it anew"
        )


def _is_done(shard: _Shard) -> bool:
    """Whether a shard is written, and no image that it lacks for being absent is there now."""
    if not shard.file.is_file():
        return False
    left_out = _ShardResult.read(shard.problems).left_out
    return not any(entry.reason.endswith(ABSENT) and Path(entry.item).is_file() for entry in left_out)


def _fingerprint(source: Source, settings: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([settings, source.section, source.cleaning]).encode())
    for study in source.studies:
        digest.update(json.dumps(study, sort_keys=True).encode())
    return digest.hexdigest()


def _begin(output: Path, fingerprint: str) -> None:
    work = output / _WORK
    begun = work / "fingerprint"
    if begun.is_file():
        if begun.read_text() != fingerprint:
            raise PreparedError(
                f"{output} was begun from other studies or with other settings: give the same ones to resume, delete "
                "the folder, or choose another"
            )
        return
    # A kill between these two steps leaves an empty work folder.
    if output.is_dir() and any(path.name not in (_WORK, LOCK_FILE) for path in output.iterdir()):
        raise PreparedError(f"{output} is not empty and was not begun by this command: choose another folder")
    work.mkdir(parents=True, exist_ok=True)
    write_whole(begun, fingerprint)


def _plan(
    source: Source, output: Path, shorter_side: int | None, size: int, view_classifier: str | Path | None
) -> Iterator[_Shard]:
    classifier = None if view_classifier is None else Path(view_classifier)
    for split in count_splits(source.studies):
        studies = [study for study in source.studies if study["split"] == split]
        count = -(-len(studies) // size)
        for number in range(count):
            name = f"{split}-{number:05d}-of-{count:05d}"
            part = studies[number * size : (number + 1) * size]
            yield _Shard(output / f"{name}.parquet", output / _WORK / f"{name}.json", part, shorter_side, classifier)


def _write_all(
    shards: list[_Shard], open_shards: list[_Shard], num_proc: int, on_progress: Callable[[int, int], None]
) -> None:
    total = sum(len(shard.studies) for shard in shards)
    done = total - sum(len(shard.studies) for shard in open_shards)
    if done:
        logger.info("%d of %d studies were prepared before", done, total)
    on_progress(done, total)
    for count in _run(open_shards, num_proc):
        done += count
        on_progress(done, total)


def _run(shards: list[_Shard], num_proc: int) -> Iterator[int]:
    if num_proc == 1 or len(shards) < 2:
        yield from map(_write_shard, shards)
        return
    with worker_processes(min(num_proc, len(shards))) as pool:
        yield from pool.map(_write_shard, shards)


def _write_shard(shard: _Shard) -> int:
    """Reads the images of a shard's studies, writes its file; returns the number of studies in it."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    features = study_features()
    result = _ShardResult()
    classifier = None if shard.view_classifier is None else _view_classifier(shard.view_classifier)
    draft = shard.problems.with_suffix(f".{os.getpid()}.parquet")
    with ParquetWriter(draft, features.arrow_schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for number, study in enumerate(shard.studies, 1):
            row = _read_study(study, shard.shorter_side, result.left_out)
            if row is not None:
                if classifier is not None:
                    _predict_views(row, classifier, result.predicted_views)
                rows.append(row)
            if rows and (len(rows) == _ROW_GROUP or number == len(shard.studies)):
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=features.arrow_schema))
                rows = []
    result.write(shard.problems)
    # Last: the presence of a shard's file means that it is complete.
    put_in_place(draft, shard.file)
    return len(shard.studies)


@functools.cache
def _view_classifier(folder: Path) -> "ViewClassifier":
    from .view_classifier import ViewClassifier

    return ViewClassifier.from_pretrained(folder)


def _predict_views(row: dict[str, Any], classifier: "ViewClassifier", counts: dict[str, int]) -> None:
    unknown = [number for number, view in enumerate(row["views"]) if not view]
    found = classifier.predict([row["images"][number] for number in unknown])
    for number, (view, _) in zip(unknown, found, strict=True):
        row["views"][number] = view
        counts[view] = counts.get(view, 0) + 1


def _read_study(study: dict[str, Any], shorter_side: int | None, problems: list[LeftOut]) -> dict[str, Any] | None:
    images, views = [], []
    for path, view in zip(study["images"], study["views"], strict=True):
        try:
            images.append({"bytes": encode_xray(Path(path), shorter_side), "path": Path(path).name})
            views.append(view)
        except FileNotFoundError:
            problems.append(LeftOut(study["study_id"], path, f"{path}: {ABSENT}"))
        except (OSError, ImageReadError) as error:
            problems.append(LeftOut(study["study_id"], path, str(error)))
    if not images:
        problems.append(LeftOut(study["study_id"], "study", "none of its images can be read"))
        return None
    return {**study, "images": images, "views": views}


def encode_xray(path: Path, shorter_side: int | None = None) -> bytes:
    """An X-ray as the bytes of an 8-bit PNG or JPEG file, with nothing beside its pixels, see `prepare_studies`.

    Raises:
        FileNotFoundError, ImageReadError: as `load_xray`, which decodes every image.
    """
    content = path.read_bytes()
    picture = load_xray({"bytes": content, "path": str(path)})
    factor = 1.0 if shorter_side is None else shorter_side / min(picture.size)
    if factor < 1:
        width, height = (max(shorter_side or 1, round(side * factor)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    elif _is_plain(content, picture):
        try:
            return strip_metadata(content)
        except ImageStructureError:
            # Decodable all the same; encoded again, it holds pixels alone.
            pass
    out = BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _is_plain(content: bytes, picture: Image.Image) -> bool:
    """Whether any decoder, without knowledge of X-rays, decodes the file to the same image."""
    try:
        with Image.open(BytesIO(content)) as stored:
            upright = stored.getexif().get(0x0112, 1) == 1
            opaque = not stored.has_transparency_data
            return stored.format in _KEPT_FORMATS and stored.mode == picture.mode and upright and opaque
    except OSError:  # DICOM
        return False


def _finish(source: Source, output: Path, shards: list[_Shard], settings: Mapping[str, Any]) -> dict[str, Any]:
    import datasets
    from pyarrow.parquet import ParquetFile

    left_out = list(source.left_out)
    counts: dict[str, int] = {}
    predicted: dict[str, int] = {}
    links: dict[str, dict[str, list[str]]] = {}
    for shard in shards:
        result = _ShardResult.read(shard.problems)
        left_out += result.left_out
        for view, count in result.predicted_views.items():
            predicted[view] = predicted.get(view, 0) + count
        split = shard.studies[0]["split"]
        with ParquetFile(shard.file) as file:
            counts[split] = counts.get(split, 0) + file.metadata.num_rows
            of_split = links.setdefault(split, {"study_id": [], "prior": []})
            for name, values in file.read(["study_id", "prior"]).to_pydict().items():
                of_split[name] += values
    # A prior whose images can't be read is none.
    priors = {split: count_priors(columns) for split, columns in links.items()}
    if not any(counts.values()):
        first = next((entry.reason for entry in left_out if entry.item != "study"), "")
        raise SourceError(f"{source.name}: no image could be read; the first: {first}")
    draft = output / _WORK / LEFT_OUT_FILE
    with draft.open("w", encoding="utf-8", newline="") as file:
        write_csv(file, [("study_id", "item", "reason")])
        write_csv(file, ((entry.study_id, entry.item, entry.reason) for entry in left_out))
    put_in_place(draft, output / LEFT_OUT_FILE)
    card = {
        "data_set": source.name,
        "section": source.section,
        "cleaning": source.cleaning,
        "split_source": source.split_source,
        "counts": counts,
        "published_counts": dict(source.published_counts),
        "shared_patients": source.shared_patients,
        "left_out": count_reasons(left_out),
        **({"priors": priors} if source.has_priors else {}),
        **({"predicted_views": predicted} if "view_classifier" in settings else {}),
        **settings,
        "versions": {"datasets": datasets.__version__, "pillow": Image.__version__},
    }
    write_whole(output / CARD_FILE, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    shutil.rmtree(output / _WORK)
    logger.info("%s: %s", source.name, compare_counts(counts, source.published_counts))
    return card
