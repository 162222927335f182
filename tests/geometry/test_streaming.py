"The stream against the one pass, its memory, and what it refuses."

import gc
import tracemalloc

import pytest
import torch

from npt.geometry.collapse import COLLAPSE_METRICS, collapse_metrics
from npt.geometry.streaming import CollapseStream


def made(counts, dim, noise, seed=0, dtype=torch.float64):
    "Text (K, d), image (N, d) and labels (N,), in a random order, far from the origin."
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))[torch.randperm(sum(counts), generator=draw)]
    text = torch.randn(len(counts), dim, generator=draw, dtype=dtype)
    return text, 5 + text[labels] + noise * torch.randn(len(labels), dim, generator=draw, dtype=dtype), labels


def streamed(text, image, labels, size):
    stream = CollapseStream(labels.bincount(), image.shape[1])
    for features, their in zip(image.split(size), labels.split(size)):
        stream.add(features, their)
    return stream.metrics(text, image.split(size))


@pytest.mark.parametrize("counts, dim, noise, size", [
    ([40, 20, 10, 5, 2, 1], 16, 1.0, 7), ([12] * 7, 20, 1.0, 1), ([3] * 30, 8, 1.0, 11), ([1] * 10, 12, 1.0, 4),
    ([6] * 9, 24, 1e-5, 5), ([5, 9, 3, 7], 10, 30.0, 100), ([30, 31], 3, 0.5, 16)])  # fmt: skip
def test_it_is_the_one_pass_but_for_rounding(counts, dim, noise, size):
    data = made(counts, dim, noise)
    ours, at_once = streamed(*data, size), collapse_metrics(*data)
    assert list(ours) == list(at_once) == list(COLLAPSE_METRICS)
    assert ours == pytest.approx(at_once, rel=1e-9, abs=1e-13)


def test_float32_and_the_order_of_images_do_not_matter():
    text, image, labels = made([9, 4, 20], 6, 1.0, dtype=torch.float32)
    order = labels.argsort(stable=True)
    wanted = collapse_metrics(text, image, labels)
    assert streamed(text, image, labels, 8) == pytest.approx(wanted, rel=1e-9)
    assert streamed(text, image[order], labels[order], 8) == pytest.approx(wanted, rel=1e-9)


def test_a_hundred_thousand_images_need_no_more_than_their_sums():
    "At the sizes of ImageNet: a state of 2.2 MB beside the K x d means, and batches are all that lies about."
    number, draw = 100_000, torch.Generator().manual_seed(1)
    labels = torch.randint(1000, (number,), generator=draw)
    labels[:1000] = torch.arange(1000)
    centres = torch.randn(1000, 512, generator=draw)
    stream = CollapseStream(labels.bincount(), 512)
    state = {name: values for name, values in vars(stream).items() if torch.is_tensor(values)}
    assert set(state) == set(vars(stream)), "there is nothing but tensors"
    before = sum(values.nbytes for values in state.values())
    assert before - state["means"].nbytes < 3e6
    noise, total = torch.randn(5000, 512, generator=draw), torch.zeros(1000, dtype=torch.float64)
    kept = []
    for their in labels.split(5000):
        features = centres[their] + noise
        stream.add(features, their)
        kept.append(features)
    assert sum(values.nbytes for values in vars(stream).values()) == before
    image = torch.cat(kept).double()
    del kept
    means = torch.zeros(1000, 512, dtype=torch.float64).index_add_(0, labels, image) / labels.bincount()[:, None]
    total.index_add_(0, labels, (image - means[labels]).square().sum(1))
    assert torch.allclose(stream.means, means, rtol=1e-9, atol=1e-12)
    assert torch.allclose(stream.variances, total / labels.bincount(), rtol=1e-9)
    weighted = (image - means[labels]) / labels.bincount()[labels].double().sqrt()[:, None]
    assert torch.allclose(stream.within, weighted.T @ weighted, rtol=1e-9, atol=1e-9)


def test_python_keeps_no_batch():
    stream = CollapseStream([100] * 4, 8)
    gc.collect()
    before = sum(torch.is_tensor(thing) for thing in gc.get_objects())
    tracemalloc.start()
    for k in range(4):
        stream.add(torch.randn(100, 8), torch.full((100,), k))
    gc.collect()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(torch.is_tensor(thing) for thing in gc.get_objects()) == before and peak < 1e6


def test_classes_that_coincide_are_infinitely_uncollapsed():
    image, labels = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), torch.tensor([0, 0, 1, 1])
    metrics = streamed(torch.eye(2), image, labels, 2)
    assert metrics["nc1"] == metrics["cdnv"] == metrics["nc1_quotient"] == float("inf")


def test_the_second_pass_is_asked_for_by_nc4_alone():
    text, image, labels = made([5, 6, 7], 4, 1.0)
    stream = CollapseStream([5, 6, 7], 4)
    stream.add(image, labels)
    assert list(stream.metrics(text)) == [name for name in COLLAPSE_METRICS if name != "nc4"]
    with pytest.raises(ValueError, match="The second pass had 17 images, and the first 18"):
        stream.metrics(text, [image[:17]])


def test_what_does_not_fit_is_refused_and_changes_nothing():
    stream = CollapseStream([2, 1], 3)
    stream.add(torch.eye(3)[:2], torch.tensor([0, 0]))
    before = {name: values.clone() for name, values in vars(stream).items()}
    for features, labels, message in [
        (torch.ones(1, 3), torch.tensor([0]), r"More images than was said came of the classes \[0\]"),
        (torch.ones(2, 3), torch.tensor([1, 2]), "Labels must be from 0 to 1; got 1 to 2"),
        (torch.ones(1, 4), torch.tensor([1]), r"Expected features \(B, 3\)"), (torch.ones(2, 3), torch.tensor([1]), "with a label each"),
        (torch.ones(0, 3), torch.tensor([], dtype=torch.int64), r"got \(0, 3\)"),
        (torch.full((1, 3), float("nan")), torch.tensor([1]), "not finite")]:
        with pytest.raises(ValueError, match=message):
            stream.add(features, labels)
    assert all(torch.equal(values, before[name]) for name, values in vars(stream).items())
    with pytest.raises(ValueError, match=r"2 of 3 images came; 1 classes lack some: classes \[1\]"):
        stream.metrics(torch.eye(2, 3))
    stream.add(torch.eye(3)[2:], torch.tensor([1]))
    with pytest.raises(ValueError, match=r"Expected finite text features \(2, 3\); got \(3, 2\)"):
        stream.metrics(torch.eye(3, 2))


@pytest.mark.parametrize("counts, dim", [([3], 4), ([3, 0], 4), ([3, 3], 0), ([[3, 3]], 2), ([], 2)])
def test_a_stream_of_nothing_is_refused(counts, dim):
    with pytest.raises(ValueError, match="Expected counts"):
        CollapseStream(counts, dim)
