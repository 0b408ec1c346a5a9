"""Predictions: what a model wrote for each study beside the reference, in memory and in a file of JSON lines."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Prediction:
    """One study's generated report and its reference.

    Attributes:
        study_id: unique within the data set.
        patient_id: groups the studies that are not independent of each other.
        reference: the report that a radiologist wrote.
        report: the report that the model wrote.
        seconds: the study's share of the time since the reports before it, reading of images included.
        settings: the model and the generation settings, as JSON: what made this report.
    """

    study_id: str
    patient_id: str
    reference: str
    report: str
    seconds: float
    settings: str


def read_predictions(path: str | os.PathLike) -> list[Prediction]:
    """Reads a file that `append_predictions` wrote; half a line at its end, as a kill leaves it, is passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is no prediction; the message names it.
    """
    content = Path(path).read_bytes()
    names = [field.name for field in fields(Prediction)]
    predictions = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].split(b"\n")[:-1], start=1):
        try:
            values = json.loads(line)
            predictions.append(Prediction(**{name: values[name] for name in names}))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: not a prediction with the keys {', '.join(names)} ({error!r})"
            ) from error
    return predictions


def append_predictions(path: str | os.PathLike, predictions: Iterable[Prediction]) -> None:
    """Adds lines at the end of a file, which is made when absent."""
    lines = "".join(json.dumps(asdict(prediction)) + "\n" for prediction in predictions)
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def drop_half_line(path: str | os.PathLike) -> None:
    """Cuts off what follows the last complete line, so that the next one starts at a line's beginning."""
    os.truncate(path, Path(path).read_bytes().rfind(b"\n") + 1)


__all__ = ["Prediction", "append_predictions", "drop_half_line", "read_predictions"]
