"A fixed number of crops a training image: features that are computed once, and evaluation that repeats no work."

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from shared import LOADED, fresh, killed_after

import npt.context
import npt.training
from npt.geometry.collapse import collapse_metrics
from npt.data.images import make_loader
from npt.data.load import load_dataset
from npt.training.evaluation import base_to_novel, evaluate
from npt.data.features import _ENCODED_AT_ONCE, _feature_key, _view_draws, check_views, crop_features, split_features
from npt.training.samplers import SAMPLERS
from npt.learners.build import build_learner
from npt.learners.recipes import recipe
from npt.study.runs import do_run, set_up
from npt.study.settings import RunSettings
from npt.training.batches import _REMEMBERED_CROPS, _epoch_draws, _image_batches, _training_features
from npt.training.fit.fit import fit


@pytest.fixture(scope="module")
def photographs(noise_folder):
    "Two base classes of photographs, three to train on, and two novel ones."
    return load_dataset("folder", root=noise_folder, shots=3)


def count_calls(monkeypatch, clip, name="encode_image") -> list[int]:
    "Notes how many images, or texts, each call of one of CLIP's towers is given."
    call, sizes = getattr(clip, name), []
    monkeypatch.setattr(clip, name, lambda given, *more: sizes.append(len(given)) or call(given, *more))
    return sizes


def crops_met(labels, views, epochs, seed=1, sampler="plain"):
    "The draws of each epoch."
    return [[draw for batch in _epoch_draws(labels, sampler, 4, seed, epoch, epochs, views) for draw in batch]
            for epoch in range(epochs)]


def built(name, clip, classnames):
    "A learner with the offline world's settings."
    return build_learner(name, clip, classnames, **recipe(name, "world").settings)


def fitted(clip, train, name="coop", epochs=4, objective="ce", **settings):
    "A learner after a short fit, and its history."
    learner = built(name, clip, train.classnames)
    return learner, fit(learner, train, objective=objective, epochs=epochs, batch_size=4, measure_every=0, **settings)


def assert_equal(one, other):
    assert one[1].equals(other[1])
    assert all(torch.equal(a, b) for a, b in zip(one[0].parameters(), other[0].parameters(), strict=True))


# ---- which crops

LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_epochs_meet_the_views_in_turn(views, sampler):
    for epoch, drawn in enumerate(crops_met(LABELS, views, 7, sampler=sampler)):
        view = _view_draws(len(LABELS), epoch % views)
        assert set(drawn) <= set(view) and len(drawn) == len(LABELS)
        assert sampler != "plain" or set(drawn) == set(view), "each image once"


def test_one_view_is_one_crop_of_each_image():
    epochs = crops_met(LABELS, 1, 5)
    assert len({draw for drawn in epochs for draw in drawn}) == len(LABELS)
    assert epochs[0] != epochs[1], "the order still changes"


def test_crops_do_not_depend_on_the_run_and_are_all_different():
    one, other = crops_met(LABELS, 3, 3, seed=1), crops_met(LABELS, 3, 3, seed=2)
    assert [set(drawn) for drawn in one] == [set(drawn) for drawn in other] and one != other
    assert len({draw.seed for drawn in one for draw in drawn}) == 3 * len(LABELS)
    assert crops_met(LABELS, 8, 3) == one, "more views add to the first ones"


def test_views_do_not_change_the_order_of_the_images():
    for published, fixed in zip(crops_met(LABELS, None, 3), crops_met(LABELS, 2, 3)):
        assert [draw.index for draw in published] == [draw.index for draw in fixed]


# ---- cached and through the tower

def test_looked_up_features_are_those_of_the_same_crops_through_the_tower(photographs, folder):
    clip, train = fresh(), photographs.base.train
    learner = build_learner("coop", clip, train.classnames)
    draws = [batch for epoch in range(5) for batch in _epoch_draws(train.labels, "class_balanced", 4, 1, epoch, 5, 3)]
    loader = make_loader(train, clip.preprocess_cfg, draws=draws)
    batches = list(_image_batches(learner, train, draws, views=3))
    assert len(batches) == len(draws) == 10
    for batch, (pixels, labels) in zip(batches, loader):
        assert torch.allclose(batch.image, clip.encode_image(pixels), atol=1e-6) and torch.equal(batch.labels, labels)
        assert torch.equal(batch.encode_image(), batch.image)


