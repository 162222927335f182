"Results of a grid as files, those of this repository, and what its README says of them."

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from invented import on_the_world, table
from notebooks import run_cells
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from workflows import grid_file, leave_run, small_grid

from npt._files import write_text
from npt.study.comparison import change_table, gains, gains_over_learners, units
from npt.study.correlations import distances
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


@pytest.mark.parametrize("name", KEPT)
def test_kept_results_are_of_their_grid(name):
    kept, tasks = read_results(ROOT / "workflow" / "results" / name), expand(read_grid(ROOT / f"workflow/grids/{name}.yaml"))
    settings = [task.settings for task in tasks]
    asked = {(s.learner, str(s.objective), s.tau, s.shots, s.classes, s.measured_on, s.seed) for s in settings}
    there = kept.wanted[["learner", "objective", "tau", "shots", "classes", "measured_on", "seed"]].itertuples(index=False, name=None)
    assert asked == set(there) and len(kept.wanted) == len(tasks)
    assert kept.runs[["base", "novel", "h"]].dropna().map(lambda value: 0 <= value <= 100).all(axis=None)


WORLD, CLAIMS, OBJECTS = (ROOT / "workflow" / "results" / name for name in ("world", "claims", "objects"))


def readme_sentences() -> str:
    "The README with its lines joined."
    return " ".join((ROOT / "README.md").read_text().split())


def over_learners() -> pd.DataFrame:
    "What each regulariser changes over the five learners, as texts."
    runs = read_results(WORLD).runs
    return pd.concat({name: change_table(gains_over_learners(runs, metric=name)) for name in ("base", "novel", "h")}, names=["metric"])


def test_the_readme_shows_the_kept_results():
    kept, readme = read_results(WORLD), (ROOT / "README.md").read_text()
    assert markdown_table(main_table(kept.runs, wanted=kept.wanted)) in readme, "put the table of the last run into nbs/index.ipynb"
    assert markdown_table(over_learners()) in readme, "put the changes of the last run into nbs/index.ipynb"
    runs = read_results(CLAIMS).runs
    compared = gains(runs[runs.learner.isin(runs.learner[runs.objective == "npt"])]).droplevel("objective")
    assert markdown_table(change_table(compared)) in readme, "put the claims of the last run into nbs/index.ipynb"
    assert (compared.pairs == 10).all() and len(compared) == 8, "as the README says"


def test_every_interval_in_the_readme_is_a_claim_of_the_file():
    claims = pd.read_csv(CLAIMS / "claims.csv").set_index(["family", "claim"])
    written = {cell: f"{row['mean']:+.1f} [{row.low:+.1f}, {row.high:+.1f}]" for cell, row in claims.iterrows()}
    tables = {text.rsplit(",", 1)[0] for text in over_learners().to_numpy().ravel()}
    found = set(re.findall(r"[+-]\d+\.\d \[[^]]*\]", readme_sentences()))
    judged = pd.read_csv(OBJECTS / "claims.csv")
    elsewhere = {f"{row['mean']:+.1f} [{row.low:+.1f}, {row.high:+.1f}]" for _, row in judged.iterrows()}
    assert found <= tables | set(written.values()) | elsewhere, "a number without a claim: see nbs/experiments/claims.ipynb"
    told = [("zero-shot", "coop, tau 1"), ("zero-shot", "coop, tau 0.0625"), ("more under imbalance", "coop"),
            ("more under imbalance", "promptsrc"), ("tail", "maple"), ("all classes", "16 shots"), *((name, of) for name, of in written if name == "NPT")]
    assert {written[cell] for cell in told} <= found


def test_the_judged_world_is_paired_by_its_units():
    runs = pd.read_csv(OBJECTS / "runs.csv")
    assert units(runs).nunique() == 12 and set(runs.seed) == {1}
    maple = runs[(runs.learner == "maple") & (runs.tau == 0.0625) & runs.objective.isin(["own", "ce + 3*lc + mi"])]
    row = gains(maple).iloc[0]
    assert f"{row['mean']:+.1f} [{row.low:+.1f}, {row.high:+.1f}], {row.pairs:.0f}" == "+2.3 [+1.1, +3.5], 12"


