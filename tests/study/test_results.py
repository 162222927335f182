"Results of a grid as files, those of this repository, and what its README and its pages say of them."

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from invented import on_the_world, table
from notebooks import run_cells
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image
from workflows import grid_file, leave_run, small_grid

from npt._files import write_text
from npt.figures.show import _digest
from npt.study.comparison import change_table, gains, kinds, units
from npt.study.grid import expand, read_grid
from npt.study.jobs import do_task
from npt.study.published import published
from npt.study.results import Results, read_results, units_table, write_results
from npt.study.tables import main_table, markdown_table

KEPT = sorted(path.name for path in (ROOT / "workflow" / "results").iterdir() if path.is_dir())


def test_results_as_files_are_the_same_results(tmp_path):
    runs = table()
    wanted = pd.concat([runs.assign(finished=True), runs.iloc[:1].assign(seed=9, finished=False)])
    write_results(Results(wanted[["learner", "objective", "tau", "seed", "folder", "dataset", "finished"]], runs, pd.DataFrame(),
                          pd.DataFrame()), tmp_path)
    again = read_results(tmp_path)
    assert np.allclose(again.runs.h, runs.h, rtol=1e-6) and again.missing.seed.tolist() == [9]
    assert np.allclose(gains(again.runs), gains(runs), atol=1e-4) and again.transfers.empty


def test_units_of_tables_from_files_are_the_same_units(tmp_path):
    runs = on_the_world(table()).assign(finished=True)
    write_results(Results(runs, runs.drop(columns="finished"), pd.DataFrame(), pd.DataFrame()), tmp_path)
    again = read_results(tmp_path).runs
    assert units(again).tolist() == units(runs).tolist() and (gains(again).pairs == 18).all()


def test_units_are_counted_where_all_their_runs_are_there():
    wanted = on_the_world(table(learners=["coop"], objectives=["own"], taus=[1.0])).assign(finished=True)
    told = units_table(wanted)
    assert told.shape == (1, 1) and told.iloc[0, 0] == "18"
    wanted.loc[(wanted.pretrained == "world-3") & (wanted.seed == 1), "finished"] = False
    assert units_table(wanted).iloc[0, 0] == "16 of 18"
    shots = pd.concat([wanted.assign(shots=16, finished=True), wanted.assign(shots=1)])
    assert units_table(shots).iloc[0, 0] == "16 of 18" and units_table(shots, columns="shots").iloc[0].tolist() == ["16 of 18", "18"]


@pytest.mark.parametrize("content, said", [("", "damaged"), ("a,b\n1,2\n", "no column"), ("a,b\n1,2,3,4\n5\n\"", "damaged")])
def test_damaged_tables_are_named(content, said, tmp_path):
    write_text(content, tmp_path / "runs.csv")
    with pytest.raises(ValueError, match=rf"runs.csv.*{said}"):
        read_results(tmp_path)


@pytest.mark.parametrize("file, content", [("metrics.json", '{"base": 7'), ("config.json", "{"), ("history.csv", "epoch,loss\n0,1."),
                                           ("inputs.json", "{}"), ("transfer.json", "[")])
def test_a_damaged_run_is_named_and_left_out_and_missing(file, content, tmp_path):
    grid = small_grid(seed=[1, 2, 3]) | dict(runs_dir=str(tmp_path / "runs"))
    tasks = expand(read_grid(grid))
    for task in tasks:
        leave_run(task)
    (tasks[1].folder.path / file).write_text(content)
    with pytest.warns(UserWarning, match=f"a run is left out: .*seed2/{file}.*delete it"):
        results = read_results(grid_file(tmp_path, grid))
    assert results.missing.seed.tolist() == [2] and results.runs.seed.tolist() == [1, 3] and len(results.wanted) == 3
    write_results(results, tmp_path)
    assert sorted(pd.read_csv(tmp_path / "runs.csv").seed) == [1, 2, 3]


