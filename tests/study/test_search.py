"The search: as many trials for each objective, chosen by base validation images alone, and files that are what the code says."

import json
from importlib.resources import files

import pandas as pd
import pytest
from conftest import ROOT

from npt.learners.recipes import recipe
from npt.study.grid import expand, read_grid
from npt.study.search import (
    _APART,
    _EPOCHS,
    _RANDOM,
    _SEARCHED,
    _SUMS,
    _TAUS,
    _all_trials,
    _choose,
    _experiment,
    _from_its_start,
    _grid_text,
    _recipes_text,
    _scored,
    _search_command,
    _settings_of,
    _space,
    _starts,
    _starts_of,
    _trials,
)

OBJECTIVES = "own", *_SUMS
GRIDS, KEPT = ROOT / "workflow" / "grids", ROOT / "workflow" / "results" / "search" / "runs.csv"


def _minimised(learner: str, objective: str, terms: str) -> str:
    "The sum of a trial, written out."
    return next(trial.minimised for trial in _trials(learner, objective) if trial.terms == terms)


def invented(**columns) -> pd.DataFrame:
    "A table of runs of all trials, with accuracies that a function of the trial's place gives."
    usual = dict(learner_settings={}, backbone="world", pretrained=float("nan"))
    rows = [usual | _experiment(trial) | dict(tau=tau) | {name: value(place) for name, value in columns.items()}
            for place, trial in enumerate(_all_trials()) for tau in _TAUS]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("learner", _EPOCHS)
def test_each_objective_of_a_learner_has_as_many_trials_from_as_large_a_space(learner):
    for start in _starts_of(learner):
        assert {len(set(_space(learner, objective, start))) for objective in OBJECTIVES} == {30}
        of_start = [{trial for trial in _trials(learner, objective) if trial.start == start} for objective in OBJECTIVES]
        assert len({len(some) for some in of_start}) == 1 and len(of_start[0]) >= 8
    assert {trial.minimised for trial in _trials(learner, "own")} == {"own"}


@pytest.mark.parametrize("learner", _RANDOM)
def test_a_start_is_what_its_name_says(learner):
    starts = {start: recipe(learner, "world").settings | _settings_of(learner, start) for start in _starts_of(learner)}
    assert starts["random"]["ctx_init"] is None and starts["published"].get("ctx_init", "a photo of a") == "a photo of a"


def test_a_trial_joins_its_terms_to_the_loss_of_the_method():
    sums = {trial.minimised for trial in _trials("kgcoop", "npt")}
    assert all("8*kg" in text and "lc" in text and "mi" in text for text in sums) and len(sums) > 1


def test_the_grid_that_is_kept_is_the_one_that_the_code_writes():
    assert (GRIDS / "search.yaml").read_text() == _grid_text()
    tasks = expand(read_grid(GRIDS / "search.yaml"))
    assert len(tasks) == len(_TAUS) * len(_all_trials()) and {task.settings.measured_on for task in tasks} == {"val"}


def test_the_recipes_are_written_from_the_kept_table():
    kept = _recipes_text(pd.read_csv(KEPT))
    assert (files("npt.learners") / "world_recipes.json").read_text() == kept
    for learner, chosen in json.loads(kept).items():
        for name, one in ((name, one) for name, one in chosen.items() if name != "settings"):
            used = recipe(learner, "world", name)
            assert (used.lr, used.epochs, used.settings | chosen["settings"]) == (one["lr"], one["epochs"], used.settings)
            assert name == "own" or used.objective_for(name) == used.objective_for(_minimised(learner, name, one["terms"]))


def test_what_is_reported_shares_neither_seed_nor_classes_with_the_search():
    for grid in "world", "few_shot", "ablation":
        tasks = [task.settings for task in expand(read_grid(GRIDS / f"{grid}.yaml")) if task.settings.measured_on == "test"]
        assert tasks and all(one.seed != _APART["seed"] and one.class_split != _APART["class_split"] for one in tasks)


def test_the_world_grid_takes_the_recipes_for_every_searched_start_and_objective():
    for task in expand(read_grid(GRIDS / "world.yaml")):
        assert (task.settings.lr, task.settings.epochs, task.settings.learner_settings) == (None, None, {})
        assert task.settings.objective in OBJECTIVES and task.settings.learner in _RANDOM


def test_base_accuracy_chooses_whatever_novel_accuracy_says():
    scored = _scored(invented(base=lambda place: 50 + place % 13, novel=lambda place: 60 - place % 13, h=lambda place: 40 + place % 5))
    best = _choose(scored, "base")
    assert len(best) == len(_SEARCHED) * len(OBJECTIVES)
    for (learner, regulariser), one in best.iterrows():
        of_cell = scored[(scored.learner == learner) & (scored.regulariser == regulariser)]
        assert one.base == of_cell.base.max()
    assert (_choose(scored, "h").h >= best.h).all()


