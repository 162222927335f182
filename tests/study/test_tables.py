"Tables for people: what is missing is marked, the best is in bold, and a run counts once."

import pandas as pd
import pytest
from invented import on_the_world, table
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output

from npt.study.tables import _MISSING, main_table, markdown_table


def test_a_run_counts_once():
    runs = table()
    with pytest.raises(ValueError, match="seed 1 twice"):
        main_table(pd.concat([runs, runs.iloc[:1]]))


def test_what_is_missing_is_marked():
    runs = table()
    text = main_table(runs[~((runs.learner == "maple") & (runs.objective == "npt") & (runs.tau == 1)) & ~(
        (runs.learner == "coop") & (runs.seed == 3))], wanted=runs)
    assert (text.loc[("maple", "npt"), "τ = 1"] == _MISSING).all() and not (text.loc[("maple", "npt"), "τ = 0.25"] == _MISSING).any()
    assert text.loc["coop"].map(lambda cell: "2 of 3" in cell).all(axis=None)
    best = text["τ = 0.25", "novel"].str.startswith("**")
    assert best.sum() == 1 and best.idxmax()[1] == "npt"
    lines = markdown_table(text).splitlines()
    assert len(lines) == 2 + 4 and len({line.count("|") for line in lines}) == 1
    numbers = pd.DataFrame(dict(dtd=[1.5, None], eurosat=["as text", None]), index=pd.Index(["coop", "npt"], name="method"))
    assert markdown_table(numbers).splitlines()[2:] == ["| coop | 1.5 | as text |", f"| npt | {_MISSING} | {_MISSING} |"]


def test_names_are_text_whatever_they_hold():
    hostile = pd.DataFrame({"a\n|b": ["<script>alert(1)</script>", "`x` | y\n\n# z"]}, index=pd.Index(["[a](javascript:1)", "![a](b)"], name="<b>"))
    for shown in markdown_table(hostile), markdown_table(hostile, title="one\n\n<script>"):
        cells = shown[shown.index("|"):].splitlines()
        assert len(cells) == 4 and {line.count("|") for line in cells} == {3}
        assert not [letters for letters in ("<", ">", "`", "](", "\n#") if letters in shown]
    page = HTMLExporter().from_notebook_node(new_notebook(cells=[new_code_cell(outputs=[new_output(
        "display_data", {"text/markdown": markdown_table(hostile, title="one\n\n<script>")})])]))[0]
    assert "alert(1)" in page and "<script>alert" not in page and "javascript:1\"" not in page
    assert markdown_table(pd.DataFrame({"change": ["**+0.5** [0.1, 0.9]"]})).endswith("| 0 | **+0.5** [0.1, 0.9] |")


def test_zero_shot_comes_first_where_the_runs_measured_it():
    text = main_table(table(seeds=[1], zero_shot_base=50.0, zero_shot_novel=40.04, zero_shot_h=44.4))
    assert text.index[0] == ("zero_shot", "") and text.iloc[0].tolist() == ["50.0", "40.0", "44.4"] * 2
    assert not text.map(lambda cell: "±" in cell).any(axis=None), "a single seed has no deviation"


def test_a_cell_that_nobody_asked_for_is_empty_and_not_missing():
    runs = pd.DataFrame([dict(learner="coop", objective=objective, tau=tau, seed=1, base=60.0, novel=50.0, h=54.5)
                         for objective, tau in (("own", 1.0), ("own", 0.25), ("npt", 1.0))])
    table = main_table(runs)
    assert table.loc[("coop", "npt"), ("τ = 0.25", "H")] == "" and "54.5" in table.loc[("coop", "npt"), ("τ = 1", "H")]
    wanted = pd.concat([runs, runs.iloc[2:].assign(tau=0.25)])
    assert main_table(runs, wanted=wanted).loc[("coop", "npt"), ("τ = 0.25", "H")] == "missing"


def test_units_are_counted():
    runs = on_the_world(table(seeds=[1]), clips=(None, "world-2", "world-3"), splits=(1, 2, 3, 4))
    there = runs[~((runs.learner == "coop") & (runs.objective == "npt")) | (runs.class_split == 2)]
    text = main_table(there, wanted=runs)
    assert text.loc[("coop", "npt")].str.endswith("(3 of 12)").all()
    assert not text.drop(("coop", "npt")).map(lambda cell: " of " in cell).any(axis=None)


def test_zero_shot_varies_with_the_unit_and_each_unit_counts_once():
    runs = on_the_world(table(seeds=[1]), splits=("half",))
    measured = runs.assign(zero_shot_base=runs.pretrained.map({"world-2": 53.0, "world-3": 56.0}).fillna(50.0), zero_shot_novel=40.0, zero_shot_h=45.0)
    fewer = measured[measured.pretrained.isna() | (measured.learner == "coop")]  # twice as many runs of the usual CLIP
    for some in measured, fewer:
        assert main_table(some, wanted=runs).iloc[0].tolist() == ["53.0 ± 3.0", "40.0", "45.0"] * 2
    seeds = table(zero_shot_base=50.0, zero_shot_novel=40.0, zero_shot_h=45.0)
    assert main_table(seeds).iloc[0].tolist() == ["50.0", "40.0", "45.0"] * 2, "zero-shot CLIP is the same for every seed"
