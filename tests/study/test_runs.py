"Whole runs: repeated, killed and resumed, refused, damaged."

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from trained import SMALL, without_time

import npt
import npt.study.runs
from npt.data.load import load_dataset
from npt.learners.build import learner_names
from npt.learners.recipes import recipe
from npt.learners.saving import load_prompts
from npt.objectives.terms import NAMED_OBJECTIVES, TERMS
from npt.study.collect import do_runs
from npt.study.runs import _source_hash, do_run, fit_run, measure_run, set_up
from npt.study.settings import RunSettings
from npt.training.evaluation import evaluate
from npt.training.fit import fit

FILES = {"config.json", "metrics.json", "history.csv", "prompts.safetensors"}


def assert_same_files(one, other):
    "The same history and the same prompts, to the last bit; the order of a safetensors header is not fixed."
    assert (one / "history.csv").read_bytes() == (other / "history.csv").read_bytes()
    prompts = [load_file(folder / "prompts.safetensors") for folder in (one, other)]
    assert prompts[0].keys() == prompts[1].keys() and all(torch.equal(prompts[0][k], prompts[1][k]) for k in prompts[0])


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
    settings = RunSettings(dataset="world/textures", runs_dir=str(tmp_path / "killed"), shots=2, epochs=30)
    code = ("from npt.study.runs import do_run; from npt.study.settings import RunSettings; "
            f"do_run(RunSettings(**{settings.model_dump()!r}))")
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


@pytest.mark.parametrize("objective", ["own", "npt"])
@pytest.mark.parametrize("learner", learner_names())
def test_every_learner_runs_on_the_world(learner, objective, tmp_path):
    settings = RunSettings(dataset="world/textures", learner=learner, objective=objective, shots=1, epochs=2,
                           runs_dir=str(tmp_path))
    metrics = do_run(settings)
    assert 0 <= metrics["novel"] <= 100 and FILES <= {path.name for path in settings.folder.iterdir()}
    assert metrics["objective"] == str(recipe(learner, "world").objective_for(objective))
    learned = set_up(settings).learner
    load_prompts(learned, settings.folder / "prompts.safetensors")
    base = load_dataset("world/textures", shots=1).base
    assert evaluate(learned, base.test)["per_class"] == metrics["base_per_class"]


@pytest.mark.parametrize("learner", ["coop", "maple"])  # words in the text tower alone, and vectors in both towers
def test_every_objective_runs(learner, tmp_path):
    every_term = " + ".join(f"0.01*{name}" for name in TERMS)
    common = dict(dataset="world/textures", learner=learner, runs_dir=str(tmp_path), shots=1, epochs=2, measured_on="val")
    settings = [RunSettings(objective=objective, **common) for objective in (*NAMED_OBJECTIVES, every_term)]
    table = do_runs(settings)
    assert table.h.between(0, 100).all() and table.folder.nunique() == len(settings)


def test_own_settings_change_the_learner_and_the_folder(tmp_path):
    common = dict(dataset="world/textures", shots=1, epochs=1, measured_on="val", runs_dir=str(tmp_path))
    usual, own = RunSettings(**common), RunSettings(learner_settings='{"n_ctx": 3, "class_specific": true}', **common)
    assert usual.folder != own.folder and own.learner_settings == dict(n_ctx=3, class_specific=True)
    metrics = do_run(own)
    prompts = load_file(own.folder / "prompts.safetensors")
    assert [tuple(t.shape) for t in prompts.values()] == [(len(metrics["base_per_class"]), 3, 128)]
    assert metrics["novel"] != metrics["novel"] and metrics["h"] != metrics["h"], "contexts of a class know no other class"


@pytest.mark.parametrize("settings, error, said", [
    (dict(device="cuda:99"), ValueError, "device='cuda:99' is not there. This machine has: "),
    (dict(backbone="RN50", pretrained="gone.pt"), FileNotFoundError, "gone.pt"),
], ids=["device", "weights"])
def test_what_this_machine_has_not_is_refused_before_anything_is_written(settings, error, said, tmp_path):
    with pytest.raises(error, match=said):
        set_up(RunSettings(runs_dir=str(tmp_path), **settings))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def two_threads():
    "PyTorch with two threads, though the world's backbone asks for one."
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_are_those_of_before(two_threads, tmp_path, monkeypatch):
    at_work = []
    for name in "fit", "base_to_novel":
        step = getattr(npt.study.runs, name)
        monkeypatch.setattr(npt.study.runs, name, lambda *args, step=step, **settings:
                            at_work.append(torch.get_num_threads()) or step(*args, **settings))
    run = set_up(RunSettings(dataset="world/textures", shots=1, epochs=1, measured_on="val", runs_dir=str(tmp_path)))
    assert torch.get_num_threads() == 2
    fit_run(run)
    assert torch.get_num_threads() == 2
    measure_run(run, 0.0)
    assert torch.get_num_threads() == 2 and at_work == [1, 1, 1]
    with pytest.raises(ValueError, match="is not there"):
        set_up(RunSettings(device="cuda:99", runs_dir=str(tmp_path)))
    assert torch.get_num_threads() == 2


