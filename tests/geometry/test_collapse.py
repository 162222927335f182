"""The NC metrics against an independent float64 NumPy version, written from the formulae with loops over classes."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from npt.geometry.collapse import COLLAPSE_METRICS, NC_METRICS, collapse_metrics, head_tail_angles, orthogonality_to_others
from npt.geometry.etf import simplex_etf


def metrics_by_loops(text, image, labels):
    "Every metric from its definition: covariance matrices, explicit pairs, distances one by one."
    text, image = np.asarray(text, dtype=np.float64), np.asarray(image, dtype=np.float64)
    labels, classes, dim = np.asarray(labels), range(len(text)), text.shape[1]
    means = np.stack([image[labels == k].mean(axis=0) for k in classes])
    centre = means.mean(axis=0)
    within, between, variances = np.zeros((dim, dim)), np.zeros((dim, dim)), []
    for k in classes:
        away = image[labels == k] - means[k]
        within += away.T @ away / len(away) / len(text)
        between += np.outer(means[k] - centre, means[k] - centre) / len(text)
        variances.append((away**2).sum(axis=1).mean())
    pairs = [(j, k) for j in classes for k in classes if j != k]

    def equinorm(vectors):
        lengths = [np.sqrt(((v - vectors.mean(axis=0)) ** 2).sum()) for v in vectors]
        return np.std(lengths) / np.mean(lengths)

    def equiangularity(vectors):
        c = vectors - vectors.mean(axis=0)
        cosines = [c[j] @ c[k] / np.linalg.norm(c[j]) / np.linalg.norm(c[k]) for j, k in pairs]
        return np.mean([abs(cosine + 1 / (len(vectors) - 1)) for cosine in cosines])

    def energies(vectors):
        c = vectors - vectors.mean(axis=0)
        u = [v / np.linalg.norm(v) for v in c]
        gaps = np.array([np.linalg.norm(u[j] - u[k]) for j, k in pairs])
        return np.mean(-np.log(gaps)), np.mean(1 / gaps)

    def margin(vectors):  # by least squares, see test_margin.py
        u, found = vectors / np.linalg.norm(vectors, axis=1, keepdims=True), []
        for k in classes:
            toward = np.delete(u, k, axis=0) - u[k]
            weights, _ = nnls(np.vstack([toward.T, np.ones(len(toward))]), np.append(np.zeros(dim), 1.0))
            found.append(np.linalg.norm(weights @ toward / weights.sum()))
        return min(found)

    w, h = text - text.mean(axis=0), means - centre
    duality = [w[k] @ h[k] / np.linalg.norm(w[k]) / np.linalg.norm(h[k]) for k in classes]
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    agree = [np.argmax(unit @ x) == np.argmin([np.linalg.norm(x - mean) for mean in means]) for x in image]
    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True)) / len(text),
        "cdnv": np.mean([(variances[j] + variances[k]) / (2 * ((means[j] - means[k]) ** 2).sum()) for j, k in pairs]),
        "nc2_text_equinorm": equinorm(text),
        "nc2_text_equiangularity": equiangularity(text),
        "nc2_image_equinorm": equinorm(means),
        "nc2_image_equiangularity": equiangularity(means),
        "nc3": np.linalg.norm(w / np.linalg.norm(w) - h / np.linalg.norm(h)),
        "nc4": np.mean(agree),
        "nc1_quotient": np.trace(within) / np.trace(between),
        "gnc2_text_log": energies(text)[0],
        "gnc2_text_riesz": energies(text)[1],
        "gnc2_text_margin": margin(text),
        "gnc2_image_log": energies(means)[0],
        "gnc2_image_riesz": energies(means)[1],
        "gnc2_image_margin": margin(means),
        "nc3_cosine": np.mean(duality),
        "unc3": np.std(duality) / abs(np.mean(duality)),
    }


def random_features(counts, dim, seed, noise=1.0):
    "Text (K, d), image (N, d), labels (N,): classes around random centres, a common direction in each modality."
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    text = torch.randn(len(counts), dim, generator=draw) + 2
    image = text[labels] - 1 + noise * torch.randn(len(labels), dim, generator=draw)
    order = torch.randperm(len(labels), generator=draw)
    return text, image[order], labels[order]


ETF, SIX = simplex_etf(6, 10), torch.arange(6).repeat_interleave(4)
FLAT = random_features([5] * 8, 3, seed=7)
CASES = {
    "balanced": random_features([12] * 7, 20, seed=0),
    "imbalanced": random_features([40, 20, 10, 5, 2, 1], 16, seed=1),
    "two classes": random_features([9, 4], 6, seed=2),
    "more classes than dimensions": random_features([3] * 30, 8, seed=3),
    "one image a class": random_features([1] * 10, 12, seed=4),
    "nearly collapsed": random_features([6] * 9, 24, seed=5, noise=1e-3),
    "pure noise": random_features([5, 9, 3, 7], 10, seed=6, noise=30.0),
    "perfectly collapsed": (ETF, ETF[SIX], SIX),
    "rank-deficient means": (FLAT[0] @ torch.eye(3, 12), FLAT[1] @ torch.eye(3, 12), FLAT[2]),
}


@pytest.mark.parametrize("name", CASES)
def test_metrics_agree_with_the_definitions(name):
    ours, theirs = collapse_metrics(*CASES[name]), metrics_by_loops(*CASES[name])
    assert list(ours) == list(theirs) == list(COLLAPSE_METRICS)
    for modality in "text", "image":  # the margin is found by steps, and known to a millionth
        assert ours.pop(f"gnc2_{modality}_margin") == pytest.approx(theirs.pop(f"gnc2_{modality}_margin"), abs=2e-6)
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("counts", [[5] * 6, [40, 20, 10, 5, 2, 1]])
def test_a_perfect_etf_is_collapsed_in_every_sense(counts):
    etf, labels = simplex_etf(6, 9).double(), torch.arange(6).repeat_interleave(torch.tensor(counts))
    metrics = collapse_metrics(5 * etf, 3 * etf[labels] + 1, labels)
    assert metrics.pop("nc4") == 1 and metrics.pop("nc3_cosine") == pytest.approx(1)
    for modality in "text", "image":
        assert metrics.pop(f"gnc2_{modality}_log") == pytest.approx(-math.log(2.4) / 2)
        assert metrics.pop(f"gnc2_{modality}_riesz") == pytest.approx(2.4**-0.5)
    assert metrics.pop("gnc2_text_margin") == pytest.approx(6 / 5, abs=2e-6)
    assert metrics.pop("gnc2_image_margin") < 1.19, "the images have moved off the origin, from which the margin looks"
    assert metrics == pytest.approx(dict.fromkeys(metrics, 0), abs=1e-6)
    assert set(metrics) < {*NC_METRICS, "nc1_quotient", "unc3"}


def test_rounding_in_float32_does_not_become_a_direction():
    text, image, labels = random_features([20] * 5, 3, seed=8)
    turn = torch.linalg.qr(torch.randn(64, 3, generator=torch.Generator().manual_seed(9))).Q.T
    flat, turned = collapse_metrics(text, image, labels), collapse_metrics(text @ turn, image @ turn, labels)
    assert turned == pytest.approx(flat, rel=1e-3)


def test_classes_that_coincide_are_infinitely_uncollapsed():
    image, labels = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), torch.tensor([0, 0, 1, 1])
    metrics = collapse_metrics(torch.eye(2), image, labels)
    assert metrics["nc1"] == metrics["cdnv"] == float("inf")


def test_two_of_several_classes_that_coincide():
    "The mean over pairs is infinite, and not a number where these two have no spread, as the docstring says."
    image, labels = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [5, 5]]), torch.tensor([0, 0, 1, 1, 2])
    metrics = collapse_metrics(torch.eye(3, 2), image, labels)
    assert metrics["cdnv"] == math.inf and math.isfinite(metrics["nc1"])
    assert math.isnan(collapse_metrics(torch.eye(3, 2), torch.tensor([[1.0, 0], [1, 0], [5, 5]]), torch.arange(3))["cdnv"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_that_coincide_but_for_rounding(dtype):
    "Two classes hold the same images in another order, so that their means are sums in another order."
    draw = torch.Generator().manual_seed(3)
    one, other = torch.randn(2, 7, 5, generator=draw, dtype=dtype) + 10
    same, labels = torch.cat([one, one[torch.randperm(7, generator=draw)], other]), torch.arange(3).repeat_interleave(7)
    metrics = collapse_metrics(torch.eye(3, 5), same, labels)
    assert metrics["cdnv"] == math.inf and math.isfinite(metrics["nc1"])
    constant = torch.cat([one[:1].expand(14, -1), other])
    assert math.isnan(collapse_metrics(torch.eye(3, 5), constant, labels)["cdnv"]), "seven times one vector has no spread"
    near = torch.cat([one, one + 1e-3, other])
    assert 1 < collapse_metrics(torch.eye(3, 5), near, labels)["cdnv"] < math.inf, "near is not the same"


def test_it_learns_nothing_and_changes_nothing():
    text, image, labels = CASES["balanced"]
    learned = text.clone().requires_grad_()
    metrics = collapse_metrics(learned, image, labels)
    assert all(type(value) is float for value in metrics.values())
    assert torch.equal(learned, text) and learned.grad is None


def test_a_class_without_images_is_named():
    text, image, labels = CASES["balanced"]
    with pytest.raises(ValueError, match=r"2 of 7 have none: classes \[2, 5\]"):
        keep = (labels != 2) & (labels != 5)
        collapse_metrics(text, image[keep], labels[keep])


def test_angles_of_head_and_tail_are_those_of_pairs():
    counts, draw = [3, 9, 1, 9, 4], torch.Generator().manual_seed(0)
    text = torch.randn(5, 7, generator=draw)
    c = (text - text.mean(0)).double().numpy()
    head, tail = [1, 3, 4], [0, 2]  # the odd class belongs to the head

    def angle(pairs):
        return np.mean([math.degrees(math.acos(c[j] @ c[k] / np.linalg.norm(c[j]) / np.linalg.norm(c[k]))) for j, k in pairs])

    wanted = {"head_angle": angle([(1, 3), (1, 4), (3, 4)]), "tail_angle": angle([(0, 2)]),
              "head_tail_angle": angle([(j, k) for j in head for k in tail])}
    assert head_tail_angles(text, counts) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="5 classes need as many counts, not 4"):
        head_tail_angles(text, counts[1:])


def test_others_are_at_the_angles_that_loops_find():
    draw = torch.Generator().manual_seed(0)
    means, others = torch.randn(5, 7, generator=draw) + 1, torch.randn(20, 7, generator=draw) - 0.3
    centre = others.double().numpy().mean(axis=0)
    angles = [abs(m @ centre) / np.linalg.norm(m) / np.linalg.norm(centre) for m in means.double().numpy()]
    assert orthogonality_to_others(means, others) == pytest.approx(np.mean(angles), rel=1e-9)
    assert orthogonality_to_others(torch.eye(4)[:3], torch.tensor([[1.0, 1, 1, 5], [-1, -1, -1, 5]])) == 0


@pytest.mark.parametrize("means, others, message", [
    (torch.ones(3, 4), torch.ones(2, 5), r"got \(3, 4\) and \(2, 5\)"), (torch.ones(3, 4), torch.ones(0, 4), "at least one other"),
    (torch.ones(3, 4), torch.full((2, 4), math.inf), "not finite")])
def test_others_that_do_not_fit_are_refused(means, others, message):
    with pytest.raises(ValueError, match=message):
        orthogonality_to_others(means, others)
