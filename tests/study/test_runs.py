"Whole runs: repeated, killed and resumed, refused, damaged; of crops; and of every published dataset in miniature."

import inspect
import json
import multiprocessing
import re
import shutil
import signal
import time
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from forked import Fork, do_settings
from miniature import CLASSNAMES, PUBLISHED, make_mirror, make_tree
from PIL import Image
from safetensors.torch import load_file, save_file
from server import serve
from shared import count_calls
from tiny import tiny_backbones
from torch.optim.optimizer import register_optimizer_step_post_hook
from trained import SMALL, without_time, write_texts

import npt
import npt.data.prepare
import npt.study.runs
import npt.training.fit
from npt._files import write_text
from npt._lock import _HELD
from npt.clip.load import load_clip
from npt.data.datasets import DATASETS, find_dataset
from npt.data.formats import _list_rows
from npt.data.load import load_dataset
from npt.learners.build import build_learner, learner_names
from npt.learners.recipes import _WORLD_RECIPES, _Tuned, recipe
from npt.learners.saving import load_prompts, save_prompts
from npt.objectives.terms import TERMS
from npt.study.folder import RunFolder, read_metrics
from npt.study.restore import load_run
from npt.study.runs import _peak_memory, _source_hash, do_run, fit_run, measure_run, set_up, set_up_baseline
from npt.study.settings import RunSettings
from npt.study.transfer import transfer
from npt.training.evaluation import base_to_novel, evaluate
from npt.training.fit import fit
from npt.training.measure import measure_collapse
from npt.training.sessions import _incremental_metrics, load_sessions

FILES = {"config.json", "inputs.json", "metrics.json", "history.csv", "prompts.safetensors", "SHA256SUMS"}


def files_in(folder: Path) -> set[str]:
    "What lies in a run's folder, beside its lock."
    return {path.name for path in folder.iterdir()} - {".lock"}


def assert_same_files(one, other):
    "The same history, prompts and inputs, to the last byte."
    for name in "history.csv", "prompts.safetensors", "inputs.json":
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.fixture
def photographs(tmp_path):
    "Four classes of six photographs, in several formats, colours and directions."
    sideways = Image.Exif()
    sideways[0x0112] = 6
    for name, hue in (("bird", 20), ("cat", 60), ("dog", 100), ("frog", 200)):
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for number in range(6):
            image = Image.effect_noise((40 + number, 30), hue).convert(["RGB", "L", "CMYK", "RGBA", "P", "L"][number])
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if number == 5 else image  # 16 bits
            ending = ["jpg", "png", "jpg", "webp", "gif", "png"][number]
            options = {"exif": sideways} if number == 0 else {}
            image.save(tmp_path / "photographs" / name / f"{number}.{ending}", **options)
    return tmp_path / "photographs"


def test_metrics_hold_what_is_promised(finished):
    settings, metrics = finished
    assert FILES == files_in(settings.folder)
    for name in ("base", "novel", "h"):
        assert 0 <= metrics[name] <= 100 and 0 <= metrics["zero_shot"][name] <= 100
    assert set(metrics["collapse"]["before"]) == set(metrics["collapse"]["after"]) >= {"nc1", "nc3", "nc4"}
    assert metrics["seconds"] > 0 and {"npt", "torch", "open_clip_torch"} <= set(metrics["versions"])
    assert metrics["versions"]["device"] == "cpu" and metrics["versions"]["precision"] == "fp32" and "peak_gigabytes" not in metrics
    assert set(metrics["times"]) == {"images_per_second", "text_seconds", "image_seconds", "loading_seconds", "measuring_seconds"}
    assert min(metrics["times"]["images_per_second"], metrics["times"]["text_seconds"], metrics["times"]["measuring_seconds"]) > 0
    assert json.loads((settings.folder / "metrics.json").read_text()) == metrics
    assert len((settings.folder / "history.csv").read_text().splitlines()) == 1 + SMALL["epochs"]


def test_the_memory_of_a_gpu_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2.5e9 * (device.index + 1))
    assert _peak_memory(torch.device("cuda:1")) == {"peak_gigabytes": 5.0} and _peak_memory(torch.device("cpu")) == {}


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
    set_up(settings, overwrite=True)
    assert without_time(do_run(settings)) == without_time(metrics)
    assert (settings.folder / "prompts.safetensors").stat().st_mtime_ns > written


def test_killed_run_resumes_to_the_same_numbers(tmp_path):
    settings = RunSettings(dataset="world/textures", learner="coop", runs_dir=str(tmp_path / "killed"), shots=2, epochs=30)
    process = Fork(do_settings, settings.model_dump_json())
    checkpoint, patience = settings.folder / "checkpoint.safetensors", time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < patience:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL and checkpoint.exists() and not (settings.folder / "metrics.json").exists()
    resumed = do_run(settings)
    whole = settings.model_copy(update=dict(runs_dir=str(tmp_path / "whole")))
    assert without_time(resumed) == without_time(do_run(whole))
    assert_same_files(settings.folder, whole.folder)
    assert FILES == files_in(settings.folder)


def overwrite(settings: RunSettings) -> None:
    with closing(set_up(settings, overwrite=True)) as run:
        fit_run(run, progress=False)
        measure_run(run, 1.0)


def at_once(settings: RunSettings, ways: list, start: float) -> list:
    "Do a run in several processes, which begin at one moment."
    def work(way):
        time.sleep(max(start - time.monotonic(), 0))
        way(settings)

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(way,)) for way in ways]
    for process in processes:
        process.start()
    return processes


