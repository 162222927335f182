"Class imbalance from the draws to the loss: nested shots, samplers, rebalanced terms, and fits that repeat to the last bit."

import math

import numpy as np
import pytest
import torch

import npt.training
from npt.clip.load import load_clip
from npt.objectives.terms import StepFeatures, TERMS
from npt.data.load import load_dataset
from npt.training.evaluation import evaluate
from npt.data.imbalance import long_tail_counts
from npt.training.samplers import SAMPLERS, make_sampler
from npt.learners.build import build_learner
from npt.training.batches import _epoch_draws
from npt.training.fit.fit import fit

REBALANCED = ["logit_adjusted", "balanced_softmax", "class_balanced", "ldam", "ldam_drw", "focal"]
STEEP = 0.0625


@pytest.fixture(scope="module")
def clip():
    return load_clip("world")


@pytest.fixture(scope="module")
def long_tail():
    return load_dataset("world/shapes", tau=STEEP).base


@pytest.fixture(scope="module")
def photographs(noise_folder):
    "Two base classes of photographs, four to train on."
    return load_dataset("folder", root=noise_folder, shots=4).base


def fitted(clip, part, epochs=2, **settings):
    "The history of a short fit and the prompts that it learned."
    learner = build_learner("coop", clip, part.classnames, n_ctx=4, ctx_init=None, seed=1)
    history = fit(learner, part.train, epochs=epochs, lr=0.02, **settings)
    return history, [prompt.detach().clone() for prompt in learner.parameters()]


def assert_equal(one, other):
    assert one[0].equals(other[0]) and all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


# Draws


@pytest.mark.parametrize("order", ["label", "random"])
@pytest.mark.parametrize("profile", ["exp", "step"])
def test_a_steeper_tail_has_fewer_of_the_same_images(profile, order):
    taus = (STEEP, 0.25, 1.0)
    loaded = [load_dataset("world/shapes", tau=tau, seed=3, profile=profile, order=order) for tau in taus]
    for parts in zip(*((data.base, data.novel, data.all) for data in loaded)):
        few, some, balanced = ({item.image for item in part.train.items} for part in parts)
        assert few < some < balanced
        for tau, part in zip(taus, parts):
            wanted = long_tail_counts(len(part.classnames), 16, tau, profile)
            assert sorted(part.train.counts) == sorted(wanted) and len(part.train) == sum(wanted)
            assert order == "random" or part.train.counts == wanted
            assert part.val == parts[0].val and part.test == parts[0].test and part.classnames == parts[0].classnames
        if order == "random":
            assert parts[0].train.counts != sorted(parts[0].train.counts, reverse=True)


def test_another_seed_draws_other_images():
    one, other = (load_dataset("world/shapes", tau=STEEP, seed=seed).base.train for seed in (1, 2))
    assert one.counts == other.counts and {item.image for item in one.items} != {item.image for item in other.items}


# Samplers