def test_the_readme_shows_the_family_of_the_judged_world_cell_by_cell():
    claims, readme = pd.read_csv(OBJECTS / "claims.csv"), (ROOT / "README.md").read_text()
    first = claims[claims.family == "H with NPT less H of the learner alone"].set_index("claim")
    for learner in ("coop", "cocoop", "kgcoop", "promptsrc", "maple"):
        row = (first.loc[f"{learner}, tau {tau}"] for tau in ("1", "0.0625"))
        assert f"| {learner} | " + " | ".join(f"{one['mean']:+.1f} [{one.low:+.1f}, {one.high:+.1f}]" for one in row) + " |" in readme
    assert list(first.index[first.stands]) == ["maple, tau 0.0625"] and len(first) == 10 and (first.units == 12).all()


def test_what_the_readme_says_stands_is_what_the_file_says():
    claims, readme = pd.read_csv(CLAIMS / "claims.csv"), readme_sentences()
    families = {name: some.set_index("claim") for name, some in claims.groupby("family")}
    npt = families["NPT"]
    assert "Bonferroni's correction six of these eight stand" in readme and ((npt.bonferroni <= 0.05).sum(), len(npt)) == (6, 8)
    assert set(npt.index[npt.bonferroni > 0.05]) == {"coop, tau 1", "kgcoop, tau 1"} and set(npt.index[~npt.stands]) == {"coop, tau 1"}
    assert not families["more under imbalance"].stands.any() and len(families["more under imbalance"]) == 4
    assert not families["all classes"].stands.any() and not families["over learners"].stands.any()
    assert list(families["tail"].index[families["tail"].stands]) == ["maple"]
    below = families["zero-shot"].loc[["coop, tau 1", "coop, tau 0.0625"]]
    assert (below["mean"] < 0).all() and not below.stands.any()
    assert claims.stands.equals(claims.holm <= 0.05) and (claims.holm <= claims.bonferroni).all()


def test_the_published_gains_stand_beside_ours():
    readme = (ROOT / "README.md").read_text()
    printed = published().query("experiment == 'imbalance' and dataset == 'average'").pivot(index="tau", columns="method", values="value")
    ours = [gains(read_results(place).runs).xs(("maple", "npt"), level=["learner", "objective"])["mean"].map("{:+.1f}".format)
            for place in (WORLD, CLAIMS)]
    for tau, row in printed.iterrows():
        assert f"| {tau:g} | {row.maple:.2f} | {row.npt:.2f} | {row.npt - row.maple:+.2f} | {ours[0][tau]} | {ours[1].get(tau, '')}".rstrip() in readme


def test_correlations_in_the_readme_are_those_of_the_kept_runs():
    runs, readme = read_results(WORLD).runs, readme_sentences()
    told = pd.concat([distances(runs)[["nc4", "nc3"]], runs[["base", "novel"]]], axis=1)
    rho = (told - told.groupby(runs.learner).transform("mean")).round(10).corr("spearman")
    assert f"(Spearman {rho.nc4.base:.2f} and {rho.nc3.base:.2f})" in readme
    assert f"they do not go ({rho.nc4.novel:.2f} and {rho.nc3.novel:.2f})" in readme


def test_the_worst_weights_in_the_readme_are_those_of_the_search():
    text = (ROOT / "nbs" / "experiments" / "search.ipynb").read_text()
    rows = re.findall(r'"(coop|kgcoop|promptsrc|maple) +(\d+\.\d) +(\d+\.\d) +(\d+\.\d) +(\d+\.\d) +', text)
    worst = {name: min(map(float, tried)) - float(own) for name, own, *tried in rows}
    said = f"MaPLe still gained {worst['maple']:.1f} points there and PromptSRC {worst['promptsrc']:.1f}, CoOp {worst['coop']:.1f}, and KgCoOp lost {-worst['kgcoop']:.1f}"
    assert said in readme_sentences()
