"Whole runs: repeated, killed and resumed, refused, damaged."

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from shared import killed_after

from npt.clip.load import load_clip
from npt.objectives.terms import NAMED_OBJECTIVES, TERMS
from npt.data.load import load_dataset
from npt.training.evaluation import evaluate
from npt.learners.build import build_learner, learner_names
from npt.learners.recipes import recipe
from npt.learners.saving import load_prompts
from npt.study.collect import collect_runs, do_runs
from npt.study.runs import do_run, set_up
from npt.study.settings import RunSettings
from npt.training.fit.fit import fit

SMALL = dict(shots=2, epochs=3)
FILES = {"config.json", "metrics.json", "history.csv", "prompts.safetensors"}


def without_time(metrics):
    return {key: value for key, value in metrics.items() if key != "seconds"}


def assert_same_files(one, other):
    "The same history and the same prompts, to the last bit; the order of a safetensors header is not fixed."
    assert (one / "history.csv").read_bytes() == (other / "history.csv").read_bytes()
    prompts = [load_file(folder / "prompts.safetensors") for folder in (one, other)]
    assert prompts[0].keys() == prompts[1].keys() and all(torch.equal(prompts[0][k], prompts[1][k]) for k in prompts[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    settings = RunSettings(runs_dir=str(tmp_path_factory.mktemp("runs")), **SMALL)
    return settings, do_run(settings)


@pytest.fixture
def photographs(tmp_path):
    "Four classes of six photographs, in several formats, colours and directions."
    sideways = Image.Exif()
    sideways[0x0112] = 6
    for name, hue in (("bird", 20), ("cat", 60), ("dog", 100), ("frog", 200)):
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for number in range(6):
            image = Image.effect_noise((40 + number, 30), hue).convert(["RGB", "L", "CMYK", "RGBA", "P", "I;16"][number])
            ending = ["jpg", "png", "jpg", "webp", "gif", "png"][number]
            options = {"exif": sideways} if number == 0 else {}
            image.save(tmp_path / "photographs" / name / f"{number}.{ending}", **options)
    return tmp_path / "photographs"


def test_metrics_hold_what_is_promised(finished):
    settings, metrics = finished
    assert FILES == {path.name for path in settings.folder.iterdir()}
    for name in ("base", "novel", "h"):
        assert 0 <= metrics[name] <= 100 and 0 <= metrics["zero_shot"][name] <= 100
    assert set(metrics["collapse"]["before"]) == set(metrics["collapse"]["after"]) >= {"nc1", "nc3", "nc4"}
    assert metrics["seconds"] > 0 and {"npt", "torch", "open_clip_torch"} <= set(metrics["versions"])
    assert json.loads((settings.folder / "metrics.json").read_text()) == metrics
    assert len((settings.folder / "history.csv").read_text().splitlines()) == 1 + SMALL["epochs"]


def test_same_seed_same_numbers(finished, tmp_path):
    settings, metrics = finished
    again = settings.model_copy(update=dict(runs_dir=str(tmp_path)))
    assert without_time(do_run(again)) == without_time(metrics)
    assert_same_files(again.folder, settings.folder)


def test_another_seed_gives_other_numbers(finished, tmp_path):
    settings, metrics = finished
    other = settings.model_copy(update=dict(runs_dir=str(tmp_path), seed=2))
    assert without_time(do_run(other))["base_per_class"] != metrics["base_per_class"]


def test_finished_run_is_found_and_overwritten_only_when_asked(finished):
    settings, metrics = finished
    written = (settings.folder / "prompts.safetensors").stat().st_mtime_ns
    assert do_run(settings) == metrics and (settings.folder / "prompts.safetensors").stat().st_mtime_ns == written
    assert without_time(do_run(settings, overwrite=True)) == without_time(metrics)
    assert (settings.folder / "prompts.safetensors").stat().st_mtime_ns > written


def test_killed_run_resumes_to_the_same_numbers(tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path / "killed"), shots=2, epochs=30)
    code = f"from npt.runs import *; do_run(RunSettings(**{settings.model_dump()!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint, patience = settings.folder / "checkpoint.safetensors", time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < patience:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and not (settings.folder / "metrics.json").exists()
    resumed = do_run(settings)
    whole = settings.model_copy(update=dict(runs_dir=str(tmp_path / "whole")))
    assert without_time(resumed) == without_time(do_run(whole))
    assert_same_files(settings.folder, whole.folder)
    assert FILES == {path.name for path in settings.folder.iterdir()}


@pytest.mark.parametrize("learner", learner_names())
def test_every_learner_runs_on_the_world(learner, tmp_path):
    settings = RunSettings(dataset="world/textures", learner=learner, runs_dir=str(tmp_path), shots=1, epochs=2)
    metrics = do_run(settings)
    assert 0 <= metrics["novel"] <= 100 and FILES <= {path.name for path in settings.folder.iterdir()}
    learned = set_up(settings).learner
    load_prompts(learned, settings.folder / "prompts.safetensors")
    base = load_dataset("world/textures", shots=1).base
    assert evaluate(learned, base.test)["per_class"] == metrics["base_per_class"]


@pytest.mark.parametrize("learner", learner_names())
def test_every_objective_runs_with_every_learner(learner, tmp_path):
    every_term = " + ".join(f"0.01*{name}" for name in TERMS)
    common = dict(dataset="world/textures", learner=learner, runs_dir=str(tmp_path), shots=1, epochs=2, measured_on="val")
    settings = [RunSettings(objective=objective, **common) for objective in ("own", *NAMED_OBJECTIVES, every_term)]
    table = do_runs(settings)
    assert table.h.between(0, 100).all() and table.folder.nunique() == len(settings)
    assert table.minimised[0] == str(recipe(learner, "world").objective_for("own"))


@pytest.mark.parametrize("learner", ["promptsrc", "tcp", "tip_adapter_f"])
def test_averages_optimisers_and_caches_survive_a_kill(learner, tmp_path):
    data, settings = load_dataset("world/textures", shots=2), recipe(learner, "world").settings

    def fitted(run_dir=None):
        built = build_learner(learner, load_clip("world"), data.base.classnames, **settings)
        return built, fit(built, data.base.train, epochs=4, run_dir=run_dir)

    whole, history = fitted()
    with killed_after(2):
        fitted(tmp_path)
    resumed, rest = fitted(tmp_path)
    assert rest.equals(history)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_own_settings_change_the_learner_and_the_folder(tmp_path):
    common = dict(dataset="world/textures", shots=1, epochs=1, measured_on="val", runs_dir=str(tmp_path))
    usual, own = RunSettings(**common), RunSettings(learner_settings='{"n_ctx": 3, "class_specific": true}', **common)
    assert usual.folder != own.folder and own.learner_settings == dict(n_ctx=3, class_specific=True)
    metrics = do_run(own)
    prompts = load_file(own.folder / "prompts.safetensors")
    assert [tuple(t.shape) for t in prompts.values()] == [(len(metrics["base_per_class"]), 3, 128)]
    assert metrics["novel"] != metrics["novel"] and metrics["h"] != metrics["h"], "contexts of a class know no other class"
    with pytest.raises(ValueError, match="n_contexts.*Did you mean 'n_ctx'"):
        RunSettings(learner_settings=dict(n_contexts=3))


def test_a_failed_run_stops_no_other(tmp_path):
    common = dict(dataset="world/textures", shots=1, epochs=1, measured_on="val", runs_dir=str(tmp_path))
    bad = RunSettings(learner="maple", learner_settings=dict(depth=99), **common)
    good = [RunSettings(seed=seed, **common) for seed in (1, 2)]
    with pytest.raises(RuntimeError, match="1 of 3 runs failed[\\s\\S]*maple.*ValueError"):
        do_runs([good[0], bad, good[1]], jobs=2)
    written = [one.folder / "metrics.json" for one in good]
    before = [path.stat().st_mtime_ns for path in written]
    assert do_runs(good).seed.tolist() == [1, 2] and [path.stat().st_mtime_ns for path in written] == before


def test_runs_are_collected(finished):
    settings, metrics = finished
    table = collect_runs(settings.runs_dir)
    assert len(table) == 1 and table.h[0] == metrics["h"] and table.objective[0] == "npt"
    assert table.zero_shot_base[0] == metrics["zero_shot"]["base"] and table.after_nc3[0] == metrics["collapse"]["after"]["nc3"]


BAD = {
    "dataset": (dict(dataset="world/shpaes"), "world/shapes"),
    "learner": (dict(learner="coopp"), "'coop'"),
    "objective": (dict(objective="ce + lcc"), "lc"),
    "backbone": (dict(backbone="ViT-B-61"), "ViT-B-16"),
    "tau": (dict(tau=0.0), "greater than 0"),
    "tau above 1": (dict(tau=1.2), "less than or equal to 1"),
    "shots": (dict(shots=0), "greater than or equal to 1"),
    "precision": (dict(precision="fp8"), "fp8"),
    "device": (dict(device="cuda:99"), "cuda:99"),
    "quickgelu": (dict(backbone="ViT-B-16", pretrained="openai"), "ViT-B-16-quickgelu"),
    "profile": (dict(profile="linear"), "'exp' or 'step'"),
    "misspelt setting": (dict(epoch=3), "epoch"),
}


@pytest.mark.parametrize("settings, said", BAD.values(), ids=BAD)
def test_bad_settings_are_refused_before_anything_is_written(settings, said, tmp_path):
    with pytest.raises(ValueError, match=re.escape(said)):
        do_run(RunSettings(runs_dir=str(tmp_path), **settings))
    assert not list(tmp_path.iterdir())


def folder_run(root, tmp_path, **settings):
    return do_run(RunSettings(dataset="folder", data_root=str(root), runs_dir=str(tmp_path / "runs"), **settings))


def test_photographs_of_every_kind(photographs, tmp_path):
    metrics = folder_run(photographs, tmp_path, **SMALL)
    assert metrics["train_counts"] == {"bird": 2, "cat": 2} and 0 <= metrics["h"] <= 100


def test_photographs_are_split_the_same_way_each_time(photographs):
    first, second = (load_dataset("folder", root=photographs, shots=2) for _ in range(2))
    assert first.all == second.all
    names = [{item.image for item in split.items} for split in (first.all.train, first.all.val, first.all.test)]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]


