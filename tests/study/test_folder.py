"The folder of a run: never that of another, and named where it is damaged."

import json
import math
import shutil

import pytest

from npt.study.folder import RunFolder, _differing_settings, _find_run, _open_run, _write_json, read_metrics
from npt.study.inputs import RunInputs, _read_inputs
from npt.study.runs import do_run, set_up
from npt.study.settings import RunSettings
from npt.training.checkpoint import _CHECKPOINT

INPUTS = RunInputs(weights="0" * 64, preprocess={}, template="a photo of a {}.", classnames={"base": ("cat", "dog")},
                   images={"base train": {"cat": (2, "f3"), "dog": (2, "a0")}})


def begun(settings: RunSettings) -> RunFolder:
    "The folder of a run that was stopped after an epoch."
    folder = _open_run(settings, INPUTS)
    (folder.path / _CHECKPOINT).touch()
    return folder


def test_a_run_that_has_learned_nothing_is_in_nobodys_way(tmp_path):
    settings, other = RunSettings(runs_dir=str(tmp_path)), INPUTS.model_copy(update=dict(weights="1" * 64))
    _open_run(settings, other)
    folder = _open_run(settings.model_copy(update=dict(lr=0.5)), INPUTS)
    assert _read_inputs(folder.inputs) == INPUTS and json.loads(folder.config.read_text())["lr"] == 0.5
    (folder.path / _CHECKPOINT).touch()
    with pytest.raises(ValueError, match="lr: 0.5 there, None asked for"):
        _open_run(settings, INPUTS)


@pytest.mark.parametrize("there, here, same", [
    ("w.pt", "/elsewhere/w.pt", True), ("openai", "w.pt", True), ("w.pt", None, True), ("openai", "laion2b_s34b_b88k", False), ("openai", "none", False),
])  # fmt: skip
def test_where_weights_lie_is_not_compared(there, here, same):
    settings = RunSettings(backbone="ViT-B-16", pretrained="none")
    told = _differing_settings(settings.model_copy(update=dict(pretrained=here)), settings.model_dump() | dict(pretrained=there))
    assert told == ([] if same else [f"pretrained: {there!r} there, {here!r} asked for"])


def test_folder_of_other_settings_is_not_trained_into(finished):
    settings, _ = finished
    with pytest.raises(ValueError, match="epochs: 3 there, 4 asked for"):
        set_up(settings.model_copy(update=dict(epochs=4)))


def test_damaged_metrics(finished, tmp_path):
    settings = finished[0].model_copy(update=dict(runs_dir=str(tmp_path)))
    shutil.copytree(finished[0].folder, settings.folder)
    (settings.folder / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="metrics.json"):
        do_run(settings)


def test_a_setting_that_an_older_folder_does_not_know_had_its_default(tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path))
    path = begun(settings).config
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "views"}))
    assert _open_run(settings.model_copy(update=dict(device="cuda", data_root="elsewhere")), INPUTS).config == path
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(lr=0.5)))
    with pytest.raises(ValueError, match="lr: 0.5 there, None asked for"):
        _open_run(settings, INPUTS)


def test_another_precision_is_another_run_where_one_is_asked_for(tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path), precision="bf16")
    folder = begun(settings)
    assert _find_run(settings.model_copy(update=dict(precision=None))) == folder
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
    folder = RunFolder(tmp_path)
    _write_json(dict(novel=math.nan, collapse=dict(nc1=math.inf, nc2=1.5), per_class=[math.nan, 50.0]), folder.metrics)
    assert "NaN" not in folder.metrics.read_text() and "Infinity" not in folder.metrics.read_text()
    read = read_metrics(folder)
    assert math.isnan(read["novel"]) and math.isnan(read["per_class"][0]) and read["collapse"]["nc2"] == 1.5
