"""The commands about the projection of radiographs: `mambaxray views`."""

from pathlib import Path
from typing import Annotated

import typer

from .cli_group import command_group
from .cli_options import DatasetOptionOption, SeedOption
from .console import error_console, failure, quiet_transformers

views_app = command_group("Train a classifier that tells PA, AP and lateral radiographs apart.")


@views_app.command()
def train(
    dataset: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Data set with known views: a folder prepared by mambaxray prepare, a table, or phantoms.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the classifier.", show_default=False)
    ],
    dataset_option: DatasetOptionOption = None,
    image_size: Annotated[int, typer.Option(min=32, metavar="PIXELS", help="Side of the images.")] = 128,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Passes over the training images.")] = 12,
    seed: SeedOption = 0,
) -> None:
    """Train a view classifier on a data set's training images.

    FOLDER receives the classifier and its accuracy on the other splits (view_scores.json), with intervals by patient.
    `mambaxray prepare --views predict --view-classifier FOLDER` uses it where a data set does not state the view.

    \b
    Example:
      mambaxray views train --dataset prepared/mimic --output runs/views
    """
    console = error_console()
    try:
        from .data.prepared import CARD_FILE, read_card
        from .data.studies import load_studies
        from .data.whole_file import require_free_folder
        from .train.recipe_text import parse_options
        from .train.view_classification import save_view_classifier, train_view_classifier

        quiet_transformers()
        require_free_folder(output)
        if (Path(dataset) / CARD_FILE).is_file() and any(read_card(dataset).get("predicted_views", {}).values()):
            raise ValueError(f"{dataset} has views that were predicted: train on a data set that states its views")
        with console.status("Training"):
            splits = load_studies(dataset, **parse_options(dataset_option or []))
            classifier, scores = train_view_classifier(splits, image_size=image_size, epochs=epochs, seed=seed)
        save_view_classifier(classifier, scores, output)
    except (OSError, TypeError, ValueError) as error:
        raise failure(error) from error
    counts = ", ".join(f"{count} {view}" for view, count in scores.pop("training_images").items())
    console.print(f"trained on {counts}: {output}")
    for split, values in scores.items():
        low, high = values["accuracy_interval"]
        recall = ", ".join(f"{view} {value:.3f}" for view, value in values["recall"].items())
        console.print(
            f"{split}: accuracy {values['accuracy']:.3f} ({low:.3f} to {high:.3f}) on {values['images']} images of "
            f"{values['patients']} patients; recall {recall}"
        )


__all__ = ["views_app"]
