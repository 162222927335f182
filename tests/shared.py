"""What more than one file of tests does: a CLIP without a memory, short fits, and a fit that is killed."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from npt.clip.frozen import FrozenCLIP
from npt.clip.load import load_clip
from npt.data.features import split_features
from npt.data.load import load_dataset
from npt.learners.base import Learner
from npt.learners.build import build_learner
from npt.learners.coop import CoOp
from npt.learners.recipes import recipe
from npt.training.checkpoint import _save_checkpoint
from npt.training.fit import fit

LOADED = load_clip("world")


def fresh() -> FrozenCLIP:
    "A CLIP as a new run loads it, which remembers nothing."
    clip = copy.copy(LOADED)
    clip.kept = {}
    return clip


@contextmanager
def killed_after(epochs: int) -> Iterator[None]:
    "Every fit in this block is interrupted when it has written so many epochs; it must come to that."
    def kill(path, learner, optimizer, average, fitted, history):
        _save_checkpoint(path, learner, optimizer, average, fitted, history)
        if len(history) == epochs:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("npt.training.fit._save_checkpoint", kill)
        yield


def count_calls(monkeypatch: pytest.MonkeyPatch, clip: FrozenCLIP, name: str = "encode_image") -> list[int]:
    "Notes how many images, or texts, each call of one of CLIP's towers is given."
    call, sizes = getattr(clip, name), []
    monkeypatch.setattr(clip, name, lambda given, *more, **by_name: sizes.append(len(given)) or call(given, *more, **by_name))
    return sizes


def in_world(name: str, clip: FrozenCLIP, classnames: Sequence[str]) -> Learner:
    "A learner with the offline world's settings."
    return build_learner(name, clip, classnames, **recipe(name, "world").settings)


def assert_same_fit(one: tuple[Learner, pd.DataFrame], other: tuple[Learner, pd.DataFrame]) -> None:
    "Two learners after their fits, and the histories, are equal to the last bit."
    assert one[1].equals(other[1])
    state, same = one[0].state_dict(), other[0].state_dict()
    assert state.keys() == same.keys() and all(torch.equal(value, same[name]) for name, value in state.items())


class Shifted(CoOp):
    "CoOp that also learns one vector added to every image feature, to stand for a learner of image prompts."

    learns_image = True

    def __init__(self, clip, names):
        super().__init__(clip, names, n_ctx=4, ctx_init=None, seed=1)
        self.shift = torch.nn.Parameter(torch.zeros(clip.embed_dim))

    def image_features(self, pixels):
        return F.normalize(self.clip.encode_image(pixels) + self.shift, dim=1)


def fitted(name: str, objective: str, epochs: int = 2, **settings) -> tuple[Learner, Learner, pd.DataFrame]:
    "A learner before and after a short fit on the offline world, and the history."
    train = load_dataset("world/shapes", shots=2, seed=1).base.train
    before, after = (build_learner(name, LOADED, train.classnames, **settings) for _ in range(2))
    history = fit(after, train, objective=objective, epochs=epochs, batch_size=64, lr=0.1, progress=False)
    if before.remembers:
        before.remember(*split_features(LOADED, train))
    return before, after, history


SUMS = "own", "npt", "npt_anchored", "cpt", "ce + 0.5*lc + mi_dot + 0.1*kg + 0.1*etf", "ce | kl"  # that every learner is trained by
