"""Makes Triton's interpreter run with numpy 2.4, which no longer takes an array of one element for a number.

Imported, before any kernel runs, by tests that set `TRITON_INTERPRET=1`.
"""

from triton.runtime import interpreter

_patch_as_triton_does = interpreter._patch_lang_tensor


def _patch(tensor, *arguments):
    _patch_as_triton_does(tensor, *arguments)
    tensor.__index__ = lambda self: self.handle.data.item()


interpreter._patch_lang_tensor = _patch