def test_training_with_looked_up_features_is_training_through_the_tower(photographs, folder, monkeypatch):
    looked_up, history = fitted(fresh(), photographs.base.train, views=2)
    cached = _image_batches
    monkeypatch.setattr(npt.training, "image_batches", lambda learner, split, draws, workers, views: cached(
        learner, split, draws, workers))  # which knows nothing of views and encodes the crops that the draws name
    clip = fresh()
    sizes = count_calls(monkeypatch, clip)
    encoded, same = fitted(clip, photographs.base.train, views=2)
    assert sum(sizes) == 4 * 6 and torch.allclose(looked_up.context, encoded.context, atol=1e-4)
    assert (history.loss - same.loss).abs().max() < 1e-3 and history.loss.nunique() == 4


def test_a_learner_of_the_image_tower_meets_the_same_crops(photographs, folder):
    clip, train = fresh(), photographs.base.train
    learner = built("ivlp", clip, train.classnames)
    draws = crops_met(train.labels, 2, 1)
    batch, = _image_batches(learner, train, draws, views=2)
    expected = crop_features(clip, train, 2)[[draw.seed for draw in draws[0]]]
    assert torch.allclose(batch.encode_image(), expected, atol=1e-6) and not torch.allclose(batch.image, expected, atol=1e-4)
    assert_equal(fitted(clip, train, "ivlp", epochs=2, views=2), fitted(clip, train, "ivlp", epochs=2, views=2))


def test_frozen_features_of_images_that_are_met_again_are_computed_once(monkeypatch, folder):
    clip, train = fresh(), load_dataset("world/textures", shots=2).base.train
    sizes = count_calls(monkeypatch, clip)
    learner = built("promptsrc", clip, train.classnames)
    draws = crops_met(train.labels, None, 3)
    for batch, drawn in zip(_image_batches(learner, train, draws), draws):
        rows = [draw.index for draw in drawn]
        assert torch.equal(batch.encode_image(), split_features(clip, train)[0][rows])
        assert torch.equal(batch.labels, train.labels[rows])
    assert sum(sizes) == len(train), "and not once in each of three epochs"


@pytest.mark.parametrize("workers", [0, 1])
def test_the_number_of_workers_changes_nothing(workers, photographs, folder):
    found = crop_features(fresh(), photographs.base.train, 2, workers)
    one_by_one = torch.cat([LOADED.encode_image(pixels) for pixels, _ in make_loader(
        photographs.base.train, LOADED.preprocess_cfg,
        draws=[[draw] for view in (0, 1) for draw in _view_draws(len(photographs.base.train), view)])])
    assert torch.allclose(found, one_by_one, atol=1e-6)


def test_views_of_more_images_than_are_encoded_at_once(folder):
    data = load_dataset("world/textures", shots=9).all
    train = replace(data.train, record=replace(data.train.record, crop=(0.5, 1.0)))
    assert len(train) > _ENCODED_AT_ONCE and len(train) % _ENCODED_AT_ONCE
    clip = fresh()
    found = crop_features(clip, train, 2).unflatten(0, (2, -1))
    for view, place in (0, 0), (1, 0), (1, _ENCODED_AT_ONCE), (1, len(train) - 1):
        pixels, _ = next(iter(make_loader(train, clip.preprocess_cfg, draws=[[_view_draws(len(train), view)[place]]])))
        assert torch.allclose(found[view, place], clip.encode_image(pixels)[0], atol=1e-6)


# ---- computed once

def test_training_opens_each_crop_once_and_a_second_run_none(photographs, folder, monkeypatch):
    clip, later, train = fresh(), fresh(), photographs.base.train
    sizes, later_sizes = count_calls(monkeypatch, clip), count_calls(monkeypatch, later)
    first = fitted(clip, train, epochs=7, views=3)
    assert sizes == [6, 6, 6] and len(list(folder.iterdir())) == 3
    assert_equal(first, fitted(later, train, epochs=7, views=3))
    fitted(later, train, "kgcoop", epochs=7, views=3, seed=2)
    assert later_sizes == [], "other learners and seeds find the same features"
    fitted(later, train, epochs=5, views=5)
    assert later_sizes == [6, 6], "only the two views that are new"
    fitted(later, train, epochs=2, views=16)
    assert later_sizes == [6, 6], "two epochs meet two views"


def test_training_opens_no_image_again(photographs, folder, monkeypatch):
    crop_features(LOADED, photographs.base.train, 2)
    monkeypatch.setattr("npt.data.images.open_image", lambda *given: pytest.fail(f"{given} was opened"))
    fitted(fresh(), photographs.base.train, views=2)


def test_a_view_that_was_lost_is_computed_alone(photographs, folder, monkeypatch):
    train = photographs.base.train
    whole = crop_features(fresh(), train, 3)
    (folder / f"{_feature_key(LOADED, train, 1)}.safetensors").unlink()
    clip = fresh()
    sizes = count_calls(monkeypatch, clip)
    assert torch.equal(crop_features(clip, train, 3), whole) and sizes == [6]


