"""DPC: both prompts against the method written out, which of them serves which classes, and when the second one learns."""

import pytest
import torch
import torch.nn.functional as F
from every_learner import EveryLearner
from random_clip import NAMES, images
from written_out import literal_image, literal_text, trained

from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.learners.build import build_learner
from npt.objectives.objective import build_objective
from npt.objectives.terms import StepFeatures
from npt.training.fit import fit

LABELS = torch.tensor([2, 0, 1])


def text_with(learner, context):
    "Class vectors of CoOp inside with a context, token by token."
    lead = "a photo of a" if learner.inner.settings["ctx_init"] else "X " * learner.inner.settings["n_ctx"]
    names = [name.replace("_", " ") for name in learner.classnames]
    return torch.stack([literal_text(learner.clip, (lead, name), context, {}) for name in names])


class TestDPC(EveryLearner):
    cases = {
        "around CoOp": ("dpc", {}),
        "from words": ("dpc", dict(around="kgcoop", around_settings=dict(ctx_init="a photo of a"), weight=0.6, top=2, begins=0.0)),
    }

    def test_logits_loss_and_gradients_are_those_of_the_method_written_out(self, small, name, settings):
        learner = trained(small, name, settings)
        first, offset = learner.inner.context, learner.offsets["context"]
        image, weight = literal_image(small, images(), []), learner.settings["weight"]
        mixed = weight * (first + offset) + (1 - weight) * first
        assert torch.allclose(learner.logits(images()), small.logit_scale * image @ text_with(learner, mixed).T, atol=1e-6)
        seen = learner.train()(small.encode_image(images()))
        mine, _ = build_objective("ce + hard_negatives")(StepFeatures(
            seen.text, seen.image, LABELS, seen.logits, parts=seen.own, logit_scale=small.logit_scale, progress=0.5))
        plain, second = text_with(learner, first), text_with(learner, first.detach() + offset)
        pairs = small.logit_scale * image @ second[LABELS].T  # all three classes are in the batch, so nothing is new
        matched = [F.cross_entropy(logits, torch.arange(3)) for logits in (pairs, pairs.T)]
        written = F.cross_entropy(small.logit_scale * image @ plain.T, LABELS) + sum(matched) / 2
        assert abs(mine - written) < 1e-6
        parameters = learner.inner.context, offset
        for one, other in zip(torch.autograd.grad(mine, parameters), torch.autograd.grad(written, parameters), strict=True):
            assert other.norm() > 1e-6 and torch.allclose(one, other, atol=1e-6, rtol=1e-6)

    def test_other_classes_share_the_parameters(self, small, name, settings):
        learner = trained(small, name, settings)
        before = learner.logits(images())
        novel = learner.for_classes(["dog", "red fox"])
        assert all(a is b for a, b in zip(learner.parameters(), novel.parameters(), strict=True))
        expected = small.logit_scale * literal_image(small, images(), []) @ text_with(novel, learner.inner.context).T
        assert torch.allclose(novel.logits(images()), expected, atol=1e-6), "the second prompt is for base classes"
        assert torch.equal(novel.for_classes(NAMES).logits(images()), before)

    def test_a_seed_gives_one_start(self, small, name, settings):
        learner = build_learner(name, small, NAMES, **settings)
        assert not learner.offsets["context"].any()


def test_the_second_prompt_waits_for_its_epoch_and_the_first_is_that_of_its_own_fit():
    clip, data = load_clip("world"), load_dataset("world/shapes", shots=2, seed=1)
    settings = dict(epochs=4, batch_size=8, lr=0.05, progress=False)
    alone = build_learner("coop", clip, data.base.classnames)
    fit(alone, data.base.train, objective="own", **settings)
    moved = []
    for begins in 0.0, 0.5, 0.9:
        learner = build_learner("dpc", clip, data.base.classnames, begins=begins)
        history = fit(learner, data.base.train, objective="own", **settings)
        assert torch.allclose(learner.inner.context, alone.context, atol=1e-5), "the second prompt's loss does not reach the first"
        assert [bool(value) for value in history.term_hard_negatives] == [epoch / 4 >= begins for epoch in range(4)]
        moved.append(learner.offsets["context"].norm().item())
    assert moved[0] > moved[1] > moved[2] == 0


@pytest.mark.parametrize("around, reason", [("maple", "no learner of text prompts"), ("cocoop", "no learner of text prompts"),
                                            ("zero_shot", "no learner of text prompts"), ("dept", "goes around another"), ("tip_adapter", "remembers training images"),
                                            ("etf_head", "no learner of text prompts.*name one of coop, kgcoop, prograd, dekg, tcp, or"),
                                            ("clip_adapter", "no learner of text prompts"), ("linear_probe", "no learner of text prompts"),
                                            ("clap", "remembers training images"), ("lp_plus_plus", "remembers training images")])
def test_what_cannot_be_inside_is_refused(small, around, reason):
    with pytest.raises(ValueError, match=reason):
        build_learner("dpc", small, NAMES, around=around)


def test_images_that_nobody_showed_are_missed(small):
    with pytest.raises(RuntimeError, match="no training images yet"):
        build_learner("dpc", small, NAMES)(small.encode_image(images()))


@pytest.mark.parametrize("around", ["kgcoop", "prograd", "dekg", "tcp"])
def test_all_learners_of_text_prompts_may_be_inside(small, around):
    settings = dict(layer=1) if around == "tcp" else {}
    learner = build_learner("dpc", small, NAMES, around=around, around_settings=settings)
    assert learner.text_features().shape == (len(NAMES), small.embed_dim)
