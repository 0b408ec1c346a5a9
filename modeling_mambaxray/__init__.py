"""Models, one `modeling_<family>.py` per family, and the bricks they share."""

# As in the package of configurations: transformers' Auto classes first, so that ours are registered when complete.
import transformers.models.auto.modeling_auto  # noqa: F401
