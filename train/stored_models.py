"""The models that a memory is made with: where their files are, which revision they are, and what they hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..evaluation.made_with import MadeWith

# Weights of other frameworks, beside those that are read.
_UNREAD = ("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.tflite", "onnx/*", "openvino/*", "_patient_text/*")


@dataclass(frozen=True)
class StoredModel:
    """A model with its processor or tokenizer, in a folder of this machine.

    Attributes:
        name: the folder or Hub id, as it was given.
        folder: where its files are.
        revision: its commit on the Hub; None for a folder.
        content: a digest of its weights, configuration and processor.
    """

    name: str
    folder: str
    revision: str | None
    content: str

    @classmethod
    def find(cls, name: str, revision: str | None = None) -> Self:
        """The model in a folder, or of that name on the Hub, whose files are downloaded where the cache lacks them.

        Args:
            name: folder or Hub id.
            revision: branch, tag or commit on the Hub.

        Raises:
            FileNotFoundError: there is no such model.
        """
        if Path(name).is_dir():
            if not (Path(name) / "config.json").is_file():
                raise FileNotFoundError(f"{name}: this folder holds no model (it has no config.json)")
            return cls(name, name, None, _content(name))
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = snapshot_download(name, revision=revision, ignore_patterns=list(_UNREAD))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise FileNotFoundError(
                f"{name}: no such folder, and no such model that the Hugging Face Hub serves "
                "(is the name right, are you online, is the model public or are you logged in?)"
            ) from error
        return cls(name, folder, Path(folder).name, _content(folder))


def _content(folder: str) -> str:
    made = MadeWith.of_saved(folder, {})
    return f"{made.model}-{made.processor}"


__all__ = ["StoredModel"]
