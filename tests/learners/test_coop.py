"""CoOp: its words are the start, its context is all that it holds, and other classes share it."""

import pytest
import torch
from every_learner import EveryLearner

from npt.clip.load import load_clip
from npt.learners.build import build_learner

NAMES = ["red circle", "blue_star", "large striped green heart"]


class TestCoOp(EveryLearner):
    cases = {
        "words": ("coop", dict()),
        "random": ("coop", dict(n_ctx=5, ctx_init=None)),
        "middle": ("coop", dict(n_ctx=5, ctx_init=None, class_token_position="middle")),
        "front": ("coop", dict(class_token_position="front")),
        "own contexts": ("coop", dict(ctx_init=None, class_specific=True)),
        "own contexts, middle": ("coop", dict(ctx_init=None, class_specific=True, class_token_position="middle")),
    }


@pytest.fixture(scope="module")
def clip():
    return load_clip()


def test_coop_at_its_words_is_zero_shot(clip):
    coop, zero_shot = build_learner("coop", clip, NAMES), build_learner("zero_shot", clip, NAMES)
    assert (coop.text_features() - zero_shot.text_features()).abs().max() < 1e-5


def test_a_learner_holds_only_what_it_learns(clip):
    coop = build_learner("coop", clip, NAMES, n_ctx=16, ctx_init=None)
    assert {name: tuple(t.shape) for name, t in coop.state_dict().items()} == {"context": (16, 128)}
    assert [name for name, _ in coop.named_parameters()] == ["context"]
    assert not build_learner("zero_shot", clip, NAMES).state_dict()
    assert not coop.learns_image


def test_the_gradient_reaches_the_context_and_nothing_else(clip):
    coop = build_learner("coop", clip, NAMES)
    logits = coop.logits(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 3)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert coop.context.grad.norm() > 0
    assert all(p.grad is None for p in clip.model.parameters())


def test_other_classes_share_the_prompts(clip):
    coop = build_learner("coop", clip, NAMES, n_ctx=8, ctx_init=None)
    other = coop.for_classes(["pink cross"])
    assert other.context is coop.context and other.clip is coop.clip
    with torch.no_grad():
        coop.context.normal_(generator=torch.Generator().manual_seed(5))
    fresh = build_learner("coop", clip, ["pink cross"], n_ctx=8, ctx_init=None)
    fresh.load_state_dict(coop.state_dict())
    assert torch.equal(other.text_features(), fresh.text_features())
    assert coop.classnames == NAMES and other.classnames == ["pink cross"]
    assert coop.text_features().shape == (3, clip.embed_dim)


def test_random_context_comes_from_its_seed(clip):
    def context(seed):
        return build_learner("coop", clip, NAMES, n_ctx=20, ctx_init=None, seed=seed).context

    torch.manual_seed(0)
    first = context(1)
    torch.manual_seed(1)
    assert torch.equal(first, context(1)) and not torch.equal(first, context(2))
    assert 0.018 < first.std() < 0.022
