"The spread over seeds is that of runs that differ by nothing else."

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import ROOT
from trained import MEASURED

import npt.study.spread
from npt._files import write_text
from npt.study.folder import _open_run
from npt.study.inputs import RunInputs
from npt.study.settings import RunSettings
from npt.study.spread import _other_seeds, seed_spread

FEW_SHOT = ROOT / "workflow" / "results" / "few_shot"


def test_the_table_of_the_grid_is_asked(tmp_path):
    settings = RunSettings(learner="coop", dataset="world/objects", classes="all", runs_dir=str(tmp_path))
    spread, seeds, _ = seed_spread(settings, tables=[FEW_SHOT])
    runs = pd.read_csv(FEW_SHOT / "runs.csv").query("learner == 'coop' and objective == 'npt' and classes == 'all' and shots == 16")
    assert spread == pytest.approx(runs.accuracy.std()) and seeds == len(runs) > 1
    for other in dict(shots=3), dict(epochs=7), dict(learner_settings={"n_ctx": 3}), dict(order="random"), dict(tau=0.5):
        assert seed_spread(settings.model_copy(update=other), tables=[FEW_SHOT]) is None


def leave(settings: RunSettings, h: float, picture: str = "f3", weights: str = "0" * 64) -> None:
    "A finished run: its training images are those of its seed, its test images are told by a hash."
    images = {"base train": {"cat": (1, f"seed{settings.seed}")}, "base test": {"cat": (2, picture)}, "novel test": {"dog": (2, "a0")}}
    inputs = RunInputs(weights=weights, preprocess={}, template="a {}.", classnames=dict(base=["cat"], novel=["dog"]), images=images)
    folder = _open_run(settings, inputs)
    write_text(json.dumps(MEASURED | dict(h=h, zero_shot={}, collapse={}, objective="ce", train_counts={}, versions=dict(npt="1"))), folder.metrics)


def photographs(tmp_path, **settings) -> list[RunSettings]:
    common = dict(dataset="folder", backbone="world", learner="coop", runs_dir=str(tmp_path)) | settings
    return [RunSettings(seed=seed, **common) for seed in (1, 2, 3, 4)]


def test_runs_on_other_pictures_or_weights_are_no_other_seeds(tmp_path):
    one, two, three, four = photographs(tmp_path)
    leave(one, 60.0)
    leave(two, 70.0, picture="b1")
    leave(three, 80.0, weights="1" * 64)
    assert seed_spread(one) is None and seed_spread(four) is None, "nobody knows which of them a fourth would be"
    leave(four, 62.0)
    assert seed_spread(one)[:2] == (pytest.approx(2**0.5), 2) and seed_spread(two) is None
    (four.folder / "inputs.json").unlink()
    assert seed_spread(one) is None


def test_the_table_of_a_grid_knows_no_folder_of_ones_own(tmp_path, monkeypatch):
    for dataset, known in ("folder", False), ("world/textures", True):
        runs = photographs(tmp_path, dataset=dataset)
        table = pd.DataFrame([settings.model_dump() | dict(h=60.0 + settings.seed) for settings in runs])
        monkeypatch.setattr(npt.study.spread, "read_results", lambda _, table=table: SimpleNamespace(runs=table))
        assert (seed_spread(runs[0], tables=["table"]) is not None) == known


@pytest.mark.parametrize("own_seeds, points, seeds, said", [
    ((1, 2, 3), 2.0, 3, "the differences of both runs, seed by seed, over 3 seeds"),  # of -1, 1, 3
    ((1, 2), 2**0.5, 2, "the differences of both runs, seed by seed, over 2 seeds"),
    ((4, 1), (7 + 4.5) ** 0.5, 2, "variances, over 3 and 2 other seeds, are added"),
    ((4,), None, None, None),
])  # fmt: skip
def test_a_difference_has_a_spread_of_its_own(own_seeds, points, seeds, said, tmp_path):
    for settings, h in zip(photographs(tmp_path)[:3], (60.0, 64.0, 65.0)):
        leave(settings, h)
    own = photographs(tmp_path, objective="own")
    for settings, h in zip(own, (61.0, 63.0, 62.0, 64.0)):
        if settings.seed in own_seeds:
            leave(settings, h)
    spread = seed_spread(photographs(tmp_path)[0], beside=own[0])
    assert spread is None if points is None else (spread[:2] == (pytest.approx(points), seeds) and said in spread.what)


def test_other_seeds_agree_in_all_else():
    settings = RunSettings(learner="coop", learner_settings=dict(n_ctx=3))
    rows = [settings.model_dump() | dict(seed=seed) | other for seed in (1, 2, 3) for other in ({}, dict(lr=0.1), dict(shots=2))]
    table = pd.DataFrame(rows)
    written = table.assign(learner_settings=table.learner_settings.map(json.dumps))
    for runs in table, written:
        assert _other_seeds(runs, settings).seed.tolist() == [1, 2, 3]