@pytest.mark.parametrize("counts", [[16, 9, 4, 1], [1] * 5, [1000, 1], [0, 6, 0, 3, 0], [7]], ids=str)
@pytest.mark.parametrize("sampler, power", [("class_balanced", 0), ("square_root", 0.5), ("plain", 1)])
def test_classes_come_up_as_often_as_the_formula_says(sampler, power, counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    powers = np.array([float(n) ** power if n else 0.0 for n in counts])
    formula = torch.tensor(powers / powers.sum())
    draws = torch.Generator().manual_seed(0)
    epochs = math.ceil(20_000 / len(labels))
    picked = torch.cat([torch.tensor(list(make_sampler(sampler, labels, draws))) for _ in range(epochs)])
    measured = torch.bincount(labels[picked], minlength=len(counts)) / len(picked)
    assert ((measured - formula).abs() <= 5 * (formula * (1 - formula) / len(picked)).sqrt() + 1e-12).all()


def test_images_of_a_class_come_up_equally_often():
    labels, draws = torch.tensor([0] * 20 + [1] * 5), torch.Generator().manual_seed(0)
    picked = torch.tensor([list(make_sampler("class_balanced", labels, draws)) for _ in range(2000)])
    measured, wanted = torch.bincount(picked.flatten()) / picked.numel(), torch.tensor([1 / 40] * 20 + [1 / 10] * 5)
    assert ((measured - wanted).abs() < 5 * (wanted * (1 - wanted) / picked.numel()).sqrt()).all()


def test_progressive_goes_from_plain_to_balanced_in_the_course_of_a_fit():
    labels, epochs = torch.tensor([0] * 90 + [2] * 10), 400  # no class 1, which has no share at any time

    def share_of_tail(epoch):
        batches = _epoch_draws(labels, "progressive", 32, 1, epoch, epochs)
        return float(sum(labels[draw.index] == 2 for batch in batches for draw in batch)) / len(labels)

    tail = torch.tensor([share_of_tail(epoch) for epoch in range(epochs)])
    for part, quarter in enumerate(tail.view(4, -1)):
        middle = (part + 0.5) / 4
        assert abs(quarter.mean() - (0.1 * (1 - middle) + 0.5 * middle)) < 0.03


def test_a_plain_order_is_a_permutation_as_pytorch_makes_it():
    labels = torch.tensor([0, 1, 1, 2] * 9)
    batches = _epoch_draws(labels, "plain", 10, seed=3, epoch=7, epochs=9)
    wanted = torch.randperm(36, generator=torch.Generator().manual_seed(3 * 1_000_003 + 7))
    assert [draw.index for batch in batches for draw in batch] == wanted.tolist() and [*map(len, batches)] == [10, 10, 10, 6]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_depend_on_seed_and_epoch_and_on_no_other_chance(sampler):
    labels = torch.tensor([0] * 30 + [1] * 6)

    def draws(seed, epoch):
        return _epoch_draws(labels, sampler, 8, seed, epoch, 10)

    before = torch.get_rng_state()
    first = draws(1, 4)
    assert torch.equal(torch.get_rng_state(), before), "the caller's own chance was touched"
    torch.rand(1)
    assert draws(1, 4) == first and draws(1, 5) != first and draws(2, 4) != first


# Rebalanced terms


def random_step(num_classes, batch, counts, progress=0.0, seed=0):
    "Text and image features of unit length in float64 that want a gradient, and the step they make."
    draw = torch.Generator().manual_seed(seed)
    text, image = (torch.randn(n, 6, generator=draw, dtype=torch.float64) for n in (num_classes, batch))
    labels = torch.randint(num_classes, (batch,), generator=draw)
    text, image = text.requires_grad_(), image.requires_grad_()

    def step(text, image):
        text, image = torch.nn.functional.normalize(text, dim=1), torch.nn.functional.normalize(image, dim=1)
        return StepFeatures(text, image, labels, 20.0 * image @ text.T, counts=torch.tensor(counts),
                            logit_scale=torch.tensor(20.0), progress=progress)

    return (text, image), step


def one_image(name, logits, label, counts, scale):
    "A term's loss of one image by its paper's formula, and the image's weight in the mean, in plain Python."
    counts, logits = list(map(float, counts)), list(logits)
    effective = [(1 - 0.9999**n) / (1 - 0.9999) for n in counts]
    weight = len(counts) / effective[label] / sum(1 / e for e in effective)
    if name in ("logit_adjusted", "balanced_softmax"):
        logits = [z + math.log(n / sum(counts)) for z, n in zip(logits, counts)]
    if name.startswith("ldam"):
        logits[label] -= scale * 0.5 * counts[label] ** -0.25 / max(n**-0.25 for n in counts)
    p = math.exp(logits[label]) / sum(map(math.exp, logits))
    return -math.log(p) * ((1 - p) ** 2 if name == "focal" else 1), weight


@pytest.mark.parametrize("counts", [[16, 11, 8, 5, 3, 2, 1], [16] * 7, [1300, 1, 1, 1, 1, 1, 1]], ids=str)
@pytest.mark.parametrize("progress", [0.0, 0.79, 0.8, 0.99])
@pytest.mark.parametrize("name", REBALANCED)
def test_terms_agree_with_their_papers_image_by_image(name, progress, counts):
    features, make = random_step(7, 13, counts, progress)
    step = make(*features)
    losses, weights = zip(*(one_image(name, logits.tolist(), int(label), counts, 20.0)
                            for logits, label in zip(step.logits.detach(), step.labels)))
    wanted = np.mean(losses)
    if name == "class_balanced":
        wanted = np.mean(np.multiply(losses, weights))
    elif name == "ldam_drw" and progress >= 0.8:
        wanted = np.average(losses, weights=weights)
    assert TERMS[name](step).item() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("counts", [[16, 4, 1], [100_000, 1, 1], [3]], ids=str)
@pytest.mark.parametrize("name", REBALANCED)
def test_gradients_reach_text_and_image_features(name, counts):
    for progress in (0.0, 0.9):
        features, make = random_step(len(counts), 5, counts, progress)
        assert torch.autograd.gradcheck(lambda *features: TERMS[name](make(*features)), features)
        TERMS[name](make(*features)).backward()
        moved = [feature.grad.abs().max() > 0 for feature in features]
        assert all(moved) if len(counts) > 1 else not any(moved), "only a single class has nothing to learn"


@pytest.mark.parametrize("name", ["logit_adjusted", "balanced_softmax", "class_balanced"])
def test_without_a_tail_rebalancing_is_cross_entropy(name):
    features, make = random_step(4, 9, [16] * 4)
    torch.testing.assert_close(TERMS[name](make(*features)), TERMS["ce"](make(*features)))


# Fits


def test_a_step_brings_counts_scale_and_progress(clip, long_tail, monkeypatch):
    steps = []
    monkeypatch.setitem(TERMS, "watch", lambda step: steps.append(step) or step.logits.mean())
    fitted(clip, long_tail, epochs=5, objective="ce + 0*watch", batch_size=64)
    assert [step.progress for step in steps[:: len(steps) // 5]] == [0, 0.2, 0.4, 0.6, 0.8]
    assert all(step.counts.tolist() == long_tail.train.counts and step.logit_scale == clip.logit_scale for step in steps)
    torch.testing.assert_close(steps[0].logits, steps[0].logit_scale * steps[0].image @ steps[0].text.T)


@pytest.mark.parametrize("name", REBALANCED)
def test_every_rebalanced_objective_trains(clip, long_tail, name):
    history, _ = fitted(clip, long_tail, epochs=3, objective=f"{name} + 0*ce")
    assert np.isfinite(history.loss).all() and history[f"term_{name}"].equals(history.loss)
    assert history.term_ce.iloc[-1] != history.term_ce.iloc[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_repeats_to_the_last_bit_and_differs_from_the_others(clip, long_tail, sampler):
    once = fitted(clip, long_tail, sampler=sampler)
    torch.rand(5)
    assert_equal(once, fitted(clip, long_tail, sampler=sampler))
    other = SAMPLERS[SAMPLERS.index(sampler) - 1]
    assert not torch.equal(once[1][0], fitted(clip, long_tail, sampler=other)[1][0])


@pytest.mark.parametrize("sampler", ["plain", "progressive"])
def test_random_crops_do_not_depend_on_workers_or_on_a_kill(clip, photographs, sampler, tmp_path, monkeypatch):
    settings = dict(epochs=3, sampler=sampler, batch_size=3)
    whole = fitted(clip, photographs, workers=0, **settings)
    assert_equal(whole, fitted(clip, photographs, workers=2, **settings))

    with monkeypatch.context() as patch:
        save = npt.training.checkpoint._save_checkpoint

        def killed_after_the_second(path, learner, optimizer, average, fitted, history):
            save(path, learner, optimizer, average, fitted, history)
            if len(history) == 2:
                raise KeyboardInterrupt

        patch.setattr(npt.training, "save_checkpoint", killed_after_the_second)
        with pytest.raises(KeyboardInterrupt):
            fitted(clip, photographs, workers=0, run_dir=tmp_path, **settings)
    assert_equal(whole, fitted(clip, photographs, workers=1, run_dir=tmp_path, **settings))
    assert not torch.equal(whole[1][0], fitted(clip, photographs, workers=0, seed=2, **settings)[1][0])


def test_crops_change_from_epoch_to_epoch():
    labels = torch.zeros(20, dtype=torch.int64)
    seeds = [{draw.seed for batch in _epoch_draws(labels, "plain", 8, 1, epoch, 9) for draw in batch} for epoch in range(9)]
    assert len(set.union(*seeds)) == 9 * 20


def test_a_checkpoint_of_another_sampler_is_refused(clip, long_tail, tmp_path):
    fitted(clip, long_tail, run_dir=tmp_path)
    with pytest.raises(ValueError, match="sampler='plain'.*sampler='square_root'"):
        fitted(clip, long_tail, run_dir=tmp_path, sampler="square_root")


@pytest.mark.parametrize("learner", ["coop", "zero_shot"])
def test_an_unknown_sampler_is_refused_before_anything_is_written(clip, long_tail, learner, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'class_balanced'"):
        fit(build_learner(learner, clip, long_tail.classnames), long_tail.train, run_dir=tmp_path, sampler="class-balanced")
    assert not list(tmp_path.iterdir())


# Metrics


def test_head_tail_and_worst_class_are_those_of_the_images(clip, long_tail):
    zero_shot = build_learner("zero_shot", clip, long_tail.classnames)
    test = long_tail.test.take(range(0, len(long_tail.test), 4))
    result = evaluate(zero_shot, test, long_tail.train.counts, many=10, few=3)
    each, counts = np.array(result["per_class"]), np.array(long_tail.train.counts)
    for group, members in dict(many=counts >= 10, medium=(3 < counts) & (counts < 10), few=counts <= 3).items():
        assert result[group] == pytest.approx(each[members].mean(), abs=1e-4)
    assert result["worst_accuracy"] == each.min() and result["worst_class"] == long_tail.classnames[each.argmin()]
    assert result["macro_accuracy"] == pytest.approx(each.mean(), abs=1e-4)
    assert not {"many", "medium", "few"} & set(evaluate(zero_shot, test))


def test_a_class_without_test_images_is_in_no_mean(clip, long_tail):
    zero_shot = build_learner("zero_shot", clip, long_tail.classnames)
    tested = (long_tail.test.labels >= 30).nonzero().flatten().tolist()
    result = evaluate(zero_shot, long_tail.test.take(tested), long_tail.train.counts)
    each = np.array(result["per_class"])
    assert np.isnan(each[:30]).all() and np.isfinite(each[30:]).all()
    assert result["worst_accuracy"] == each[30:].min() and result["worst_class"] in long_tail.classnames[30:]
    assert result["few"] == pytest.approx(each[30:].mean(), abs=1e-4) and not {"many", "medium"} & set(result)
    assert result["accuracy"] == pytest.approx(result["macro_accuracy"], abs=1e-4)
