"The folder of a run: never that of another, and named where it is damaged."

import json
import math
import os
import shutil
import subprocess
import uuid
import warnings
from pathlib import Path

import pytest

from npt.study.folder import RunFolder, _differing_settings, _find_run, _open_run, _read_history, _write_metrics, read_metrics
from npt.study.grid import Task, _damage_of
from npt.study.inputs import RunInputs, _read_inputs
from npt.study.plan import _content_of
from npt.study.restore import load_run
from npt.study.runs import do_run, fit_run, set_up
from npt.study.settings import RunSettings
from npt.study.transfer import transfer
from npt.training.checkpoint import _CHECKPOINT

INPUTS = RunInputs(weights="0" * 64, preprocess={}, template="a photo of a {}.", classnames={"base": ("cat", "dog")},
                   images={"base train": {"cat": (2, "f3"), "dog": (2, "a0")}})
METRICS = dict(zero_shot=dict(base=56.5, base_per_class=[50.0, math.nan]), base=81.5, base_worst_class="cat", novel=math.nan, h=math.nan,
               collapse=dict(after=dict(nc1=0.5, nc2=math.nan)), objective="ce", train_counts=dict(cat=2, dog=0), seconds=1.5, versions=dict(npt="0"))


@pytest.fixture
def copied(finished, tmp_path) -> RunFolder:
    "A copy of a finished run that a test may damage."
    settings = finished[0].model_copy(update=dict(runs_dir=str(tmp_path)))
    shutil.copytree(finished[0].folder, settings.folder)
    return RunFolder(settings.folder)


def settings_of(folder: RunFolder) -> RunSettings:
    return RunSettings(**json.loads(folder.config.read_text()) | dict(runs_dir=str(folder.path.parents[4]), precision=None))


def begun(settings: RunSettings) -> RunFolder:
    "The folder of a run that was stopped after an epoch."
    folder = _open_run(settings, INPUTS)
    (folder.path / _CHECKPOINT).touch()
    return folder


def test_a_run_that_has_learned_nothing_is_in_nobodys_way(tmp_path):
    settings, other = RunSettings(runs_dir=str(tmp_path)), INPUTS.model_copy(update=dict(weights="1" * 64))
    _open_run(settings, other)
    folder = _open_run(settings.model_copy(update=dict(measure_every=2)), INPUTS)
    assert _read_inputs(folder.inputs) == INPUTS and json.loads(folder.config.read_text())["measure_every"] == 2
    (folder.path / _CHECKPOINT).touch()
    with pytest.raises(ValueError, match="measure_every: 2 there, None asked for"):
        _open_run(settings, INPUTS)


@pytest.mark.parametrize("there, here, same", [
    ("w.pt", "/elsewhere/w.pt", True), ("openai", "w.pt", True), ("w.pt", None, True), ("openai", "laion2b_s34b_b88k", False), ("openai", "none", False),
])  # fmt: skip
def test_where_weights_lie_is_not_compared(there, here, same):
    settings = RunSettings(backbone="ViT-B-16", pretrained="none")
    told = _differing_settings(settings.model_copy(update=dict(pretrained=here)), settings.model_dump() | dict(pretrained=there))
    assert told == ([] if same else [f"pretrained: {there!r} there, {here!r} asked for"])
    files = [settings.model_copy(update=dict(pretrained=path)).folder for path in ("w.pt", "/elsewhere/w.pt")]
    assert files[0] == files[1] != settings.folder


def test_folder_of_other_settings_is_not_trained_into(finished):
    settings, _ = finished
    with pytest.raises(ValueError, match="measure_every: None there, 0 asked for.*choose another runs_dir, or overwrite=True"):
        set_up(settings.model_copy(update=dict(measure_every=0)))


def test_a_setting_that_an_older_folder_does_not_know_had_its_default(tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path))
    path = begun(settings).config
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "views"}))
    assert _open_run(settings.model_copy(update=dict(device="cuda", data_root="elsewhere")), INPUTS).config == path
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(lr=0.5)))
    with pytest.raises(ValueError, match="lr: 0.5 there, None asked for"):
        _open_run(settings, INPUTS)


