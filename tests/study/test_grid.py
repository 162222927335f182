"A grid file: what is refused, what two experiments share, and that it can be read anywhere."

import re

import pytest
from workflows import GRIDS

from npt.study.grid import expand, read_grid


@pytest.mark.parametrize("text, said", [
    ("runs_dir: runs\nexperimens: {a: {seed: 1}}", "'experimens'. Did you mean 'experiments'"),
    ("runs_dir: runs\nexperiments: {a: {learners: [coop]}}", "(in the experiment 'a') called 'learners'. Did you mean 'learner"),
    ("runs_dir: runs\nexperiments: {a: {learner: [coup]}}", "a.learner: there is no learner 'coup'. Did you mean 'coop'"),
    ("runs_dir: runs\nexperiments: {a: {tau: [1, 4]}}", "a.tau: Input should be less than or equal to 1 (it is 4)"),
    ("runs_dir: runs\nexperiments: {a: {seed: []}}", "a.seed is an empty list"),
    ("runs_dir: runs\nexperiments: {a: {seed: [3, 1, 3]}}", "a.seed lists 3 twice"),
    ("runs_dir: runs\nexperiments: {a: {objective: [own, off]}}", "YAML reads yes, no, on and off"),
    ("runs_dir: runs\nexperiments: {a: {transfer: [nowhere]}}", "(in a.transfer) called 'nowhere'"),
    ("runs_dir: runs\nexperiments: {a: {runs_dir: there}}", "beside experiments"),
    ("runs_dir: runs\nexperiments: {a: {device: cuda}}", "on the command line"),
    ("runs_dir: runs\nexperiments: {a: {seed: 1}, b: {seed: 1, epochs: 3}}", "epochs: None and 3"),
    ("runs_dir: runs\ngroup: many\nexperiments: {a: {seed: 1}}", "group: Input should be a valid integer"),
    ("experiments: {a: {seed: 1}}", "runs_dir: Field required"),
    ("runs_dir: runs", "experiments: Field required"),
    ("runs_dir: runs\nexperiments: {}", "experiments: Dictionary should have at least 1 item"),
    ("- a list", "Input should be"),
    ("a: [1", "is no YAML file"),
    (f"runs_dir: runs\nexperiments: {{a: {{seed: {list(range(1000))}, shots: {list(range(1, 1000))}}}}}", "999000 runs"),
])
def test_bad_grids_are_refused(text, said, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(said)):
        expand(read_grid(path))


def test_a_grid_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        read_grid(tmp_path / "nowhere.yaml")


def test_a_run_of_two_experiments_is_done_once_and_tried_on_the_targets_of_both():
    experiments = dict(near=dict(seed=[1, 2], transfer="world/scenes"), far=dict(seed=2, prepare=False, transfer="world/textures"))
    with pytest.raises(ValueError, match="prepare: True and False"):
        expand(read_grid(dict(runs_dir="runs", experiments=experiments)))
    experiments["far"].pop("prepare")
    tasks = expand(read_grid(dict(runs_dir="runs", experiments=experiments)))
    assert [(task.settings.seed, task.targets) for task in tasks] == [
        (1, ("world/scenes",)), (2, ("world/scenes", "world/textures"))]


def test_a_clusters_grid_is_read_on_a_laptop():
    grid = dict(runs_dir="/scratch/runs", data_root="/scratch/data", experiments=dict(one=dict(
        dataset="imagenet", backbone="ViT-B-16-quickgelu", pretrained="/scratch/clip.pt", precision="bf16", seed=[1, 2])))
    assert len(expand(read_grid(grid))) == 2, "its weights and data need not be here"


def test_the_worlds_grid_is_the_paper_in_miniature():
    tasks = expand(read_grid(GRIDS / "world.yaml"))
    assert len({task.settings.folder for task in tasks}) == len(tasks) >= 5 * 4 * 3 * 3
    asked = {(s.learner, s.objective, s.tau, s.seed) for s in (task.settings for task in tasks)}
    for learner in "coop", "cocoop", "kgcoop", "maple", "promptsrc":
        for objective in "own", "npt", "npt_anchored", "cpt":
            assert {(learner, objective, tau, seed) for tau in (1, 0.25, 0.0625) for seed in (1, 2, 3)} <= asked
    assert {"world/textures", "world/shapes-noisy"} <= {target for task in tasks for target in task.targets}
