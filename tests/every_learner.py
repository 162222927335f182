"""What is tested of every learner: derive a class from `EveryLearner` in the file of the learner's room, and name its cases there."""

import pytest
import torch
import torch.nn.functional as F
from random_clip import NAMES, images
from written_out import OTHERS, literal_logits, trained

import npt.clip.towers
from npt.learners.build import build_learner, learner_settings
from npt.learners.saving import load_prompts, save_prompts

MIXED = ["cat", "irish wolfhound", "dog", "red fox", "annual crop retriever"]  # one to three words


def features() -> torch.Tensor:
    "Three of unit length."
    return F.normalize(torch.randn(3, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=-1)


def numbers(learner) -> tuple[torch.Tensor, torch.Tensor]:
    "Class vectors and cosines, and the gradient of a random direction of both with respect to all that is learned."
    draw = torch.Generator().manual_seed(1)
    text, logits = learner.class_logits(learner.adapt(features()))
    made = torch.cat([text, (logits / learner.logit_scale).T], dim=1)
    total = (made * torch.randn(made.shape, generator=draw).to(made)).sum()
    gradients = torch.autograd.grad(total, list(learner.parameters()), allow_unused=True) if total.requires_grad else ()
    return made.detach(), torch.cat([torch.zeros(0), *(g.flatten() for g in gradients if g is not None)])


class EveryLearner:
    "A learner is the published method, starts at its seed, can be saved, has other classes, and may be computed the quick way."

    cases: dict[str, tuple[str, dict]]  # what a test is called to the learner's name and settings

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "settings" in metafunc.fixturenames:
            metafunc.parametrize("name, settings", self.cases.values(), ids=self.cases)

    def test_logits_loss_and_gradients_are_those_of_the_method_written_out(self, small, name, settings):
        learner = trained(small, name, settings)
        made, expected = learner.logits(images()), literal_logits(learner, images())
        losses = [F.cross_entropy(logits, torch.arange(3)) for logits in (made, expected)]
        assert torch.allclose(made, expected, atol=1e-6, rtol=0) and (losses[0] - losses[1]).abs() < 1e-6
        parameters = dict(learner.named_parameters())
        mine, written = (torch.autograd.grad(loss, list(parameters.values())) if parameters else () for loss in losses)
        for key, one, other in zip(parameters, mine, written, strict=True):
            assert other.norm() > 1e-6, f"{key} must matter"
            assert torch.allclose(one, other, atol=1e-6, rtol=1e-6), key

    def test_a_seed_gives_one_start(self, small, name, settings):
        first, again, other = (trained(small, name, settings, seed, steps=0).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(value, again[key]) for key, value in first.items())
        drawn = [key for key, value in first.items() if not torch.equal(value, other[key])]
        from_words = name == "coop" and settings.get("ctx_init", "words") or settings.get("start") == "zero_shot"
        assert bool(drawn) == (not from_words and "seed" in learner_settings(name))

    def test_a_saved_learner_comes_back(self, small, tmp_path, name, settings):
        learner, fresh = trained(small, name, settings), build_learner(name, small, NAMES, **settings).eval()
        save_prompts(learner, tmp_path / "prompts.safetensors")
        load_prompts(fresh, tmp_path / "prompts.safetensors")
        assert torch.equal(fresh.logits(images()), learner.logits(images()))

    def test_other_classes_share_the_parameters(self, small, name, settings):
        learner = trained(small, name, settings)
        if not learner.transfers:
            hint = r" \(With class_specific=False" if settings.get("class_specific") else "$"
            with pytest.raises(ValueError, match=f"belongs to the classes that it was learned for, and means nothing for others.{hint}"):
                learner.for_classes(["dog"])
            return
        before = learner.logits(images())
        novel = learner.for_classes(OTHERS)
        assert all(a is b for a, b in zip(learner.parameters(), novel.parameters(), strict=True))
        assert torch.allclose(novel.logits(images()), literal_logits(novel, images()), atol=1e-6)
        assert torch.equal(learner.logits(images()), before)

    def test_known_class_vectors_give_the_same_logits(self, small, name, settings, monkeypatch):
        learner, image = trained(small, name, settings).train(), features()  # in training, so that no second head speaks for its home
        (text, logits), known = learner.class_logits(image), learner.text_features()
        if name != "cocoop":  # whose vectors come from the images
            monkeypatch.setattr(type(learner), "text_features", lambda self: pytest.fail("the text tower ran again"))
        again, same = learner.class_logits(image, known)
        assert torch.equal(text, again) and torch.equal(logits, same)
        if name != "cocoop" and not learner.remembers:
            assert torch.allclose(learner.class_logits(image, known.flip(0))[1].flip(1), logits, atol=1e-9), "they were not used"

    def test_shares_of_any_size_kept_or_run_twice_are_the_models_own_full_length(self, small, name, settings, monkeypatch):
        "Any size of the shares within rounding; and any budget to the last bit."
        learner = trained(small, name, settings, names=MIXED)
        monkeypatch.setattr(small, "prefix_sharing", "switched off for the test")
        full = numbers(learner.for_classes(MIXED))
        assert not len(full[1]) or full[1].norm() > 1e-4, "what is learned must matter"
        monkeypatch.setattr(small, "prefix_sharing", True)
        for at_once, budgets in (1000, [1e12]), (5, [1e12, 1e5, 0]), (1, [1e12]):
            monkeypatch.setitem(npt.clip.towers._TOKENS_AT_ONCE, "cpu", at_once)
            made = []
            for budget in budgets:
                monkeypatch.setattr(small, "memory_budget", budget)
                made.append(numbers(learner.for_classes(MIXED)))
            assert (made[0][0] - full[0]).abs().max() < 1e-10 and (made[0][1] - full[1]).norm() <= 1e-10 * full[1].norm()
            assert all(torch.equal(*pair) for again in made[1:] for pair in zip(made[0], again))
