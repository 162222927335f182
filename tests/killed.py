"""What a process does that `test_kills` kills; it has a module of its own, which a new process can import."""

from pathlib import Path
from types import SimpleNamespace

import nbformat
from conftest import ROOT
from notebooks import _run_cells
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

RUN = dict(dataset="world/textures", learner="coop", shots=1, epochs=4, measured_on="val")


def in_library(folder: Path, says) -> None:
    from npt.study.runs import do_run
    from npt.study.settings import RunSettings

    says.send("begun")
    do_run(RunSettings(runs_dir=str(folder), **RUN), progress=False)


def in_notebook(folder: Path, says) -> None:
    given = parameterize_notebook(load_notebook_node(str(ROOT / "nbs/train.ipynb")), RUN | dict(runs_dir=str(folder), baseline=False))
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(given, folder / "train.ipynb")
    says.send("begun")
    told = []
    _run_cells(folder / "train.ipynb", folder, SimpleNamespace(send=told.append))
    assert isinstance(told[0], set), told[0]
