"Classes in sessions: who sees what and among which classes, what is measured, and a session that was interrupted."

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from shared import LOADED, in_world
from torch.optim.optimizer import register_optimizer_step_post_hook

import npt.training.sessions
from npt.data.features import split_features
from npt.data.load import load_dataset
from npt.learners.build import build_learner
from npt.training.checkpoint import _CHECKPOINT
from npt.training.evaluation import evaluate, outputs
from npt.training.fit import fit
from npt.training.sessions import _incremental_metrics, _measured_still, _splits_met, fit_sessions, load_sessions

SHORT = dict(epochs=2, lr=0.02, measure_every=0, progress=False)


@pytest.fixture(scope="module")
def data():
    "Eight base classes of textures with four images each, and eight novel ones with five: sessions of 8, 5 and 3."
    return load_sessions("world/textures", shots=4)


@pytest.fixture(scope="module")
def whole(data):
    "CoOp after its sessions, and what was measured."
    learner = in_world("coop", LOADED, data.base.classnames)
    return learner, fit_sessions(learner, data, objective="npt", **SHORT)


def images(split) -> dict:
    "The images of each class, by its name."
    return {name: [item.image for item in split.items if item.label == label] for label, name in enumerate(split.classnames)}


def test_the_novel_classes_have_five_balanced_picks_of_their_own():
    data = load_sessions("world/textures", shots=4, tau=0.25, seed=3, class_split=2)
    plain = load_dataset("world/textures", shots=4, tau=0.25, seed=3, class_split=2)
    assert data.base == plain.base and (data.novel.val, data.novel.test) == (plain.novel.val, plain.novel.test)
    assert data.novel.train == load_dataset("world/textures", shots=5, seed=3, class_split=2).novel.train
    assert data.all.classnames == data.base.classnames + data.novel.classnames != plain.all.classnames
    assert data.all.train.counts == data.base.train.counts + [5] * 8 and min(data.base.train.counts) == 1
    assert images(data.all.test) == images(plain.all.test)
    assert load_sessions("world/textures", session_shots=2).novel.train.counts == [2] * 8


@pytest.mark.parametrize("ways, stops", [(5, [8, 13, 16]), (7, [8, 15, 16]), (8, [8, 16]), (50, [8, 16])])
def test_a_session_sees_its_own_images_among_all_classes_so_far(data, monkeypatch, ways, stops):
    "With 7 at a time one class remains, and has a session of its own."
    seen = []
    monkeypatch.setattr(npt.training.sessions, "fit", lambda *args, **given: seen.append((*args, given)) or pd.DataFrame())
    learner = in_world("coop", LOADED, data.base.classnames)
    fitted = fit_sessions(learner, data, ways=ways, seed=7, **SHORT)
    names, picks = data.base.classnames + data.novel.classnames, images(data.base.train) | images(data.novel.train)
    assert fitted.classes == stops and [len(train.classnames) for _, train, _ in seen] == stops
    for start, (now, train, given) in zip([0, *stops], seen):
        assert tuple(now.classnames) == train.classnames == given["test"].classnames == names[:len(train.classnames)]
        assert images(train) == {name: picks[name] if place >= start else [] for place, name in enumerate(train.classnames)}
        assert images(given["test"]) == {name: shown for name, shown in images(data.all.test).items() if name in train.classnames}
        assert given["seed"] == 7 and given["run_dir"] is None and given["all_classnames"] == names and now.context is learner.context, "the prompts are shared"
    assert seen[0][1] == data.base.train


def test_zero_shot_clip_is_measured_in_the_same_label_spaces(data):
    measured = fit_sessions(build_learner("zero_shot", LOADED, data.base.classnames), data)
    features, labels = split_features(LOADED, data.all.test)
    text = build_learner("zero_shot", LOADED, data.all.classnames).text_features()
    cosines, labels, stops = (features @ text.T).double().numpy(), labels.numpy(), [8, 13, 16]
    for row, stop in zip(measured.groups, stops):
        right = cosines[:, :stop].argmax(1) == labels
        assert row == pytest.approx([100 * right[(start <= labels) & (labels < end)].mean() for start, end in zip([0, *stops], stops) if end <= stop])
    assert measured.accuracy == pytest.approx([100 * (cosines[:, :stop].argmax(1) == labels)[labels < stop].mean() for stop in stops])
    assert measured.images == [800, 500, 300] and not len(measured.history)
    assert measured.metrics["forgetting"] >= 0, "a classifier that stays as it is loses to more classes, and wins nothing"