def test_processes_that_want_one_run_at_once_never_mix(finished, tmp_path, capfd):
    "Three that overwrite and two that do not: each does it whole or finds it finished, and those that wait say for whom."
    settings = finished[0].model_copy(update=dict(runs_dir=str(tmp_path / "runs")))
    processes = at_once(settings, [overwrite, do_run, overwrite, do_run, overwrite], time.monotonic() + 1)
    for process in processes:
        process.join()
    said = capfd.readouterr().err
    assert [process.exitcode for process in processes] == [0] * 5, said
    told = re.findall(r"is in use by process (\d+) on \S+ since .*: waiting", said)
    assert len(told) >= 3 and {int(number) for number in told} <= {process.pid for process in processes} and "Traceback" not in said
    assert files_in(settings.folder) == FILES
    assert_same_files(settings.folder, finished[0].folder)
    assert without_time(read_metrics(RunFolder(settings.folder))) == without_time(finished[1])


def test_a_run_that_is_set_up_is_held_until_it_is_closed_or_forgotten(tmp_path):
    settings = RunSettings(dataset="world/textures", learner="coop", shots=1, epochs=1, measured_on="val", runs_dir=str(tmp_path))
    run = set_up(settings)
    own = set_up_baseline(run)
    assert {path.parent for _, path in _HELD} == {run.folder.path.resolve(), own.folder.path.resolve()}
    again = set_up(settings)
    run.close()
    run.close()
    assert len(_HELD) == 2, "this process has it twice"
    del own, again
    assert not _HELD
    do_run(settings, progress=False)
    assert not _HELD


