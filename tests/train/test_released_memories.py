"""Pickled arrays from strangers: arrays of numbers are read, everything else is refused before it runs."""

import builtins
import codecs
import collections
import functools
import operator
import os
import pickle
import pickletools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambaxray.train import released_memories
from mambaxray.train.released_memories import PickledMemoryError, read_pickled_memory

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) / 8


def write(tmp_path, content, protocol=None):
    file = tmp_path / "memory.pkl"
    file.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return file


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


# What is read


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i8", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_of_numbers_is_read_from_every_protocol_order_and_dtype(tmp_path, protocol, dtype, order):
    rows = np.asarray(ROWS * 8, dtype=dtype, order=order)
    memory = read_pickled_memory(write(tmp_path, rows, protocol))
    assert memory.dtype == torch.float32
    assert torch.equal(memory, torch.from_numpy(ROWS * 8))


@pytest.mark.parametrize(
    "content",
    [
        [ROWS[:2], ROWS[2:]],
        (ROWS[0], ROWS[1], ROWS[2]),
        {"Edema": ROWS[:1], "Pneumonia": ROWS[1:]},
        {"Edema": [ROWS[0], ROWS[1]], "Pneumonia": [ROWS[2]]},
        ROWS[None],
        [ROWS[:, None]],
    ],
)
def test_arrays_in_plain_containers_are_put_one_behind_the_other(tmp_path, content):
    assert torch.equal(read_pickled_memory(write(tmp_path, content)), torch.from_numpy(ROWS))


# What is refused, and runs nothing


def harmful(target):
    """Pickles that would write a file, or do worse, when an unpickler lets them."""
    touch = ("open", (str(target), "w"))
    return {
        "os.system": Call(os.system, f"touch {target}"),
        "builtins.eval": Call(eval, f"open({str(target)!r}, 'w')"),
        "builtins.exec": Call(exec, f"open({str(target)!r}, 'w')"),
        "builtins.open": Call(open, str(target), "w"),
        "builtins.getattr": Call(getattr, "text", "join"),
        "builtins.__import__": Call(__import__, "os"),
        "functools.partial": Call(functools.partial, os.mkdir, str(target)),
        "operator.attrgetter": Call(operator.attrgetter, "system"),
        "codecs.decode": Call(codecs.decode, b"uryyb", "rot13"),
        "codecs.encode": Call(codecs.encode, "hello", "rot13"),
        "codecs.lookup": Call(codecs.lookup, "zip"),
        "nested": Call(list, [Call(os.mkdir, str(target))]),
        "inside a container": [ROWS, {"more": Call(os.mkdir, str(target))}],
        "as an array's state": Call(np.ndarray, (1,), state=Call(os.mkdir, str(target))),
        "as an array's shape": Call(np._core.multiarray._reconstruct, np.ndarray, Call(os.mkdir, str(target)), b"b"),
        "numpy.load": Call(np.load, str(target), None, True),
        "numpy.save": Call(np.save, str(target), ROWS),
        "numpy.ndarray": Call(np.ndarray, (2, 2)),
        "numpy.memmap": Call(np.memmap, str(target), "uint8", "w+", 0, (4,)),
        "numpy.fromfile": Call(np.fromfile, str(target)),
        "a subclass of arrays": ROWS.view(np.recarray),
        "a masked array": np.ma.masked_array(ROWS),
        "an ordered dict": collections.OrderedDict(rows=ROWS),
        "a torch tensor": torch.ones(2, 2),
        "a lambda's name": b"cbuiltins\n" + touch[0].encode() + b"\n(V" + str(target).encode() + b"\nVw\ntR.",
        "os by its other name": b"cposix\nsystem\n(Vtouch " + str(target).encode() + b"\ntR.",
        "an attribute of a known name": b"\x80\x04\x8c\x05numpy\x8c\x10dtype.__reduce__\x93.",
        "a module path": b"\x80\x04\x8c\x05numpy\x8c\x0eos.path.system\x93.",
        "an instance": b"(ios\nsystem\n.",
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent id": b"Pid\n.",
    }