def by_definition(groups, images):
    "Every measure in plain loops, from how many images are right."
    last, right = len(groups) - 1, [[share * number / 100 for share, number in zip(row, images)] for row in groups]
    after = [100 * sum(row) / sum(images[:len(row)]) for row in right]
    lost = []
    for group in range(last):
        best = -np.inf
        for session in range(group, last):
            best = max(best, groups[session][group])
        lost.append(best - groups[last][group])
    base, new = groups[last][0], 100 * sum(right[last][1:]) / sum(images[1:])
    return dict(last=after[-1], mean=sum(after) / len(after), drop=after[0] - after[-1], forgetting=sum(lost) / len(lost),
                last_base=base, last_new=new, last_h=2 / (1 / base + 1 / new))


def test_the_measures_are_those_of_their_definitions():
    draw = np.random.default_rng(0)
    for sessions in 2, 3, 9:
        groups = [draw.uniform(20, 90, number + 1).tolist() for number in range(sessions)]
        images = draw.integers(1, 300, sessions).tolist()
        told = _incremental_metrics(groups, images)
        assert told == pytest.approx(by_definition(groups, images)) and told.keys() == by_definition(groups, images).keys()


def test_forgetting_by_hand_and_what_has_none():
    groups = [[90.0], [80.0, 60.0], [85.0, 70.0, 40.0], [70.0, 50.0, 45.0, 30.0]]
    told = _incremental_metrics(groups, [10, 5, 5, 5])
    assert told["forgetting"] == (20 + 20 - 5) / 3, "the best of the second group is 70, and the third has won"
    assert told["last"] == (2 * 70 + 50 + 45 + 30) / 5 and told["drop"] == 90 - 53 and told["last_new"] == pytest.approx(125 / 3)
    alone = _incremental_metrics([[80.0]], [10])
    assert alone["last"] == alone["mean"] == 80 and np.isnan(alone["forgetting"]) and np.isnan(alone["last_new"])


@pytest.mark.parametrize("groups, images", [([], []), ([[1.0], [1.0]], [1, 1]), ([[1.0, 2.0]], [1]), ([[1.0], [1.0, 2.0]], [1])])
def test_a_table_of_another_shape_is_refused(groups, images):
    with pytest.raises(ValueError, match="after session s there must be s \\+ 1 accuracies"):
        _incremental_metrics(groups, images)


def test_the_first_session_is_a_fit_on_the_base_classes(data, whole):
    learner, alone = whole[0], in_world("coop", LOADED, data.base.classnames)
    history = fit(alone, data.base.train, test=data.base.test, objective="npt", **SHORT)
    first = whole[1].history[whole[1].history.session == 0].drop(columns="session")
    assert first.equals(history[first.columns]) and whole[1].groups[0][0] == evaluate(alone, data.base.test)["accuracy"]
    assert whole[1].history.epoch.tolist() == [0, 1, 2, 3, 4, 5] and whole[1].history.session.tolist() == [0, 0, 1, 1, 2, 2]
    now = evaluate(learner.for_classes(data.all.classnames), data.all.test)
    assert now["accuracy"] == pytest.approx(whole[1].metrics["last"]) and not torch.equal(learner.context, alone.context)
    assert whole[1].table().group_0.tolist() == [row[0] for row in whole[1].groups]


def test_a_session_goes_on_from_the_one_before_with_a_fresh_optimiser(data, whole):
    "By hand, one fit after another."
    learner = in_world("coop", LOADED, data.all.classnames)
    trains = _splits_met(data, "test")[:-4:-1]
    for stop, train in zip([8, 13, 16], trains):
        fit(learner.for_classes(data.all.classnames[:stop]), train, objective="npt", **SHORT)
    assert torch.equal(learner.context, whole[0].context)


def test_same_seed_same_numbers_and_another_seed_others(data, whole):
    again = [fit_sessions(in_world("coop", LOADED, data.base.classnames), data, objective="npt", seed=seed, **SHORT) for seed in (1, 2)]
    assert again[0] == whole[1] and again[0].history.equals(whole[1].history)
    assert not again[1].history.equals(whole[1].history)


@contextmanager
def interrupted_after(saves: int) -> Iterator[None]:
    "The block is interrupted when all its fits together have written so many epochs; it must come to that."
    save, left = npt.training.fit._save_checkpoint, iter(range(saves - 1, -1, -1))

    def kill(*args):
        save(*args)
        if not next(left):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(npt.training.fit, "_save_checkpoint", kill)
        yield


