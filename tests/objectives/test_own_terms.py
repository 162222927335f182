"""Terms that ask a learner for what no other has: their formulae, and what is said where it is missing."""

import numpy as np
import pytest
import torch

from npt.objectives.own_terms import _drawn_of, _hard_negatives
from npt.objectives.terms import TERMS, StepFeatures


def step(labels, **parts):
    empty = torch.zeros(len(labels), 0)
    return StepFeatures(empty, empty, torch.tensor(labels), empty, parts=parts)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_tokens_cross_entropy_is_its_formula():
    logits, labels = drawn(5, 3), [0, 2, 1, 2, 2]
    expected = -np.mean([log_softmax(logits.numpy())[i, y] for i, y in enumerate(labels)])
    assert TERMS["token_ce"](step(labels, token_logits=logits)).item() == pytest.approx(expected, abs=1e-12)


def test_the_heads_cross_entropy_is_the_mean_over_images_and_their_classes_texts():
    image, text, labels = drawn(5, 3), drawn(3, 3, seed=1), [0, 2, 1, 2, 2]
    of_images = [log_softmax(image.numpy())[i, y] for i, y in enumerate(labels)]
    of_texts = [log_softmax(text.numpy())[y, y] for y in labels]
    value = TERMS["head_ce"](step(labels, head_image=image, head_text=text)).item()
    assert value == pytest.approx(-np.mean([*of_images, *of_texts]), abs=1e-12)


def test_the_penalty_of_a_probe_is_a_mean_over_classes():
    multipliers, moved = drawn(4).abs(), drawn(4, seed=1).abs()
    expected = sum(one * other for one, other in zip(multipliers.tolist(), moved.tolist())) / 4
    assert TERMS["clap"](step([0, 1], multipliers=multipliers, moved=moved)).item() == pytest.approx(expected, abs=1e-15)


def test_the_divergence_from_a_teacher_is_a_mean_over_images_and_classes():
    logits, taught = drawn(5, 3), drawn(5, 3, seed=1)
    mine, its = log_softmax(logits.numpy()), log_softmax(taught.numpy())
    expected = sum(np.exp(its[i, k]) * (its[i, k] - mine[i, k]) for i in range(5) for k in range(3)) / 15
    given = StepFeatures(logits, logits, torch.tensor([0, 2, 1, 2, 2]), logits, parts=dict(teacher_logits=taught))
    other_labels = StepFeatures(logits, logits, torch.zeros(5, dtype=torch.int64), logits, parts=dict(teacher_logits=taught))
    assert TERMS["kd"](given).item() == pytest.approx(expected, abs=1e-12)
    assert TERMS["kd"](given) == TERMS["kd"](other_labels), "labels are not read"
    assert torch.autograd.gradcheck(lambda z: TERMS["kd"](StepFeatures(z, z, given.labels, z, parts=given.parts)), logits.requires_grad_())


@pytest.mark.parametrize("name, part", [("token_ce", "token_logits"), ("head_ce", "head_image"), ("clap", "multipliers"), ("kd", "teacher_logits")])
def test_a_learner_that_gives_nothing_of_the_name_is_told(name, part):
    with pytest.raises(ValueError, match=f"needs '{part}', which this learner does not give .*it gives other"):
        TERMS[name](step([0], other=torch.zeros(1)))


@pytest.mark.parametrize("name, shapes", [("token_ce", dict(token_logits=(4, 3))), ("head_ce", dict(head_image=(4, 3), head_text=(3, 3))),
                                          ("clap", dict(multipliers=(3,), moved=(3,)))])
def test_gradients_agree_with_finite_differences(name, shapes):
    inputs = [drawn(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes.values())]
    assert torch.autograd.gradcheck(lambda *given: TERMS[name](step([0, 2, 1, 1], **dict(zip(shapes, given)))), inputs)


def taken_for(logits, labels, top):
    "DPC's classes, one image after the other."
    met, classes = {int(y) for y in labels}, []
    for row, label in zip(logits, labels):
        order = [k for k in row.argsort()[::-1] if k != label][: top - 1]
        new = [int(k) for k in order if k not in met]
        met |= set(new)
        classes += new
    return classes


@pytest.mark.parametrize("seed", range(4))
def test_hard_negatives_are_those_of_a_loop_and_their_pairs_are_matched(seed, monkeypatch):
    logits, labels, top = drawn(5, 9, seed=seed), torch.randint(9, (5,), generator=torch.Generator().manual_seed(seed)), 4
    classes, new = _hard_negatives(logits, labels, top)
    expected = taken_for(logits.numpy(), labels.numpy(), top)
    assert classes[new].tolist() == expected and expected
    image, second, memory = drawn(5, 6, seed=seed + 10), drawn(9, 6, seed=seed + 20).requires_grad_(), drawn(9, 6, seed=seed + 30)
    given = StepFeatures(image, image, labels, logits, logit_scale=7.0, progress=0.6, parts=dict(
        remembered=memory, remembered_counts=torch.ones(9, dtype=torch.int64), second_text=second, top=torch.tensor(top), begins=torch.tensor(0.6, dtype=torch.float64)))
    all_classes = [*labels.tolist(), *expected]
    pairs = 7 * torch.cat([image, memory[expected]]) @ second[all_classes].T
    target = torch.arange(len(all_classes))
    written = (torch.nn.functional.cross_entropy(pairs, target) + torch.nn.functional.cross_entropy(pairs.T, target)) / 2
    mine = TERMS["hard_negatives"](given)
    assert mine.item() == pytest.approx(written.item(), abs=1e-12)
    assert torch.allclose(*(torch.autograd.grad(value, second)[0] for value in (mine, written)), atol=1e-12)


def test_images_of_a_class_are_drawn_alike():
    counts, draws = torch.tensor([3, 1, 2]), []
    torch.manual_seed(0)
    for _ in range(600):
        draws.append(_drawn_of(torch.tensor([0, 1, 2]), counts))
    for column, places in zip(torch.stack(draws).T, ([0, 1, 2], [3], [4, 5])):
        times = torch.bincount(column, minlength=6)[places]
        assert int(times.sum()) == 600 and times.min() > 600 / len(places) * 0.8


def test_a_class_without_remembered_images_is_no_negative():
    logits, labels = torch.tensor([[9.0, 5, 4]]).double(), torch.tensor([0])
    eye = torch.eye(3, dtype=torch.float64)
    values = []
    for counts, memory in ([1, 0, 1], eye[[0, 2]]), ([1, 1, 1], eye):
        values.append(TERMS["hard_negatives"](StepFeatures(eye[:1], eye[:1], labels, logits, logit_scale=1.0, parts=dict(
            remembered=memory, remembered_counts=torch.tensor(counts), second_text=eye, top=torch.tensor(3), begins=torch.tensor(0.0).double()))).item())
    assert values == pytest.approx([np.log(1 + np.exp(-1)), np.log(1 + 2 * np.exp(-1))])