def report_on(grid: dict, folder) -> pd.DataFrame:
    "Run the report of a grid; the table that it writes."
    parameters = dict(results=str(grid_file(folder, grid)))
    nbformat.write(parameterize_notebook(load_notebook_node(str(ROOT / "nbs" / "report.ipynb")), parameters), folder / "report.ipynb")
    run_cells(folder / "report.ipynb", folder)
    return pd.read_csv(folder / grid["runs_dir"] / "runs.csv")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a run is left out")
def test_a_grid_without_own_or_training_gets_its_report_with_what_there_is(few_pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = small_grid(shots=1, epochs=1, objective="npt", learner=["zero_shot", "tip_adapter", "coop"])
    tasks = expand(read_grid(grid))
    assert [do_task(task) for task in tasks] == [None] * 3
    rows = report_on(grid, tmp_path)
    assert rows.h.notna().all() and len(rows) == 3 and set(rows.objective) == {"npt"}
    alone = grid | dict(experiments=dict(alone=grid["experiments"]["small"] | dict(learner="zero_shot", seed=[1, 2])))
    leave_run(expand(read_grid(alone))[1])
    tasks[0].folder.metrics.write_text("{")
    rows = report_on(alone, tmp_path)
    assert rows.learner.tolist() == ["zero_shot"] * 2 and rows.h.notna().sum() == 1


def open_world_of(runs: pd.DataFrame, results: str = "runs/some") -> dict[str, pd.DataFrame]:
    "The tables of the report's sections about the open world, by title."
    cells, tables = load_notebook_node(str(ROOT / "nbs" / "report.ipynb")).cells, {}
    first, last = (next(place for place, cell in enumerate(cells) if cell.source.startswith(text)) for text in
                   ("## One label space", "A run on a grid file keeps the figures"))
    namespace = dict(results=results, to_novel=kinds(runs), show=lambda table, title: tables.update({title.strip(): table}))
    for cell in [next(cell for cell in cells if "import pandas as pd" in cell.source), *cells[first:last]]:
        exec(cell.source if cell.cell_type == "code" else "", namespace)
    return tables


def in_the_open_world() -> pd.DataFrame:
    "Invented runs with numbers among all names and of unknown images; NECO was measured for none."
    runs, draw = table(), np.random.default_rng(0)
    joint = "joint_h", "base_as_novel", "novel_as_base", "ausuc", "openworld_auc"
    detected = [f"{score}_{name}" for score in ("mcm", "max_logit", "energy") for name in ("auroc", "fpr95")]
    for name in (*joint, *detected):
        runs[name], runs[f"zero_shot_{name}"] = draw.uniform(20, 80, len(runs)), 30 + runs.seed
    return runs.assign(neco_auroc=np.nan, zero_shot_neco_auroc=np.nan)


def test_the_report_has_tables_of_the_open_world(capsys):
    runs = in_the_open_world()
    tables = open_world_of(runs)
    joint, unknown = tables["Among all names, world/shapes"], tables["Novel images as unknown, world/shapes"]
    assert list(joint) == ["joint H", "base as novel", "novel as base", "AUSUC", "OpenworldAUC"] and len(joint) == len(unknown) == 1 + 8
    assert not [name for name in unknown if "NECO" in name] and {"energy AUROC", "energy FPR95"} < set(unknown)
    assert (joint.loc[("zero_shot", "", "")] == "32.0").all(), "seeds 1 to 3"
    some = runs[(runs.learner == "maple") & (runs.objective == "npt") & (runs.tau == 0.25)]
    assert joint.loc[("maple", "npt", "0.25"), "novel as base"] == f"{some.novel_as_base.mean():.1f}"
    assert unknown.loc[("maple", "npt", "0.25"), "MCM FPR95"] == f"{some.mcm_fpr95.mean():.1f}"
    for metric, title in dict(joint_h="joint H", ausuc="AUSUC", energy_auroc="the AUROC of energy").items():
        assert tables[f"Change in {title}"].equals(change_table(gains(runs, metric=metric)))
    assert capsys.readouterr().out.count("comparisons: ") == 3


def test_the_report_says_where_the_open_world_was_not_measured(capsys):
    assert open_world_of(table(), results="../workflow/results/world") == {}
    told = capsys.readouterr().out
    assert "snakemake --cores 2 --configfile workflow/grids/world.yaml" in told and "Nor was it measured" in told
    runs = in_the_open_world()
    alone = open_world_of(runs[runs.objective == "own"])
    assert len(alone) == 2 and len(alone["Among all names, world/shapes"]) == 1 + 4, "with nothing to compare there are no changes"
    runs.loc[runs.learner == "coop", "joint_h"] = np.nan
    assert set(open_world_of(runs)["Among all names, world/shapes"].index.get_level_values("learner")) == {"zero_shot", "maple"}


@pytest.mark.parametrize("name", KEPT)
def test_kept_results_are_of_their_grid(name):
    kept, tasks = read_results(ROOT / "workflow" / "results" / name), expand(read_grid(ROOT / f"workflow/grids/{name}.yaml"))
    settings = [task.settings for task in tasks]
    asked = {(s.learner, str(s.objective), s.tau, s.shots, s.classes, s.measured_on, s.seed) for s in settings}
    there = kept.wanted[["learner", "objective", "tau", "shots", "classes", "measured_on", "seed"]].itertuples(index=False, name=None)
    assert asked == set(there) and len(kept.wanted) == len(tasks)
    measured = [metric for metric in ("base", "novel", "h", "last") if metric in kept.runs]
    assert measured and kept.runs[measured].dropna().map(lambda value: 0 <= value <= 100).all(axis=None)


WORLD = ROOT / "workflow" / "results" / "world"
NAMES = dict(coop="CoOp", cocoop="CoCoOp", kgcoop="KgCoOp", promptsrc="PromptSRC", maple="MaPLe")


RESULTS, SPEED, README = ROOT / "docs" / "results.md", ROOT / "docs" / "speed.md", ROOT / "README.md"


def sentences(page: Path) -> str:
    "A page with its lines joined."
    return " ".join(page.read_text().split())


def claims() -> pd.DataFrame:
    "The file of claims, by family and claim."
    return pd.read_csv(WORLD / "claims.csv").set_index(["family", "claim"])


def told(row) -> str:
    "A mean and its interval as the pages have them."
    return f"{row['mean']:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"


def npt_gains() -> pd.DataFrame:
    "What NPT changes in H, for each learner and imbalance ratio."
    runs = read_results(WORLD).runs
    return gains(runs[runs.objective.isin(["own", "npt"])]).droplevel("objective")


def listed(cells) -> str:
    "Claims such as (maple, tau 1) in words."
    return ", ".join(f"{NAMES[learner]}'s at $\\tau = {tau.removeprefix('tau ')}$" for learner, tau in (cell.split(", ") for cell in cells))


def test_the_page_of_results_shows_the_kept_ones():
    kept, page = read_results(WORLD).runs, RESULTS.read_text()
    assert markdown_table(main_table(kept[kept.tau != 0.25])) in page, "put the table of the last run into docs/results.md"
    changes = npt_gains()
    assert markdown_table(change_table(changes)) in page, "put the changes of the last run into docs/results.md"
    seeds = [1 if tau == 0.25 else 3 for _, tau in changes.index]
    assert list(changes.pairs) == [12 * some for some in seeds] and len(changes) == 15, "five learners, three ratios, three CLIPs times four class splits"


def test_the_readme_shows_the_strongest_imbalance():
    kept, changes, page = read_results(WORLD).runs, npt_gains(), README.read_text()
    means = kept[kept.tau == 0.0625].groupby(["learner", "objective"]).h.mean()
    for learner, name in NAMES.items():
        told_of = f"{means[learner, 'own']:.1f} | {means[learner, 'npt']:.1f} | {told(changes.loc[(learner, 0.0625)])}"
        assert f"| {name} | {told_of} |" in page, "put the numbers of the last run into nbs/index.ipynb"
    family = claims().loc["NPT"]
    assert f"{int(family.stands.sum())} of the {len(family)} stand" in page


def test_the_figures_of_the_readme_were_drawn_from_the_kept_tables():
    parts = WORLD.parent / "what_works"
    for picture, tables in {WORLD / "gains.png": [WORLD], parts / "parts.png": [WORLD, parts]}.items():
        assert picture.relative_to(ROOT).as_posix() in README.read_text()
        drawn_from = Image.open(picture).text["made_from"]
        assert drawn_from == _digest([table / "runs.csv" for table in tables]), f"draw {picture.name} anew: its notebook has -p write True"


@pytest.mark.parametrize("page", [RESULTS, README], ids=lambda page: page.stem)
def test_every_interval_on_a_page_is_a_claim_of_the_file(page):
    found = set(re.findall(r"[+-]\d+\.\d \[[^]]*\]", sentences(page)))
    known = {told(row) for _, row in claims().iterrows()} | {told(row) for _, row in npt_gains().iterrows()}
    assert found and found <= known, f"numbers without a claim: {found - known}; see nbs/experiments/claims.ipynb"


def test_what_is_said_to_stand_is_what_the_file_says():
    file, page = claims(), sentences(RESULTS)
    family = file.loc["NPT"]
    stands = list(family.index[family.stands])
    assert f"{len(stands)} of the {len(family)} stand" + (f": {listed(stands)}." if stands else ".") in page
    for name, said in {"zero-shot": "above zero-shot CLIP", "more under imbalance": "a larger gain under imbalance", "tail": "a gain of rare classes",
                       "other regularisers": "a gain of the anchored variant or CPT", "over learners": "a gain in the mean of the five"}.items():
        assert f"{said}: {int(file.loc[name].stands.sum())} of {len(file.loc[name])} stand" in page
    for ending in "", "_other":
        assert file[f"stands{ending}"].equals(file[f"holm{ending}"] <= 0.05) and (file[f"holm{ending}"] >= file[f"p{ending}"]).all()


def test_the_published_gains_stand_beside_ours():
    page = RESULTS.read_text()
    printed = published().query("experiment == 'imbalance' and dataset == 'average'").pivot(index="tau", columns="method", values="value")
    ours = npt_gains().loc["maple"]
    for tau, row in printed.iterrows():
        assert f"| {tau:g} | {row.maple:.2f} | {row.npt:.2f} | {row.npt - row.maple:+.2f} | {told(ours.loc[tau])} |" in page


def test_correlations_on_the_page_of_results_are_those_of_the_file():
    collapse, page = claims().loc["collapse"]["mean"].map("{:+.2f}".format), sentences(RESULTS)
    assert f"Spearman {collapse['nc4, base']} for NC4 and {collapse['nc3, base']} for NC3" in page
    assert f"with novel accuracy {collapse['nc4, novel']} and {collapse['nc3, novel']}" in page


def test_how_the_world_was_judged_stands_on_the_page_of_results_as_in_its_notebook():
    (verdict,) = re.findall(r"\d+ met, \d+ open, \d+ missed of \d+", (ROOT / "nbs" / "experiments" / "judge_world.ipynb").read_text())
    assert f"{verdict} comparisons" in sentences(RESULTS)


def test_the_page_of_speed_tells_what_a_gpu_measured():
    gpu, page = json.loads((ROOT / "workflow/results/gpu.json").read_text()), sentences(SPEED)
    curve = {row["K"]: row for row in gpu["curve"] if row["rival"] == "public code"}
    path = {row["path"]: 1e3 * row["seconds"] for row in gpu["paths"] if row["K"] == 100}
    step = next(row for row in gpu["steps"] if row["step"] == "MaPLe, step")
    side = next(row for row in gpu["steps"] if row["step"] == "CoOp, text side" and row["rival"] == "public code")
    assert f"on an {gpu['machine']} in {gpu['precision']}, with torch {gpu['torch'][:4]}" in page
    assert (f"is {side['time_ratio']:.1f} times as fast as the public code with 100 classes and {curve[1000]['time_ratio']:.1f} times with 1000, at "
            f"{side['memory_ratio']:.1f} and {curve[1000]['memory_ratio']:.1f} times less memory") in page
    assert f"takes {path['graphed']:.1f} ms in the place of {path['rows']:.1f} ms with 100 classes" in page
    assert f"{step['time_ratio']:.1f} times as fast, at {step['memory_ratio']:.1f} times less memory" in page and step["time_ratio"] < 1
    assert gpu["speeds"][0]["measured"] < 7e-6
