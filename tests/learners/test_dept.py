"""DePT: the published loss around prompts of two kinds, the head that speaks for base classes alone, and what cannot be inside."""

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


def inside(learner):
    "Text and image features of CoOp or MaPLe inside, token by token."
    clip, inner = learner.clip, learner.inner
    lead = "a photo of a" if inner.settings["ctx_init"] else "X " * inner.settings["n_ctx"]
    deep = dict(enumerate(getattr(inner, "deep_text", []), start=1))
    names = [name.replace("_", " ") for name in learner.classnames]
    text = torch.stack([literal_text(clip, (lead, name), inner.context, deep) for name in names])
    layers = [inner.context, *deep.values()] if inner.name == "maple" else []
    prompts = [p @ c.weight.T + c.bias for p, c in zip(layers, getattr(inner, "couplings", []), strict=True)]
    return text, literal_image(clip, images(), prompts)


def head(learner, features, which):
    own = learner.head
    return (own.scale[which] * 10 * features + own.shift[which]) @ own.classifier.weight.T + own.classifier.bias


class TestDePT(EveryLearner):
    cases = {
        "around CoOp": ("dept", {}),
        "around MaPLe": ("dept", dict(around="maple", around_settings=dict(depth=2), weight=0.4)),
    }

    def test_logits_loss_and_gradients_are_those_of_the_method_written_out(self, small, name, settings):
        learner = trained(small, name, settings)
        text, image = inside(learner)
        weight, plain = learner.settings["weight"], small.logit_scale * image @ text.T
        assert torch.allclose(learner.logits(images()), (1 - weight) * plain + weight * head(learner, image, 1), atol=1e-6)
        given = images() if learner.learns_image else small.encode_image(images())
        seen = learner.train()(given)
        mine, _ = build_objective("dept")(StepFeatures(seen.text, seen.image, LABELS, seen.logits, parts=seen.own))
        both = torch.cat([head(learner, text[LABELS], 0), head(learner, image, 1)])
        written = 0.3 * F.cross_entropy(plain, LABELS) + 0.7 * F.cross_entropy(both, LABELS.repeat(2))
        assert torch.allclose(seen.logits, plain, atol=1e-6) and abs(mine - written) < 1e-6
        names, parameters = zip(*learner.named_parameters())
        for key, one, other in zip(names, torch.autograd.grad(mine, parameters), torch.autograd.grad(written, parameters), strict=True):
            assert other.norm() > 1e-6, f"{key} must matter"
            assert torch.allclose(one, other, atol=1e-6, rtol=1e-6), key

    def test_other_classes_share_the_parameters(self, small, name, settings):
        learner = trained(small, name, settings)
        before = learner.logits(images())
        novel = learner.for_classes(["dog", "red fox"])
        assert all(a is b for a, b in zip(learner.parameters(), novel.parameters(), strict=True))
        text, image = inside(novel)
        assert torch.allclose(novel.logits(images()), small.logit_scale * image @ text.T, atol=1e-6), "the head says nothing"
        assert torch.equal(learner.logits(images()), before)
        assert torch.equal(novel.for_classes(NAMES).logits(images()), before)


@pytest.mark.parametrize("around, reason", [
    ("dept", "goes around another learner itself"), ("mmrl", "do not come from text and image features alone"),
    ("tip_adapter", "it remembers training images"), ("clap", "it remembers training images"),
    ("lp_plus_plus", "it remembers training images"), ("coopp", "coop")])
def test_what_cannot_be_inside_is_refused(small, around, reason):
    with pytest.raises(ValueError, match=reason):
        build_learner("dept", small, NAMES, around=around)


def test_a_wrong_setting_of_the_learner_inside_is_named(small):
    with pytest.raises(ValueError, match="setting of the learner 'maple' called 'nctx'"):
        build_learner("dept", small, NAMES, around="maple", around_settings=dict(nctx=2))


def test_a_loss_without_the_heads_term_is_refused_and_regularisers_are_not():
    clip, data = load_clip("world"), load_dataset("world/shapes", shots=1, seed=1)
    settings = dict(epochs=1, batch_size=16, lr=0.01, progress=False)
    with pytest.raises(ValueError, match="gives no gradient to head.*the sum needs head_ce, as the method's own loss has it"):
        fit(build_learner("dept", clip, data.base.classnames), data.base.train, objective="ce + lc", **settings)
    for objective in "own", "npt", "npt_anchored", "cpt", "ce + head_ce + 0.1*focal":
        history = fit(build_learner("dept", clip, data.base.classnames), data.base.train, objective=objective, **settings)
        assert history.term_head_ce.notna().all()


def test_the_head_learns_faster_by_its_factor():
    clip, data = load_clip("world"), load_dataset("world/shapes", shots=1, seed=1)
    moved = []
    for factor in 1.0, 6.5:
        learner = build_learner("dept", clip, data.base.classnames)
        before = learner.head.classifier.bias.detach().clone()
        learner.rate_factors = {"head": factor}
        fit(learner, data.base.train, objective="own", epochs=2, batch_size=1000, lr=1e-4, progress=False)
        moved.append((learner.head.classifier.bias - before).norm().item())
    assert moved[1] == pytest.approx(6.5 * moved[0], rel=0.02)


def test_a_head_is_not_trained_with_other_classes_than_its_own(small):
    novel = build_learner("dept", small, NAMES).for_classes(["dog", "cat", "horse"])
    with pytest.raises(ValueError, match="The head of 'dept' belongs to the classes that it was made for"):
        novel.train()(small.encode_image(images()))
    novel.eval()(small.encode_image(images()))
