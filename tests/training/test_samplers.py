"How often a class comes up: each sampler's formula, the course of a fit, and draws that no other chance touches."

import math

import numpy as np
import pytest
import torch

from npt.training.batches import _epoch_draws
from npt.training.samplers import SAMPLERS, _make_sampler


@pytest.mark.parametrize("counts", [[16, 9, 4, 1], [0, 6, 0, 3, 0]], ids=str)
@pytest.mark.parametrize("sampler, power", [("class_balanced", 0), ("square_root", 0.5), ("plain", 1)])
def test_classes_come_up_as_often_as_the_formula_says(sampler, power, counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    powers = np.array([float(n) ** power if n else 0.0 for n in counts])
    formula = torch.tensor(powers / powers.sum())
    draws = torch.Generator().manual_seed(0)
    epochs = math.ceil(20_000 / len(labels))
    picked = torch.cat([torch.tensor(list(_make_sampler(sampler, labels, draws))) for _ in range(epochs)])
    measured = torch.bincount(labels[picked], minlength=len(counts)) / len(picked)
    assert ((measured - formula).abs() <= 5 * (formula * (1 - formula) / len(picked)).sqrt() + 1e-12).all()


def test_images_of_a_class_come_up_equally_often():
    labels, draws = torch.tensor([0] * 20 + [1] * 5), torch.Generator().manual_seed(0)
    picked = torch.tensor([list(_make_sampler("class_balanced", labels, draws)) for _ in range(2000)])
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


def test_crops_change_from_epoch_to_epoch():
    labels = torch.zeros(20, dtype=torch.int64)
    seeds = [{draw.seed for batch in _epoch_draws(labels, "plain", 8, 1, epoch, 9) for draw in batch} for epoch in range(9)]
    assert len(set.union(*seeds)) == 9 * 20
