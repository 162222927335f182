"""The notebooks are the source: they export what npt/ holds, are clean, import one way, and run as they were committed."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
SMALL = {  # the notebooks that take parameters, and what makes them short here; the others run as they stand
    "pretrain_world": dict(steps=4, batch_size=32, out="world.safetensors"),
    "train": dict(epochs=1, shots=1, runs_dir="runs"),
    "judge_world": dict(seeds=[1], epochs=1, runs_dir="runs"),
    "first_results": dict(seeds=[1, 2], epochs=1, runs_dir="runs"),
    "search": dict(learners=["clip_adapter"], taus=[1.0], epochs=1, runs_dir="runs", jobs=1),
    "learners": dict(learners=["clip_adapter"], taus=[1.0], seeds=[1, 2], epochs=1, runs_dir="runs", jobs=1),
    "benchmark": dict(num_classes=2, curve=[2], repeats=1, batch=dict(coop=1, cocoop=1, maple=1, ivlp=1), memory_for=["maple"]),
    "views": dict(seeds=[1, 2], views=[1, 2], objectives=["ce"], dataset="world/textures", shots=1, epochs=1, jobs=1),
    "predict": dict(top=2),
    "transfer": dict(dataset="world/textures", targets=["world/scenes"], epochs=1, shots=1, runs_dir="runs"),
    "gradients": dict(dataset="world/textures", taus=[1.0, 0.0625]),
    **{name: dict(results=str(ROOT / "workflow" / "results" / kept)) for name, kept in dict(
        report="world", nc_lens="world", claims="claims", few_shot="few_shot", ablation="ablation").items()},
}
DEVELOPER_TOOLS = {"IPython", "execnb", "fastcore", "ipywidgets", "nbdev", "papermill"}
PLOTLY = "application/vnd.plotly.v1+json"
A_BAR = re.compile(r"\d+%\||\x1b\[A")
A_MACHINES_PATH = re.compile(r"(?<![\w.~])/(work|tmp|root|home|Users)/\w")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def written(notebook: nbformat.NotebookNode) -> Iterator[str]:
    "All text in the notebook that a reader sees; pictures are left out."
    for cell in notebook.cells:
        yield cell.source
    for output in outputs(notebook):
        yield output.get("text", "")
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/"):
                yield json.dumps(data)


def showing(notebook: nbformat.NotebookNode) -> set[str]:
    "The ids of the cells that print, show or return something; what goes to stderr differs between machines."
    return {cell.id for cell in code_cells(notebook) if any(o.get("name") != "stderr" for o in cell.outputs)}


def nbdev(command: str, folder: Path) -> None:
    "Run an nbdev command in `folder`, which has a settings.ini."
    run = f"from nbdev.{'clean' if command == 'nbdev_clean' else 'doclinks'} import {command}; {command}()"
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", run], cwd=folder, check=True)


def contents(folder: Path, *patterns: str) -> dict[str, str]:
    return {path.name: path.read_text() for pattern in patterns for path in folder.glob(pattern)}


def test_export_has_no_diff(copy: Path):
    for module in (copy / "npt").glob("*.py"):
        module.unlink()
    nbdev("nbdev_export", copy)
    assert contents(copy / "npt", "*.py") == contents(ROOT / "npt", "*.py")
    assert contents(copy, "pyproject.toml") == contents(ROOT, "pyproject.toml")


def test_nbdev_clean_changes_nothing(copy: Path):
    nbdev("nbdev_clean", copy)
    changed = [path.name for path in NOTEBOOKS if (copy / "nbs" / path.name).read_bytes() != path.read_bytes()]
    assert not changed, f"run nbdev_clean: {changed}"


def test_modules_import_only_from_rooms_above():
    above = set()
    for path in NOTEBOOKS:
        exports = re.search(r"^#\|\s*default_exp\s+(\w+)", "\n".join(c.source for c in code_cells(read(path))), re.M)
        if not exports:
            continue
        imported = set()
        for node in ast.walk(ast.parse((ROOT / "npt" / f"{exports[1]}.py").read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [alias.name for alias in node.names] if node.module in (None, "npt") else [node.module]
                imported |= {"npt." + n.removeprefix("npt.") if node.level or node.module == "npt" else n for n in names}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
        rooms = {name.split(".")[1] for name in imported if name.startswith("npt.")}
        assert rooms <= above, f"npt.{exports[1]} imports {sorted(rooms - above)}, which stand below it"
        tools = {name.split(".")[0] for name in imported} & DEVELOPER_TOOLS
        assert not tools, f"npt.{exports[1]} imports {sorted(tools)}, which only developers have"
        above.add(exports[1])
    assert above == {path.stem for path in (ROOT / "npt").glob("*.py") if not path.stem.startswith("_")}


@each_notebook
def test_notebook_is_fit_to_commit(path: Path):
    notebook = read(path)
    assert notebook.metadata.kernelspec.language == "python", "Papermill refuses a notebook without a language"
    assert not [output.evalue for output in outputs(notebook) if output.output_type == "error"]
    found = [match[0] for text in written(notebook) for match in A_MACHINES_PATH.finditer(text)]
    assert not found, f"paths of one machine: {found}"
    bars = [output.text[:80] for output in outputs(notebook) if output.get("name") == "stderr" and A_BAR.search(output.text)]
    assert not bars, f"{len(bars)} drawings of progress bars, which say nothing afterwards: take them out"
    assert path.stat().st_size < 1_500_000
    blank = [output for output in outputs(notebook) if PLOTLY in output.get("data", {}) and "image/png" not in output.data]
    assert not blank, f"{len(blank)} figures without a PNG are blank on a code host: run it where a Chrome is found"


@pytest.mark.parametrize("name", SMALL)
def test_one_cell_holds_the_parameters(name: str):
    tagged = [cell for cell in read(ROOT / "nbs" / f"{name}.ipynb").cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1


@each_notebook
def test_notebook_runs(path: Path, tmp_path: Path, untouched: None):
    executed = papermill.execute_notebook(
        path,
        tmp_path / path.name,
        parameters=SMALL.get(path.stem),
        kernel_name="python3",
        cwd=tmp_path,
        progress_bar=False,
    )
    message = "the committed outputs are not those of the committed code: run the notebook and commit it"
    assert showing(executed) == showing(read(path)), message


def test_the_readme_shows_what_the_benchmark_printed():
    printed = "".join(output.get("text", "") for output in outputs(read(ROOT / "nbs" / "benchmark.ipynb")))
    ratios = [line for line in printed.splitlines() if "times faster" in line]
    assert len(ratios) > 3
    readme = (ROOT / "README.md").read_text()
    assert all(line in readme for line in ratios), "put the lines of the last run into nbs/index.ipynb"