def test_crops_are_told_apart(photographs, folder):
    train = photographs.base.train
    tight = replace(train, record=replace(train.record, crop=(0.08, 0.1)))
    keys = [_feature_key(LOADED, train), *(_feature_key(LOADED, split, view) for split in (train, tight) for view in (0, 1))]
    assert len(set(keys)) == 5
    assert _feature_key(LOADED, tight) == keys[0], "without a view nothing is cropped"
    clip = fresh()
    found = [split_features(clip, train)[0], *(crop_features(clip, split, 2)[rows] for split in (train, tight)
                                               for rows in (slice(6), slice(6, 12)))]
    for number, one in enumerate(found):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in found[:number])


# ---- reproducible

def test_same_seed_and_views_same_bits_also_after_resuming(photographs, folder, tmp_path):
    train, settings = photographs.base.train, dict(objective="npt", views=3, epochs=5)
    whole = fitted(fresh(), train, **settings)
    with killed_after(2):
        fitted(fresh(), train, run_dir=tmp_path / "run", **settings)
    with pytest.raises(ValueError, match="views=3.*views=4"):
        fitted(fresh(), train, run_dir=tmp_path / "run", **{**settings, "views": 4})
    assert_equal(whole, fitted(fresh(), train, run_dir=tmp_path / "run", **settings))
    for views in 2, None:
        assert not torch.equal(whole[0].context, fitted(fresh(), train, **{**settings, "views": views})[0].context)


def test_the_memory_of_tip_adapter_is_the_mean_of_the_first_views(photographs, folder, monkeypatch):
    clip, train = fresh(), photographs.base.train
    expected = crop_features(clip, train, _REMEMBERED_CROPS).unflatten(0, (_REMEMBERED_CROPS, -1)).mean(0)
    sizes = count_calls(monkeypatch, clip)
    found, labels = _training_features(build_learner("tip_adapter", clip, train.classnames), train)
    assert torch.allclose(found, F.normalize(expected, dim=1), atol=1e-6) and sizes == []
    assert torch.equal(labels, train.labels) and torch.allclose(found.norm(dim=1), torch.ones(len(train)))


# ---- refused

@pytest.mark.parametrize("views", [0, -3])
def test_fewer_than_one_view_is_refused(views, photographs, tmp_path):
    for learner in "coop", "zero_shot":
        with pytest.raises(ValueError, match=f"views={views} must be at least 1"):
            fitted(LOADED, photographs.base.train, learner, views=views, run_dir=tmp_path)
    with pytest.raises(ValueError, match="views"):
        RunSettings(dataset="dtd", views=views)
    assert not list(tmp_path.iterdir())


def test_views_of_images_that_are_not_cropped_are_refused():
    data = load_dataset("world/textures", shots=1)
    for ask in (lambda: fitted(LOADED, data.base.train, views=4), lambda: RunSettings(dataset="world/textures", views=4),
                lambda: crop_features(LOADED, data.base.train, 4)):
        with pytest.raises(ValueError, match="views=4.*'world/textures' are never cropped: leave views=None"):
            ask()
    assert check_views(None, data.record) is None


# ---- runs

@pytest.fixture
def settings(noise_folder, tmp_path):
    return RunSettings(dataset="folder", data_root=str(noise_folder), runs_dir=str(tmp_path / "runs"), shots=2, epochs=3,
                       views=2)


def test_views_are_part_of_what_a_run_is(settings, folder):
    published = settings.model_copy(update=dict(views=None))
    assert settings.folder.parent.name == published.folder.parent.name + "-views2"
    metrics = do_run(settings)
    assert do_run(settings) == metrics and len(list(folder.glob("*"))) == 2 + 3, "train, base and novel as tested"
    differ = settings.model_copy(update=dict(views=3))
    settings.folder.parent.rename(differ.folder.parent)
    with pytest.raises(ValueError, match="views: 2 there, 3 asked for"):
        set_up(differ)


@pytest.mark.parametrize("learner", ["coop", "cocoop", "tip_adapter", "vpt", "ivlp", "lora"])
def test_a_run_evaluates_each_image_once_and_measures_the_same_collapse(learner, settings, folder, monkeypatch):
    run = set_up(settings.model_copy(update=dict(learner=learner, views=None, measure_every=0)))
    npt.study.runs.fit_run(run)
    run.clip.kept.clear()
    for file in folder.glob("*"):
        file.unlink()
    frozen, learned = count_calls(monkeypatch, run.clip), []
    through = run.learner.image_features  # of the base classes; the same prompts for the novel ones
    monkeypatch.setattr(type(run.learner), "image_features",
                        lambda self, pixels: learned.append(len(pixels)) or through(pixels))
    metrics = npt.study.runs.measure_run(run, 0.0)
    images = [len(run.data.base.test), len(run.data.novel.test)]
    if run.learner.learns_image:
        assert learned == images
    else:
        assert frozen == images and not learned, "zero-shot CLIP and the learner share the frozen tower's features"
    for when, one in ("before", run.zero_shot), ("after", run.learner):
        assert metrics["collapse"][when].items() >= npt.training.measure.measure_collapse(one, run.data.base.test).items(), "and angles"
    assert "base_collapse" not in metrics and "base_collapse" not in metrics["zero_shot"]


