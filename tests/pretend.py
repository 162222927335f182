"""A GPU that is not there: tensors lie on it by name, hold the CPU's numbers, obey a GPU's rules, and what would cost time is counted.

    with pretend("cuda:1") as gpu:      # or "cuda:0", or "mps:0", which has no float64
        ...                             # whatever is to be looked at, with device="cuda:1"
        gpu.launches, gpu.waits         # how often, by what, and from which line

PyTorch hands every operation to a *mode* (`TorchDispatchMode`), those of a backward pass too. Ours runs it on the CPU and does what a
GPU would do beside: it refuses to mix devices, it counts a launch for what runs a kernel, and it counts a wait for what the processor
cannot go on without. Not here: kernels, streams, memory and worker processes. What a GPU fuses, attention and an optimiser's step, is
counted in its parts, so that there are fewer launches in truth.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from unittest.mock import patch

import torch
import torch._dynamo  # noqa: F401, which PyTorch imports at a mode's first operation, and which must not meet what `pretend` changes
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NO_KERNEL = {"detach", "alias", "lift", "lift_fresh", "_unsafe_view", "_reshape_alias", "empty", "empty_like", "empty_strided", "new_empty",
             "new_empty_strided", "_local_scalar_dense", "set_", "resize_"}  # beside what only looks at a tensor in another way
COPIES = {"_to_copy", "copy_", "_copy_from"}
ASKS = {"nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave", "equal",
        "_linalg_check_errors"}
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
FREE = 8 * 10**9  # bytes that the device says it has


class Mixed(RuntimeError):
    "Tensors of two devices in one operation."


class Pretended(Tensor):
    "A tensor on the device; PyTorch itself takes it for one on 'meta', which has no numbers."

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device):
        shape = dict(strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, layout=held.layout)
        made = torch.Tensor._make_wrapper_subclass(cls, held.size(), device="meta", **shape)
        made.held, made.lies_on = held, device
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} met a tensor of a pretended device after the device was gone")

    device = property(lambda self: self.lies_on)
    is_cuda = property(lambda self: self.lies_on.type == "cuda")
    is_mps = property(lambda self: self.lies_on.type == "mps")
    is_meta = is_cpu = property(lambda self: False)

    def __repr__(self, **_) -> str:
        return f"{self.held!r} on {self.lies_on}"

    def __deepcopy__(self, memo: dict) -> "Pretended":
        return memo.setdefault(id(self), self.detach().clone().requires_grad_(self.requires_grad))

    def __reduce_ex__(self, protocol: int):
        return self.cpu().__reduce_ex__(protocol)

    def tolist(self) -> list:
        return self.cpu().tolist()

    def numpy(self, **_):
        raise TypeError(f"can't convert {self.lies_on} device type tensor to numpy: use Tensor.cpu() first")


@cache
def is_ours(path: str) -> bool:
    "Whether a file is the library's or a test's."
    return ("/npt/" in path or "/tests/" in path) and path != __file__ and "site-packages" not in path


def line() -> str:
    "The innermost line of the library, or of a test, that asked for what is being done."
    frame = sys._getframe(2)
    while frame and not is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}" if frame else "elsewhere"


def tensors_in(values: Iterable) -> list[Tensor]:
    "Tensors among what an operation takes or gives, and in its lists."
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(value)
    return found


def each_tensor(change: Callable[[Tensor], Tensor], value: object) -> object:
    "The same with every tensor changed."
    if isinstance(value, Tensor):
        return change(value)
    return type(value)([each_tensor(change, one) for one in value]) if isinstance(value, list | tuple) else value


def held(tensor: Tensor) -> Tensor:
    "The numbers of a tensor."
    return tensor.held if isinstance(tensor, Pretended) else tensor


class Device(TorchDispatchMode):
    "Where everything lies, and what was counted there."

    def __init__(self, name: str):
        super().__init__()
        self.device = torch.device(name)
        self.reached = 0.0  # the time of the last note that somebody has waited for
        self.forget()

    def forget(self) -> None:
        "Count from nothing."
        self.launches = Counter()  # of kernels, by (operation, line)
        self.waits = Counter()  # of the processor for the device, by (what it waits for, line)
        self.handed = Counter()  # copies to the device that nobody waits for, by line

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func._schema.name.split("::")[1], kwargs or {}
        given = tensors_in((*args, *kwargs.values()))
        there, here = [one for one in given if isinstance(one, Pretended)], [one for one in given if not isinstance(one, Pretended)]
        target = self._target(kwargs, there)
        self._refuse_mixed(name, args, there, here)
        self._count_waits(name, args, kwargs, there, target)
        out = func(*each_tensor(held, args), **self._on_cpu(kwargs))
        self._refuse_double(out, target)
        if (there or target.type != "cpu") and not func.is_view and name not in NO_KERNEL:
            self.launches[name, line()] += 1
        return self._placed(name, args, out, target)

    def _target(self, kwargs: dict, there: list[Pretended]) -> torch.device:
        "Where the outcome lies: as asked for, or else beside what is given."
        asked = kwargs.get("device")
        if asked is None:
            return there[0].lies_on if there else torch.device("cpu")
        asked = self.device if torch.device(asked).type == "meta" else torch.device(asked)
        return torch.device(asked.type, asked.index or 0) if asked.type == self.device.type else asked

    def _refuse_mixed(self, name: str, args: tuple, there: list[Pretended], here: list[Tensor]) -> None:
        "A GPU takes numbers and indices from elsewhere, and nothing more."
        if name in COPIES or not there:
            return
        if name in INDEXES and isinstance(args[0], Pretended):
            here = [one for one in here if not any(one is index for index in args[1])]
        if {one.lies_on for one in there} != {there[0].lies_on} or any(one.dim() or name in ("cat", "stack") for one in here):
            raise Mixed(f"{name} at {line()}: {[(tuple(one.shape), str(one.device)) for one in (*there, *here)]}")

    def _refuse_double(self, out: object, target: torch.device) -> None:
        if target.type == "mps" and any(one.dtype == torch.float64 for one in tensors_in([out])):
            raise TypeError(f"mps has no float64, which is asked for at {line()}")

    def _count_waits(self, name: str, args: tuple, kwargs: dict, there: list[Pretended], target: torch.device) -> None:
        "Note what the processor has to wait for."
        if name in COPIES:
            self._count_copy(name, args, kwargs, target)
        elif there and name == "_local_scalar_dense":
            self.waits["a number", line()] += 1
        elif there and name in ASKS:
            self.waits[f"what {name} finds", line()] += 1
        elif there and name in INDEXES:
            for index in (one for one in args[1] if one is not None):
                if index.dtype in (torch.bool, torch.uint8):
                    self.waits["what a mask finds", line()] += 1
                elif index.dim() and not isinstance(index, Pretended):
                    self.waits["a copy to the device", line()] += 1

    def _count_copy(self, name: str, args: tuple, kwargs: dict, target: torch.device) -> None:
        source, to = (args[0], target) if name == "_to_copy" else (args[1], args[0].device)
        quick = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        if source.device.type == "cpu" and to.type != "cpu" and quick:
            self.handed[line()] += 1
        elif (source.device.type == "cpu") != (to.type == "cpu"):
            self.waits[f"a copy to the {'processor' if to.type == 'cpu' else 'device'}", line()] += 1

    def _on_cpu(self, kwargs: dict) -> dict:
        "What an operation is to be called with where the numbers really are."
        elsewhere = dict(device=torch.device("cpu"), pin_memory=False)
        return {name: elsewhere.get(name, each_tensor(held, value)) if value is not None else None for name, value in kwargs.items()}

    def _placed(self, name: str, args: tuple, out: object, target: torch.device) -> object:
        "The outcome on its device; what was changed in place stays the tensor that it was."
        if name.endswith("_") and not name.endswith("__") and out is not None:
            return args[0]
        if target.type == "cpu":
            return out
        return each_tensor(lambda one: Pretended(one, target), out)


class Event:
    "A note in the device's queue, which has a time and may be read when somebody has waited for it or for a later one."

    def __init__(self, device: Device, enable_timing: bool = False):
        assert enable_timing, "without a time there is nothing to read"
        self.owner = device

    def record(self, stream: torch.device) -> None:
        assert torch.device(stream) == self.owner.device, "the note would lie in another device's queue"
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        self.owner.waits["a note", line()] += 1
        self.owner.reached = max(self.owner.reached, self.time)

    def elapsed_time(self, later: "Event") -> float:  # milliseconds
        if later.time > self.owner.reached:
            raise RuntimeError("the device has not come by this note: wait for it first")
        return (later.time - self.time) * 1e3


@contextmanager
def pretend(name: str) -> Iterator[Device]:
    "Let this process have a device of that name, and count what happens on it."
    pretended = Device(name)
    kind, lifted = torch.device(name).type, torch._C._only_lift_cpu_tensors()
    count = (torch.device(name).index or 0) + 1
    state = patch.multiple(
        torch.cuda, _lazy_init=lambda: None, is_available=lambda: False, device_count=lambda: count if kind == "cuda" else 0,
        mem_get_info=lambda *_: (FREE, 2 * FREE), is_bf16_supported=lambda **_: True, device=lambda *_: nullcontext(),
        Event=partial(Event, pretended), current_stream=torch.device, is_current_stream_capturing=lambda: False,
        get_rng_state=lambda *_: torch.zeros(1), set_rng_state=lambda *_: None)
    torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor(..., device=...) comes by here
    try:
        with state, patch.object(torch.backends.mps, "is_available", lambda: kind == "mps"), pretended as device:
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
