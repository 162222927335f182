"What tests of grids share: the grids of this repository, a small one, and Snakemake in a process of its own."

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

GRIDS = ROOT / "workflow" / "grids"
PYTHONPATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
needs_snakemake = pytest.mark.skipif(find_spec("snakemake") is None, reason="snakemake needs Python 3.11 or later")


def snakemake(folder: Path, grid: Path, *options: str) -> subprocess.Popen:
    "Start a workflow in a folder."
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile"), "--cores", "2",
               "--configfile", str(grid), *options]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": PYTHONPATH}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def small_grid(group: int = 2, **axes) -> dict:
    "A grid over a few runs of a second or two each."
    common = dict(dataset="world/textures", backbone="world", shots=2, epochs=2, measure_every=0, learner="coop", objective="own")
    return dict(runs_dir="runs", group=group, experiments=dict(small=common | axes))


def grid_file(folder: Path, grid: dict) -> Path:
    "Write a grid."
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    return path
