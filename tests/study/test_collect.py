"Many runs: collected, and done although one of them fails."

import pytest

from npt.study.collect import collect_runs, do_runs
from npt.study.settings import RunSettings


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
