"""Model configurations: plain data, one file per family."""

# Loads transformers' Auto classes before any class of ours is defined: registering ours with them (see the root
# package's `_register.py`) then never meets a half-imported module.
import transformers.models.auto.modeling_auto  # noqa: F401
