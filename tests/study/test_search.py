"The search: as many trials for each objective, chosen by base validation images alone, and files that are what the code says."

import pandas as pd
import pytest
from conftest import ROOT

from npt.study.grid import expand, read_grid
from npt.study.search import (
    _APART,
    _EPOCHS,
    _SEARCHED,
    _SUMS,
    _TAUS,
    _UNITS,
    _all_trials,
    _choose,
    _experiment,
    _grid_text,
    _objects_text,
    _scored,
    _search_command,
    _space,
    _trials,
)

OBJECTIVES = "own", *_SUMS
GRIDS, KEPT = ROOT / "workflow" / "grids", ROOT / "workflow" / "results" / "search" / "runs.csv"


def invented(**columns) -> pd.DataFrame:
    "A table of runs of all trials, with accuracies that a function of the trial's place gives."
    usual = dict(learner_settings={}, backbone="world", pretrained=float("nan"))
    rows = [usual | _experiment(trial) | dict(tau=tau) | {name: value(place) for name, value in columns.items()}
            for place, trial in enumerate(_all_trials()) for tau in _TAUS]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("learner", _EPOCHS)
def test_each_objective_of_a_learner_has_as_many_trials_from_as_large_a_space(learner):
    assert len({len(set(_space(learner, objective))) for objective in OBJECTIVES}) == 1
    assert len({len(set(_trials(learner, objective))) for objective in OBJECTIVES}) == 1
    assert {trial.minimised for trial in _trials(learner, "own")} == {"own"}


def test_a_trial_joins_its_terms_to_the_loss_of_the_method():
    sums = {trial.minimised for trial in _trials("kgcoop", "npt")}
    assert all("8*kg" in text and "lc" in text and "mi" in text for text in sums) and len(sums) > 1


def test_the_grid_that_is_kept_is_the_one_that_the_code_writes():
    assert (GRIDS / "search.yaml").read_text() == _grid_text()
    tasks = expand(read_grid(GRIDS / "search.yaml"))
    assert len(tasks) == len(_TAUS) * len(_all_trials()) and {task.settings.measured_on for task in tasks} == {"val"}


def test_the_reported_grid_is_written_from_the_kept_table_and_shares_neither_seed_nor_classes_with_the_search():
    assert (GRIDS / "objects.yaml").read_text() == _objects_text(pd.read_csv(KEPT))
    tasks = expand(read_grid(GRIDS / "objects.yaml"))
    assert {task.settings.class_split for task in tasks} == set(_UNITS["class_split"]) and _APART["class_split"] not in _UNITS["class_split"]
    assert {task.settings.seed for task in tasks} == {_UNITS["seed"]} != {_APART["seed"]}
    assert {(task.settings.learner, task.settings.measured_on) for task in tasks} == {(name, "test") for name in _SEARCHED}


def test_base_accuracy_chooses_whatever_novel_accuracy_says():
    scored = _scored(invented(base=lambda place: 50 + place % 13, novel=lambda place: 60 - place % 13, h=lambda place: 40 + place % 5))
    best = _choose(scored, "base")
    assert len(best) == len(_SEARCHED) * len(OBJECTIVES)
    for (learner, regulariser), one in best.iterrows():
        of_cell = scored[(scored.learner == learner) & (scored.regulariser == regulariser)]
        assert one.base == of_cell.base.max()
    assert (_choose(scored, "h").h >= best.h).all()


def test_a_rate_at_the_end_of_its_row_is_told():
    trials = _all_trials()
    highest = {name: max(trial.lr for trial in trials if trial.learner == name) for name in _SEARCHED}
    at_the_end = [trial.lr > highest[trial.learner] / 1.2 for trial in trials]
    best = _choose(_scored(invented(base=lambda place: 90.0 if at_the_end[place] else 50.0, novel=float, h=float)), "base")
    assert best.at_the_edge[best.base == 90].all() and (best.base == 90).any()
    inside = [1.5 * min(one.lr for one in trials if one.learner == trial.learner) < trial.lr < highest[trial.learner] / 1.5 for trial in trials]
    best = _choose(_scored(invented(base=lambda place: 90.0 if inside[place] else 50.0, novel=float, h=float)), "base")
    assert not best.at_the_edge.any() and (best.base == 90).all()


def test_a_trial_that_is_not_there_is_an_error():
    runs = invented(base=float, novel=float, h=float)
    with pytest.raises(ValueError, match="needs one at each of.*search.yaml"):
        _scored(runs.iloc[:-1])


@pytest.mark.parametrize("other", [dict(dataset="world/shapes"), dict(seed=1), dict(class_split=1), dict(measured_on="test"),
                                   dict(learner_settings=dict(n_ctx=16)), dict(pretrained="world-2"), dict(backbone="RN50")])
def test_a_run_that_was_made_from_something_else_is_not_taken_for_a_trials(other):
    runs = invented(base=float, novel=float, h=float)
    strangers = runs.assign(base=99.0, **{name: [value] * len(runs) for name, value in other.items()})
    assert _scored(pd.concat([strangers, runs])).equals(_scored(runs))
    with pytest.raises(ValueError, match="needs one at each of"):
        _scored(strangers)


def test_the_readme_says_how_many_trials_there_were():
    numbers = {learner: len(_trials(learner, "own")) for learner in _SEARCHED}
    assert numbers == {name: 11 if name in ("coop", "cocoop", "maple") else 8 for name in _SEARCHED}
    said = " ".join((ROOT / "README.md").read_text().split())
    assert "had 8 trials of rate, epochs and weights (11 for CoOp, CoCoOp and MaPLe)" in said


@pytest.mark.parametrize("arguments", [[], ["recipes"], ["objects"], ["grid", "more"]])
def test_another_command_is_refused_with_what_there_is(arguments):
    with pytest.raises(SystemExit, match="npt.study.search grid"):
        _search_command(arguments)
