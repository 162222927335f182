"NPT taken apart: one thing is changed, the shorter sums have as many trials as NPT, and the grids that are kept are those that the code writes."

import json

import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT

from npt.learners.recipes import recipe
from npt.objectives.objective import build_objective
from npt.study.ablation import (
    _CRUDER,
    _INSTEAD,
    _LEARNERS,
    _OUTSIDE,
    _ablation_command,
    _chosen,
    _controls,
    _controls_text,
    _npt_with,
    _roles,
    _runs_text,
    _search_text,
    _simpler_trials,
)
from npt.study.grid import expand, read_grid
from npt.study.search import _APART, _SIMPLER, _TAUS, _experiment, _space, _trials
from npt.training.fit import _OPTIMIZERS

GRIDS = ROOT / "workflow" / "grids"


def _optimiser(name: str) -> torch.optim.Optimizer:
    "An optimiser of one parameter, as a fit makes it."
    return _OPTIMIZERS[name]([torch.zeros(1, requires_grad=True)], lr=0.1)


def invented(base) -> pd.DataFrame:
    "A table of the search's runs, with accuracies that a function of the trial's place gives."
    usual = dict(learner_settings={}, backbone="world", pretrained=float("nan"), novel=50.0, h=50.0)
    return pd.DataFrame([usual | _experiment(trial) | dict(tau=tau, base=base(place)) for place, trial in enumerate(_simpler_trials()) for tau in _TAUS])


@pytest.mark.parametrize("learner", _LEARNERS)
def test_one_thing_is_changed(learner):
    chosen = dict(recipe(learner, "world").objective_for("npt").weights)
    for other in _INSTEAD.values():
        weights = dict(_npt_with(learner, other).weights)
        assert "lc" not in weights and weights.get(other) == (chosen["lc"] if other else None)
        assert {name: weight for name, weight in weights.items() if name != other} == {name: weight for name, weight in chosen.items() if name != "lc"}


@pytest.mark.parametrize("learner", _LEARNERS)
def test_a_shorter_sum_has_as_many_trials_as_npt_from_as_large_a_space(learner):
    assert recipe(learner, "world").settings.get("ctx_init", "a photo of a") == "a photo of a", "the search chose its published start"
    of_npt = [trial for trial in _trials(learner, "npt") if trial.start == "published"]
    for name in _SIMPLER:
        assert len(set(_space(learner, name, "published"))) == len(set(_space(learner, "npt", "published"))) == 30
        own = {trial for trial in _simpler_trials([learner]) if trial.objective == name}
        assert len(own) == len(of_npt) and {trial.start for trial in own} == {"published"}


@pytest.mark.parametrize("name", _SIMPLER)
def test_a_shorter_sum_has_one_weight(name):
    for text in _SIMPLER[name]:
        weights = dict(build_objective(text).weights)
        assert weights.pop("ce") == 1 and len(set(weights.values())) == 1 and "mi" in weights and not weights.keys() - {"mi", "cone"}


def test_the_grid_of_the_search_is_the_one_that_the_code_writes():
    assert (GRIDS / "what_works_search.yaml").read_text() == _search_text()
    tasks = expand(read_grid(GRIDS / "what_works_search.yaml"))
    assert len(tasks) == len(_TAUS) * len(_simpler_trials()) and {task.settings.measured_on for task in tasks} == {"val"}


def test_base_accuracy_on_validation_images_chooses():
    trials = _simpler_trials()
    best = {(trials[place].learner, trials[place].objective): place for place in range(0, len(trials))}  # the last of each
    chosen = _chosen(invented(lambda place: 70.0 if place in best.values() else 60.0)).set_index(["learner", "regulariser"])
    for cell, place in best.items():
        assert (chosen.loc[cell].lr, chosen.loc[cell].terms) == (trials[place].lr, trials[place].terms)
    with pytest.raises(ValueError, match="needs one at each of"):
        _chosen(invented(float).iloc[:-1])


