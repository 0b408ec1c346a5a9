"""What the processor waits for a GPU for, counted on a CPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mambaxray.modeling_mambaxray.generation.continuous_generation import _Batch

# Operators that give the processor a value, or a shape that depends on values.
_WAITING = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique", "item"}


def gives_the_processor_a_value(function, args):
    """Whether a call of an operator, as a `TorchDispatchMode` sees it, waits for the device."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else []
    # A mask as an index is first turned into numbers.
    is_mask = any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in indices)
    return is_mask or str(function).split(".")[1] in _WAITING


class Steps(TorchDispatchMode):
    """What each step of a batch calls and waits for."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.operators, self.waits, self.shapes = [], [], []
        self._in_step = False
        launch, finish, original_list = _Batch.launch_step, _Batch.finish_step, torch.Tensor.tolist

        def launch_step(batch):
            self.operators.append(0)
            self.waits.append(0)
            self._in_step = True
            launch(batch)
            self._in_step = False
            self.shapes.append((batch._cache._step_rows, batch._cache.length))

        def finish_step(batch):
            self._in_step = True
            finished = finish(batch)
            self._in_step = False
            return finished

        def tolist(tensor):
            if self._in_step:
                self.waits[-1] += 1
            return original_list(tensor)

        monkeypatch.setattr(_Batch, "launch_step", launch_step)
        monkeypatch.setattr(_Batch, "finish_step", finish_step)
        monkeypatch.setattr(torch.Tensor, "tolist", tolist)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self._in_step and not function.is_view:
            self.operators[-1] += 1
            self.waits[-1] += gives_the_processor_a_value(function, args)
        return function(*args, **(kwargs or {}))


class WaitsOfPrompts(TorchDispatchMode):
    """How often the processor waits for the device while prompts are computed."""

    def __init__(self, monkeypatch, model):
        super().__init__()
        self.before_the_encoder = self.behind_the_encoder = 0
        self._where = None
        prefill, to_list = _Batch.prefill, torch.Tensor.tolist

        def prefilling(batch, studies):
            self._where = "before_the_encoder"
            prompts = prefill(batch, studies)
            self._where = None
            return prompts

        monkeypatch.setattr(_Batch, "prefill", prefilling)
        monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: self._wait() or to_list(tensor))
        self._hook = model.vision_encoder.register_forward_hook(self._encoded)

    def __exit__(self, *arguments):
        self._hook.remove()
        super().__exit__(*arguments)

    def _encoded(self, *arguments):
        self._where = "behind_the_encoder"

    def _wait(self):
        if self._where is not None:
            setattr(self, self._where, getattr(self, self._where) + 1)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if gives_the_processor_a_value(function, args):
            self._wait()
        return function(*args, **(kwargs or {}))
