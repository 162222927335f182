"""The notebooks are the source: they export what npt/ holds, are clean, import one way, and run as they were committed."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import nbformat
import papermill
import pytest
from conftest import ROOT
from notebooks import run_cells
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from npt.study.settings import RunSettings, check_parameters

NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
SMALL = {  # the notebooks that take parameters, below nbs/, and what makes them short here; the others run as they stand
    "experiments/pretrain_world": dict(steps=4, batch_size=32, most=1, out="world.safetensors"),
    "train": dict(dataset="world/textures", epochs=1, shots=1, runs_dir="runs"),
    "experiments/judge_world": dict(deals=[21], candidates=["as frozen"], epochs=1, runs_dir="runs", results=str(ROOT / "workflow" / "results" / "world")),
    "experiments/learners": dict(learners=["clip_adapter", "linear_probe"], taus=[1.0], class_splits=[1, 2], epochs=1, runs_dir="runs", jobs=1),
    "experiments/benchmark": dict(backbone="ViT-S-32-alt", num_classes=2, curve=[2], repeats=2, pictures=64, batch=dict(coop=1, cocoop=1, maple=1, ivlp=1), memory_for=["maple"]),
    "experiments/views": dict(seeds=[1, 2], views=[1, 2], objectives=["ce"], dataset="world/textures", shots=1, epochs=1, jobs=1),
    "experiments/predict": dict(top=2),
    "transfer": dict(dataset="world/textures", targets=["world/scenes"], epochs=1, shots=1, runs_dir="runs"),
    "experiments/gradients": dict(dataset="world/textures", taus=[1.0, 0.0625]),
    **{name: dict(results=str(ROOT / "workflow" / "results" / kept)) for name, kept in {
        "report": "world", "experiments/nc_lens": "world", "experiments/few_shot": "few_shot",
        "experiments/ablation": "ablation", "experiments/incremental": "incremental",
        "experiments/open_world": "open_world", "experiments/unknown_classes": "open_world"}.items()},
    "experiments/claims": {name: str(ROOT / "workflow" / "results" / kept) for name, kept in {
        "results": "world", "search": "search", "file": "world/claims.csv"}.items()},
    "experiments/what_works": {name: str(ROOT / "workflow" / "results" / kept) for name, kept in {
        "results": "what_works", "world": "world", "controls": "controls", "search": "what_works_search"}.items()},
}
DEVELOPER_TOOLS = {"IPython", "execnb", "fastcore", "ipywidgets", "nbdev", "papermill"}
PLOTLY = "application/vnd.plotly.v1+json"
A_BAR = re.compile(r"\d+%\||\x1b\[A")
A_MACHINES_PATH = re.compile(r"(?<![\w.~])/(work|tmp|root|home|Users)/\w")

WINGS = "geometry", "world", "objectives", "clip", "data", "learners", "training", "study", "figures"  # each may import those before it


def name_of(path: Path) -> str:
    "A notebook's path below nbs/, without its ending."
    return path.relative_to(ROOT / "nbs").with_suffix("").as_posix()


each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)


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
    module = {"nbdev_clean": "clean", "nbdev_export": "doclinks", "nbdev_proc_nbs": "quarto"}[command]
    run = f"from nbdev.{module} import {command}; {command}()"
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", run], cwd=folder, check=True)


def contents(folder: Path, pattern: str) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob(pattern)}


def test_export_has_no_diff(copy: Path):
    for module in (copy / "npt").rglob("*.py"):
        module.unlink()
    nbdev("nbdev_export", copy)
    assert contents(copy / "npt", "*.py") == contents(ROOT / "npt", "*.py")
    assert (copy / "pyproject.toml").read_text() == (ROOT / "pyproject.toml").read_text()


def test_nbdev_clean_changes_nothing(copy: Path):
    nbdev("nbdev_clean", copy)
    changed = [name_of(path) for path in NOTEBOOKS if (copy / path.relative_to(ROOT)).read_bytes() != path.read_bytes()]
    assert not changed, f"run nbdev_clean: {changed}"


def test_nbdev_proc_nbs_makes_a_page_of_every_notebook(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    quarto = tmp_path / "bin" / "quarto"  # nbdev would install one where there is none; nothing here calls it
    quarto.parent.mkdir()
    quarto.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(quarto.parent), prepend=os.pathsep)
    nbdev("nbdev_proc_nbs", copy)
    assert {path.relative_to(copy / "_proc") for path in (copy / "_proc").rglob("*.ipynb")} == {
        path.relative_to(ROOT / "nbs") for path in NOTEBOOKS}
    page = nbformat.read(copy / "_proc/geometry/etf.ipynb", as_version=4)
    assert any(cell.source.startswith("def simplex_etf(") for cell in code_cells(page)), "a page shows what its text speaks of"


def rooms() -> dict[str, Path]:
    "Every module of the library, as `wing.room`; one that belongs to no wing begins with an underscore."
    package = ROOT / "npt"
    files = [path for path in package.rglob("*.py") if path.stem not in ("__init__", "_modidx")]
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in files}


def imports(path: Path) -> tuple[set[str], set[str]]:
    "The rooms, and the other packages, that a module imports."
    package, here, others = ROOT / "npt", path.relative_to(ROOT / "npt").parts[:-1], set()
    inside = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            base = [part for part in base if part]
            for alias in node.names:
                room = [*base, alias.name] if (package.joinpath(*base, f"{alias.name}.py")).exists() else base
                inside.add(".".join(room))
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("npt."):
            inside.add(node.module.removeprefix("npt."))
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
    return inside - {""}, others


def test_the_package_has_nine_wings_and_each_room_its_notebook():
    folders = {path.name for path in (ROOT / "npt").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(WINGS)
    exported = {}
    for path in NOTEBOOKS:
        found = re.search(r"^#\|\s*default_exp\s+([\w.]+)", "\n".join(c.source for c in code_cells(read(path))), re.M)
        if found:
            exported[found[1]] = name_of(path)
    assert rooms().keys() == {room for room in exported if not room.endswith("__init__")}
    for room, notebook in exported.items():
        expected = room.replace(".__init__", ".door").replace(".", "/") if "." in room else f"package/{room.strip('_')}"
        assert notebook == expected or room == "__init__", f"npt.{room} is exported by nbs/{notebook}.ipynb"


def test_each_room_has_its_file_of_tests():
    "And a file of tests has the name of a room; doors are tested together, in `package/test_doors.py`."
    files = {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").glob("*/test_*.py")}
    wanted = {f"{name_of(path).replace('/', '/test_')}.py" for path in NOTEBOOKS if path.parent.name in {*WINGS, "package"}
              and path.stem not in ("door", "front_door")}
    assert files == wanted


def test_wings_import_one_way():
    "A room imports from its own wing and from those before it."
    for room, path in rooms().items():
        if room.startswith("_"):
            assert not {r for r in imports(path)[0] if not r.startswith("_")}, f"npt.{room} belongs to no wing and imports one"
            continue
        wing = room.split(".")[0]
        below = {r for r in imports(path)[0] if not r.startswith("_") and WINGS.index(r.split(".")[0]) > WINGS.index(wing)}
        assert not below, f"npt.{room} imports {sorted(below)}, of a wing that stands after its own"
        tools = imports(path)[1] & DEVELOPER_TOOLS
        assert not tools, f"npt.{room} imports {sorted(tools)}, which only developers have"


def test_no_circle_of_imports():
    ahead = {room: imports(path)[0] & rooms().keys() for room, path in rooms().items()}
    while free := [room for room, wanted in ahead.items() if not wanted & ahead.keys()]:
        for room in free:
            del ahead[room]
    assert not ahead, f"these rooms import each other in a circle: {sorted(ahead)}"


def test_what_builds_by_name_opens_every_room_that_registers():
    "A learner or a term in a room that nobody imports would be there and not be found."
    for wing, builder, mark in ("learners", "build", "@register_learner("), ("objectives", "objective", "@term("):
        registering = {room for room, path in rooms().items() if room.startswith(wing) and f"\n{mark}" in path.read_text()}
        assert len(registering) > 2
        source = rooms()[f"{wing}.{builder}"].read_text()
        left_out = [room for room in registering if not re.search(rf"\b{room.split('.')[1]}\b", source)]
        assert not left_out, f"npt.{wing}.{builder} does not open {left_out}"


def test_module_docstrings_are_whole_sentences():
    for room, path in rooms().items():
        said = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert re.fullmatch(r"[A-Z`].+\.", said) and "TODO" not in said, f"npt.{room} begins with {said!r}"


def test_two_notebooks_of_a_folder_never_share_a_number():
    numbers = [(path.parent, match[1]) for path in NOTEBOOKS if (match := re.match(r"(\d+)_", path.name))]
    assert len(numbers) == len(set(numbers))
    assert {path.stem for path in (ROOT / "nbs").glob("*.ipynb")} == {"index", "train", "transfer", "report"}


def export_cells() -> list[tuple[int, str]]:
    "The number of lines of each export cell, blank ones left out, and its notebook."
    return [(len([line for line in cell.source.splitlines() if line.strip()]), name_of(path))
            for path in NOTEBOOKS for cell in code_cells(read(path)) if re.search(r"^#\|\s*export", cell.source, re.M)]


def test_one_idea_an_export_cell():
    cells = export_cells()
    assert median(lines for lines, _ in cells) <= 10
    tables = {"data/datasets", "learners/recipes"}  # tables of data may be long
    assert not [(lines, name) for lines, name in cells if lines > 60 and name not in tables]


def test_few_public_names_and_each_says_what_it_is():
    public = 0
    for room, path in rooms().items():
        tree = ast.parse(path.read_text())
        named = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")]
        assert not [node.name for node in named if not ast.get_docstring(node)], f"npt.{room} has public names without a docstring"
        constants = [target for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)
                     for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
                     if isinstance(target, ast.Name) and not target.id.startswith("_")]
        public += 0 if room.startswith("_") else len(named) + len(constants)
    assert public <= 220, f"{public} public names, where about 200 are enough"


def test_the_library_patches_nothing():
    assert not [room for room, path in rooms().items() if "unittest" in imports(path)[1]]


WITH_A_DEFAULT_BY_POSITION = {"study.cli.grid_command", "data.cli.prepare_command"}  # a command's line is what it works on, not a setting


def test_settings_are_given_by_keyword():
    "What a public function of these wings takes and has a default for is never given by its place."
    by_place = set()
    for room, path in rooms().items():
        if room.split(".")[0] not in ("data", "training", "study"):
            continue
        classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        for body in [ast.parse(path.read_text()).body, *(node.body for node in classes)]:
            by_place |= {f"{room}.{node.name}" for node in body if isinstance(node, ast.FunctionDef)
                         and not node.name.startswith("_") and node.args.defaults}
    assert by_place == WITH_A_DEFAULT_BY_POSITION


def parameters_told(source: str, pattern: str) -> list[tuple[str, str, str]]:
    "The name, default and comment of each parameter in a piece of source."
    return [(match[1], match[2].strip(), match[3]) for match in re.finditer(pattern, source, re.M)]


def test_the_parameters_of_train_are_the_settings_of_a_run():
    cell = next(cell for cell in read(ROOT / "nbs/train.ipynb").cells if "parameters" in cell.metadata.get("tags", []))
    shown = parameters_told(cell.source, r"^(\w+) = (.*?)  # (.*)$")
    source = (ROOT / "npt/study/settings.py").read_text().partition("class RunSettings")[2].partition("@model_validator")[0]
    listed = parameters_told(source, r"^    (\w+): [^=#\n]+ = (.*?)  # (.*)$")
    listed = [(name, re.sub(r"Field\(([^,)]+).*\)", r"\1", default), comment) for name, default, comment in listed]
    assert [name for name, *_ in listed] == list(RunSettings.model_fields)
    assert shown[:-2] == listed and [name for name, *_ in shown[-2:]] == ["baseline", "overwrite"]


def cells_of_parameters(path: Path) -> list[int]:
    "The places of the code cells that Papermill takes for the parameters'."
    return [place for place, cell in enumerate(code_cells(read(path))) if "parameters" in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if cells_of_parameters(path)], ids=name_of)
def test_a_notebook_refuses_parameters_that_it_does_not_know(path: Path):
    "A notebook imports, asks, and then does something; what it asks knows this notebook's parameters, and no other."
    (place,), cells = cells_of_parameters(path), code_cells(read(path))
    asks = [number for number, cell in enumerate(cells)
            if re.search(r"^(?:settings = notebook_settings|check_parameters)\(globals\(\)\)$", cell.source, re.M)]
    before = [cell.source for cell in cells[place + 1:asks[0]] if not re.match(r"started = |os.environ", cell.source)]
    assert len(asks) == 1 and all(isinstance(node, ast.Import | ast.ImportFrom) for text in before for node in ast.parse(text).body)
    shown = ast.parse(cells[place].source).body
    for name in [line.targets[0].id for line in shown]:
        given = f"# Parameters\n{ast.unparse(next(line for line in shown if line.targets[0].id == name))}\n"
        namespace: dict = {}
        exec(cells[place].source, namespace)
        check_parameters(namespace | {"In": ["", cells[place].source, given]})
        with pytest.raises(ValueError, match=f"no setting is called '{name}_'; did you mean '"):
            check_parameters(namespace | {"In": ["", cells[place].source, given.replace(name, f"{name}_", 1)]})


def test_a_bad_parameter_stops_a_notebook(tmp_path: Path):
    "What stands in Papermill's cell reaches the check; that each notebook makes it first, and knows its own, is tested above."
    with pytest.raises(papermill.exceptions.PapermillExecutionError, match="no setting is called 'result'; did you mean 'results'"):
        papermill.execute_notebook(ROOT / "nbs" / "report.ipynb", tmp_path / "out.ipynb", parameters=dict(result="world"),
                                   kernel_name="python3", cwd=tmp_path, progress_bar=False)


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
    figures = [output.data for output in outputs(notebook) if PLOTLY in output.get("data", {})]
    blank = [figure for figure in figures if "image/jpeg" not in figure]
    assert not blank, f"{len(blank)} figures without a JPEG are blank on a code host: run it where a Chrome is found"
    cut_off = [figure for figure in figures if "image/png" in figure or figure[PLOTLY]["layout"].get("width", 0) > 800]
    assert not cut_off, f"JupyterLab cuts off {len(cut_off)} figures: store them as static_figures() makes fig.show() do"


def mixes_imports(source: str) -> bool:
    "Whether a cell imports and does something else, at its top level."
    kinds = {isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(re.sub(r"^[%!].*", "", source, flags=re.M)).body}
    return len(kinds) == 2


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if name_of(path) != "index"], ids=name_of)
def test_a_look_imports_in_a_cell_of_its_own(path: Path):
    "nbdev_proc_nbs runs export cells and those that import, and no others: what else stands in them has nothing to work on."
    looks = [cell.source for cell in code_cells(read(path)) if not re.search(r"^#\|\s*export", cell.source, re.M)]
    assert not [source for source in looks if mixes_imports(source)]


@pytest.mark.parametrize("name", SMALL)
def test_one_cell_holds_the_parameters(name: str):
    tagged = [cell for cell in read(ROOT / "nbs" / f"{name}.ipynb").cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1


OUTDATED = "the committed outputs are not those of the committed code: run the notebook and commit it"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name != "train"])  # which Papermill runs below
def test_notebooks_that_take_parameters_run(name: str, tmp_path: Path, untouched: None):
    "With Papermill's cell of parameters, in a fork; `test_papermill_runs_train` and those of `transfer` have a kernel."
    path = ROOT / "nbs" / f"{name}.ipynb"
    given = parameterize_notebook(load_notebook_node(str(path)), SMALL[name])
    nbformat.write(given, tmp_path / path.name)
    assert run_cells(tmp_path / path.name, tmp_path) == showing(read(path)), OUTDATED


@pytest.mark.slow
def test_papermill_runs_train(tmp_path: Path, untouched: None):
    path = ROOT / "nbs" / "train.ipynb"
    executed = papermill.execute_notebook(path, tmp_path / path.name, parameters=SMALL["train"], kernel_name="python3", cwd=tmp_path,
                                          progress_bar=False)
    assert showing(executed) == showing(read(path)), OUTDATED


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if name_of(path) not in SMALL], ids=name_of)
def test_notebook_runs(path: Path, tmp_path: Path, untouched: None):
    assert run_cells(path, tmp_path) == showing(read(path)), OUTDATED


def test_the_page_of_speed_shows_what_the_benchmark_printed():
    printed = "".join(output.get("text", "") for output in outputs(read(ROOT / "nbs/experiments/benchmark.ipynb")))
    ratios = [line for line in printed.splitlines() if "times faster" in line]
    assert len(ratios) > 3
    page = (ROOT / "docs" / "speed.md").read_text()
    assert all(line in page for line in ratios), "put the lines of the last run into docs/speed.md"
    certain = [line for line in ratios if "against public code" in line and "of fresh crops" not in line]
    faster = [float(re.search(r"([\d.]+) times faster", line)[1]) for line in certain]
    assert len(certain) == 5 and min(faster) > 1, "the notebook itself counts operations, whatever the load of the machine that tests it"
