"Published accuracies: their own averages and harmonic means, each figure once, and what stands beside a run."

import numpy as np
import pandas as pd
import pytest

from npt.learners.build import learner_names
from npt.study.comparison import average_datasets
from npt.study.published import _beside, _published_few_shot, _published_transfer, published, published_cells
from npt.training.evaluation import harmonic_mean

ELEVEN = {"imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"}
DOMAINS = {"imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r"}
NO_H = {("promptkd", "stanford_cars"), ("promptkd", "ucf101"), ("promptsrc+dept", "ucf101")}  # what was printed is no harmonic mean
ROUNDED = 0.0101  # two figures with two places each, one computed from the other


def of(experiment: str) -> pd.DataFrame:
    return published().query("experiment == @experiment")


def test_an_average_over_datasets_is_that_of_papers():
    reference = published_cells("average").loc["coop"]
    each = pd.concat([published_cells(name).loc[["coop"]].reset_index().assign(dataset=name) for name in ELEVEN])
    runs = each.assign(learner="coop", objective="own", seed=1)
    average = average_datasets(runs)
    assert len(each) == 11 and np.allclose(average[["base", "novel", "h"]], reference, atol=0.011)


def test_every_row_is_one_figure_with_its_source():
    table = published()
    assert not table.duplicated(["experiment", "dataset", "method", "tau", "shots", "metric"]).any()
    assert table.notna().all().all() and table.value.between(1, 100).all() and table.source.str.len().gt(10).all()
    assert (table.value * 100).sub((table.value * 100).round()).abs().max() < 1e-9, "papers print two places"
    assert set(table.dataset) == ELEVEN | DOMAINS | {"average"}
    assert set(table.query("experiment != 'few_shot'").shots) == {16} and set(of("few_shot").shots) == {0, 1, 2, 4, 8, 16}
    assert set(table.query("backbone != 'ViT-B/16'").backbone) == {"RN50"} and set(table.metric) == {"base", "novel", "h", "accuracy"}


def test_every_printed_harmonic_mean_is_that_of_the_printed_accuracies():
    table = of("base_to_novel").pivot(index=["method", "dataset"], columns="metric", values="value")
    assert table[["base", "novel"]].notna().all().all()
    assert set(table.index[table.h.isna()]) == NO_H
    whole = table.dropna()
    assert len(whole) == len(table) - 3 > 250
    assert (abs(whole.h - [harmonic_mean(*pair) for pair in zip(whole.base, whole.novel)]) < ROUNDED).all()


def test_every_printed_average_is_that_of_the_printed_datasets():
    table = of("base_to_novel").query("metric != 'h'").pivot(index=["method", "metric"], columns="dataset", values="value")
    each = table[sorted(ELEVEN)]
    alone = each.isna().all(axis=1)
    assert each[~alone].notna().all().all(), "all eleven datasets or none"
    assert (abs(each[~alone].mean(axis=1) - table.average[~alone]) < ROUNDED).all()
    assert set(each[alone].reset_index().method) == {"proda", "ivlp", "mma", "coprompt", "mmrl", "hicropl", "2sfs", "lora", "clip_svd"}


@pytest.mark.parametrize("kind, targets, alone", [
    ("dataset", ELEVEN - {"imagenet"}, {"npt", "cpt", "prograd", "kgcoop", "tcp", "skiptuning"}),
    ("domain", DOMAINS, {"prograd", "kgcoop", "skiptuning"})])
def test_every_average_over_targets_is_that_of_the_printed_targets(kind, targets, alone):
    table = _published_transfer("imagenet", kind)
    each = table[sorted(targets)]
    assert set(table.index[each.isna().all(axis=1)]) == alone
    rest = table.drop(index=list(alone))
    assert rest[sorted(targets)].notna().all().all()
    assert (abs(rest[sorted(targets)].mean(axis=1) - rest.average) < ROUNDED).all()


def test_few_shots_have_all_their_shots():
    shots = {1, 2, 4, 8, 16}
    for (_, method), rows in of("few_shot").groupby(["dataset", "method"]):
        assert set(rows.shots) == ({0} if method == "clip" else shots), method
    per_dataset = of("few_shot").query("dataset != 'average'")
    assert set(per_dataset.dataset) == ELEVEN and set(per_dataset.backbone) == {"RN50"}
    assert per_dataset.groupby("dataset").size().eq(16).all()
    table = _published_few_shot("average").drop(index="clip", level="method")
    assert (table[[1, 2, 4, 8, 16]].diff(axis=1).iloc[:, 1:] > 0).all().all(), "more images, more accuracy"
    assert _published_few_shot("dtd").loc[("tip_adapter_f", "RN50"), 16] == 66.55


def test_what_was_not_published_is_empty():
    assert published_cells("world/shapes").empty and _published_transfer("world/shapes", "domain").empty
    assert _published_few_shot("world/shapes").empty and _beside(published_cells("world/shapes"), ["coop"]).empty
    assert _published_transfer("imagenet", "dataset").loc["npt", "average"] == 67.11


def test_methods_that_can_be_run_go_by_the_names_of_learners():
    elsewhere = {"clip", "npt", "cpt", "2sfs", "clip_svd", "gda", "hicropl", "hpt", "proda", "proker", "skiptuning"}
    methods = published().method.unique()
    assert {name for method in methods for name in method.split("+")} - set(learner_names()) == elsewhere
    few_shot = _published_few_shot("average")
    assert _beside(few_shot, ["lp_plus_plus"]).index.get_level_values("method").tolist() == ["clip", "lp_plus_plus"]


def test_beside_a_run_stand_its_own_methods_and_zero_shot_clip():
    def methods(*ran: str) -> set[str]:
        return set(_beside(published_cells("average"), ran).index.get_level_values("method"))

    assert methods() == {"clip"} and methods("coop", "own") == {"clip", "coop"}
    assert methods("maple", "npt") == {"clip", "maple", "npt"}
    assert methods("dpc") == {"clip", "dpc", "coop+dpc", "maple+dpc", "promptsrc+dpc", "promptkd+dpc"}
    best = published_cells("average").h.dropna()
    assert best.is_monotonic_decreasing and best.index[0] == ("promptkd+dpc", 1.0)
