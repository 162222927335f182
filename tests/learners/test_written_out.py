"""Every learner gives the logits, the loss and the gradients of the same method written out at full length."""

import pytest
import torch
import torch.nn.functional as F
from written_out import CASES, NAMES, OTHERS, each, images, literal_logits, random_clip, trained

from npt.clip.frozen import FrozenCLIP
from npt.learners.build import build_learner, learner_settings
from npt.learners.saving import load_prompts, save_prompts


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return random_clip()


@each
def test_logits_loss_and_gradients_are_those_of_the_method_written_out(clip, name, settings):
    learner = trained(clip, name, settings)
    made, expected = learner.logits(images()), literal_logits(learner, images())
    losses = [F.cross_entropy(logits, torch.arange(3)) for logits in (made, expected)]
    assert torch.allclose(made, expected, atol=1e-6, rtol=0) and (losses[0] - losses[1]).abs() < 1e-6
    parameters = dict(learner.named_parameters())
    mine, written = (torch.autograd.grad(loss, list(parameters.values())) if parameters else () for loss in losses)
    for key, one, other in zip(parameters, mine, written, strict=True):
        assert other.norm() > 1e-6, f"{key} must matter"
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-6), key


@each
def test_a_seed_gives_one_start(clip, name, settings):
    first, again, other = (trained(clip, name, settings, seed, steps=0).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    drawn = [key for key, value in first.items() if not torch.equal(value, other[key])]
    from_words = name == "coop" and settings.get("ctx_init", "words")
    assert bool(drawn) == (not from_words and "seed" in learner_settings(name))


@each
def test_a_saved_learner_comes_back(clip, tmp_path, name, settings):
    learner, fresh = trained(clip, name, settings), build_learner(name, clip, NAMES, **settings)
    save_prompts(learner, tmp_path / "prompts.safetensors")
    load_prompts(fresh, tmp_path / "prompts.safetensors")
    assert torch.equal(fresh.logits(images()), learner.logits(images()))


@each
def test_other_classes_share_the_parameters(clip, name, settings):
    learner = trained(clip, name, settings)
    if settings.get("class_specific"):
        with pytest.raises(ValueError, match="class_specific=False"):
            learner.for_classes(["dog"])
        return
    before = learner.logits(images())
    novel = learner.for_classes(OTHERS)
    assert all(a is b for a, b in zip(learner.parameters(), novel.parameters(), strict=True))
    assert torch.allclose(novel.logits(images()), literal_logits(novel, images()), atol=1e-6)
    assert torch.equal(learner.logits(images()), before)


@pytest.mark.parametrize("name, settings", [CASES["coop, middle"], CASES["cocoop"], CASES["maple"], CASES["tcp"],
                                            CASES["lora"]])
def test_learners_work_where_the_prefix_cannot_be_shared(name, settings):
    clip = random_clip()
    learner = build_learner(name, clip, NAMES, **settings)
    expected = learner.logits(images())
    clip.prefix_sharing = "switched off for the test"
    assert torch.allclose(learner.logits(images()), expected, atol=1e-6)