def test_another_precision_is_another_run_where_one_is_asked_for(tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path))
    folder = _open_run(settings, INPUTS, precision="bf16")
    (folder.path / _CHECKPOINT).touch()
    assert json.loads(folder.config.read_text())["precision"] == "bf16" and _open_run(settings, INPUTS, precision="fp32") == folder
    asked = [_open_run(settings.model_copy(update=dict(precision=name)), INPUTS, precision="fp32") for name in ("bf16", "fp32")]
    assert len({folder.path, *(one.path for one in asked)}) == 3
    (asked[0].path / _CHECKPOINT).touch()
    shutil.copytree(asked[0].path, asked[1].path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="precision: 'bf16' there, 'fp32' asked for"):
        _find_run(settings.model_copy(update=dict(precision="fp32")))


def test_a_run_on_other_things_is_refused_and_may_be_overwritten(tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path))
    folder, other = _open_run(settings, INPUTS), INPUTS.model_copy(update=dict(weights="1" * 64))
    folder.metrics.write_text("{}")
    with pytest.raises(ValueError, match="the weights are others .*overwrite=True"):
        _open_run(settings, other)
    assert not _open_run(settings, other, overwrite=True).finished and _open_run(settings, other) == folder
    (folder.path / _CHECKPOINT).touch()
    folder.inputs.unlink()
    with pytest.raises(ValueError, match="inputs.json.*is missing"):
        _open_run(settings, other)


def test_every_file_is_strict_json_and_comes_back(tmp_path):
    folder = _open_run(RunSettings(runs_dir=str(tmp_path)), INPUTS)
    folder.history.write_text("epoch,loss\n0,1.5\n")
    folder.prompts.write_bytes(b"")
    _write_metrics(METRICS, folder)
    assert "NaN" not in folder.metrics.read_text() and "Infinity" not in folder.metrics.read_text()
    assert repr(read_metrics(folder)) == repr(METRICS)


# ---- nothing was changed since


def test_sha256sum_agrees(copied):
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=copied.path, check=True)
    assert len(copied.sums.read_text().splitlines()) == 5


def a_digit(path: Path) -> None:
    "Another last digit of the first number."
    data = path.read_bytes()
    at = next(place for place, byte in enumerate(data) if byte in b"123456789")
    path.write_bytes(data[:at] + (b"2" if data[at:at + 1] == b"1" else b"1") + data[at + 1:])


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def is_empty(path: Path) -> None:
    path.write_bytes(b"")


def is_gone(path: Path) -> None:
    path.unlink()


def in_utf_16(path: Path) -> None:
    path.write_bytes(path.read_bytes().decode("latin-1").encode("utf-16"))