def test_of_equal_trials_the_lowest_rate_is_taken_and_then_the_fewest_epochs():
    scored = _scored(invented(base=lambda place: 60.0, novel=float, h=float))
    for cell, one in _choose(scored, "base").iterrows():
        some = scored[(scored.learner == cell[0]) & (scored.regulariser == cell[1])]
        assert one.lr == some.lr.min() and one.epochs == some.epochs[some.lr == one.lr].min() and one.tied == len(some) > 1


@pytest.mark.parametrize("better", ["published", "random"])
def test_a_learner_has_one_start_which_base_accuracy_chooses_over_all_objectives(better):
    trials = _all_trials()
    scored = _scored(invented(base=lambda place: 70.0 if trials[place].start == better else 60.0, novel=float, h=float))
    assert {name: start for name, start in _starts(scored).items() if name in _RANDOM} == dict.fromkeys(_RANDOM, better)
    assert set(_from_its_start(scored).start[scored.learner.isin(_RANDOM)]) == {better}
    one_objective = [trial.start == better and trial.objective == "npt" and trial.lr < 0.1 for trial in trials]
    scored = _scored(invented(base=lambda place: 64.0 if one_objective[place] else 60.0 + 3 * (trials[place].start != better), novel=float, h=float))
    assert set(_starts(scored)[list(_RANDOM)]) == {start for start in ("published", "random") if start != better}, "one objective does not decide"


@pytest.mark.parametrize("lead, start", [(-5.0, "published"), (0.0, "published"), (1.3, "published"), (1.5, "random")])
def test_the_published_start_is_kept_where_two_starts_are_not_told_apart(lead, start):
    trials = _all_trials()
    scored = _scored(invented(base=lambda place: 60.0 + lead * (trials[place].start == "random"), novel=float, h=float))
    assert set(_starts(scored)[list(_RANDOM)]) == {start} == set(_from_its_start(scored).start[scored.learner.isin(_RANDOM)])


def test_a_rate_at_the_end_of_its_row_is_told():
    trials = _all_trials()
    rows = {(trial.learner, trial.start): [one.lr for one in trials if (one.learner, one.start) == (trial.learner, trial.start)] for trial in trials}
    at_the_end = [trial.lr > max(rows[trial.learner, trial.start]) / 1.2 for trial in trials]
    best = _choose(_scored(invented(base=lambda place: 90.0 if at_the_end[place] else 50.0, novel=float, h=float)), "base")
    assert best.at_the_edge[best.base == 90].all() and (best.base == 90).any()
    inside = [1.5 * min(rows[trial.learner, trial.start]) < trial.lr < max(rows[trial.learner, trial.start]) / 1.5 for trial in trials]
    best = _choose(_scored(invented(base=lambda place: 90.0 if inside[place] else 50.0, novel=float, h=float)), "base")
    assert not best.at_the_edge.any() and (best.base == 90).all()


def test_a_trial_that_is_not_there_is_an_error():
    runs = invented(base=float, novel=float, h=float)
    with pytest.raises(ValueError, match="needs one at each of.*search.yaml"):
        _scored(runs.iloc[:-1])


@pytest.fixture(scope="module")
def runs_and_scores():
    "Invented runs of all trials, and what each trial scored."
    runs = invented(base=float, novel=float, h=float)
    return runs, _scored(runs)


@pytest.mark.parametrize("other", [dict(dataset="world/shapes"), dict(seed=1), dict(class_split=1), dict(measured_on="test"),
                                   dict(learner_settings=dict(n_ctx=16)), dict(pretrained="world-2"), dict(backbone="RN50")])
def test_a_run_that_was_made_from_something_else_is_not_taken_for_a_trials(other, runs_and_scores):
    runs, scores = runs_and_scores
    strangers = runs.assign(base=99.0, **{name: [value] * len(runs) for name, value in other.items()})
    assert _scored(pd.concat([strangers, runs])).equals(scores)
    with pytest.raises(ValueError, match="needs one at each of"):
        _scored(strangers)


def test_the_page_of_results_says_how_many_trials_there_were():
    few, many = sorted({len(set(_trials(learner, objective))) for learner in _RANDOM for objective in OBJECTIVES})
    said = " ".join((ROOT / "docs" / "results.md").read_text().split())
    assert f"had {few} trials of rate, epochs, weights and start, or {many}," in said


@pytest.mark.parametrize("arguments", [[], ["recipes"], ["objects", "runs.csv"], ["grid", "more"]])
def test_another_command_is_refused_with_what_there_is(arguments):
    with pytest.raises(SystemExit, match="npt.study.search grid"):
        _search_command(arguments)
