"Features of crops that no run meets twice: those of the plain order, computed once for all runs that meet them, and bounded on disk."

import multiprocessing
import os
import sys
from dataclasses import replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Thread

import pytest
import torch
from shared import LOADED, count_calls, fresh, in_world

from npt.data import fresh_crops
from npt.data.fresh_crops import _crops_of, _fresh_features, _next_features
from npt.data.images import Draw, make_loader
from npt.data.kept import _claim, _make_room
from npt.data.load import load_dataset
from npt.data.split import Split
from npt.training.batches import _epoch_draws, _image_batches
from npt.training.fit import fit

EPOCHS = [[Draw(place, 10 * epoch + place) for place in (2, 0, 1, 5, 4, 3)] for epoch in range(3)]


@pytest.fixture(scope="module")
def cropped(noise_folder) -> Split:
    "Two classes of photographs, three to train on of each, which are cropped at random."
    return load_dataset("folder", root=noise_folder, shots=3).base.train


@pytest.fixture
def kept(folder):
    "Where the features of fresh crops lie."
    return folder.parent / "crops"


def files(kept) -> list:
    return sorted(kept.glob("*.safetensors"))


@pytest.mark.parametrize("workers", [0, 1])
def test_features_are_those_of_the_plain_order(workers, cropped, kept, monkeypatch):
    monkeypatch.setattr(fresh_crops, "_ENCODED_AT_ONCE", 4)  # the last of an epoch are fewer
    made = list(_fresh_features(fresh(), cropped, EPOCHS, workers))
    for features, (pixels, _) in zip(made, make_loader(cropped, LOADED.preprocess_cfg, draws=EPOCHS), strict=True):
        assert torch.allclose(features, LOADED.encode_image(pixels), atol=1e-6)
    assert len(files(kept)) == 3


def test_workers_and_batches_change_no_bit(cropped, folder, monkeypatch):
    learner, met = in_world("coop", fresh(), cropped.classnames), {}
    for number, (size, workers) in enumerate([(4, 0), (4, 1), (3, 0)]):
        monkeypatch.setenv("NPT_CACHE", str(folder / str(number)))
        draws = [batch for epoch in range(2) for batch in _epoch_draws(cropped.labels, "plain", size, 1, epoch, 2)]
        batches = list(_image_batches(learner, cropped, draws, workers))
        assert [len(batch.labels) for batch in batches] == [len(batch) for batch in draws]
        assert torch.equal(torch.cat([batch.labels for batch in batches]), cropped.labels[[d.index for b in draws for d in b]])
        met[number] = torch.cat([batch.given for batch in batches])
    assert torch.equal(met[0], met[1]) and torch.equal(met[0], met[2])


def test_another_run_with_the_same_crops_opens_and_encodes_nothing(cropped, kept, monkeypatch):
    first = fit(in_world("coop", fresh(), cropped.classnames), cropped, objective="ce", epochs=2, batch_size=4, progress=False, measure_every=0)
    clip = fresh()
    sizes = count_calls(monkeypatch, clip)
    monkeypatch.setattr("npt.data.images._open_image", lambda *_: pytest.fail("an image is opened"))
    again = fit(in_world("coop", clip, cropped.classnames), cropped, objective="ce", epochs=2, batch_size=4, progress=False, measure_every=0)
    assert again.equals(first)
    fit(in_world("kgcoop", clip, cropped.classnames), cropped, objective="npt", epochs=2, batch_size=3, progress=False, measure_every=0)
    assert sizes == [] and len(files(kept)) == 2


def test_other_draws_images_and_crops_are_told_apart(cropped, folder):
    tight = replace(cropped, record=replace(cropped.record, crop=(0.5, 1.0)))
    paths = [_crops_of(LOADED, split, 0).path(draws) for split, draws in [
        (cropped, EPOCHS[0]), (cropped, EPOCHS[1]), (cropped, EPOCHS[0][::-1]), (tight, EPOCHS[0]), (cropped.take([1, 0, 2, 3, 4, 5]), EPOCHS[0])]]
    assert len(set(paths)) == 5