def test_the_runs_take_what_was_chosen_and_share_nothing_with_the_search(tmp_path):
    table = invented(lambda place: 60 + place % 11)
    path = tmp_path / "grid.yaml"
    path.write_text(_runs_text(table))
    tasks = [task.settings for task in expand(read_grid(path))]
    assert {one.learner for one in tasks} == set(_LEARNERS) and {one.measured_on for one in tasks} == {"test"}
    assert _APART["seed"] not in {one.seed for one in tasks} and _APART["class_split"] not in {one.class_split for one in tasks}
    for role in _roles(table):
        mine = [one for one in tasks if (one.learner, one.objective, one.lr, one.epochs) == (role.learner, role.objective, role.lr, role.epochs)]
        found = {(one.pretrained, one.class_split, one.tau) for one in mine}
        units = {(clip, split, tau) for clip in (None, "world-2", "world-3") for split in (1, 2, 3, 4) for tau in role.taus}
        elsewhere = role.lr is None and role.learner in ("coop", "kgcoop", "cocoop", "promptsrc", "maple")
        assert found == (set() if elsewhere else found | units) and len(mine) == len(found), "each run once, and none that the world's grid has"


def test_the_grid_of_the_runs_is_what_the_kept_search_chose():
    kept = pd.read_csv(ROOT / "workflow" / "results" / "what_works_search" / "runs.csv", keep_default_na=False, na_values=[""])
    assert (GRIDS / "what_works.yaml").read_text() == _runs_text(kept)


def test_a_learner_has_ten_roles_of_which_the_parts_are_at_npts_own_rate():
    table = invented(lambda place: 60 + place % 11)
    for learner in _LEARNERS:
        roles = {role.role: role for role in _roles(table) if role.learner == learner}
        assert list(roles) == ["own", "npt", "npt_anchored", "cpt", *_INSTEAD, "mi, searched", "cone, searched"]
        tuned = recipe(learner, "world", "npt")
        assert {(roles[name].lr, roles[name].epochs) for name in _INSTEAD} == {(tuned.lr, tuned.epochs)}
        chosen = _chosen(table).query("learner == @learner").set_index("regulariser")
        assert all((roles[f"{name}, searched"].lr, roles[f"{name}, searched"].epochs) == (chosen.lr[name], chosen.epochs[name]) for name in _SIMPLER)


@pytest.mark.parametrize("learner", _LEARNERS)
def test_a_cruder_way_changes_one_thing(learner):
    own, npt = (recipe(learner, "world", name) for name in ("own", "npt"))
    roles = {role.role: role for role in _controls() if role.learner == learner}
    assert list(roles) == list(_CRUDER)
    decay, short, adjusted, adjusted_npt = roles.values()
    usual = next(iter(_optimiser(own.optimizer).param_groups))["weight_decay"]
    assert (decay.objective, decay.lr, decay.epochs) == (str(own.objective_for("own")), own.lr, own.epochs) and decay.weight_decay == pytest.approx(10 * usual) and usual > 0
    assert (short.objective, short.lr, short.weight_decay) == (str(own.objective_for("own")), own.lr, None) and short.epochs - 1 == round(own.epochs / 10) > 0
    for role, chosen, name in (adjusted, own, "own"), (adjusted_npt, npt, "npt"):
        weights = dict(chosen.objective_for(name).weights)
        weights["logit_adjusted"] = weights.pop("ce")
        assert dict(build_objective(role.objective).weights) == weights and (role.lr, role.epochs, role.weight_decay) == (chosen.lr, chosen.epochs, None)


def test_the_grid_of_the_controls_is_the_one_that_the_code_writes():
    assert (GRIDS / "controls.yaml").read_text() == _controls_text()
    tasks = [task.settings for task in expand(read_grid(GRIDS / "controls.yaml"))]
    assert len(tasks) == 12 * (len(_CRUDER) * len(_LEARNERS) + 2 * 2 * len(_OUTSIDE)) and {one.measured_on for one in tasks} == {"test"}


def test_the_command_prints_all_grids(tmp_path, capsys):
    _ablation_command(["controls"])
    assert capsys.readouterr().out == _controls_text()
    _ablation_command(["search"])
    assert capsys.readouterr().out == _search_text()
    table = invented(float)
    table.assign(learner_settings=table.learner_settings.map(json.dumps)).to_csv(tmp_path / "runs.csv", index=False)
    _ablation_command(["runs", str(tmp_path / "runs.csv")])
    assert yaml.safe_load(capsys.readouterr().out)["runs_dir"] == "runs/what_works"
    with pytest.raises(SystemExit, match="npt.study.ablation"):
        _ablation_command(["both"])
