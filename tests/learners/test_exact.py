"""The quick way gives the numbers of the plain one for every learner: packed text, shares of any size, lean blocks."""

import copy

import pytest
import torch
from backbones import random_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import npt.clip.frozen
import npt.clip.towers
from npt.clip.frozen import FrozenCLIP
from npt.learners.build import build_learner, learner_names

WORDS = "cat", "dog", "red", "fox", "irish", "wolfhound", "retriever", "computer", "annual", "crop"
SETTINGS = {
    "coop": dict(n_ctx=4), "cocoop": dict(n_ctx=4), "kgcoop": dict(n_ctx=4), "prograd": dict(n_ctx=4),
    "tcp": dict(n_ctx=4, layer=1), "vpt": dict(n_ctx_image=2, depth=2), "ivlp": dict(n_ctx=4, depth=3, depth_image=2),
    "promptsrc": dict(n_ctx=4, depth=3, depth_image=2), "maple": dict(n_ctx=2, depth=2), "lora": {}, "clip_adapter": {},
    "zero_shot": {}, "tip_adapter": {}, "tip_adapter_f": {},
}
CASES = {name: (name, own) for name, own in SETTINGS.items()} | {
    "coop, one vector": ("coop", dict(n_ctx=1, ctx_init=None)),
    "coop, 16 vectors": ("coop", dict(n_ctx=16, ctx_init=None)),
    "cocoop, 16 vectors": ("cocoop", dict(n_ctx=16, ctx_init=None)),
    "tcp, 16 vectors": ("tcp", dict(n_ctx=16, layer=2)),
    "ivlp, one vector": ("ivlp", dict(n_ctx=1, depth=2, depth_image=1)),
    "coop, middle": ("coop", dict(class_token_position="middle")),
    "coop, front": ("coop", dict(class_token_position="front")),
    "coop, class-specific": ("coop", dict(class_specific=True)),
    "maple, depth 1": ("maple", dict(depth=1)),
}
LONGEST = " ".join(["cat"] * (77 - 2 - 16 - 1))  # with SOT, EOT, 16 vectors and a full stop
LIMITS = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-10, 1e-10)}


@pytest.fixture(scope="module", params=LIMITS, ids=str)
def clip(request) -> FrozenCLIP:
    return random_clip(dtype=request.param)


def numbers(learner) -> tuple[torch.Tensor, torch.Tensor]:
    "Class vectors and logits, and the gradient of all that is learned."
    generator = torch.Generator().manual_seed(1)
    features = torch.nn.functional.normalize(torch.randn(3, learner.clip.embed_dim, generator=generator), dim=-1)
    features = learner.adapt(features.to(learner.clip.dtype))
    if learner.remembers:
        learner.remember(features, torch.arange(3) % len(learner.classnames))
    text, logits = learner.class_logits(features)
    cosines = logits / learner.logit_scale
    direction = torch.randn(cosines.shape, generator=generator).to(cosines)
    towards = torch.randn(text.shape, generator=generator).to(text)
    learned = [p for p in learner.parameters()]
    total = (cosines * direction).sum() + (text * towards).sum()
    if not total.requires_grad:
        return torch.cat([text, cosines.T], dim=1), torch.zeros(0)
    gradients = torch.autograd.grad(total, learned, allow_unused=True)
    return (torch.cat([text, cosines.T], dim=1).detach(),
            torch.cat([g.flatten() for g in gradients if g is not None] or [torch.zeros(0)]))


def both(clip: FrozenCLIP, name: str, names: list[str], at_once: int, budget: float, **own):
    "The quick way, and the model's own at full length."
    learner = build_learner(name, clip, names, **own)
    with torch.no_grad():
        for number, p in enumerate(learner.parameters()):  # away from where low-rank updates and the like are zero
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)).to(p))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(npt.clip.towers._TOKENS_AT_ONCE, "cpu", at_once)
        patch.setattr(clip, "memory_budget", budget)
        quick = numbers(learner.for_classes(names))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip, "prefix_sharing", "switched off for the test")
        return quick, numbers(learner.for_classes(names))


