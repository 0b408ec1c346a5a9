"""The commands that look into trained models: `mambaxray analyse`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_group import command_group
from .cli_options import MODEL_HELP, DatasetOptionOption, DeviceOption, MemoryOption
from .console import SAFETY, error_console, failure, quiet_transformers

if TYPE_CHECKING:
    from datasets import Dataset

analyse_app = command_group("Look into trained models.")


def _studies(dataset: str, options: list[str] | None, split: str, count: int | None) -> "Dataset":
    """The first studies of a split of a data set.

    Raises:
        ValueError: there is no such split.
    """
    from .data.studies import first_studies, load_studies
    from .train.recipe_text import parse_options

    splits = load_studies(dataset, **parse_options(options or []))
    if split not in splits:
        raise ValueError(f"{dataset} has no split {split!r}; it has {', '.join(splits)}")
    return first_studies(splits[split], count)


@analyse_app.command("reconstruction")
def reconstruction(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Data set with reports: a folder prepared by mambaxray prepare, a table, or phantoms.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help=f"{MODEL_HELP} It needs its training parts: a checkpoint, or a model trained with "
            "model.save_training_parts=true.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="HTML file to write.")] = Path(
        "reconstruction.html"
    ),
    dataset_option: DatasetOptionOption = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of the data set.")] = "test",
    studies: Annotated[int, typer.Option(min=2, metavar="N", help="Number of studies, from the split's first.")] = 4,
    patches: Annotated[int, typer.Option(min=1, metavar="N", help="Patches of each image whose words are shown.")] = 6,
    words: Annotated[int, typer.Option(min=1, metavar="N", help="Words shown of each patch.")] = 5,
    device: DeviceOption = "auto",
) -> None:
    """Show what a bidirectional model makes of reports: images, and words near its image embeddings.

    The page shows each image as the model sees it, its reconstruction from the study's report and from another study's,
    and the words of the language model that lie nearest to the embeddings of some patches.

    \b
    Example:
      mambaxray analyse reconstruction prepared/iu_xray \\
        --model runs/bidirectional_iu/checkpoints/checkpoint-900
    """
    from .data.whole_file import require_writable
    from .evaluation.pages.reconstruction_page import write_reconstruction_page
    from .evaluation.reconstruction import reconstruct_studies
    from .generate import load_pipeline

    try:
        require_writable(output)
        quiet_transformers()
        rows = _studies(dataset, dataset_option, split, studies)
        pipeline = load_pipeline(model, device)
        found = reconstruct_studies(
            pipeline.model,
            pipeline.processor,
            rows,
            num_patches=patches,
            num_words=words,
        )
        write_reconstruction_page(
            output,
            found,
            title="What the model makes of reports",
            summary=f"{len(found)} images of {dataset} ({split}), read by {model}",
        )
    except (OSError, TypeError, ValueError) as error:
        raise failure(error) from error
    console = error_console()
    console.print(SAFETY)
    console.print(f"the page: {output}")


@analyse_app.command("embeddings")
def embeddings(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Data set: a folder prepared by mambaxray prepare, a table, or phantoms.",
            show_default=False,
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option("--model", "-m", metavar="MODEL", help=f"{MODEL_HELP} Can be repeated: all are in one figure."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="HTML file to write.")] = Path(
        "embeddings.html"
    ),
    dataset_option: DatasetOptionOption = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of the data set.")] = "test",
    studies: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of studies, from the split's first. Default: all.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Studies that are encoded at once.")] = 8,
    memory: MemoryOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Show how far the visual embeddings of models lie from the words of their language model.

    The page has the histogram of each embedding's smallest distance to a word embedding, a line for each model, and a
    table of numbers with the norms of visual embeddings, of embeddings made of reports, and of words.

    \b
    Example:
      mambaxray analyse embeddings prepared/iu_xray --model runs/v2t/model \\
        --model runs/bidirectional/model
    """
    from .data.whole_file import require_writable
    from .evaluation.embedding_distances import embedding_distances
    from .evaluation.pages.embedding_page import write_embedding_page
    from .generate import load_pipeline, memory_folders

    console = error_console()
    try:
        require_writable(output)
        quiet_transformers()
        rows, found = _studies(dataset, dataset_option, split, studies), []
        for name in model:
            with console.status(f"Encoding {len(rows)} studies with {name}"):
                pipeline = load_pipeline(name, device, memories=memory_folders(memory))
                found.append(
                    embedding_distances(pipeline.model, pipeline.processor, rows, name=name, batch_size=batch_size)
                )
        write_embedding_page(
            output, found, title="Visual embeddings among words", summary=f"{len(rows)} studies of {dataset} ({split})"
        )
    except (OSError, TypeError, ValueError) as error:
        raise failure(error) from error
    for each in found:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in each.summary().items())
        norms = ", ".join(f"{name} {value:.4g}" for name, value in each.norms.items())
        console.print(f"{each.name}: distance {numbers}; mean norms: {norms}")
    console.print(f"the page: {output}")