def test_missing_root(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        folder_run(tmp_path / "nowhere", tmp_path)


def test_no_root():
    with pytest.raises(ValueError, match="data_root"):
        load_dataset("folder")


def test_empty_root(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds 0 folders"):
        folder_run(tmp_path / "empty", tmp_path)


def test_class_without_images(photographs, tmp_path):
    (photographs / "horse").mkdir()
    with pytest.raises(ValueError, match="'horse' has 0 images"):
        folder_run(photographs, tmp_path)


def test_file_that_is_no_image(photographs, tmp_path):
    (photographs / "cat" / "list.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match="list.jpg"):
        folder_run(photographs, tmp_path)


def test_image_that_is_cut_short(photographs, tmp_path):
    whole = (photographs / "cat" / "0.jpg").read_bytes()
    (photographs / "cat" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="0.jpg"):
        folder_run(photographs, tmp_path)


def test_more_shots_than_images_warns_and_goes_on(photographs):
    with pytest.warns(UserWarning, match="fewer than 16"):
        data = load_dataset("folder", root=photographs, shots=16)
    assert data.base.train.counts == [3, 3]


def test_folder_of_other_settings_is_not_trained_into(finished):
    settings, _ = finished
    with pytest.raises(ValueError, match="epochs: 3 there, 4 asked for"):
        set_up(settings.model_copy(update=dict(epochs=4)))


def test_truncated_prompts(finished, tmp_path):
    settings = finished[0].model_copy(update=dict(runs_dir=str(tmp_path)))
    do_run(settings)
    path = settings.folder / "prompts.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="prompts.safetensors"):
        do_run(settings)


def test_damaged_metrics(finished, tmp_path):
    settings = finished[0].model_copy(update=dict(runs_dir=str(tmp_path)))
    do_run(settings)
    (settings.folder / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="metrics.json"):
        do_run(settings)


def test_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path), shots=2, epochs=6, lr=1e30)
    with pytest.raises(FloatingPointError, match=r"at step \d+ of epoch \d+"):
        do_run(settings)
    assert (settings.folder / "checkpoint.safetensors").exists() and not (settings.folder / "metrics.json").exists()


@pytest.mark.parametrize("tau, least", [(1.0, 16), (0.25, 4), (0.0625, 1)])
def test_training_counts_follow_tau(tau, least):
    base = load_dataset("world/shapes", shots=16, tau=tau).base.train
    assert (max(base.counts), min(base.counts)) == (16, least)
    assert torch.equal(base.labels.bincount(), torch.tensor(base.counts))