def check(clip: FrozenCLIP, *asked, **own):
    (features, gradients), (expected, expected_gradients) = both(clip, *asked, **own)
    within, relative = LIMITS[clip.dtype]
    assert (features - expected).abs().max() < within
    assert gradients.shape == expected_gradients.shape
    if len(gradients):
        assert expected_gradients.norm() > 1e-4, "what is learned must matter"
        assert (gradients - expected_gradients).norm() < relative * expected_gradients.norm()


def test_every_learner_is_tried():
    assert set(SETTINGS) == set(learner_names())


@pytest.mark.filterwarnings("ignore:More than one class is called")
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9), at_once=st.integers(1, 80), budget=st.sampled_from([0, 3e5, 1e12]))
def test_random_mixes_of_lengths(clip, case, lengths, at_once, budget):
    name, own = CASES[case]
    names = [" ".join(WORDS[(place + number) % len(WORDS)] for place in range(length)) for number, length in enumerate(lengths)]
    check(clip, name, names, at_once, budget, **own)


@pytest.mark.parametrize("case", ["coop, 16 vectors", "cocoop", "tcp", "ivlp", "lora"])
def test_a_name_that_fills_the_context_beside_a_short_one(clip, case):
    name, own = CASES[case]
    check(clip, name, ["dog", LONGEST, "irish wolfhound", "cat"], 4096, 1e12, **own)


@pytest.mark.parametrize("case", ["coop", "cocoop", "tcp", "ivlp", "maple", "lora", "prograd"])
def test_shares_of_every_size_kept_or_run_twice(clip, case):
    "Any size within rounding; and a budget, whatever it is, to the last bit."
    name, own = CASES[case]
    names = ["cat", "irish wolfhound", "dog", "red fox", "annual crop retriever"]
    for at_once in range(1, 25):
        kept, full = both(clip, name, names, at_once, 1e12, **own)
        within, relative = LIMITS[clip.dtype]
        assert (kept[0] - full[0]).abs().max() < within
        assert (kept[1] - full[1]).norm() < relative * full[1].norm()
        if at_once % 6 == 1:
            for budget in 0, 1e5:
                twice, _ = both(clip, name, names, at_once, budget, **own)
                assert all(map(torch.equal, kept, twice))


def test_a_guided_step_may_run_shares_twice(clip, monkeypatch):
    "ProGrad goes backward twice over one forward pass."
    learner = build_learner("prograd", clip, ["cat", "red fox", "irish wolfhound"])
    gradients = []
    for budget in 0, 1e12:
        monkeypatch.setattr(clip, "memory_budget", budget)
        text = learner.text_features()
        first = torch.autograd.grad(text[0].sum(), learner.context, retain_graph=True)[0]
        gradients.append((first, torch.autograd.grad(text[1].sum(), learner.context)[0]))
    assert all(map(torch.equal, *gradients)) and not torch.equal(*gradients[0])


@pytest.mark.parametrize("name", ["vpt", "ivlp", "maple", "lora"])
def test_lean_blocks_give_the_image_features_of_plain_ones(name, monkeypatch):
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers = []
    for change in npt.clip.frozen._make_lean, copy.copy:
        monkeypatch.setattr(npt.clip.frozen, "_make_lean", change)
        clip = random_clip(dtype=torch.float64)
        learner = build_learner(name, clip, ["cat", "red fox"], **SETTINGS[name])
        with torch.no_grad():
            for number, p in enumerate(learner.parameters()):
                p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)).to(p))
        logits = learner.logits(pixels)
        gradients = torch.autograd.grad(logits[:, 0].sum(), list(learner.parameters()), allow_unused=True)
        numbers.append([logits, clip.encode_image(pixels), *(g for g in gradients if g is not None)])
    assert len(numbers[0]) == len(numbers[1]) > 2
    for quick, expected in zip(*numbers):
        assert (quick - expected).norm() <= 1e-10 * expected.norm()
