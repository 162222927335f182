"The two grids of many runs: what few_shot and ablation train is what their notebooks say."

from itertools import product

from conftest import ROOT

from npt.learners.recipes import recipe
from npt.objectives.objective import build_objective
from npt.study.grid import expand, read_grid
from npt.study.plan import make_plan

GRIDS = ROOT / "workflow" / "grids"


def settings_of(grid: str, name: str) -> list:
    "The settings of one experiment of a grid."
    whole = read_grid(GRIDS / f"{grid}.yaml")
    return [task.settings for task in expand(whole.model_copy(update=dict(experiments={name: whole.experiments[name]})))]


def test_few_shot_grid_is_what_it_claims():
    base, all_classes = settings_of("few_shot", "base_to_novel"), settings_of("few_shot", "all_classes")
    for settings, classes, learners in (base, "base", {"coop", "kgcoop", "maple"}), (all_classes, "all", {"coop"}):
        cells = {(run.learner, run.objective, run.shots, run.seed) for run in settings}
        assert cells == set(product(learners, ("own", "npt"), (1, 2, 4, 8, 16), (1, 2, 3))) and len(settings) == len(cells)
        assert {(run.classes, run.tau, run.measured_on) for run in settings} == {(classes, 1, "test")}
    assert len(make_plan(read_grid(GRIDS / "few_shot.yaml")).tasks) == len(base) + len(all_classes)


def test_each_term_is_tried_alone_and_at_the_weight_of_the_recipe():
    terms = settings_of("ablation", "terms")
    sums = {build_objective(run.objective) for run in terms}
    assert {(str(build_objective(run.objective)), run.tau, run.seed) for run in terms} == set(
        product(map(str, sums), (1, 0.0625), (1, 2, 3))), "every sum has a pair with every other"
    assert {(run.learner, run.measured_on) for run in terms} == {("coop", "test")}
    assert build_objective("ce") in sums
    whole = [recipe("coop", "world").objective_for(name) for name in ("npt", "npt_anchored", "cpt")]
    assert sums.issuperset(whole)
    for name, weight in {pair for one in whole for pair in one.weights} - {("ce", 1)}:
        assert build_objective(f"ce + {weight}*{name}") in sums, f"{name} is not tried alone"
    weights = dict(whole[0].weights)
    lc = f"ce + {weights['lc']}*lc"
    swapped = f"{lc}_centered + mi", f"{lc}_centered", f"{lc} + mi_dot", "ce + mi_dot", f"{lc} + mi + etf"
    assert sums.issuperset(map(build_objective, swapped))


def test_every_number_of_clusters_has_runs_of_its_own():
    clusters = settings_of("ablation", "clusters")
    assert {run.num_clusters for run in clusters} == {1, 2, 4, 8} and {run.objective for run in clusters} == {"cpt"}
    assert len({run.folder for run in clusters}) == len(clusters) == 4 * 2 * 3


def test_weights_grid_never_sees_a_test_image_or_a_seed_of_the_tests():
    weights, terms = settings_of("ablation", "weights"), settings_of("ablation", "terms")
    assert {run.measured_on for run in weights} == {"val"} and {run.tau for run in weights} == {0.0625}
    assert {run.seed for run in weights} == {101, 102, 103} and not {run.seed for run in terms} & {101, 102, 103}
    sums = {build_objective(run.objective) for run in weights} - {build_objective("ce")}
    axis = 0.1, 0.3, 1, 3
    assert sums == {build_objective(f"ce + {lc}*lc + {mi}*mi") for lc, mi in product(axis, axis)}
    assert len(weights) == 3 * (1 + 16)
    in_use = dict(recipe("coop", "world").objective_for("npt").weights)
    assert {in_use["lc"], in_use["mi"]} <= set(axis), "the recipe's weights can be marked on the map"


def test_ablation_is_under_two_hundred_runs_of_one_folder_each():
    plan = make_plan(read_grid(GRIDS / "ablation.yaml"))
    assert len({task.folder.path for task in plan.tasks}) == len(plan.tasks) < 200
