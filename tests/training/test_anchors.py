"What a fit may be held to: frozen texts of the learner's own CLIP, encoded once, and only where an objective asks for them."

import numpy as np
import pytest
import torch
from shared import LOADED

import npt.training.anchors
from npt.data.load import load_dataset
from npt.learners.build import build_learner
from npt.training.anchors import _CONSISTENCY_TEMPLATES, _frozen_anchors, _places_among
from npt.training.fit import fit


@pytest.fixture(scope="module")
def base():
    return load_dataset("world/shapes", shots=1).base


def coop(names, **settings):
    return build_learner("coop", LOADED, names, n_ctx=4, ctx_init=None, seed=1, **settings)


@pytest.mark.parametrize("objective, asked", [("npt", []), ("npt_anchored", ["template"]), ("promptsrc", ["ensemble"])])
def test_a_fit_encodes_frozen_texts_once_and_only_where_asked(objective, asked, base, monkeypatch):
    calls = []
    for part in "template", "ensemble":
        def noted(learner, part=part, compute=getattr(npt.training.anchors, f"_{part}_features")):
            calls.append(part)
            return compute(learner)

        monkeypatch.setattr(npt.training.anchors, f"_{part}_features", noted)
    fit(coop(base.classnames), base.train, objective=objective, epochs=2, lr=0.002, measure_every=0)
    assert calls == asked


def test_anchors_of_a_learner_are_its_own_clips_features(base):
    names, template = base.classnames[:3], "a drawing of a {}."
    anchors = _frozen_anchors(coop(names, template=template))
    assert torch.allclose(anchors.text, LOADED.encode_text([template.format(name.replace("_", " ")) for name in names]))
    outputs = [LOADED.model.encode_text(LOADED.tokenize([line.replace("{}", name.replace("_", " ")) for line in _CONSISTENCY_TEMPLATES]))
               .double().numpy() for name in names]
    means = np.array(outputs).mean(1)
    wanted = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert np.abs(anchors.ensemble.numpy() - wanted).max() < 1e-6
    assert len(set(_CONSISTENCY_TEMPLATES)) == 60


def test_anchors_of_a_learner_that_was_told_its_classes_are_the_means_of_their_sentences(base):
    names = base.classnames[:3]
    texts = {name: [f"{name} number {number}" for number in range(2 + place)] for place, name in enumerate(names)}
    anchors = _frozen_anchors(coop(names, template=texts), all_classnames=names)
    for part, unit in ("text", True), ("ensemble", False):
        outputs = [[LOADED.encode_text([sentence], unit=unit)[0].double().numpy() for sentence in texts[name]] for name in names]
        means = np.array([sum(some) / len(some) for some in outputs])
        assert np.abs(getattr(anchors, part).numpy() - means / np.linalg.norm(means, axis=1, keepdims=True)).max() < 1e-6
    assert torch.equal(anchors.encode_all(), anchors.text)
    with pytest.raises(ValueError, match="No description of the class 'gull'"):
        _frozen_anchors(coop([*names, "gull"], template=texts)).text


def test_an_anchored_fit_comes_nearer_to_its_anchor(base):
    learner = coop(base.classnames)
    anchor = _frozen_anchors(learner).etf
    before = (learner.text_features() - anchor).square().sum(1).mean()
    fit(learner, base.train, objective="ce + 10*etf", epochs=6, lr=0.02, measure_every=0)
    assert (learner.text_features() - anchor).square().sum(1).mean() < before - 0.05


def test_room_for_other_names_is_found_by_name_and_told_where_a_class_is_missing(base):
    names = base.classnames[:3]
    learner = coop(names)
    anchors = _frozen_anchors(learner, all_classnames=[*base.classnames[::-1]])
    assert torch.allclose(anchors.encode_all()[list(anchors.places)], anchors.text, atol=1e-6)
    whole = coop(base.classnames)
    assert torch.allclose(anchors.etf_open, _frozen_anchors(whole).etf[:3], atol=1e-5)  # an order of names is no matter where an ETF exists
    with pytest.raises(ValueError, match=f"leaves out {names[0]!r}"):
        _frozen_anchors(learner, all_classnames=base.classnames[1:])
    with pytest.raises(ValueError, match="a list of names, not the one text"):
        fit(coop(base.classnames), base.train, all_classnames="cat")


def test_a_fit_with_room_for_other_names_needs_them_and_follows_them(base):
    other = load_dataset("world/shapes", shots=1).all.classnames
    with pytest.raises(ValueError, match="fit.*all_classnames=names"):
        fit(coop(base.classnames), base.train, objective="npt_open", epochs=1, lr=0.02, measure_every=0)
    lost = [fit(coop(base.classnames), base.train, objective="ce + 10*etf_open", epochs=3, lr=0.02, measure_every=0, all_classnames=names).loss.iloc[-1]
            for names in (base.classnames, other, other)]
    closed = fit(coop(base.classnames), base.train, objective="ce + 10*etf", epochs=3, lr=0.02, measure_every=0).loss.iloc[-1]
    assert lost[0] == pytest.approx(closed, rel=1e-5) and lost[1] == lost[2] != lost[0]


def test_two_classes_of_one_name_have_a_place_each():
    assert _places_among(["b", "a", "b"], ["a", "b", "c", "b"]) == [1, 0, 3]
    with pytest.raises(ValueError, match="leaves out 'b'"):
        _places_among(["b", "b"], ["a", "b"])
