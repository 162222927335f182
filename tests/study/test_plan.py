"A grid cut into jobs: which stay as they were, which wait for what, and which run folders are refused."

import json

import pytest
from workflows import small_grid

from npt._files import write_text
from npt.study.folder import RunFolder
from npt.study.grid import expand, read_grid
from npt.study.plan import _group_tasks, make_plan, needs_of, write_plan
from npt.training.checkpoint import _CHECKPOINT


def test_a_changed_grid_leaves_finished_groups_alone():
    base = dict(runs_dir="runs", experiments=dict(one=dict(seed=[1, 2], tau=[1, 0.25], learner=["coop", "maple"])))
    more = dict(runs_dir="runs", experiments=dict(one=dict(seed=[1, 2, 3], tau=[1, 0.25], learner=["coop", "maple"])))
    before, after = (_group_tasks(expand(read_grid(grid)), size=4) for grid in (base, more))
    assert before.keys() < after.keys() and len(after) == 3


def test_a_folder_with_a_run_of_other_settings_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = read_grid(small_grid())
    settings = expand(grid)[0].settings.model_copy(update=dict(epochs=7))
    write_text(settings.model_dump_json(), RunFolder(settings.folder).config)
    write_text("", settings.folder / _CHECKPOINT)
    with pytest.raises(ValueError, match="epochs: 7 there, 2 asked for"):
        make_plan(grid)


def test_a_group_waits_for_its_own_images_first_and_then_for_its_targets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(read_grid(small_grid(dataset=["dtd", "world/textures"], seed=[1, 2], transfer=["eurosat"])))
    datasets = [[plan.looks[name].source.dataset for name in plan.needs(group)] for group in plan.groups]
    assert datasets == [["dtd", "eurosat"], ["world/textures", "eurosat"]]
    write_plan(plan)
    needs = json.loads((plan.folder / "plan.json").read_text())
    assert needs == needs_of(plan) and set(needs["features"].values()) == {"dtd", "eurosat", None}
    assert read_grid(plan.folder / "grid.yaml") == plan.grid
