"The folder of a run: never that of another, and named where it is damaged."

import json
import shutil

import pytest

from npt.study.folder import _open_run
from npt.study.runs import do_run, set_up
from npt.study.settings import RunSettings


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
    path = _open_run(settings).config
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "views"}))
    assert _open_run(settings.model_copy(update=dict(device="cuda", data_root="elsewhere"))).config == path
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(lr=0.5)))
    with pytest.raises(ValueError, match="lr: 0.5 there, None asked for"):
        _open_run(settings)
