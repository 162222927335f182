"""Running a share twice: the same numbers with the weights of the first run, and a fair estimate of what is kept."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from random_clip import NAMES, random_clip

from npt.clip.recompute import _bytes_kept, _run_twice, _shares_kept, _with_weights
from npt.learners.build import build_learner

WORDS = "cat", "dog", "red", "fox", "irish", "wolfhound"


@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=9), budget=st.integers(0, 500))
def test_what_is_kept_fits_the_budget_and_what_is_not_would_not(sizes, budget):
    kept = _shares_kept(sizes, budget)
    left = budget - sum(size for size, keep in zip(sizes, kept) if keep)
    assert left >= 0 and all(keep for keep in kept) == (sum(sizes) <= budget)
    assert all(size > left for size, keep in zip(sizes, kept) if not keep), "the rest of the budget is too small for each"


def test_the_second_run_sees_the_weights_of_the_first():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3).requires_grad_(False)
    before, x = layer.weight.clone(), torch.randn(5, 3, requires_grad=True)
    other = torch.randn(3, 3, requires_grad=True)
    plain = _with_weights(layer, {"weight": other}, lambda x: layer(x).square(), x)
    twice = _with_weights(layer, {"weight": other}, lambda x: _run_twice(layer, lambda x: layer(x).square(), x), x)
    assert torch.equal(plain, twice) and torch.equal(layer.weight, before)
    for one, two in zip(*(torch.autograd.grad(y.sum(), (x, other)) for y in (plain, twice))):
        assert torch.equal(one, two) and one.norm() > 0


def test_the_estimate_of_what_is_kept_is_near():
    "Against the bytes of all that autograd saves, for one and for sixteen context vectors."
    clip = random_clip(dtype=torch.float32, width=256)
    names = [" ".join(WORDS[: 1 + number % 6]) + f" {number}" for number in range(60)]
    for n_ctx in 1, 16:
        learner = build_learner("coop", clip, names, n_ctx=n_ctx, ctx_init=None)
        weights = {p.untyped_storage().data_ptr() for p in clip.model.parameters()}
        kept = {}

        def weigh(x):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(weigh, lambda x: x):
            learner.text_features()
        tokens = int(clip.text_lengths([f"{name}." for name in names]).sum()) - len(names)
        real = sum(size for place, size in kept.items() if place not in weights)
        assert 0.7 < _bytes_kept(tokens, 4, 256, torch.float32) / real < 1.4


def test_a_guided_step_may_run_shares_twice(monkeypatch):
    "ProGrad goes backward twice over one forward pass."
    clip, gradients = random_clip(), []
    learner = build_learner("prograd", clip, NAMES)
    for budget in 0, 1e12:
        monkeypatch.setattr(clip, "memory_budget", budget)
        text = learner.text_features()
        first = torch.autograd.grad(text[0].sum(), learner.context, retain_graph=True)[0]
        gradients.append((first, torch.autograd.grad(text[1].sum(), learner.context)[0]))
    assert all(map(torch.equal, *gradients)) and not torch.equal(*gradients[0])
