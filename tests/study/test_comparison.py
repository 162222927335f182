"What may be averaged, and differences with their intervals."

import numpy as np
import pandas as pd
import pytest
from invented import on_the_world, table
from scipy import stats

from npt.study.comparison import (
    _paired,
    average_datasets,
    cells,
    change_table,
    comparisons,
    gains,
    gains_over_learners,
    kinds,
    units,
)


@pytest.mark.parametrize("setting, values", [("epochs", (2, 3)), ("version", ("0.1.0", "0.2.0")),
                                             ("learner_settings", ({}, {"n_ctx": 8})), ("lr", (None, 0.1))])
def test_a_cell_of_different_runs_is_refused_and_named(setting, values):
    runs = table(seeds=range(1, 5))
    runs[setting] = [values[seed % 2] for seed in runs.seed]
    with pytest.raises(ValueError, match=f"learner=coop.*not the same.*{setting}"):
        cells(runs)
    with pytest.raises(ValueError, match=setting):
        gains(runs)
    assert len(kinds(runs)) == 2 and all(len(cells(some)) == 8 for some in kinds(runs).values())


def test_pairing_takes_the_luck_of_a_seed_out():
    changes = gains(table(), metric="novel")
    assert np.allclose(changes[["mean", "low", "high"]], 2) and (changes.pairs == 3).all()
    assert cells(table())["novel", "std"].mean() > 1
    over = gains_over_learners(table(), metric="novel")
    assert (over.above == 2).all() and np.allclose(over["mean"], 2) and change_table(over).iloc[0, 0] == "+2.0 [+2.0, +2.0], 2 of 2"


def test_only_runs_of_one_unit_and_dataset_are_paired():
    runs = table(learners=["coop"], taus=[1.0])
    partly = runs[~((runs.objective == "own") & (runs.seed == 2))]
    assert _paired(partly, "h", "own", ["learner", "tau"]).unit.tolist() == ["seed 1", "seed 3"]
    with pytest.raises(ValueError, match="'ce'.*own"):
        gains(runs, baseline="ce")


def test_an_interval_holds_what_t_says_and_chance_is_told():
    runs = table(learners=["coop"], taus=[1.0])
    runs.loc[runs.objective == "npt", "h"] += runs.seed[runs.objective == "npt"] * 1.0
    changes = gains(runs)
    pairs = _paired(runs, "h", "own", ["learner", "tau"]).query("objective == 'npt'").difference
    row, far = changes.xs("npt", level="objective").iloc[0], stats.t.ppf(0.975, len(pairs) - 1) * stats.sem(pairs)
    assert np.allclose((row.low, row.high), (pairs.mean() - far, pairs.mean() + far)) and far > 1
    assert comparisons(pd.concat([changes] * 10)).endswith(f"about {0.5 * len(changes):.1f} of {10 * len(changes)} would leave it out by chance")


def test_a_single_pair_has_no_interval():
    changes = gains(table(seeds=[1]), metric="novel")
    assert changes.low.isna().all() and comparisons(changes).startswith("0 comparisons")
    assert "[" not in change_table(changes).to_string() and "nan" not in change_table(changes).to_string()


def test_a_unit_of_the_world_is_a_clip_a_class_split_and_a_seed():
    drawn = pd.DataFrame(dict(seed=[1, 1.0, 2, 2, 2, 1], backbone=["world"] * 4 + ["ViT-B-16", "world"], class_split=["half", 3.0, "3", None, 3, 3],
                              pretrained=[None, np.nan, "world-2", "world-3", "openai", "my.pt"]), index=[0] * 6)
    assert units(drawn).tolist() == ["seed 1", "split 3, seed 1", "world-2, split 3, seed 2", "world-3, seed 2", "seed 2", "seed 1"]
    assert list(units(drawn).index) == [0] * 6, "rows of tables that were put together have one name"
    assert units(drawn[["seed"]]).tolist() == ["seed 1"] * 2 + ["seed 2"] * 3 + ["seed 1"]
    assert units(drawn[["seed", "backbone"]]).nunique() == 2 and units(drawn[:0]).empty


def test_units_of_the_world_are_averaged_and_paired():
    runs = on_the_world(table())
    assert list(kinds(runs)) == [""] and kinds(runs)[""] is runs
    told = cells(runs)
    assert (told["units", ""] == 18).all() and np.allclose(told["novel", "mean"], cells(table())["novel", "mean"] + 25)
    changes = gains(runs, metric="novel")
    assert np.allclose(changes[["mean", "low", "high"]], 2) and (changes.pairs == 18).all(), "a CLIP's ten points are taken out"
    gone = runs[~((runs.objective == "own") & (runs.pretrained == "world-2") & (runs.class_split == "half") & (runs.seed == 2))]
    pairs = _paired(gone, "novel", "own", ["learner", "tau"])
    assert np.allclose(pairs.difference, 2) and "world-2, seed 2" not in set(pairs.unit) and pairs.unit.nunique() == 17


