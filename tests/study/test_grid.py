"A grid file: what is refused, what two experiments share, that it can be read anywhere; and what this repository's grids train."

import re
from itertools import product

import pytest
from workflows import GRIDS

from npt.learners.recipes import recipe
from npt.objectives.objective import build_objective
from npt.study.grid import expand, read_grid
from npt.study.plan import make_plan


@pytest.mark.parametrize("text, said", [
    ("runs_dir: 'a {b}'\nexperiments: {a: {seed: 1}}", "runs_dir: it holds a brace or a line break"),
    ("runs_dir: runs\ndata_root: \"a\\nb\"\nexperiments: {a: {seed: 1}}", "data_root: it holds a brace or a line break"),
    ("runs_dir: runs\nexperimens: {a: {seed: 1}}", "'experimens'. Did you mean 'experiments'"),
    ("runs_dir: runs\nexperiments: {a: {learners: [coop]}}", "(in the experiment 'a') called 'learners'. Did you mean 'learner"),
    ("runs_dir: runs\nexperiments: {a: {learner: [coup]}}", "a: learner='coup': there is no learner 'coup'. Did you mean 'coop'"),
    ("runs_dir: runs\nexperiments: {a: {tau: [1, 4]}}", "a: tau=4: Input should be less than or equal to 1"),
    ("runs_dir: runs\nexperiments: {a: {seed: []}}", "a.seed is an empty list"),
    ("runs_dir: runs\nexperiments: {a: {seed: [3, 1, 3]}}", "a.seed lists 3 twice"),
    ("runs_dir: runs\nexperiments: {a: {objective: [own, off]}}", "YAML reads yes, no, on and off"),
    ("runs_dir: runs\nexperiments: {a: {transfer: [nowhere]}}", "(in a.transfer) called 'nowhere'"),
    ("runs_dir: runs\nexperiments: {a: {runs_dir: there}}", "beside experiments"),
    ("runs_dir: runs\nexperiments: {a: {device: cuda}}", "on the command line"),
    ("runs_dir: runs\nexperiments: {a: {seed: 1}, b: {seed: 1, measure_every: 3}}", "measure_every: None and 3"),
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


def test_paths_are_written_out_once_for_all(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    grid = read_grid(dict(runs_dir="~/runs", data_root="~/data", experiments=dict(one=dict(seed=1))))
    (task,) = expand(grid)
    assert (grid.runs_dir, grid.data_root, task.settings.data_root) == (f"{tmp_path}/runs", f"{tmp_path}/data", f"{tmp_path}/data")
    assert str(task.settings.folder).startswith(f"{tmp_path}/runs/world") and make_plan(grid).folder == tmp_path / "runs" / ".workflow"
    with pytest.raises(ValueError, match="runs_dir: it is no path"):
        read_grid(dict(runs_dir="", experiments=dict(one=dict(seed=1))))


# ---- the grids of this repository


def settings_of(grid: str, name: str) -> list:
    "The settings of one experiment of a grid."
    whole = read_grid(GRIDS / f"{grid}.yaml")
    return [task.settings for task in expand(whole.model_copy(update=dict(experiments={name: whole.experiments[name]})))]


def test_the_worlds_grid_is_the_paper_in_miniature():
    tasks = expand(read_grid(GRIDS / "world.yaml"))
    assert len({task.settings.folder for task in tasks}) == len(tasks) == 1080
    asked = {(s.learner, s.objective, s.tau, s.pretrained, s.class_split) for s in (task.settings for task in tasks)}
    units = set(product((None, "world-2", "world-3"), (1, 2, 3, 4)))
    for learner in "coop", "cocoop", "kgcoop", "maple", "promptsrc":
        for objective, taus in dict(own=(1, 0.25, 0.0625), npt=(1, 0.25, 0.0625), npt_anchored=(1, 0.0625), cpt=(1, 0.0625)).items():
            assert {(learner, objective, tau, *unit) for tau in taus for unit in units} <= asked
    claimed = [s for s in (task.settings for task in tasks) if s.objective in ("own", "npt") and s.tau != 0.25]
    assert {s.seed for s in claimed} == {1, 2, 3} and len(claimed) == 5 * 2 * 2 * 12 * 3
    targets = {target for task in tasks for target in task.targets}
    assert targets == {"world/textures", "world/scenes", "world/objects-sketch", "world/objects-inverted", "world/objects-noisy"}


def test_few_shot_grid_is_what_it_claims():
    base, all_classes = settings_of("few_shot", "base_to_novel"), settings_of("few_shot", "all_classes")
    for settings, classes, learners in (base, "base", {"coop", "kgcoop", "maple"}), (all_classes, "all", {"coop"}):
        split = "class_split" if classes == "base" else "seed"
        cells = {(run.learner, run.objective, run.shots, getattr(run, split)) for run in settings}
        assert cells == set(product(learners, ("own", "npt"), (1, 2, 4, 8, 16), (1, 2, 3, 4))) and len(settings) == len(cells)
        assert {(run.classes, run.tau, run.measured_on) for run in settings} == {(classes, 1, "test")}
    assert len(make_plan(read_grid(GRIDS / "few_shot.yaml")).tasks) == len(base) + len(all_classes)


def test_each_term_is_tried_alone_and_at_the_weight_of_the_recipe():
    terms = settings_of("ablation", "terms")
    sums = {build_objective(run.objective) for run in terms}
    assert {(str(build_objective(run.objective)), run.tau, run.class_split) for run in terms} == set(
        product(map(str, sums), (1, 0.0625), (1, 2, 3, 4))), "every sum has a pair with every other"
    npt = recipe("coop", "world", "npt")
    assert {(run.lr, run.epochs) for run in terms + settings_of("ablation", "clusters")} == {(npt.lr, npt.epochs)}
    assert {(run.learner, run.measured_on) for run in terms} == {("coop", "test")}
    assert build_objective("ce") in sums
    whole = [recipe("coop", "world").objective_for(name) for name in ("npt", "npt_anchored", "cpt")]
    assert sums.issuperset(whole)
    for name, weight in {pair for one in whole for pair in one.weights} - {("ce", 1)}:
        assert build_objective(f"ce + {weight}*{name}") in sums, f"{name} is not tried alone"
    weights = dict(whole[0].weights)
    (etf,) = [weight for name, weight in whole[1].weights if name == "etf"]
    lc, mi = f"ce + {weights['lc']}*lc", f"{weights['mi']}*mi"
    swapped = f"{lc}_centered + {mi}", f"{lc}_centered", f"{lc} + {mi}_dot", f"ce + {mi}_dot", f"{lc} + {mi} + {etf}*etf"
    assert sums.issuperset(map(build_objective, swapped))


def test_every_number_of_clusters_has_runs_of_its_own():
    clusters = settings_of("ablation", "clusters")
    assert {run.num_clusters for run in clusters} == {1, 2, 5} and {run.objective for run in clusters} == {"cpt"}
    assert len({run.folder for run in clusters}) == len(clusters) == 3 * 2 * 4


def test_weights_grid_never_sees_a_test_image_or_a_class_split_of_the_tests():
    weights, terms = settings_of("ablation", "weights"), settings_of("ablation", "terms")
    assert {run.measured_on for run in weights} == {"val"} and {run.tau for run in weights} == {0.0625}
    assert {run.class_split for run in weights} == {101, 102, 103} and not {run.class_split for run in terms} & {101, 102, 103}
    assert not {run.seed for run in terms} & {run.seed for run in weights}
    sums = {build_objective(run.objective) for run in weights} - {build_objective("ce")}
    axis = 0.1, 0.3, 1, 3
    assert sums == {build_objective(f"ce + {lc}*lc + {mi}*mi") for lc, mi in product(axis, axis)}
    assert len(weights) == 3 * (1 + 16)
    in_use = dict(recipe("coop", "world").objective_for("npt").weights)
    assert {in_use["lc"], in_use["mi"]} <= set(axis), "the recipe's weights can be marked on the map"


def test_ablation_is_under_two_hundred_runs_of_one_folder_each():
    plan = make_plan(read_grid(GRIDS / "ablation.yaml"))
    assert len({task.folder.path for task in plan.tasks}) == len(plan.tasks) < 200