@pytest.mark.parametrize("name", harmful("target"))
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path, name):
    target = tmp_path / "target"
    content = harmful(target)[name]
    protocols = [4] if isinstance(content, bytes) else [0, 2, 4, 5]
    for protocol in protocols:
        with pytest.raises(PickledMemoryError, match="is refused"):
            read_pickled_memory(write(tmp_path, content, protocol))
        assert not target.exists()


def changed(state):
    """A pickle of numpy's dtype function that then sets its state, as a hostile one could."""
    return b"cnumpy\ndtype\n" + pickle.dumps(state, 0)[:-1] + b"b."


@pytest.mark.parametrize("state", [{"__call__": 1}, {"_build": 1}, (None, {"_build": 1}), ({}, {"x": 1})])
def test_a_pickle_cannot_change_what_the_next_one_is_read_with(tmp_path, state):
    with pytest.raises(PickledMemoryError):
        read_pickled_memory(write(tmp_path, changed(state)))
    assert torch.equal(read_pickled_memory(write(tmp_path, ROWS)), torch.from_numpy(ROWS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([["a", 1]], dtype=object), "not of numbers"),
        (np.array(["text"]), "not of numbers"),
        (np.array([1 + 2j]), "not of numbers"),
        (np.zeros(2, dtype=[("a", "f4")]), "not of numbers"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "not of numbers"),
        (np.array([[1.0, np.nan]]), "values that are not finite"),
        (np.array([[1.0, np.inf]]), "values that are not finite"),
        (np.array(3.0), "without rows"),
        (np.zeros((0, 4)), "holds no array"),
        (np.zeros((3, 0)), "without rows"),
        ([np.zeros((1, 3)), np.zeros((1, 4))], "rows of 3, 4"),
        ([], "holds no array"),
        ({"a": "text"}, "holds a str, not arrays"),
        ([[[ROWS]]], "holds a list, not arrays"),
        (7, "holds a int, not arrays"),
    ],
)
def test_what_is_no_array_of_finite_numbers_is_refused(tmp_path, content, message):
    with pytest.raises(PickledMemoryError, match=re.escape(message)):
        read_pickled_memory(write(tmp_path, content))


def test_an_array_whose_state_lies_about_its_size_is_refused(tmp_path):
    reconstruct = np._core.multiarray._reconstruct
    for shape in ((2**40, 4), (3, 5), (-1, -12), (3.0, 4), [3, 4], 12):
        state = (1, shape, ROWS.dtype, False, ROWS.tobytes())
        content = Call(reconstruct, np.ndarray, (0,), b"b", state=state)
        with pytest.raises(PickledMemoryError, match="is refused"):
            read_pickled_memory(write(tmp_path, content))


def test_a_list_that_holds_itself_many_times_over_is_refused_at_once(tmp_path):
    content = ROWS
    for _ in range(60):
        content = [content, content]
    with pytest.raises(PickledMemoryError, match="holds a list"):
        read_pickled_memory(write(tmp_path, content))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_read_as_arrays_and_raise_nothing_else(tmp_path_factory, data):
    whole = pickle.dumps([ROWS, ROWS], protocol=data.draw(st.sampled_from([0, 2, 4, 5])))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.mktemp("damaged") / "memory.pkl"
    file.write_bytes(bytes(damaged))
    try:
        memory = read_pickled_memory(file)
    except PickledMemoryError:
        return
    assert memory.ndim == 2
    assert memory.isfinite().all()


def test_every_truncation_is_refused(tmp_path):
    whole = pickle.dumps([ROWS], protocol=4)
    ends = [position for _, _, position in pickletools.genops(whole)]
    for length in [0, 1, *ends[1:], len(whole) - 1]:
        with pytest.raises(PickledMemoryError, match="is refused"):
            read_pickled_memory(write(tmp_path, whole[:length]))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pkl is absent"):
        read_pickled_memory(tmp_path / "nothing.pkl")


def test_the_reader_finds_no_function_of_python_or_numpy_itself():
    foreign = [*vars(builtins).values(), *vars(np).values(), *vars(codecs).values()]
    assert not [name for name, found in released_memories._KNOWN.items() if any(found is each for each in foreign)]