# ---- evaluation

@pytest.mark.parametrize("name", ["coop", "kgcoop", "clip_adapter"])
def test_the_text_tower_runs_once_however_many_chunks(name, photographs, folder, monkeypatch):
    monkeypatch.setattr("npt.training.evaluation.LOGITS_BATCH", 2)
    learner = build_learner(name, fresh(), photographs.base.classnames)
    text, calls = type(learner).text_features, []
    monkeypatch.setattr(type(learner), "text_features", lambda self: calls.append(1) or text(self))
    assert len(photographs.base.test) > 2
    measured = evaluate(learner, photographs.base.test, collapse=True)
    assert len(calls) == 1
    image, labels = split_features(learner.clip, photographs.base.test)
    with torch.no_grad():
        image = learner.adapt(image)
        assert measured["collapse"] == collapse_metrics(text(learner), image, labels)
        right = (image @ text(learner).T).argmax(1) == labels
    assert math.isclose(measured["accuracy"], right.double().mean() * 100)
    assert "collapse" not in evaluate(learner, photographs.base.test)


def test_hand_written_prompts_of_the_base_classes_are_not_encoded_again(photographs, folder, monkeypatch):
    learner = build_learner("zero_shot", fresh(), photographs.base.classnames)
    texts = count_calls(monkeypatch, learner.clip, "encode_text")
    measured = base_to_novel(learner, photographs, collapse=True)
    assert texts == [len(photographs.novel.classnames)] and "novel_collapse" in measured
    assert measured["base_collapse"].items() >= npt.training.measure.measure_collapse(learner, photographs.base.test).items()


@pytest.mark.parametrize("name", ["coop", "kgcoop", "tip_adapter", "tip_adapter_f", "ivlp", "cocoop"])
def test_known_class_vectors_give_the_same_logits(name, monkeypatch):
    learner = built(name, LOADED, ["red striped triangle", "blue dotted heart", "yellow zigzag ring"])
    image = F.normalize(torch.randn(5, LOADED.embed_dim, generator=torch.Generator().manual_seed(1)), dim=1)
    if learner.remembers:
        learner.remember(image.flip(0), torch.tensor([0, 1, 2, 0, 1]))
    (text, logits), known = learner.class_logits(image), learner.text_features()
    if name != "cocoop":  # whose vectors come from the images
        monkeypatch.setattr(type(learner), "text_features", lambda self: pytest.fail("the text tower ran again"))
    again, same = learner.class_logits(image, known)
    assert torch.equal(text, again) and torch.equal(logits, same)
    if name != "cocoop" and not learner.remembers:
        assert torch.allclose(learner.class_logits(image, known.flip(0))[1].flip(1), logits, atol=1e-4), "they were not used"


def test_cocoop_reduces_class_vectors_to_logits_part_by_part(monkeypatch):
    learner = build_learner("cocoop", LOADED, ["red striped triangle", "blue dotted heart", "yellow zigzag ring"])
    image = F.normalize(torch.randn(11, LOADED.embed_dim, generator=torch.Generator().manual_seed(1)), dim=1)
    text = learner.conditional_text_features(image)
    logits = learner.to_logits(torch.einsum("bd,bkd->bk", image, text))
    mean = F.normalize(text.mean(0), dim=1)
    held, make = [], type(learner).conditional_text_features
    monkeypatch.setattr(npt.context, "PROMPTS_AT_ONCE", 6)
    monkeypatch.setattr(type(learner), "conditional_text_features",
                        lambda self, part: held.append(len(part)) or make(self, part))
    with torch.no_grad():
        found = learner.class_logits(image)
    assert held == [2, 2, 2, 2, 2, 1]
    assert torch.allclose(found[0], mean, atol=1e-5) and torch.allclose(found[1], logits, atol=1e-3)
    learned = learner.class_logits(image)[1]
    assert held[6:] == [11], "where something is learned, the text tower's memory budget decides what is run in turn"
    assert torch.allclose(learned, logits, atol=1e-3)
    learned.sum().backward()
    assert learner.context.grad.norm() > 0
