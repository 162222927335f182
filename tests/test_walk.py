"""The path to the real thing: the grid of the offline world over a dataset in its true layout, with a ViT of full size, two base classes
and one step a run. Without weights, so that no accuracy means anything. `NPT_WALK=whole pytest tests/test_walk.py` makes all of the
grid's runs, with a ViT-B/16; otherwise a ViT-B/32, which looks at a quarter of the patches, makes a slice that still has every learner,
an imbalanced run, methods' own losses and a regulariser, and transfer to another dataset and another domain."""

import json
import os
from math import isfinite
from pathlib import Path

import pandas as pd
import pytest
import yaml
from miniature import make_tree
from workflows import GRIDS, needs_snakemake, snakemake

from npt.study.grid import expand, read_grid
from npt.study.transfer import _results_file, read_transfer

WHOLE = os.environ.get("NPT_WALK") == "whole"
TARGETS = ["dtd", "imagenet_r"] if WHOLE else ["dtd"]  # another dataset, and a domain of the same
BACKBONE = "ViT-B-16-quickgelu" if WHOLE else "ViT-B-32-quickgelu"
REAL = dict(dataset="imagenet", prepare=False, backbone=BACKBONE, pretrained="none", shots=4, epochs=1,
            class_split="half", seed=[1, 2, 3, 4], batch_size=64)  # more than there are training images, so that an epoch is a step
SLICE = dict(  # by experiment; each learner once, and CoOp tried on other datasets
    text_prompts=dict(tau=0.25, objective="npt_anchored", seed=1),
    image_prompts=dict(tau=0.25, objective="own", seed=1),
    maple=dict(tau=0.25, objective="npt", seed=1),
    transfer=dict(tau=0.25, objective="npt_anchored", learner="coop", seed=1),
)
LEARNERS = {"coop", "cocoop", "kgcoop", "maple", "promptsrc"}


def real_grid(folder: Path) -> Path:
    "The world's grid, on ImageNet in miniature, which is made here."
    for name in ("imagenet", *TARGETS):
        make_tree(name, folder / "data")
    grid = yaml.safe_load((GRIDS / "world.yaml").read_text())
    for axes in grid["experiments"].values():
        axes |= REAL | (dict(transfer=TARGETS) if "transfer" in axes else {})
    if not WHOLE:
        grid |= dict(experiments={name: grid["experiments"][name] | axes for name, axes in SLICE.items()})
    path = folder / "real.yaml"
    path.write_text(yaml.safe_dump(grid | dict(data_root=str(folder / "data"), runs_dir="runs"), sort_keys=False))
    return path


@pytest.mark.slow
@needs_snakemake
@pytest.mark.filterwarnings("ignore:.*split")
def test_the_worlds_grid_walks_the_path_to_the_real_thing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = real_grid(tmp_path)
    tasks = expand(read_grid(grid))
    assert {task.settings.learner for task in tasks} == LEARNERS
    assert {"own", "npt_anchored"} <= {task.settings.objective for task in tasks}
    assert len(tasks) == (200 if WHOLE else 5) and sum(bool(task.targets) for task in tasks) == (40 if WHOLE else 1)
    code, said = snakemake(tmp_path, grid).end()
    assert code == 0, said[-3000:]

    for task in tasks:
        metrics, history = json.loads(task.folder.metrics.read_text()), pd.read_csv(task.folder.history)
        fewest = 4 if task.settings.tau == 1 else 1
        assert metrics["train_counts"] == {"tench": 4, "goldfish": fewest}
        assert all(0 <= metrics[name] <= 100 for name in ("base", "novel", "h"))
        assert history.epoch.tolist() == [0], "one epoch, which is one step"
        assert isfinite(history.loss.iloc[-1]), f"{task.folder.path} learned from a loss that is no number"
        if task.targets:
            rows = read_transfer(_results_file(task.folder)).rows
            kinds = dict(imagenet="source", dtd="dataset", imagenet_r="domain")
            assert {row.target: row.kind for row in rows} == {name: kinds[name] for name in ("imagenet", *TARGETS)}
    assert len(pd.read_csv("runs/runs.csv")) == len(tasks) and Path("runs/report.html").stat().st_size > 10_000

    if WHOLE:
        find_all_done(tmp_path, grid, tasks)


def find_all_done(folder: Path, grid: Path, tasks: list) -> None:
    "A second call does nothing; grids without weights show the same in `study/test_cli.py`."
    before = {task.folder.path: task.folder.metrics.stat().st_mtime_ns for task in tasks}
    code, said = snakemake(folder, grid).end()
    assert code == 0 and f"{len(tasks)} runs, {len(tasks)} done, 0 to do" in said and "Nothing to be done" in said
    assert {task.folder.path: task.folder.metrics.stat().st_mtime_ns for task in tasks} == before
