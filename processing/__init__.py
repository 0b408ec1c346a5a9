"""From files to tensors: images, DICOM, prompts and report text."""

# As in the package of configurations: transformers' Auto classes first, so that ours are registered when complete.
import transformers.models.auto.modeling_auto  # noqa: F401
