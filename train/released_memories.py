"""Reading pickled arrays from strangers, such as the memories of AM-MRG's authors, without running what they say.

A pickle is a program: it may call any function of any module. This reader knows a few names of numpy, and in place of
numpy's functions it calls its own, which make arrays of numbers out of plain data and do nothing else.
"""

import math
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_NUMBER = re.compile(r"[fiu](2|4|8)|[iu]1|b1")
_ARRAY_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_BUFFER_MODULES = ("numpy.core.numeric", "numpy._core.numeric")


class PickledMemoryError(ValueError):
    """A file that holds something else than arrays of numbers, or is damaged."""


def read_pickled_memory(file: str | Path) -> Tensor:
    """The rows of a pickled memory `(rows, width)` in float32.

    Read are one numpy array of numbers, or a list, tuple or dict of arrays (and of these once more), which are put one
    behind the other; an array of one row may lack its first axis, and further leading axes are flattened. Anything else
    is refused before it runs: other functions and classes, arrays of objects, records or text.

    Raises:
        FileNotFoundError: there is no such file.
        PickledMemoryError: the file holds anything else, is damaged, or its rows are not of one width and finite.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is absent; give the memory's file")
    try:
        with file.open("rb") as stream:
            content = _ArrayUnpickler(stream).load()
        rows = [_rows(array) for array in _arrays(content)]
    except PickledMemoryError as error:
        raise PickledMemoryError(f"{file} is refused: {error}") from error
    except Exception as error:  # a damaged pickle makes its reader fail in any way
        raise PickledMemoryError(f"{file} is refused: it can't be read ({type(error).__name__}: {error})") from error
    if not rows or not sum(len(part) for part in rows):
        raise PickledMemoryError(f"{file} is refused: it holds no array")
    if len(widths := {part.shape[1] for part in rows}) > 1:
        raise PickledMemoryError(f"{file} is refused: its arrays have rows of {', '.join(map(str, sorted(widths)))}")
    memory = torch.from_numpy(np.concatenate(rows))
    if not memory.isfinite().all():
        raise PickledMemoryError(f"{file} is refused: it holds values that are not finite")
    return memory


class _Builder:
    """Stands in for a function of numpy. It is no class, so a pickle can make no instance of it, and it takes no state,
    so that a pickle cannot change it."""

    __slots__ = ("_build",)
    _build: Callable[..., Any]

    def __init__(self, build: Callable[..., Any]):
        object.__setattr__(self, "_build", build)

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise PickledMemoryError("it changes a function")

    def __setstate__(self, state: Any) -> None:
        raise PickledMemoryError("it changes a function")


class _Dtype:
    """A dtype of numbers, made as pickles make them: a code, and the byte order as its state."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any):
        if isinstance(code, bytes):
            code = code.decode("ascii")
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise PickledMemoryError(f"it holds an array of {code!r}, not of numbers")
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 4 else None
        if order not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise PickledMemoryError("it holds an array of records")
        self.order = order

    def to_numpy(self) -> np.dtype:
        return np.dtype((self.order if self.order in "<>" else "=") + self.code)


class _Array:
    """An array of numbers, empty until its state comes."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise PickledMemoryError("it holds an array of another format")
        shape, dtype, is_fortran, data = state[-4:]
        self.values = _number_array(data, dtype, shape, "F" if is_fortran else "C")


def _number_array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """An array out of plain data, whatever a pickle says of it."""
    if not isinstance(dtype, _Dtype):
        raise PickledMemoryError("it holds an array without a dtype of numbers")
    if not isinstance(shape, tuple) or not all(type(axis) is int and 0 <= axis < 2**31 for axis in shape):
        raise PickledMemoryError(f"it holds an array of an impossible shape, {shape!r:.80}")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise PickledMemoryError("it holds an array of objects, not of numbers")
    kind = dtype.to_numpy()
    if len(bytes(data)) != math.prod(shape) * kind.itemsize:
        raise PickledMemoryError(f"it holds {len(bytes(data))} bytes for an array {shape} of {kind.itemsize} each")
    return np.frombuffer(bytes(data), dtype=kind).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, shape: Any = None, code: Any = None) -> _Array:
    if kind is not _NDARRAY:
        raise PickledMemoryError("it holds an array of a class of its own")
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.values = _number_array(data, dtype, shape, order)
    return array


def _encode(text: Any, encoding: Any = None) -> bytes:
    """How older pickles write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise PickledMemoryError("it encodes something else than bytes")
    return text.encode("latin-1")


def _refuse_call(*_: Any) -> Any:
    raise PickledMemoryError("it makes an array by numpy.ndarray itself")


_NDARRAY = _Builder(_refuse_call)
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Builder(_Dtype),
    ("_codecs", "encode"): _Builder(_encode),
    **{(module, "_reconstruct"): _Builder(_reconstruct) for module in _ARRAY_MODULES},
    **{(module, "_frombuffer"): _Builder(_from_buffer) for module in _BUFFER_MODULES},
}


class _ArrayUnpickler(pickle.Unpickler):
    """Finds no name but those of `_KNOWN`, and behind these no function of numpy."""

    def find_class(self, module: str, name: str) -> Any:
        found = _KNOWN.get((module, name))
        if found is None:
            raise PickledMemoryError(f"it holds {module}.{name}, which could run code")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise PickledMemoryError("it refers to something outside")


def _arrays(content: Any, depth: int = 2) -> Iterator[_Array]:
    """The arrays in plain containers, in their order."""
    if isinstance(content, _Array):
        yield content
    elif isinstance(content, list | tuple | dict) and depth:
        for part in content.values() if isinstance(content, dict) else content:
            yield from _arrays(part, depth - 1)
    else:
        raise PickledMemoryError(f"it holds a {type(content).__name__}, not arrays of numbers")


def _rows(array: _Array) -> np.ndarray:
    if array.values is None:
        raise PickledMemoryError("it holds an array without values")
    if not array.values.ndim or not array.values.shape[-1]:
        raise PickledMemoryError("it holds an array without rows")
    return array.values.reshape(-1, array.values.shape[-1]).astype(np.float32)


__all__ = ["PickledMemoryError", "read_pickled_memory"]
