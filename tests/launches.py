"""Counts what a device would be given to do, on the processor: attention is one operation there, as it is on a GPU.

What an operation moves is what it is given and what comes out of it, in bytes; a tensor that repeats itself counts once.
"""

import math
from collections.abc import Iterable

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NOT_LAUNCHED = {"detach", "_unsafe_view", "alias", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}


def size(values: Iterable) -> int:
    "The bytes of all tensors among some values, and in their lists."
    return sum(value.itemsize * math.prod(length for length, step in zip(value.shape, value.stride()) if step) if isinstance(value, Tensor)
               else size(value) if isinstance(value, list | tuple) else 0 for value in values)


class Launches(TorchDispatchMode):
    "Counts the operations that a device would be given, and the bytes that they read and write."

    count = bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if not function.is_view and function._schema.name.split("::")[1] not in NOT_LAUNCHED:
            self.count += 1
            self.bytes += size((*args, *(kwargs or {}).values(), out))
        return out
