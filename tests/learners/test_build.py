"""Building a learner by name: mistakes are named, and one of your own joins by its name."""

import pytest
import torch

from npt.clip.load import load_clip
from npt.learners.base import LEARNERS, Learner, register_learner
from npt.learners.build import build_learner

NAMES = ["red circle", "blue_star", "large striped green heart"]


@pytest.fixture(scope="module")
def clip():
    return load_clip()


@pytest.mark.parametrize("settings, words", [
    (dict(name="coopp"), ["coop"]),
    (dict(name="coop", nctx=4), ["n_ctx", "seed"]),
    (dict(name="coop", n_ctx=5), ["n_ctx=5", "4 tokens"]),
    (dict(name="coop", n_ctx=0, ctx_init=None), ["at least 1"]),
    (dict(name="coop", classnames=[]), ["empty"]),
    (dict(name="coop", classnames="cat"), ["list"]),
    (dict(name="coop", classnames=["cat", 3]), ["3"]),
    (dict(name="coop", classnames=["cat", "dog " * 40]), ["dog dog", "32 tokens"]),
    (dict(name="coop", classnames=["cat"], n_ctx=31, ctx_init=None), ["'cat'", "31 context vectors"]),
    (dict(name="zero_shot", classnames=["cat", "dog " * 40]), ["dog dog"]),
    (dict(name="zero_shot", template="a photo"), ["{}"]),
    (dict(name="zero_shot", template=[]), ["template"]),
], ids=str)
def test_mistakes_are_named(clip, settings, words):
    with pytest.raises(ValueError) as caught:
        build_learner(**dict(clip=clip, classnames=NAMES) | settings)
    assert all(word in str(caught.value) for word in words)


def test_two_classes_of_one_name_are_a_warning(clip):
    with pytest.warns(UserWarning, match="red circle"):
        build_learner("zero_shot", clip, ["red circle", "star", "red_circle"])


def test_a_learner_of_ones_own_joins_by_name(clip):
    @register_learner("half_coop")
    class HalfCoOp(LEARNERS["coop"]):
        def text_features(self):
            return super().text_features() / 2

    try:
        mine = build_learner("half_coop", clip, NAMES, n_ctx=2, ctx_init=None)
        assert isinstance(mine, Learner) and mine.name == "half_coop"
        assert torch.allclose(mine.text_features().norm(dim=-1), torch.full((3,), 0.5))
        assert LEARNERS["coop"].name == "coop"
    finally:
        del LEARNERS["half_coop"]
