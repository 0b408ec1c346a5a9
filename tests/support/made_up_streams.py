"""CUDA streams and events that are made up on a CPU, and a checker of what runs on them.

On a CPU all runs in the order in which it is called. On a GPU, two streams are in order only where one waits for an
event of the other. `OrderOfStreams` notes, for every operator, the stream that is current and the storages that it
reads and writes, and raises where two streams touch a storage, one of them to write, and nothing puts them in order;
also where a storage is freed, and so given to whatever its own stream does next, while another stream may still use it.
It does for storages what PyTorch's `torch.cuda._sanitizer` does for the tensors of a GPU, with its rules of events.

That the processor waits for a stream, as for the value of a tensor, counts for nothing here: the events have to do.
"""

import weakref
from contextlib import contextmanager
from itertools import count

import torch
from torch.cuda._sanitizer import DEFAULT_STREAM_ID, ArgumentHandler, StreamSynchronizations
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mambaxray.modeling_mambaxray.generation import continuous_generation, side_stream


def made_up_streams(monkeypatch, side_class=side_stream.SideStream):
    """Lets generation compute prompts beside steps, as on a GPU, on streams of an `OrderOfStreams`."""
    streams = OrderOfStreams(monkeypatch)
    monkeypatch.setattr(side_stream, "cuda", streams.cuda)
    monkeypatch.setattr(continuous_generation, "side_stream_for", lambda model: side_class(model.device))
    return streams


class Unordered(Exception):
    """Two streams use one storage, and nothing puts them in order."""


class _Storages(ArgumentHandler):
    """The storages that an operator reads and writes, also of a CPU."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def _handle_argument(self, value, is_write, metadata_only, name=None, is_output=False):
        if isinstance(value, torch.Tensor) and not metadata_only and value.nbytes:
            storage = value.untyped_storage()
            self.storages[storage._cdata] = storage
            (self.dataptrs_written if is_write else self.dataptrs_read).add(storage._cdata)


class _Uses:
    """Of one storage: the stream that allocated it, the latest write, and the latest read and use by each stream."""

    def __init__(self, owner):
        self.owner = owner
        self.write = None
        self.reads = {}
        self.uses = {}
        self.kept_for = {owner}


class OrderOfStreams(TorchDispatchMode):
    """Made-up streams, and what is done on them inside a `with` block.

    Attributes:
        cuda: what takes the place of `torch.cuda`.
        operators: how many each stream ran, by its number; 0 is the stream that is current at first.
        shared: how many storages two streams have used.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.cuda = _Cuda(self)
        self.current = _Stream(self, DEFAULT_STREAM_ID)
        self.operators = {}
        self.shared = 0
        self.order = StreamSynchronizations()
        self._numbers = count(1)
        self._known = {}
        self._freed_too_early = []
        to_list = torch.Tensor.tolist

        def tolist(tensor):
            self._use({tensor.untyped_storage()._cdata: tensor.untyped_storage()}, set(), "tolist")
            return to_list(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", tolist)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: self._keep(tensor, stream))

    def new_stream(self):
        stream = _Stream(self, len(self.order.current_sync_states))
        self.order.create_stream(stream.number)
        return stream

    def new_event(self, stream):
        event = next(self._numbers)
        self.order.create_event(event)
        self.order.record_state(event, stream.number)
        return event

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        called = _Storages()
        called.parse_inputs(function._schema, args, kwargs or {}, is_factory=False)
        outputs = function(*args, **(kwargs or {}))
        called.parse_outputs(function._schema, outputs, is_factory=False)
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor):  # also one that aliases an input that nobody has seen
                called._handle_argument(output, False, False)
        self._use(called.storages, called.dataptrs_written, str(function))
        return outputs

    def __exit__(self, *arguments):
        super().__exit__(*arguments)
        if arguments[0] is None:
            self._complain()

    def _use(self, storages, written, name):
        self._complain()
        stream, number = self.current.number, next(self._numbers)
        self.order.update_seq_num(stream, number)
        self.operators[stream] = self.operators.get(stream, 0) + 1
        for key, storage in storages.items():
            uses = self._uses(key, storage)
            earlier = [uses.write, *(uses.reads.values() if key in written else ())]
            for other, at, its_name in filter(None, earlier):
                if not self.order.is_ordered_after(stream, at, other):
                    raise Unordered(f"{name} of stream {stream} does not wait for {its_name} of stream {other}")
            use = (stream, number, name)
            if key in written:
                uses.write, uses.reads = use, {}
            else:
                uses.reads[stream] = use
            self.shared += len(uses.uses) == 1 and stream not in uses.uses
            uses.uses[stream] = use

    def _uses(self, key, storage):
        if key not in self._known:
            self._known[key] = _Uses(self.current.number)
            weakref.finalize(storage, self._free, key)
        return self._known[key]

    def _free(self, key):
        uses = self._known.pop(key)
        for stream, number, name in uses.uses.values():
            if stream not in uses.kept_for and not self.order.is_ordered_after(uses.owner, number, stream):
                self._freed_too_early.append(f"stream {uses.owner} may overwrite what {name} of stream {stream} uses")

    def _keep(self, tensor, stream):
        self._uses(tensor.untyped_storage()._cdata, tensor.untyped_storage()).kept_for.add(stream.number)

    def _complain(self):
        if self._freed_too_early:
            raise Unordered(self._freed_too_early[0])


class _Stream:
    def __init__(self, world, number):
        self._world = world
        self.number = number
        self.device = torch.device("cpu")

    def record_event(self):
        return self._world.new_event(self)

    def wait_event(self, event):
        self._world.order.stream_wait_for_event(self.number, event)


class _Cuda:
    """What `side_stream.py` uses of `torch.cuda`."""

    def __init__(self, world):
        self._world = world

    def Stream(self, device):
        return self._world.new_stream()

    def current_stream(self, device):
        return self._world.current

    @contextmanager
    def stream(self, stream):
        before, self._world.current = self._world.current, stream
        try:
            yield
        finally:
            self._world.current = before