def test_a_run_that_was_interrupted_in_its_first_epoch_goes_on_in_the_same_kernel(finished, tmp_path, capfd):
    "Where it was interrupted at any time, the cell is run again on the same objects."
    settings = finished[0].model_copy(update=dict(runs_dir=str(tmp_path)))
    run, steps = set_up(settings), iter(range(100))

    def stop(*_):
        if next(steps) == 0:
            raise KeyboardInterrupt

    hook = register_optimizer_step_post_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        fit_run(run, progress=False)
    hook.remove()
    assert [line for line in capfd.readouterr().err.splitlines() if line.startswith("Interrupted")] == [
        f"Interrupted: 0 of 3 epochs are kept in {str(settings.folder / 'checkpoint.safetensors')!r}; the same fit, called again, goes on from there"]
    with pytest.raises(ValueError, match="nothing was fitted in .* yet: call fit_run first"):
        measure_run(run, 0.0)
    fit_run(run, progress=False)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(npt.study.runs, "base_to_novel", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        measure_run(run, 0.0)
    assert "Interrupted: what was learned is kept" in capfd.readouterr().err
    assert without_time(measure_run(run, 0.0)) == without_time(finished[1])
    assert_same_files(settings.folder, finished[0].folder)


def test_an_interrupt_before_the_first_step_says_how_to_go_on_too(tmp_path, monkeypatch, capfd):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(npt.study.runs, "load_clip", interrupt)
    with pytest.raises(KeyboardInterrupt):
        do_run(RunSettings(runs_dir=str(tmp_path)))
    assert capfd.readouterr().err == "Interrupted: nothing was changed; the same call begins again\n" and not list(tmp_path.iterdir())


def test_more_clusters_than_classes_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="10 classes can form 1 to 10 clusters, not num_clusters=11"):
        set_up(RunSettings(learner="coop", objective="cpt", num_clusters=11, runs_dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_run_that_failed_for_its_lr_can_be_asked_for_with_another(few_pictures, tmp_path):
    settings = RunSettings(dataset="world/textures", learner="coop", runs_dir=str(tmp_path), shots=2, epochs=3, lr=1e30)
    with pytest.raises((FloatingPointError, ValueError), match="infinite|not finite"):
        do_run(settings, progress=False)
    other = settings.model_copy(update=dict(lr=0.01))
    assert do_run(other, progress=False)["h"] > 0 and other.folder.parent.parent == settings.folder.parent.parent


@pytest.mark.parametrize("learner", learner_names())
def test_every_learner_runs_on_the_world(learner, few_pictures, tmp_path):
    "With NPT, whose terms join those of the method's own objective."
    settings = RunSettings(dataset="world/textures", learner=learner, objective="npt", shots=1, epochs=2, runs_dir=str(tmp_path))
    metrics = do_run(settings)
    learned = set_up(settings).learner
    for side, there in dict(base=True, novel=learned.transfers, h=learned.transfers).items():
        assert 0 <= metrics[side] <= 100 if there else metrics[side] != metrics[side]
    assert FILES <= {path.name for path in settings.folder.iterdir()}
    assert metrics["objective"] == str(recipe(learner, "world").objective_for("npt"))
    load_prompts(learned, settings.folder / "prompts.safetensors")
    assert do_run(settings) == metrics or metrics["h"] != metrics["h"], "it is found finished, also where nothing was trained"
    base = load_dataset("world/textures", shots=1).base
    assert evaluate(learned, base.test)["per_class"] == metrics["base_per_class"]


OF_ONE_LEARNER = {"clap": "clap", "head_ce": "dept", "token_ce": "mmrl", "con_text": "coprompt", "hard_negatives": "dpc", "kd": "promptkd"}  # terms that read what one learner alone gives


@pytest.mark.parametrize("learner", ["coop", "maple", "clap", "coprompt"])  # words in the text tower alone, vectors in both towers, and class vectors
def test_a_sum_of_all_terms_runs(learner, few_pictures, tmp_path):
    "Of which the named objectives are parts; `training/test_fit.py` trains each of them."
    terms = [name for name in TERMS if OF_ONE_LEARNER.get(name, learner) == learner]
    settings = RunSettings(dataset="world/textures", learner=learner, objective=" + ".join(f"0.01*{name}" for name in terms), shots=1,
                           epochs=2, measured_on="val", runs_dir=str(tmp_path))
    assert 0 <= do_run(settings)["base"] <= 100


def test_own_settings_change_the_learner_and_the_folder(tmp_path):
    common = dict(dataset="world/textures", learner="coop", shots=1, epochs=1, measured_on="val", runs_dir=str(tmp_path))
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
    run = set_up(RunSettings(dataset="world/textures", learner="coop", shots=1, epochs=1, measured_on="val", runs_dir=str(tmp_path)))
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
                           epochs=1, batch_size=5, lr=0.5, optimizer="adam", weight_decay=0.1, sampler="class_balanced", workers=0, measure_every=2,
                           measured_on="val", runs_dir=str(tmp_path))
    run, calls = set_up(settings), []
    monkeypatch.setattr(npt.study.runs, "fit", lambda *args, **given: calls.append((args, given)) or fit(*args, **given))
    fit_run(run, progress=False)
    (args, given), = calls
    assert args == (run.learner, run.trained.train)
    by_name = {name for name, one in inspect.signature(fit).parameters.items() if one.kind is one.KEYWORD_ONLY}
    known = RunSettings.model_fields.keys() & by_name
    assert len(known) == 13 and all(given[name] == getattr(settings, name) for name in known)
    assert given.keys() - known == {"test", "run_dir", "progress", "all_classnames"} and given["all_classnames"] == run.data.all.classnames
    assert given["test"] == run.trained.val and given["run_dir"] == settings.folder and given["progress"] is False


def test_graphs_are_refused_on_a_processor_before_anything_is_written(tmp_path):
    settings = RunSettings(dataset="world/textures", learner="coop", shots=1, device="cpu", graphs=True, runs_dir=str(tmp_path))
    with pytest.raises(ValueError, match="graphs=True cannot be for the learner 'coop'.*is on cpu. Set graphs=False"):
        set_up(settings)
    assert not any(tmp_path.iterdir())


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
    return do_run(RunSettings(dataset="folder", learner="coop", backbone="world", data_root=str(root), runs_dir=str(tmp_path / "runs"), **settings))


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


@pytest.mark.filterwarnings("ignore:.*(fewer|few photographs)")
def test_one_photograph_a_class_is_refused_before_anything_is_written(photographs, tmp_path):
    for path in photographs.glob("*/[1-5].*"):
        path.unlink()
    for learner in "coop", "tip_adapter", "tip_adapter_f":
        with pytest.raises(ValueError, match=f"no training images of 'folder', and '{learner}' learns from them"):
            set_up(RunSettings(dataset="folder", learner=learner, backbone="world", data_root=str(photographs), runs_dir=str(tmp_path / "runs"), **SMALL))
    assert not (tmp_path / "runs").exists()


def long_name(words: int) -> str:
    return " ".join(["very"] * words) + " frog"


@pytest.mark.parametrize("own", [
    dict(learner="coop", template="a nice and very sharp old photo of one single {}."),  # a longer prompt than the learner's
    dict(learner="maple", template="ensemble"),
    dict(learner="coop", learner_settings=dict(n_ctx=1, ctx_init=None)),
], ids=["template", "ensemble", "short context"])  # fmt: skip
def test_a_novel_name_too_long_for_zero_shot_is_found_before_training(own, photographs, tmp_path):
    clip = load_clip("world")
    words = next(n for n in range(1, 80) if not clip.fits([f"a photo of a {long_name(n)}."])[0])
    (photographs / "classnames.txt").write_text(f"frog {long_name(words - (0 if 'template' not in own else 2))}\n")
    with pytest.raises(ValueError, match="Text too long for the .* tokens of world"):
        set_up(RunSettings(**dict(dataset="folder", backbone="world", data_root=str(photographs), runs_dir=str(tmp_path / "runs"), **SMALL) | own))
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_run_goes_on_with_weights_that_were_moved(noise_folder, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    common = dict(dataset="folder", data_root=str(noise_folder), learner="coop", backbone="small-quickgelu", runs_dir=str(tmp_path / "runs"))
    with tiny_backbones(tmp_path):
        save_file(open_clip.create_model("small-quickgelu").state_dict(), path)
        run = set_up(RunSettings(pretrained=str(path), **common, **SMALL))
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(npt.training.fit, "_save_checkpoint", lambda *args, save=npt.training.fit._save_checkpoint: save(*args) or 1 / 0)
            fit_run(run, progress=False)
        again = set_up(RunSettings(pretrained=str(path.rename(tmp_path / "moved.safetensors")), **common, **SMALL))
        assert (again.folder.path / "checkpoint.safetensors").exists() and len(fit_run(again, progress=False)) == 3


def test_a_run_is_told_its_classes_by_sentences_and_never_found_for_others(tmp_path):
    texts = write_texts(tmp_path / "texts.json")
    plain, told = (RunSettings(dataset="world/textures", learner="coop", objective="kgcoop", runs_dir=str(tmp_path / "runs"), descriptions=path,
                               **SMALL) for path in (None, texts))
    before, after = do_run(plain), do_run(told)
    assert plain.folder != told.folder and before["zero_shot"]["base"] != after["zero_shot"]["base"]
    histories = [(one.folder / "history.csv").read_text() for one in (plain, told)]
    assert histories[0] != histories[1], "what the prompts are held to is another anchor"
    assert "descriptions" in json.loads((told.folder / "inputs.json").read_text())
    moved = RunSettings(**told.model_dump() | dict(descriptions=write_texts(tmp_path / "elsewhere" / "texts.json")))
    assert do_run(moved) == after, "a file that says the same elsewhere is the same"
    write_texts(tmp_path / "texts.json", "This is no {}.")
    with pytest.raises(ValueError, match="the descriptions are [0-9a-f]{12}, and were [0-9a-f]{12}"):
        set_up(told)


@pytest.mark.parametrize("part, named", [("base", 0), ("novel", -1)])
def test_a_class_of_which_nothing_is_said_is_named_before_anything_is_written(part, named, tmp_path):
    classnames = getattr(load_dataset("world/textures", shots=1), part).classnames
    path = write_texts(tmp_path / "texts.json")
    texts = json.loads(Path(path).read_text())
    del texts[classnames[named].upper()]
    Path(path).write_text(json.dumps(texts))
    with pytest.raises(ValueError, match=f"No description of the class {classnames[named]!r} is given"):
        set_up(RunSettings(dataset="world/textures", learner="coop", runs_dir=str(tmp_path / "runs"), descriptions=path, **SMALL))
    assert not (tmp_path / "runs").exists()
    with pytest.raises(FileNotFoundError, match="gone.json' is no file"):
        set_up(RunSettings(dataset="world/textures", learner="coop", runs_dir=str(tmp_path / "runs"), descriptions="gone.json", **SMALL))


def test_a_random_half_is_a_run_of_its_own(tmp_path):
    runs = [RunSettings(dataset="world/textures", learner="coop", runs_dir=str(tmp_path), class_split=split, **SMALL) for split in ("half", 3)]
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


def test_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(few_pictures, tmp_path):
    settings = RunSettings(dataset="world/shapes", learner="coop", runs_dir=str(tmp_path), shots=2, epochs=6, lr=1e30)
    with pytest.raises(FloatingPointError, match=r"at step \d+ of epoch \d+"):
        do_run(settings)
    assert (settings.folder / "checkpoint.safetensors").exists() and not (settings.folder / "metrics.json").exists()


# ---- a number of crops of each photograph, and evaluation that repeats no work

@pytest.fixture
def of_crops(noise_folder, tmp_path):
    return RunSettings(dataset="folder", learner="coop", backbone="world", data_root=str(noise_folder), runs_dir=str(tmp_path / "runs"), shots=2, epochs=3,
                       views=2)


def test_views_are_part_of_what_a_run_is(of_crops, folder):
    published = of_crops.model_copy(update=dict(views=None))
    assert "-views2-" in of_crops.folder.parent.name and "views" not in published.folder.parent.name
    metrics = do_run(of_crops)
    assert do_run(of_crops) == metrics and len(list(folder.glob("*"))) == 2 + 3, "train, base and novel as tested"
    differ = of_crops.model_copy(update=dict(views=3))
    of_crops.folder.parent.rename(differ.folder.parent)
    with pytest.raises(ValueError, match="views: 2 there, 3 asked for"):
        set_up(differ)


@pytest.mark.parametrize("learner", ["coop", "cocoop", "tip_adapter", "ivlp"])
def test_a_run_evaluates_each_image_once_and_measures_the_same_collapse(learner, of_crops, folder, monkeypatch):
    run = set_up(of_crops.model_copy(update=dict(learner=learner, views=None, measure_every=0)))
    fit_run(run)
    run.clip.kept.clear()
    for file in folder.glob("*"):
        file.unlink()
    frozen, learned = count_calls(monkeypatch, run.clip), []
    through = run.learner.image_features  # of the base classes; the same prompts for the novel ones
    monkeypatch.setattr(type(run.learner), "image_features",
                        lambda self, pixels: learned.append(len(pixels)) or through(pixels))
    metrics = measure_run(run, 0.0)
    assert metrics["seconds"] > 0, "the evaluation is a part of the call"
    images, known = [len(run.data.base.test), len(run.data.novel.test)], len(run.data.base.train)
    if run.learner.learns_image:
        two = 2  # of each split, to see that they do not follow from the class names
        assert learned == [*images, two, two, known]
    else:
        assert frozen == [*images, known] and not learned, "zero-shot CLIP and the learner share the frozen tower's features"
    for when, one in ("before", run.zero_shot), ("after", run.learner):
        assert metrics["collapse"][when].items() >= measure_collapse(one, run.data.base.test).items(), "and angles"
    assert "base_collapse" not in metrics and "base_collapse" not in metrics["zero_shot"]


# ---- the published datasets in miniature: from a server's archives to the metrics of a run

FEW_IMAGES = pytest.mark.filterwarnings("ignore:.*(fewer than|differ slightly).*")


@pytest.fixture
def published(tmp_path, monkeypatch):
    "Serve a dataset's miniature as if its own hosts did, ImageNet's too; gives a data_root that is still empty."
    with serve(tmp_path / "mirror") as server:
        def publish(name):
            record = make_mirror(name, server.folder)
            here = [replace(download, url=f"{server.url}/{name}/{download.name}") for download in record.downloads]
            record = replace(record, downloads=tuple(here), manual="")
            monkeypatch.setitem(DATASETS, name, record)
            monkeypatch.setitem(npt.data.prepare._PREPARED, name, record)
            return record

        yield publish, tmp_path / "data"


@FEW_IMAGES
@pytest.mark.parametrize("name", PUBLISHED)
def test_from_the_archives_to_a_run(name, published, tmp_path):
    publish, root = published
    record = publish(name)
    learner = "zero_shot" if record.test_only else "coop"
    settings = RunSettings(dataset=name, learner=learner, backbone="world", data_root=str(root), runs_dir=str(tmp_path / "runs"), shots=2, epochs=1)
    metrics = do_run(settings)
    names, base = CLASSNAMES[name], (len(CLASSNAMES[name]) + 1) // 2
    assert metrics["train_counts"] == dict.fromkeys(names[:base], 0 if record.test_only else 2)
    assert 0 <= metrics["base"] <= 100 and 0 <= metrics["novel"] <= 100
    assert len(metrics["base_per_class"]) == base and len(metrics["novel_per_class"]) == len(names) - base
    data = load_dataset(name, root=root, shots=2)
    assert data.all.classnames == tuple(names) and set(data.all.test.counts) == {3}


def test_a_run_fetches_what_is_missing_and_says_so(published, capsys):
    publish, root = published
    publish("dtd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_up(RunSettings(dataset="dtd", learner="coop", backbone="world", data_root=str(root), runs_dir=str(root / "runs"), shots=1))
    said = capsys.readouterr().out
    assert "dtd-r1.0.1.tar.gz" in said and "research" in said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_up(RunSettings(dataset="dtd", learner="coop", backbone="world", data_root=str(root), runs_dir=str(root / "runs"), shots=1))
    assert "dtd-r1.0.1.tar.gz" not in capsys.readouterr().out


def test_a_run_tries_the_published_split_first(published, monkeypatch):
    publish, root = published
    record, folder = publish("eurosat"), make_tree("eurosat", root)
    rows, split = _list_rows(record, root), root.parent / "mirror" / "eurosat" / "split_zhou_EuroSAT.json"
    write_text(json.dumps({**rows, "train": rows["train"][::-1]}), split)
    unsummed = [replace(download, sha256=None, md5=None, git=None, size=split.stat().st_size) for download in record.downloads]
    for records in DATASETS, npt.data.prepare._PREPARED:
        monkeypatch.setitem(records, "eurosat", replace(record, downloads=tuple(unsummed)))
    for prepare, there in (False, "split_npt_EuroSAT.json"), (True, "split_zhou_EuroSAT.json"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            set_up(RunSettings(dataset="eurosat", learner="coop", backbone="world", data_root=str(root), runs_dir=str(root / "runs"), shots=1,
                               seed=int(prepare), prepare=prepare))
        assert [path.name for path in folder.glob("split_*")] == [there]
        (folder / there).unlink()


def test_a_run_fetches_nothing_when_told_so(published):
    publish, root = published
    publish("dtd")
    with pytest.raises(FileNotFoundError, match="prepare.py dtd"):
        set_up(RunSettings(dataset="dtd", learner="coop", backbone="world", data_root=str(root), prepare=False))
    assert not root.exists()


def test_without_network_a_run_says_what_to_do(tmp_path, monkeypatch):
    record = find_dataset("dtd")
    nowhere = tuple(replace(download, url="http://127.0.0.1:9/" + download.name) for download in record.downloads)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(npt.data.prepare._PREPARED, "dtd", replace(record, downloads=nowhere))
    monkeypatch.setitem(DATASETS, "dtd", replace(record, downloads=nowhere))
    with pytest.raises(ConnectionError) as caught:
        set_up(RunSettings(dataset="dtd", learner="coop", backbone="world", data_root=str(tmp_path / "data")))
    for part in "http://127.0.0.1:9/dtd-r1.0.1.tar.gz", str(tmp_path / "data"), "prepare.py dtd":
        assert part in str(caught.value)


def test_imagenet_is_asked_for_with_its_steps(tmp_path):
    with pytest.raises(FileNotFoundError, match="image-net.org"):
        set_up(RunSettings(dataset="imagenet", learner="coop", backbone="world", data_root=str(tmp_path)))


def test_a_test_set_trains_nothing(tmp_path):
    with pytest.raises(ValueError, match="zero_shot"):
        set_up(RunSettings(dataset="imagenet_a", learner="coop", backbone="world", data_root=str(tmp_path)))


@FEW_IMAGES
@pytest.mark.parametrize("profile, rounding", [("exp", "half_up"), ("step", "half_up"), ("exp", "floor")])
def test_a_long_tail_trains_on_the_counts_of_the_profile(profile, rounding, published, tmp_path):
    publish, root = published
    publish("dtd")
    settings = RunSettings(dataset="dtd", learner="coop", backbone="world", data_root=str(root), runs_dir=str(tmp_path / "runs"), shots=5, tau=0.25, profile=profile,
                           rounding=rounding, epochs=1)  # fmt: skip
    counts = do_run(settings)["train_counts"]
    assert list(counts.values()) == {("exp", "half_up"): [5, 3, 1], ("step", "half_up"): [5, 5, 1], ("exp", "floor"): [5, 2, 1]}[profile, rounding]
    assert json.loads((settings.folder / "config.json").read_text())["tau"] == 0.25


def test_a_published_dataset_means_the_published_experiment(published, tmp_path, monkeypatch):
    "Of which only the weights cannot be had here; with random ones the short command goes on."
    def unreachable(*_, **__):
        raise OSError("no network")

    publish, root = published
    publish("dtd")
    short = dict(dataset="dtd", data_root=str(root), runs_dir=str(tmp_path / "runs"), device="cpu")
    with monkeypatch.context() as offline, pytest.raises(ConnectionError) as caught:
        offline.setattr("open_clip.download_pretrained", unreachable)
        set_up(RunSettings(**short))
    said = str(caught.value)
    assert all(part in said for part in ("https://openaipublic", "ViT-B-16.pt into this folder", "-p pretrained ViT-B-16.pt",
                                         "-p backbone world"))
    assert not (tmp_path / "runs").exists()
    run = set_up(RunSettings(**short, pretrained="none"))
    assert run.clip.name == "ViT-B-16-quickgelu" and run.learner.name == "maple" and "random weights" in run.choices
    assert "5 epochs, batches of 4, lr 0.0035" in run.choices


def test_the_baseline_has_the_rate_and_epochs_of_its_own_loss(monkeypatch, few_pictures, tmp_path):
    tuned = replace(recipe("coop", "world"), lr=0.03, epochs=1, tuned={"npt": _Tuned(0.5, 2, "ce + lc")})
    monkeypatch.setitem(_WORLD_RECIPES, "coop", tuned)
    run = set_up(RunSettings(dataset="world/textures", learner="coop", shots=1, measured_on="val", runs_dir=str(tmp_path)))
    own = set_up_baseline(run)
    assert run.choices.startswith("coop, 2 epochs, batches of 32, lr 0.5;") and own.choices == "coop, 1 epochs, batches of 32, lr 0.03"
    assert [len(fit_run(one, progress=False)) for one in (own, run)] == [1, 2]
    for one in own, run:
        one.lock.release()


def test_the_baseline_is_the_same_run_with_the_learners_own_loss(few_pictures, tmp_path):
    settings = RunSettings(dataset="world/textures", learner="coop", shots=1, epochs=1, measured_on="val", runs_dir=str(tmp_path))
    run = set_up(settings)
    own = set_up_baseline(run)
    assert own.settings == run.settings.model_copy(update=dict(objective="own")) and own.data is run.data and own.clip is run.clip
    assert all(torch.equal(one, other) for one, other in zip(own.learner.parameters(), run.learner.parameters()))
    fit_run(own, progress=False)
    assert measure_run(own, 0.0) == do_run(settings.model_copy(update=dict(objective="own"))), "it is found as a run of its own"
    assert set_up_baseline(own) is None and set_up_baseline(set_up(settings.model_copy(update=dict(learner="zero_shot")))) is None


def test_a_finished_run_is_not_taken_for_one_of_another_recipe(monkeypatch, few_pictures, tmp_path):
    settings = RunSettings(dataset="world/textures", learner="coop", objective="ce", shots=1, measured_on="val", runs_dir=str(tmp_path))
    monkeypatch.setitem(_WORLD_RECIPES, "coop", replace(recipe("coop", "world"), lr=0.03, epochs=1))
    first = do_run(settings)
    assert without_time(do_run(settings)) == without_time(first), "it is found again"
    monkeypatch.setitem(_WORLD_RECIPES, "coop", replace(recipe("coop", "world"), lr=0.5, epochs=2))
    with pytest.raises(ValueError, match="the recipe has lr 0.5, and had 0.03; the recipe has epochs 2, and had 1.*overwrite=True"):
        do_run(settings)
    written = json.loads(RunFolder(settings.folder).inputs.read_text())
    assert written["recipe"]["objective"] == "ce" and written["recipe"]["lr"] == 0.03


# ---- classes that come in sessions

@pytest.fixture(scope="module")
def in_sessions(tmp_path_factory):
    "A whole run whose classes came in sessions: its settings and its metrics."
    settings = RunSettings(dataset="world/textures", learner="coop", classes="sessions", runs_dir=str(tmp_path_factory.mktemp("runs")),
                           measure_every=0, **SMALL)
    return settings, do_run(settings, progress=False)


def test_a_run_in_sessions_tells_each_session_and_ends_with_all_classes(in_sessions, finished):
    settings, metrics = in_sessions
    learned, before = metrics["sessions"]["learned"], metrics["sessions"]["zero_shot"]
    assert files_in(settings.folder) == FILES and learned["classes"] == before["classes"] == [8, 13, 16]
    assert [len(row) for row in learned["groups"]] == [1, 2, 3] and learned["images"] == [800, 500, 300]
    assert learned["groups"][0][0] == finished[1]["base"] and before["groups"][0][0] == finished[1]["zero_shot"]["base"]
    assert learned["last"] == pytest.approx(metrics["accuracy"]) and before["last"] == pytest.approx(metrics["zero_shot"]["accuracy"])
    assert learned.items() >= _incremental_metrics(learned["groups"], learned["images"]).items()
    stopped = metrics["sessions"]["stopped"]
    assert stopped["groups"][0] == learned["groups"][0] and stopped["groups"][1:] != learned["groups"][1:]
    assert list(metrics["train_counts"].values()) == [2] * 8 + [5] * 8 and "base" not in metrics and set(metrics["collapse"]) == {"before", "after", "floor"}
    assert [line.split(",")[0] for line in settings.folder.joinpath("history.csv").read_text().split()[1:]] == [str(epoch) for epoch in range(9)]


def test_a_run_in_sessions_is_found_and_gives_its_prompts_for_all_classes(in_sessions):
    settings, metrics = in_sessions
    written = (settings.folder / "prompts.safetensors").stat().st_mtime_ns
    assert do_run(settings) == metrics and (settings.folder / "prompts.safetensors").stat().st_mtime_ns == written
    learner, data = load_run(settings.folder), load_sessions("world/textures", shots=2)
    assert learner.classnames == list(data.all.classnames) and evaluate(learner, data.all.test)["accuracy"] == metrics["accuracy"]
    rows = transfer(settings.folder, targets=["world/textures"]).rows
    assert rows[0].accuracy == pytest.approx(metrics["accuracy"]) and rows[0].trained_classes == 16
    (settings.folder / "transfer.json").unlink()


@pytest.mark.parametrize("saves", [2, 4, 9])
def test_a_run_in_sessions_goes_on_in_the_session_where_it_stopped(in_sessions, tmp_path, monkeypatch, saves):
    settings, save, left = in_sessions[0].model_copy(update=dict(runs_dir=str(tmp_path))), npt.training.fit._save_checkpoint, iter(range(saves - 1, -1, -1))

    def kill(*args):
        save(*args)
        if not next(left):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(npt.training.fit, "_save_checkpoint", kill)
        do_run(settings, progress=False)
    there = {path.relative_to(settings.folder).as_posix() for path in settings.folder.rglob("checkpoint.safetensors")}
    assert there == {"checkpoint.safetensors", "session_1/checkpoint.safetensors", "session_2/checkpoint.safetensors"} - {
        f"session_{number}/checkpoint.safetensors" for number in (1, 2) if saves <= 3 * number}
    with pytest.raises(ValueError, match="measure_every: 0 there, None asked for"):
        set_up(settings.model_copy(update=dict(measure_every=None)))
    steps = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    resumed = do_run(settings, progress=False)
    hook.remove()
    assert without_time(resumed) == without_time(in_sessions[1]) and len(steps) == 9 - saves, "one step an epoch"
    assert_same_files(settings.folder, in_sessions[0].folder)
    assert files_in(settings.folder) == FILES


def test_sessions_that_were_fitted_and_not_measured_are_measured_by_the_next_call(in_sessions, tmp_path, monkeypatch):
    settings = in_sessions[0].model_copy(update=dict(runs_dir=str(tmp_path)))
    with closing(set_up(settings)) as run:
        fit_run(run, progress=False)
    assert (settings.folder / "session_2").is_dir() and not (settings.folder / "metrics.json").exists()
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *_: 1 / 0)
    assert without_time(do_run(settings, progress=False)) == without_time(in_sessions[1])


def test_overwriting_begins_with_the_first_session(in_sessions, tmp_path):
    settings = in_sessions[0].model_copy(update=dict(runs_dir=str(tmp_path)))
    with closing(set_up(settings)) as run:
        fit_run(run, progress=False)
    with closing(set_up(settings, overwrite=True)):
        assert files_in(settings.folder) == {"config.json", "inputs.json"}


@pytest.mark.parametrize("own, said", [
    (dict(learner="coop", learner_settings=dict(class_specific=True)), "choose one that transfers"),
    (dict(learner="tip_adapter_f"), "remembers its training images"),
    (dict(learner="coop", objective="ldam"), "the term 'ldam' weighs classes by their training images"),
    (dict(learner="coop", objective="cpt", num_clusters=9), "8 classes can form 1 to 8 clusters, not num_clusters=9"),
])
def test_what_cannot_learn_in_sessions_is_refused_before_anything_is_written(own, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        set_up(RunSettings(dataset="world/textures", classes="sessions", runs_dir=str(tmp_path), **own))
    assert not list(tmp_path.iterdir())


def test_the_baseline_of_a_run_in_sessions_has_sessions_too(few_pictures, tmp_path):
    settings = RunSettings(dataset="world/textures", learner="coop", classes="sessions", epochs=1, shots=1, measured_on="val", runs_dir=str(tmp_path))
    run = set_up(settings)
    own = set_up_baseline(run)
    histories = [fit_run(one, progress=False) for one in (own, run)]
    metrics = [measure_run(one, 0.0) for one in (own, run)]
    assert [history.session.tolist() for history in histories] == [[0, 1, 2]] * 2 and metrics[0]["objective"] == "ce"
    assert metrics[0]["sessions"]["zero_shot"] == metrics[1]["sessions"]["zero_shot"]


def test_zero_shot_clip_has_sessions_without_learning(in_sessions, tmp_path):
    zero_shot = do_run(in_sessions[0].model_copy(update=dict(learner="zero_shot", runs_dir=str(tmp_path))), progress=False)
    assert zero_shot["sessions"]["learned"] == zero_shot["sessions"]["stopped"] == zero_shot["sessions"]["zero_shot"] == in_sessions[1]["sessions"]["zero_shot"]


# ---- images without labels

def unlabelled(folder: Path, **settings) -> RunSettings:
    return RunSettings(**dict(dataset="world/textures", learner="promptkd", objective="own", classes="unlabelled", shots=2, epochs=2, lr=0.005, measure_every=0,
                              runs_dir=str(folder)) | settings)


@pytest.fixture(scope="module")
def without_labels(tmp_path_factory):
    "A whole run on images of base and novel classes without labels: its settings and its metrics."
    settings = unlabelled(tmp_path_factory.mktemp("runs"))
    return settings, do_run(settings, progress=False)


def test_a_run_without_labels_learns_from_both_halves_and_is_tried_on_each(without_labels):
    settings, metrics = without_labels
    data, clip = load_dataset("world/textures", shots=2), load_clip("world")
    by_hand = build_learner("promptkd", clip, data.all.classnames, data.record.template, seed=1)
    fit(by_hand, data.all.train, objective="own", epochs=2, lr=0.005, progress=False, measure_every=0, all_classnames=data.all.classnames)
    tried = base_to_novel(by_hand.for_classes(data.base.classnames), data)
    assert {name: metrics[name] for name in ("base", "novel", "h")} == {name: tried[name] for name in ("base", "novel", "h")}
    assert len(metrics["train_counts"]) == 16 and set(metrics["collapse"]) == {"before", "before_novel", "after", "after_novel", "floor", "floor_novel"}
    found = load_run(settings.folder)
    assert found.classnames == list(data.all.classnames) and do_run(settings) == metrics
    assert "unlabelled" in settings.folder.as_posix()
    row = transfer(settings.folder, targets=["world/textures"]).rows[0]
    assert row.trained_classes == 16 and row.accuracy == pytest.approx(evaluate(found, data.all.test)["accuracy"])


def test_a_run_without_labels_reads_none(without_labels, tmp_path, monkeypatch):
    load, settings = npt.study.runs._load_run_data, unlabelled(tmp_path)

    def mislabelled(asked):
        data = load(asked)
        items, labels = data.all.train.items, (data.all.train.labels // 2 * 2).tolist()
        train = replace(data.all.train, items=tuple(item._replace(label=label) for item, label in zip(items, labels)))
        return replace(data, all=replace(data.all, train=train))

    monkeypatch.setattr(npt.study.runs, "_load_run_data", mislabelled)
    metrics = do_run(settings, progress=False)
    one, other = (load_file(folder / "prompts.safetensors") for folder in (settings.folder, without_labels[0].folder))
    assert all(torch.equal(one[name], other[name]) for name in one) and metrics["h"] == without_labels[1]["h"]
    assert list(metrics["train_counts"].values()) == [4, 0] * 8, "the labels were others"


@pytest.mark.parametrize("own, said", [
    (dict(objective="npt"), r"'ce \+ 1000\*kd \+ .*' reads labels \(ce, mi\).*there are none"),
    (dict(learner="coop", objective="kg | ce"), r"reads labels \(ce\)"),
    (dict(learner="coop", objective="kg", learner_settings=dict(class_specific=True)), "'coop', which belongs to the classes that it was built for"),
    (dict(learner="tip_adapter_f", objective="kg"), "'tip_adapter_f', which remembers images by their labels"),
])
def test_what_needs_labels_is_refused_without_them(own, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        set_up(unlabelled(tmp_path, **own))
    assert not list(tmp_path.iterdir())


def test_images_without_labels_are_not_drawn_by_them():
    with pytest.raises(ValueError, match="sampler='class_balanced' draws images by their labels, which classes='unlabelled' has not"):
        RunSettings(classes="unlabelled", sampler="class_balanced")


def test_a_run_without_labels_has_no_baseline_that_reads_them(few_pictures, tmp_path):
    for learner, objective in ("kgcoop", "8*kg + lc"), ("promptkd", "1000*kd + kg"):
        with closing(set_up(unlabelled(tmp_path, learner=learner, objective=objective))) as run:
            own = set_up_baseline(run)
            assert (own is None) == (learner == "kgcoop")
            if own:
                own.close()


# ---- learners inside others

def test_the_seed_of_a_run_reaches_the_learner_inside_and_so_do_the_settings_of_its_recipe(tmp_path):
    def inside(**told):
        with closing(set_up(RunSettings(dataset="world/textures", runs_dir=str(tmp_path), **told))) as run:
            return run.learner.inner

    for wrapper, around in ("dept", "maple"), ("dpc", "tcp"):
        one, other = (inside(learner=wrapper, learner_settings=dict(around=around), seed=seed) for seed in (1, 2))
        drawn = build_learner(around, load_clip("world"), one.classnames, one.template, **recipe(around, "world").settings, seed=1)
        assert all(torch.equal(value, drawn.state_dict()[name]) for name, value in one.state_dict().items())
        assert not all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    words = inside(learner="dept", learner_settings=dict(around="coop", around_settings=dict(ctx_init=None)))
    assert words.settings["n_ctx"] == 4 and words.settings["ctx_init"] is None, "what the user says joins what the recipe has"


# ---- one image alone

@pytest.mark.parametrize("told, said", [
    (dict(shots=2, batch_size=15), "16 training images in batches of 15 leave one image alone, and the batch norm of 'promptkd' .* give it more images"),
    (dict(shots=2, batch_size=1), "give batch_size=2"), (dict(classes="sessions", shots=1, batch_size=24), "25 training images in batches of 24"),
])
def test_an_image_that_would_be_alone_with_a_batch_norm_is_told_before_training(told, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        set_up(RunSettings(dataset="world/textures", learner="promptkd", objective="own", runs_dir=str(tmp_path), **told))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("learner", ["dept", "mmrl"])
def test_what_belongs_to_the_first_classes_is_refused_in_sessions(learner, tmp_path):
    with pytest.raises(ValueError, match=f"'{learner}' learns something for the classes that it was made for alone"):
        set_up(RunSettings(dataset="world/textures", learner=learner, objective="own", classes="sessions", runs_dir=str(tmp_path)))


def test_a_student_is_loaded_from_another_folder_when_its_teacher_was_moved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, short = load_dataset("world/textures", shots=1), dict(dataset="world/textures", shots=1, epochs=1, runs_dir=str(tmp_path / "runs"))
    save_prompts(build_learner("coop", load_clip("world"), data.base.classnames, data.record.template, ctx_init=None, n_ctx=2), tmp_path / "teacher.safetensors")
    settings = RunSettings(learner="promptkd", objective="own", learner_settings=dict(teacher_prompts="teacher.safetensors"), batch_size=4, **short)
    metrics = do_run(settings, progress=False)
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "teacher.safetensors").rename(tmp_path / "elsewhere" / "coop.safetensors")
    with pytest.raises(FileNotFoundError, match=r"prompts.safetensors' names a file that is not here: .*load_run\(folder, teacher_prompts=PATH\)"):
        load_run(settings.folder)
    loaded = load_run(settings.folder, teacher_prompts=moved)
    assert evaluate(loaded, data.base.test)["accuracy"] == metrics["base"]
    other = build_learner("coop", load_clip("world"), data.base.classnames, data.record.template, ctx_init=None, n_ctx=2, seed=5)
    save_prompts(other, moved)
    with pytest.raises(ValueError, match="teacher_sha256"):
        load_run(settings.folder, teacher_prompts=moved)
