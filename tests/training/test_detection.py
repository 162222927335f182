"Known and unknown images: measures against scikit-learn, scores against the papers' formulae in NumPy."

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from npt.training.detection import _detection_measures, _known_span, detection, neco


@given(st.integers(0, 10_000), st.sampled_from([None, 0, 1]), st.integers(1, 60), st.integers(1, 60))
def test_measures_are_scikit_learns_ties_included(seed, decimals, known, unknown):
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(known + unknown, generator=draw)
    scores[:known] += 0.7
    scores = scores if decimals is None else scores.round(decimals=decimals)
    truth = np.r_[np.ones(known), np.zeros(unknown)]
    fpr, tpr, _ = roc_curve(truth, scores.numpy(), drop_intermediate=False)
    measured = _detection_measures(scores[:known], scores[known:])
    assert measured["auroc"] == pytest.approx(100 * roc_auc_score(truth, scores.numpy()))
    assert measured["aupr"] == pytest.approx(100 * average_precision_score(truth, scores.numpy()))
    assert measured["fpr95"] == pytest.approx(100 * fpr[np.argmax(tpr >= 0.95)])


def test_chance_and_certainty():
    assert _detection_measures(torch.ones(10), torch.zeros(4)) == dict(auroc=100, fpr95=0, aupr=100)
    assert _detection_measures(torch.zeros(10), torch.ones(4))["auroc"] == 0
    same = _detection_measures(torch.ones(30), torch.ones(10))
    assert same == dict(auroc=50, fpr95=100, aupr=75)


def test_no_images_are_refused_and_no_scores_are_no_numbers():
    with pytest.raises(ValueError, match="0 known and 3 unknown"):
        _detection_measures(torch.ones(0), torch.ones(3))
    assert all(math.isnan(value) for value in _detection_measures(torch.tensor([math.nan, 1]), torch.ones(2)).values())


def features_of(seed, classes=4, each=8, d=12, apart=2.0):
    draw = torch.Generator().manual_seed(seed)
    means = apart * torch.randn(classes, d, generator=draw)
    labels = torch.arange(classes).repeat_interleave(each)
    return means[labels] + 0.3 * torch.randn(len(labels), d, generator=draw), labels


def test_scores_are_the_papers():
    draw = torch.Generator().manual_seed(2)
    cosines = torch.rand(40, 6, generator=draw, dtype=torch.float64) * 0.4
    (features, labels), scale = features_of(3), 30.0
    span = _known_span(features, labels)
    known, unknown = (features[:16], scale * cosines[:16]), (features[16:] + 1, scale * cosines[16:])
    measured = detection(known, unknown, scale, span)
    e = np.exp(cosines.numpy())
    expected = {"mcm": e.max(1) / e.sum(1), "max_logit": scale * cosines.numpy().max(1), "energy": np.log(np.exp(scale * cosines.numpy()).sum(1))}
    for score, values in expected.items():
        assert measured[f"{score}_auroc"] == pytest.approx(100 * roc_auc_score(np.r_[np.ones(16), np.zeros(24)], np.r_[values[:16], values[16:40]]))
    assert len(measured) == 12 and len(detection(known, unknown, scale, None)) == 9


def test_neco_is_the_share_of_principal_components_where_features_have_collapsed():
    features, labels = features_of(5)
    means = torch.stack([features[labels == k].mean(0) for k in range(4)])
    collapsed = means[labels]
    others = torch.randn(20, 12, generator=torch.Generator().manual_seed(6))
    components = PCA(3).fit(collapsed.double().numpy())
    expected = np.linalg.norm(components.transform(others.double().numpy()), axis=1) / np.linalg.norm(others.double().numpy() - components.mean_, axis=1)
    assert np.abs(neco(others, _known_span(collapsed, labels)).numpy() - expected).max() < 1e-5
    assert torch.allclose(neco(collapsed, _known_span(features, labels)), torch.ones(32, dtype=torch.float64), atol=1e-5)


def test_neco_lets_classes_count_alike_and_says_nothing_where_all_is_spanned():
    features, labels = features_of(7)
    kept = torch.cat([torch.arange(8), torch.arange(8, 32, 8)])  # one image of most classes
    twice = torch.cat([kept, kept[:8].repeat(9)])
    once, more = (_known_span(features[some], labels[some]) for some in (kept, twice))
    assert torch.allclose(once[0], more[0]) and torch.allclose(once[1] @ once[1].T, more[1] @ more[1].T, atol=1e-6)
    assert neco(features[:, :3], _known_span(features[:, :3], labels)).isnan().all()  # four classes in three dimensions
    measured = detection((features[:8, :3], features[:8, :2]), (features[8:, :3], features[8:, :2]), 1.0, _known_span(features[:, :3], labels))
    assert math.isnan(measured["neco_auroc"]) and not math.isnan(measured["mcm_auroc"])


def test_a_class_without_an_image_is_left_out_of_the_span():
    features, labels = features_of(8)
    whole, moved = _known_span(features, labels), _known_span(features, labels * 3 + 5)
    assert torch.equal(whole[0], moved[0]) and torch.equal(whole[1], moved[1]) and whole[1].shape == (12, 3)
