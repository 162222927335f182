"The spread over seeds is that of runs that differ by nothing else."

import json

import pandas as pd
import pytest
from conftest import ROOT

from npt.study.settings import RunSettings
from npt.study.spread import _other_seeds, seed_spread

WORLD = ROOT / "workflow" / "results" / "world"


def test_the_table_of_the_grid_is_asked(tmp_path):
    settings = RunSettings(learner="maple", runs_dir=str(tmp_path))
    spread, seeds = seed_spread(settings, tables=[WORLD])
    runs = pd.read_csv(WORLD / "runs.csv").query("learner == 'maple' and objective == 'npt' and tau == 1")
    assert spread == pytest.approx(runs.h.std()) and seeds == len(runs) > 1
    for other in dict(shots=3), dict(epochs=7), dict(learner_settings={"n_ctx": 3}), dict(class_split=2), dict(tau=0.5):
        assert seed_spread(settings.model_copy(update=other), tables=[WORLD]) is None


def test_other_seeds_agree_in_all_else():
    settings = RunSettings(learner="coop", learner_settings=dict(n_ctx=3))
    rows = [settings.model_dump() | dict(seed=seed) | other for seed in (1, 2, 3) for other in ({}, dict(lr=0.1), dict(shots=2))]
    table = pd.DataFrame(rows)
    written = table.assign(learner_settings=table.learner_settings.map(json.dumps))
    for runs in table, written:
        assert _other_seeds(runs, settings).seed.tolist() == [1, 2, 3]