def is_nested(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


DAMAGES = [a_digit, cut_off, is_empty, is_gone, in_utf_16, is_nested]


def says_what_is_damaged(read, name: str) -> None:
    with warnings.catch_warnings(), pytest.raises((ValueError, FileNotFoundError)) as caught:
        warnings.simplefilter("ignore")
        read()
    said = str(caught.value)
    assert name in said and "\n" not in said, said
    assert type(caught.value) in (ValueError, FileNotFoundError), "and no error of a library's own"


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", ["metrics.json", "history.csv", "prompts.safetensors", "config.json", "inputs.json"])
def test_what_is_damaged_is_named_by_whoever_reads_the_run(name, damage, copied):
    settings = settings_of(copied)
    damage(copied.path / name)
    readers = [lambda: read_metrics(copied), lambda: load_run(copied.path), lambda: transfer(copied.path, targets=[])]
    if (name, damage) == ("metrics.json", is_gone):
        readers = readers[:1]  # the others call it a run that is not finished
    elif name != "config.json" and (name, damage) != ("inputs.json", a_digit):  # with which it would be another run
        readers.append(lambda: do_run(settings))
    for read in readers:
        says_what_is_damaged(read, name)


@pytest.mark.parametrize("damage", DAMAGES[1:], ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", ["metrics.json", "history.csv", "prompts.safetensors", "config.json", "inputs.json"])
def test_an_older_run_is_refused_where_what_is_there_makes_no_sense(name, damage, copied):
    settings = settings_of(copied)
    copied.sums.unlink()
    damage(copied.path / name)
    if (name, damage) not in [("metrics.json", is_gone), ("history.csv", is_empty)]:  # it goes on, or has trained nothing
        says_what_is_damaged(lambda: do_run(settings), name if (name, damage) != ("config.json", is_gone) else "no config.json")


@pytest.mark.parametrize("text", [
    "{", "[]", "null", "3", '"base"', "", "\0", "[" * 100_000, '{"a":' * 100_000, '{"seconds": ' + "1" * 5000 + "}",
    *(json.dumps(METRICS | change).replace("NaN", "null") for change in (
        dict(base="81"), dict(base=810.0), dict(base=-3), dict(base=True), dict(base={}), dict(base=[[0, 1, 2]]), dict(joint_confusion=[[0, 1]]), dict(joint_confusion=[[0, 1, -2]]), dict(joint_curve=[1]),
        dict(joint_curve=dict(bias=[0], base=[1])), dict(base=dict(bias=[0], base=[1], novel=[2])), dict(zero_shot=dict(base_confusion="x")), dict(base_per_class=[1e9]), dict(seconds=-1), dict(seconds="1"),
        dict(times=1.0), dict(times=dict(text_seconds=-1.0)),
        dict(collapse=[]), dict(collapse=dict(after=dict(nc1="x"))), dict(versions={}), dict(versions=dict(npt=1)), dict(train_counts=dict(cat=-1)),
        dict(objective=None), dict(zero_shot=3), dict(zero_shot=dict(base=1e9)), dict(extra=dict(a=[1])))),
    json.dumps(METRICS | dict(base=math.nan)), json.dumps(METRICS | dict(seconds=math.inf)),
    *(json.dumps({key: value for key, value in METRICS.items() if key != gone}).replace("NaN", "null")
      for gone in ("zero_shot", "collapse", "objective", "train_counts", "seconds", "versions")),
], ids=lambda text: text[:20] + "..." + text[-20:])
@pytest.mark.filterwarnings("ignore:a run without SHA256SUMS")
def test_metrics_that_make_no_sense_are_refused(text, tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(text)
    with pytest.raises(ValueError, match="metrics.json' is damaged .*: delete its folder or run again with overwrite=True"):
        read_metrics(folder)


@pytest.mark.parametrize("text", ["epoch,loss\n0,1.5\n1,1.2", "epoch,loss\n0,1.5\n1\n", "epoch,loss\n0,1.5\n2,1.2\n", "loss\n1.5\n", "epoch,loss\n",
                                  "epoch,loss\n0,1.5\n0,1.5\n", "epoch,loss\nzero,1\n", '"epoch,loss\n0,1\n', "\x00\n"], ids=repr)
def test_a_history_that_makes_no_sense_is_refused(text, tmp_path):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(ValueError, match="history.csv' is damaged"):
        _read_history(tmp_path / "history.csv")


def test_a_history_of_nothing_that_was_trained_is_empty(tmp_path):
    (tmp_path / "history.csv").write_text("\n")
    assert _read_history(tmp_path / "history.csv").empty


@pytest.mark.parametrize("text", ["", "what\n", "0" * 64 + "  metrics.json\n", "\udcff", ("0" * 64 + "  ../../x\n") * 5])
def test_damaged_checksums_are_named(text, copied):
    copied.sums.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="SHA256SUMS' is damaged"):
        read_metrics(copied)


def test_a_run_without_checksums_is_read_and_that_is_said(finished, copied):
    copied.sums.unlink()
    with pytest.warns(UserWarning, match="a run without SHA256SUMS is read as it is.*nobody can tell"):
        assert read_metrics(copied) == finished[1]


# ---- whose folder it is


def test_metrics_without_settings_are_nobodys(copied):
    settings = settings_of(copied)
    copied.config.unlink()
    for name in ("metrics.json", "prompts.safetensors", "history.csv"):
        with pytest.raises(ValueError, match=f"holds {name} and no config.json, so nobody knows of which run it is"):
            set_up(settings)
        (copied.path / name).unlink()
    (copied.path / "checkpoint.safetensors").touch()
    with pytest.raises(ValueError, match="holds checkpoint.safetensors and no config.json"):
        set_up(settings)
    assert not set_up(settings, overwrite=True).folder.finished and copied.config.exists()
    assert not (copied.path / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("overwrite", ["false", "True", 0, 1, None])
def test_nothing_is_thrown_away_without_a_clear_word(overwrite, copied):
    with pytest.raises(ValueError, match="overwrite=.* is neither True nor False"):
        set_up(settings_of(copied), overwrite=overwrite)
    assert copied.finished


def test_overwriting_removes_the_runs_own_files_alone(copied):
    settings = settings_of(copied)
    copied.figures.mkdir()
    (copied.figures / "training.html").touch()
    for name in "transfer.json", "run.ipynb", "notes.txt":
        (copied.path / name).touch()
    run = set_up(settings, overwrite=True)
    assert {path.name for path in copied.path.iterdir()} - {".lock"} == {"run.ipynb", "notes.txt", "config.json", "inputs.json"}
    run.close()


def test_what_killed_processes_left_is_swept_at_the_next_start(copied):
    copied.figures.mkdir()
    left = [copied.path / f".prompts.safetensors.{uuid.uuid4().hex}", copied.figures / f".training.html.{uuid.uuid4().hex}",
            copied.path / "checkpoint.safetensors"]
    kept = [copied.path / ".notes", copied.path / f"prompts.safetensors.{uuid.uuid4().hex}"]
    for path in left + kept:
        path.touch()
    run = set_up(settings_of(copied))
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)
    assert len(fit_run(run)) == 3, "it is the same run"


@pytest.mark.parametrize("name", ["config.json", "inputs.json", "SHA256SUMS", "history.csv", "metrics.json", "transfer.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_named_and_not_waited_for(name, make, copied):
    (copied.path / name).unlink(missing_ok=True)
    make(copied.path / name)
    assert name in _damage_of(copied)


def test_a_report_is_asked_for_where_metrics_are_a_folder(copied):
    task = Task(settings_of(copied))
    before = _content_of(task)
    copied.metrics.unlink()
    copied.metrics.mkdir()
    assert "" in _content_of(task) != before


IN_SESSIONS = dict(classes=[2, 3], images=[4, 2], accuracy=[75.0, 50.0], groups=[[75.0], [50.0, 50.0]], last=50.0, mean=62.5, drop=25.0,
                   forgetting=-25.0, last_base=50.0, last_new=50.0, last_h=50.0)


def test_what_was_won_in_sessions_comes_back_and_what_makes_no_sense_is_refused(tmp_path):
    folder = _open_run(RunSettings(runs_dir=str(tmp_path), classes="sessions"), INPUTS)
    folder.history.write_text("epoch,loss\n0,1.5\n")
    folder.prompts.write_bytes(b"")
    told = METRICS | dict(sessions=dict(learned=IN_SESSIONS, zero_shot=IN_SESSIONS))
    _write_metrics(told, folder)
    assert repr(read_metrics(folder)) == repr(told)
    for bad in dict(last=101.0), dict(forgetting=-101.0), dict(groups=[["a"]]), dict(classes=[0]), dict(more=1.0):
        _write_metrics(METRICS | dict(sessions=dict(learned=IN_SESSIONS | bad)), folder)
        with pytest.raises(ValueError, match="metrics.json' is damaged \\(sessions.learned"):
            read_metrics(folder)
