"""CUDA graphs on a device that is pretended: operations are recorded once and replayed, with all that makes real ones dangerous.

    with replaying("cuda:0") as (gpu, recorder):  # as `pretend("cuda:0")`, with a stand-in for `torch.cuda.make_graphed_callables`
        ...
        recorder.replays                          # how often something was replayed

Like PyTorch's own, the stand-in calls a function a few times, records its forward and its backward pass, and gives a function that
replays them. A replay does the recorded operations on the recorded tensors, and no line of Python. So these are as on a GPU:

- class vectors and gradients come in tensors that the next replay overwrites;
- the backward pass leaves nothing of what the forward pass kept for it (here it becomes no number);
- what a graph reads is not held by it, and must be there at each replay (here it is an error where it is not);
- the processor may not ask the device for anything while something is recorded.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from pretend import Device, held, pretend, tensors_in
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes


class Tape:
    "Operations on the processor's tensors, in their order."

    def __init__(self):
        self.steps: list[tuple] = []  # an operation, what it takes, and what it gave
        self.made: dict[int, Tensor] = {}  # by id
        self.memory: set[int] = set()  # places of what was read and not made

    def add(self, function, args: tuple, kwargs: dict, out: object) -> None:
        given = tensors_in((*args, *kwargs.values()))
        self.memory |= {one.untyped_storage().data_ptr() for one in given if id(one) not in self.made}
        self.steps.append((function, self._loosely(args), self._loosely(kwargs), out))
        self.made |= {id(one): one for one in tensors_in([out]) if not any(one is other for other in given)}

    def _loosely(self, value: object) -> object:
        "The same with weak references to tensors that were not made here."
        if isinstance(value, Tensor):
            return value if id(value) in self.made else weakref.ref(value)
        if isinstance(value, dict):
            return {name: self._loosely(one) for name, one in value.items()}
        return type(value)(self._loosely(one) for one in value) if type(value) in (list, tuple) else value

    def _firmly(self, value: object) -> object:
        if isinstance(value, weakref.ref):
            if (there := value()) is None:
                raise RuntimeError("a graph reads memory that was freed")
            return there
        if isinstance(value, dict):
            return {name: self._firmly(one) for name, one in value.items()}
        return type(value)(self._firmly(one) for one in value) if type(value) in (list, tuple) else value

    def replay(self) -> None:
        with torch.no_grad(), _disable_current_modes():
            for function, args, kwargs, out in self.steps:
                args, kwargs = self._firmly(args), self._firmly(kwargs)
                if not function.is_view:
                    for there, now in zip(tensors_in([out]), tensors_in([function(*args, **kwargs)])):
                        if there is not now:
                            there.copy_(now)

    def spoil(self, spared: Tensor) -> None:
        "Overwrite what was made, all but one tensor."
        safe = self.memory | {spared.untyped_storage().data_ptr()}
        with torch.no_grad(), _disable_current_modes():
            for one in self.made.values():
                if one.is_floating_point() and one.untyped_storage().data_ptr() not in safe:
                    one.fill_(float("nan"))


class Recorder(TorchDispatchMode):
    "Stands before a pretended device and sees what that does on the processor."

    def __init__(self):
        super().__init__()
        self.tape: Tape | None = None
        self.captures, self.replays = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if self.tape is not None:
            self.tape.add(function, args, kwargs or {}, out)
        return out

    @contextmanager
    def recording(self, gpu: Device) -> Iterator[Tape]:
        waits, self.tape = sum(gpu.waits.values()), Tape()
        try:
            with patch.object(torch.cuda, "is_current_stream_capturing", lambda: True):
                yield self.tape
        finally:
            self.tape = None
        if sum(gpu.waits.values()) > waits:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def replay(self, tape: Tape, gpu: Device) -> None:
        "One launch."
        tape.replay()
        self.replays += 1
        gpu.launches["replay", "graph"] += 1

    def make_graphed_callables(self, gpu: Device) -> Callable:
        "What takes the place of PyTorch's function."
        def make(function: Callable[..., Tensor], sample_args: tuple[Tensor, ...]) -> Callable[..., Tensor]:
            for _ in range(3):
                out = function(*sample_args)
                torch.autograd.grad(out, sample_args, torch.empty_like(out))
            with self.recording(gpu) as forward:
                out = function(*sample_args)
            along = torch.zeros_like(out)
            with self.recording(gpu) as backward:
                gradients = torch.autograd.grad(out, sample_args, along)
            self.captures += 1
            static, out, recorder = sample_args, out.detach(), self

            class Graphed(torch.autograd.Function):
                @staticmethod
                def forward(ctx, *inputs: Tensor) -> Tensor:
                    assert [held(one).data_ptr() for one in inputs] == [held(one).data_ptr() for one in static], "to be copied"
                    recorder.replay(forward, gpu)
                    return out.detach()

                @staticmethod
                @once_differentiable
                def backward(ctx, given: Tensor) -> tuple[Tensor, ...]:
                    along.copy_(given)
                    recorder.replay(backward, gpu)
                    forward.spoil(held(out))
                    return tuple(one.detach() for one in gradients)

            return Graphed.apply

        return make


@contextmanager
def replaying(name: str) -> Iterator[tuple[Device, Recorder]]:
    "Let this process have a device of that name, and graphs on it."
    with Recorder() as recorder, pretend(name) as gpu:
        with patch.object(torch.cuda, "make_graphed_callables", recorder.make_graphed_callables(gpu)):
            yield gpu, recorder
