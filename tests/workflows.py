"What tests of grids share: the grids of this repository, a small one, runs that nobody made, and Snakemake in a process of its own."

import multiprocessing
import os
import shutil
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import ROOT
from notebooks import CONTEXT

from npt._files import write_text
from npt.study.folder import _write_metrics
from npt.study.grid import Task
from npt.study.inputs import RunInputs
from npt.study.plan import make_plan

GRIDS = ROOT / "workflow" / "grids"
PYTHONPATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
needs_snakemake = pytest.mark.skipif(find_spec("snakemake") is None, reason="snakemake needs Python 3.11 or later")
PATIENCE = 300  # seconds; a busy machine is slow to start
QUICK_REPORT = """
import pathlib, yaml
place = pathlib.Path(yaml.safe_load(open(results))["runs_dir"])
(place / "runs.csv").write_text("".join(f"{path.parent}\\n" for path in sorted(place.rglob("metrics.json"))))
"""


QUICK_TRAINING = """
import os, pathlib
path = pathlib.Path(os.environ["NPT_CACHE"], "worlds", f"world-{world}.safetensors")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(f"weights of world {world}")
"""


def _call(arguments: list[str], folder: Path, environment: dict[str, str], said: Path) -> None:
    "What the command `snakemake` does, in a process group of its own."
    from snakemake.cli import main

    multiprocessing.set_start_method(None, force=True)
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream in 1, 2:
        os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
    main(arguments)


class Call:
    "A call of Snakemake, which a fork of a process does that has imported what takes long."

    def __init__(self, folder: Path, arguments: list[str]):
        self.log = Path(tempfile.mkdtemp()) / "said.txt"
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
        self.process = CONTEXT.Process(target=_call, args=(arguments, folder, environment, self.log))
        self.process.start()
        self.pid = self.process.pid  # and that of its process group

    def end(self) -> tuple[int, str]:
        "Wait for the end; the exit code and what was printed."
        self.process.join()
        said = self.log.read_text()
        shutil.rmtree(self.log.parent)
        return self.process.exitcode, said


def snakemake(folder: Path, grid: Path, *options: str, project: Path = ROOT) -> Call:
    "Start a workflow in a folder."
    return Call(folder, ["--snakefile", str(project / "workflow" / "Snakefile"), "--cores", "2", "--configfile", str(grid), *options])


def small_grid(group: int = 2, **axes) -> dict:
    "A grid over a few runs of a second or two each."
    common = dict(dataset="world/textures", backbone="world", shots=2, epochs=2, measure_every=0, learner="coop", objective="own")
    return dict(runs_dir="runs", group=group, experiments=dict(small=common | axes))


def grid_file(folder: Path, grid: dict) -> Path:
    "Write a grid."
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    return path


def project_with_a_quick_report(folder: Path) -> Path:
    "The workflow of this repository, with a report that only lists the finished runs."
    shutil.copytree(ROOT / "workflow", folder / "workflow", ignore=shutil.ignore_patterns("results"))
    cells = [nbformat.v4.new_code_cell("results = ''", metadata=dict(tags=["parameters"])), nbformat.v4.new_code_cell(QUICK_REPORT)]
    kernel = dict(name="python3", language="python", display_name="python3")
    (folder / "nbs").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), folder / "nbs" / "report.ipynb")
    return folder


def notebook_that_trains(folder: Path) -> Path:
    "A notebook in place of that which trains a CLIP of the offline world: it writes which one it was asked for."
    cells = [nbformat.v4.new_code_cell("world = 1", metadata=dict(tags=["parameters"])), nbformat.v4.new_code_cell(QUICK_TRAINING)]
    kernel = dict(name="python3", language="python", display_name="python3")
    path = folder / "nbs" / "experiments" / "pretrain_world.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), path)
    return path


def skip_features(grid: dict) -> None:
    "Say that the features of a grid were tried, so that its runs compute what they need."
    plan = make_plan(grid)
    for name in plan.looks:
        path = plan.folder / "features" / f"{name}.tried"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def leave_run(task: Task, seconds: float = 1.0) -> None:
    "Leave the files of a finished run that nobody made."
    metrics = dict(base=70.0, novel=60.0, h=64.6, seconds=seconds, objective="ce", zero_shot=dict(base=60.0), train_counts=dict(cat=1),
                   versions=dict(npt="0.0"), collapse={})
    inputs = RunInputs(weights="0" * 64, preprocess={}, template="a photo of a {}.", classnames={}, images={})
    files = {"config.json": task.settings.model_dump_json(), "inputs.json": inputs.model_dump_json(), "history.csv": "epoch,loss\n0,1.5\n",
             "prompts.safetensors": ""}
    for name, text in files.items():
        write_text(text, task.folder.path / name)
    _write_metrics(metrics, task.folder)


def process_of(task: Task, since: int) -> int:
    "Wait until a run is begun, and give the number of its process; `since` is a time in nanoseconds."
    patience = time.monotonic() + PATIENCE
    while time.monotonic() < patience:
        if task.failed.exists() and task.failed.stat().st_mtime_ns > since:
            return int(task.failed.read_text().rpartition("process ")[2].split()[0])
        time.sleep(0.01)
    raise AssertionError(f"{task.folder.path} was not begun")
