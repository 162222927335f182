"""Counts what a device would be given to do, on the processor: attention is one operation there, as it is on a GPU."""

from torch.utils._python_dispatch import TorchDispatchMode

NOT_LAUNCHED = {"detach", "_unsafe_view", "alias", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}


class Launches(TorchDispatchMode):
    "Counts the operations that a device would be given."

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view and function._schema.name.split("::")[1] not in NOT_LAUNCHED
        return function(*args, **(kwargs or {}))