def test_a_unit_that_is_there_twice_is_refused():
    runs = on_the_world(table())
    twice = runs[(runs.pretrained == "world-2") & (runs.class_split == 3) & (runs.seed == 2)]
    for attempt in cells, gains:
        with pytest.raises(ValueError, match="has world-2, split 3, seed 2 twice"):
            attempt(pd.concat([runs, twice]))
    with pytest.raises(ValueError, match="world-2, split 3, seed 2 twice"):
        average_datasets(pd.concat([runs, twice]))


@pytest.mark.parametrize("backbone", ["ViT-B-16", None])
@pytest.mark.parametrize("setting, values", [("pretrained", dict(splits=("half",))), ("class_split", dict(clips=(None,)))])
def test_weights_and_classes_of_other_backbones_stay_apart(backbone, setting, values):
    runs = on_the_world(table(), **values)
    runs = runs.drop(columns="backbone") if backbone is None else runs.assign(backbone=backbone)
    assert len(kinds(runs)) == runs[setting].nunique(dropna=False) > 1 and all(setting in name for name in kinds(runs))
    for attempt in cells, gains, average_datasets:
        with pytest.raises(ValueError, match=f"not the same.*{setting}"):
            attempt(runs)


def test_weights_from_a_file_are_no_unit_of_the_world():
    runs = on_the_world(table(), clips=(None, "world-2", "my.pt"))
    told = kinds(runs)
    assert list(told) == ["class_split=any, pretrained=any", "class_split=half, pretrained=my.pt", "class_split=3, pretrained=my.pt"]
    with pytest.raises(ValueError, match="not the same.*my.pt"):
        cells(runs)
    both = kinds(pd.concat([on_the_world(table()), table().assign(backbone="ViT-B-16", pretrained="openai", class_split="half")]))
    assert [len(cells(some)) for some in both.values()] == [8, 8]


def test_units_go_through_an_average_over_datasets():
    runs = on_the_world(table())
    other = runs.assign(dataset="world/scenes", base=runs.base + 2)[~((runs.pretrained == "world-3") & (runs.class_split == 3))]
    average = average_datasets(pd.concat([runs, other]))
    assert units(average).nunique() == 15 and (cells(average)["units", ""] == 15).all(), "a unit counts where all datasets have it"
    kept = runs[~((runs.pretrained == "world-3") & (runs.class_split == 3))]
    assert np.allclose(cells(average)["base", "mean"], cells(kept)["base", "mean"] + 1)


def test_a_unit_without_a_number_is_not_counted():
    runs = table(seeds=[1, 2, 3])
    runs.loc[(runs.objective == "npt") & (runs.seed == 2), "h"] = float("nan")
    counted = cells(runs)["units", ""]
    assert set(counted.xs("npt", level="objective")) == {2} and set(counted.drop("npt", level="objective")) == {3}


def test_a_pair_without_a_number_is_no_pair():
    runs = table(seeds=[1, 2, 3])
    whole = gains(runs)
    runs.loc[(runs.objective == "npt") & (runs.seed == 2), "h"] = float("nan")
    fewer = gains(runs).xs("npt", level="objective")
    assert (fewer.pairs == whole.xs("npt", level="objective").pairs - 1).all() and fewer[["mean", "low", "high"]].notna().all(axis=None)


def test_units_that_share_clips_and_splits_are_not_taken_as_independent():
    runs = on_the_world(table())
    moved = {None: 0.0, "world-2": 1.0, "world-3": -1.0}
    by_split = {split: 4.0 * place for place, split in enumerate(sorted(runs.class_split.unique(), key=str))}
    trained = runs.objective == "npt"
    runs.loc[trained, "novel"] += [moved[None if pd.isna(clip) else clip] + by_split[split] + seed % 2 for clip, split, seed in
                                   zip(runs.pretrained[trained], runs.class_split[trained], runs.seed[trained])]
    row = gains(runs, metric="novel").xs("npt", level="objective").iloc[0]
    pairs = _paired(runs, "novel", "own", ["learner", "tau"]).query("learner == 'coop' and tau == 1 and objective == 'npt'")
    of_cell = pairs.groupby(["clip", "class_split"]).difference.mean().unstack()
    assert row["mean"] == pytest.approx(pairs.difference.mean()) and row.pairs == 18
    expected = stats.ttest_1samp(of_cell.mean(0), 0).confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx(tuple(expected)), "all spread is of splits: as few as there are"
    assert row.high - row.low > 5 * (stats.sem(pairs.difference))


def test_of_one_clip_the_splits_are_counted_and_not_the_seeds():
    runs = on_the_world(table(), clips=(None,))
    by_split = {split: 4.0 * place for place, split in enumerate(sorted(runs.class_split.unique(), key=str))}
    runs["novel"] += [by_split[split] * (objective == "npt") for split, objective in zip(runs.class_split, runs.objective)]
    row = gains(runs, metric="novel").xs("npt", level="objective").iloc[0]
    means = _paired(runs, "novel", "own", ["learner", "tau"]).query("learner == 'coop' and tau == 1 and objective == 'npt'").groupby("class_split").difference.mean()
    assert (row.low, row.high) == pytest.approx(tuple(stats.ttest_1samp(means, 0).confidence_interval(0.95)))
