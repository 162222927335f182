"""What more than one file of tests does: a CLIP without a memory, and a fit that is killed."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import npt.training.fit
from npt.clip.frozen import FrozenCLIP
from npt.clip.load import load_clip

LOADED = load_clip("world")


def fresh() -> FrozenCLIP:
    "A CLIP as a new run loads it, which remembers nothing."
    clip = copy.copy(LOADED)
    clip.kept = {}
    return clip


@contextmanager
def killed_after(epochs: int) -> Iterator[None]:
    "Every fit in this block is interrupted when it has written so many epochs; it must come to that."
    save = npt.training.fit._save_checkpoint

    def kill(path, *args):
        save(path, *args)
        if len(args[-1]) == epochs:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(npt.training.fit, "_save_checkpoint", kill)
        yield