def test_a_damaged_file_is_replaced(cropped, kept):
    expected, = _fresh_features(fresh(), cropped, EPOCHS[:1])
    path, = files(kept)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again, = _fresh_features(fresh(), cropped, EPOCHS[:1])
    assert torch.equal(again, expected) and path.read_bytes() == whole


def test_where_nothing_can_be_kept_the_run_goes_on_and_says_so(cropped, kept, monkeypatch):
    crops = _crops_of(fresh(), cropped, 0)
    kept.write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="cannot be kept.*NPT_CACHE"):
        features = _next_features(crops, EPOCHS)
    assert features.shape == (6, LOADED.embed_dim)


def test_what_was_not_asked_for_longest_makes_room(cropped, kept, monkeypatch):
    list(_fresh_features(fresh(), cropped, EPOCHS))
    paths = [_crops_of(LOADED, cropped, 0).path(draws) for draws in EPOCHS]
    for age, path in zip((3, 1, 2), paths):
        os.utime(path, (1e9 - age, 1e9 - age))
    next(_fresh_features(fresh(), cropped, EPOCHS[:1]))  # asked for again, and now the newest
    monkeypatch.setattr("npt.data.kept._MOST_KEPT", 2.5 * paths[0].stat().st_size)
    _make_room(kept)
    assert [path.exists() for path in paths] == [True, True, False]


def test_a_file_of_somebody_else_that_may_not_be_removed_stops_no_run(cropped, kept, monkeypatch):
    remove = Path.unlink

    def refuse(path, missing_ok=False):
        if path.suffix == ".safetensors":
            raise PermissionError("in a folder of somebody else's")
        remove(path, missing_ok)

    expected = list(_fresh_features(fresh(), cropped, EPOCHS))
    files(kept)[0].unlink()
    monkeypatch.setattr("npt.data.kept._MOST_KEPT", 0)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    assert all(torch.equal(a, b) for a, b in zip(_fresh_features(fresh(), cropped, EPOCHS), expected, strict=True))


def test_what_another_process_computes_is_waited_for_and_a_later_epoch_done_meanwhile(cropped, kept, monkeypatch):
    crops = _crops_of(fresh(), cropped, 0)
    order = []
    monkeypatch.setattr(fresh_crops, "_encode_draws", lambda crops, draws: order.append(EPOCHS.index(draws)) or torch.ones(6, LOADED.embed_dim))
    monkeypatch.setattr(fresh_crops, "_WAIT", 0.01)
    with _claim(crops.path(EPOCHS[0])):
        waiting = Thread(target=_next_features, args=[crops, EPOCHS])
        waiting.start()
        while len(files(kept)) < 2:
            assert waiting.is_alive()
    waiting.join()
    assert order == [1, 2, 0]


def count_encoded(split: Split, start: Barrier, counts: Queue) -> None:
    "What one of several processes does: all epochs, and then it tells how many it encoded itself."
    clip, sizes = fresh(), []
    clip.encode_image = lambda pixels: sizes.append(len(pixels)) or LOADED.encode_image(pixels)
    start.wait()
    for _ in _fresh_features(clip, split, [[Draw(place, 10 * epoch + place) for place in range(6)] for epoch in range(12)], 0):
        pass
    counts.put(len(sizes))


@pytest.mark.skipif(sys.platform != "linux", reason="forks, which is quick")
def test_two_processes_share_the_work(cropped, kept):
    fork = multiprocessing.get_context("fork")
    start, counts = fork.Barrier(2), fork.Queue()
    runs = [fork.Process(target=count_encoded, args=(cropped, start, counts)) for _ in range(2)]
    for run in runs:
        run.start()
    encoded = [counts.get(timeout=60) for _ in runs]
    for run in runs:
        run.join()
    assert sum(encoded) == 12 == len(files(kept))