def test_every_setting_that_fit_knows_is_given_to_it_by_name(tmp_path, monkeypatch):
    settings = RunSettings(dataset="world/textures", learner="tcp", objective="ce + 0.5*tetf", num_clusters=3, shots=1, seed=2,
                           epochs=1, batch_size=5, lr=0.5, optimizer="adam", sampler="class_balanced", workers=0, measure_every=2,
                           measured_on="val", runs_dir=str(tmp_path))
    run, calls = set_up(settings), []
    monkeypatch.setattr(npt.study.runs, "fit", lambda *args, **given: calls.append((args, given)) or fit(*args, **given))
    fit_run(run, progress=False)
    (args, given), = calls
    assert args == (run.learner, run.trained.train)
    by_name = {name for name, one in inspect.signature(fit).parameters.items() if one.kind is one.KEYWORD_ONLY}
    known = RunSettings.model_fields.keys() & by_name
    assert len(known) == 11 and all(given[name] == getattr(settings, name) for name in known)
    assert given.keys() - known == {"test", "run_dir", "progress"}
    assert given["test"] == run.trained.val and given["run_dir"] == settings.folder and given["progress"] is False


def test_the_hash_of_the_source_covers_sub_packages(tmp_path, monkeypatch):
    copied = Path(shutil.copytree(Path(npt.__file__).parent, tmp_path / "npt", ignore=shutil.ignore_patterns("__pycache__")))
    hash_of_source = _source_hash.__wrapped__  # without its memory
    here = hash_of_source()
    monkeypatch.setattr(npt, "__file__", str(copied / "__init__.py"))
    assert hash_of_source() == here
    seen = {here}
    for path in copied / "__init__.py", copied / "learners" / "coop.py", copied / "study" / "deeper" / "new.py":
        path.parent.mkdir(exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + "# changed")
        seen.add(hash_of_source())
    assert len(seen) == 4


def folder_run(root, tmp_path, **settings):
    return do_run(RunSettings(dataset="folder", data_root=str(root), runs_dir=str(tmp_path / "runs"), **settings))


def test_photographs_of_every_kind(photographs, tmp_path):
    metrics = folder_run(photographs, tmp_path, **SMALL)
    assert metrics["train_counts"] == {"bird": 2, "cat": 2} and 0 <= metrics["h"] <= 100


def test_missing_root(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        folder_run(tmp_path / "nowhere", tmp_path)


def test_empty_root(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no class"):
        folder_run(tmp_path / "empty", tmp_path)


@pytest.mark.filterwarnings("ignore:.*(fewer|few photographs)")
def test_few_classes_and_few_photographs(photographs, tmp_path):
    for path in [*(photographs / "bird").iterdir()][1:]:
        path.unlink()  # a class that is tested only
    (photographs / "horse").mkdir()
    with pytest.warns(UserWarning, match="without a photograph.*'horse'"):
        metrics = folder_run(photographs, tmp_path, **SMALL)
    assert metrics["train_counts"] == {"bird": 0, "cat": 2} and 0 <= metrics["base"] <= 100
    with pytest.raises(ValueError, match="base class 'bird' has no val image"):
        folder_run(photographs, tmp_path, **SMALL | dict(measured_on="val"))
    for name in "bird", "dog":
        shutil.rmtree(photographs / name)
    metrics = folder_run(photographs, tmp_path / "two", **SMALL, classes="all")
    assert metrics["train_counts"] == {"cat": 2, "frog": 2}
    with pytest.raises(ValueError, match="has 2 classes, too few for two base and two novel ones: give classes='all'"):
        folder_run(photographs, tmp_path / "base", **SMALL)


def test_a_random_half_is_a_run_of_its_own(tmp_path):
    runs = [RunSettings(dataset="world/textures", runs_dir=str(tmp_path), class_split=split, **SMALL) for split in ("half", 3)]
    counts = [do_run(settings)["train_counts"].keys() for settings in runs]
    assert counts[0] != counts[1] and runs[1].folder != runs[0].folder and "half3" in str(runs[1].folder)


def test_file_that_is_no_image(photographs, tmp_path):
    (photographs / "cat" / "list.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match="list.jpg"):
        folder_run(photographs, tmp_path)


def test_image_that_is_cut_short(photographs, tmp_path):
    whole = (photographs / "cat" / "0.jpg").read_bytes()
    (photographs / "cat" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="0.jpg"):
        folder_run(photographs, tmp_path)


def test_truncated_prompts(finished, tmp_path):
    settings = finished[0].model_copy(update=dict(runs_dir=str(tmp_path)))
    shutil.copytree(finished[0].folder, settings.folder)
    path = settings.folder / "prompts.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="prompts.safetensors"):
        do_run(settings)


def test_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path), shots=2, epochs=6, lr=1e30)
    with pytest.raises(FloatingPointError, match=r"at step \d+ of epoch \d+"):
        do_run(settings)
    assert (settings.folder / "checkpoint.safetensors").exists() and not (settings.folder / "metrics.json").exists()