@pytest.mark.parametrize("saves", [1, 2, 3, 5])
def test_what_was_interrupted_goes_on_and_nothing_is_trained_twice(data, whole, tmp_path, saves):
    learner = in_world("coop", LOADED, data.base.classnames)
    before, steps = learner.context.clone(), []
    with interrupted_after(saves):
        fit_sessions(learner, data, objective="npt", run_dir=tmp_path, **SHORT)
    assert torch.equal(learner.context, before), "a call that does not come to its end leaves the learner as it was"
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    resumed = fit_sessions(learner, data, objective="npt", run_dir=tmp_path, **SHORT)
    hook.remove()
    assert resumed == whole[1] and resumed.history.equals(whole[1].history) and torch.equal(learner.context, whole[0].context)
    assert len(steps) == 6 - saves, "one step an epoch of 32, 25 or 15 images"
    assert (tmp_path / _CHECKPOINT).exists() and (tmp_path / "session_2" / _CHECKPOINT).exists()


def test_a_checkpoint_of_other_sessions_is_refused(data, tmp_path):
    learner = in_world("coop", LOADED, data.base.classnames)
    fit_sessions(learner, data, objective="ce", run_dir=tmp_path, **SHORT)
    with pytest.raises(ValueError, match="session_1.*belongs to another fit"):
        fit_sessions(learner, data, objective="ce", run_dir=tmp_path, ways=4, **SHORT)


@pytest.mark.parametrize("name, objective", [("coop", "npt_anchored"), ("coop", "npt_open"), ("kgcoop", "own"), ("coop", "cpt"), ("coop", "prograd")])
def test_what_is_anchored_is_so_to_the_classes_so_far(data, name, objective):
    history = fit_sessions(in_world(name, LOADED, data.base.classnames), data, objective=objective, sampler="class_balanced", **SHORT).history
    assert len(history) == 6 and np.isfinite(history.drop(columns="session").to_numpy(float)).all()


@pytest.mark.parametrize("name, settings, objective, said", [
    ("coop", dict(class_specific=True), "ce", "belongs to the classes that it was made for: choose one that transfers"),
    ("tip_adapter", {}, "ce", "'tip_adapter' remembers its training images"),
    ("tip_adapter_f", {}, "ce", "'tip_adapter_f' remembers its training images"),
    ("coop", {}, "logit_adjusted", "the term 'logit_adjusted' weighs classes by their training images"),
    ("coop", {}, "lc + ldam_drw", "the term 'ldam_drw' weighs"),
])
def test_what_cannot_learn_in_sessions_is_refused_before_anything_is_trained(data, name, settings, objective, said, monkeypatch):
    monkeypatch.delattr(npt.training.sessions, "fit")
    with pytest.raises(ValueError, match=f"classes cannot come in sessions: .*{said}"):
        fit_sessions(build_learner(name, LOADED, data.base.classnames, **settings), data, objective=objective, **SHORT)


@pytest.mark.parametrize("ways", [0, -1, 2.5, True, "5"])
def test_a_number_of_ways_that_is_none_is_refused(data, ways):
    with pytest.raises(ValueError, match=f"ways={ways!r} must be a whole number, at least 1"):
        fit_sessions(in_world("coop", LOADED, data.base.classnames), data, ways=ways, **SHORT)


def test_a_session_without_images_is_refused_but_for_what_learns_nothing(data):
    last = replace(data.novel, train=data.novel.train.take([place for place, item in enumerate(data.novel.train.items) if item.label < 5]))
    lacking = replace(data, novel=last)
    with pytest.raises(ValueError, match=f"the session of {data.novel.classnames[5]!r} has no training image"):
        fit_sessions(in_world("coop", LOADED, data.base.classnames), lacking, **SHORT)
    assert fit_sessions(build_learner("zero_shot", LOADED, data.base.classnames), lacking).classes == [8, 13, 16]


def test_what_is_looked_up_beforehand_is_all_that_sessions_meet(data, monkeypatch):
    met, look_up = set(), npt.training.measure.split_features
    for room in npt.training.measure, npt.training.batches:
        monkeypatch.setattr(room, "split_features", lambda clip, split: met.add(tuple(item.image for item in split.items)) or look_up(clip, split))
    fit_sessions(in_world("coop", LOADED, data.base.classnames), data, objective="ce", on="val", **SHORT | dict(measure_every=1))
    assert met == {tuple(item.image for item in split.items) for split in _splits_met(data, "val")}
    assert _splits_met(data, "val")[-1] == data.base.train


def test_prompts_of_the_first_session_are_measured_among_all_classes_that_come(data):
    learner = in_world("coop", LOADED, data.base.classnames)
    fit(learner, data.base.train, objective="npt", **SHORT)
    stopped, bound = _measured_still(learner, data), learner.for_classes(data.all.classnames)
    made = outputs(bound, data.all.test)
    right = (made.logits.argmax(1) == made.labels).numpy()
    assert stopped.groups[-1] == pytest.approx([100 * right[start:end].mean() for start, end in ((0, 800), (800, 1300), (1300, 1600))])
    assert stopped.classes == [8, 13, 16] and stopped.groups[0] == [evaluate(learner, data.base.test)["accuracy"]]
