"Many runs: collected, and done although one of them fails."

import importlib
import sys

import pandas as pd
import pytest

from npt.learners.base import LEARNERS
from npt.study.collect import collect_runs, do_runs
from npt.study.folder import RunFolder, read_metrics
from npt.study.settings import RunSettings

MODULE = """
from npt.learners.base import register_learner
from npt.learners.zero_shot import ZeroShot

@register_learner("of_a_module")
class OfAModule(ZeroShot):
    "Zero-shot CLIP by another name."
"""


@pytest.fixture
def of_a_module(tmp_path, monkeypatch):
    "The name of a user's learner, in a module that can be imported."
    (tmp_path / "my_learners.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("my_learners").OfAModule.name
    del LEARNERS["of_a_module"], sys.modules["my_learners"]


def test_a_learner_of_a_notebook_is_refused_before_any_run_starts(of_a_module, tmp_path, monkeypatch):
    runs = [RunSettings(learner=name, dataset="world/textures", runs_dir=str(tmp_path / "runs")) for name in ("coop", of_a_module)]
    monkeypatch.setattr(LEARNERS[of_a_module], "__module__", "__main__")
    with pytest.raises(ValueError, match="'of_a_module' is defined in this notebook or script.*use jobs=1, or put its class into"):
        do_runs(runs, jobs=2)
    assert not (tmp_path / "runs").exists()


def test_a_failed_run_stops_no_other(of_a_module, tmp_path):
    common = dict(dataset="world/textures", shots=1, epochs=1, measured_on="val", runs_dir=str(tmp_path))
    bad = RunSettings(learner="maple", learner_settings=dict(depth=99), **common)
    good = [RunSettings(learner="coop", seed=seed, **common) for seed in (1, 2)]
    good[0] = RunSettings(learner=of_a_module, **common | dict(batch_size=8, lr=0.1))
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


def test_a_run_in_sessions_has_columns_of_its_own_beside_others(finished, few_pictures, tmp_path):
    settings = RunSettings(dataset="world/textures", learner="coop", classes="sessions", shots=1, epochs=1, measured_on="val", runs_dir=str(tmp_path))
    do_runs([settings])
    metrics = read_metrics(RunFolder(settings.folder))
    row, learned, before = collect_runs(tmp_path).iloc[0], metrics["sessions"]["learned"], metrics["sessions"]["zero_shot"]
    for name in "last", "mean", "drop", "forgetting", "last_base", "last_new", "last_h":
        assert row[name] == learned[name] and row[f"zero_shot_{name}"] == before[name]
        assert row[f"stopped_{name}"] == metrics["sessions"]["stopped"][name]
    assert [row[f"session_{number}"] for number in range(3)] == learned["accuracy"] and row.accuracy == metrics["accuracy"]
    both = pd.concat([collect_runs(tmp_path), collect_runs(finished[0].runs_dir)])
    assert both["last"].notna().tolist() == [True, False] and both.h.notna().tolist() == [False, True]
