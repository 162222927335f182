"""What is installed: requirements named alike everywhere, a README made from its notebook, a wheel that stands alone."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import ROOT, copy_checkout
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEVELOP = PROJECT["optional-dependencies"]["dev"]
COMMANDS = [
    'python -m pip install -e ".[dev]" && papermill nbs/train.ipynb out.ipynb',
    'python -m pip install -e ".[dev]" && ruff check && pytest',
]
README = r"""jupyter nbconvert --to markdown --stdout nbs/index.ipynb | sed 's#](\([^.:)][^:)]*\.ipynb\)#](nbs/\1#g; s#](\.\./#](#g' > README.md"""
OFFLINE_RUN = """
import importlib, importlib.util, pkgutil, sys
import npt
assert npt.__file__.startswith(sys.prefix), npt.__file__
for tool in "nbdev", "fastcore", "execnb", "IPython", "papermill", "pytest":
    assert importlib.util.find_spec(tool) is None, tool
for module in pkgutil.walk_packages(npt.__path__, "npt."):
    importlib.import_module(module.name)

from npt import build_learner, evaluate, fit
from npt.clip import load_clip
from npt.data import load_dataset
data = load_dataset("world/objects", shots=1, seed=1)
learner = build_learner("coop", load_clip("world"), data.base.classnames)
fit(learner, data.base.train, objective="npt", epochs=1, seed=1)
metrics = evaluate(learner, data.base.test)
assert 0 <= metrics["accuracy"] <= 100, metrics
"""


def shown_text(notebook: Path) -> str:
    "The text of a notebook, without its code."
    return "\n".join(cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "markdown")


def test_conda_and_pip_get_the_same_requirements():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    by_pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    assert sorted(by_pip) == sorted([*PROJECT["dependencies"], *DEVELOP, "-e ."])
    assert f"python{PROJECT['requires-python']}" in environment


def test_readme_is_what_the_index_notebook_makes(copy: Path):
    made = (copy / "README.md").read_text()
    assert README in (copy / "CONTRIBUTING.md").read_text()
    (copy / "README.md").unlink()
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(README, shell=True, cwd=copy, env={**os.environ, "PATH": here}, check=True)
    assert (copy / "README.md").read_text() == made, f"run {README}"


@pytest.mark.parametrize("pattern", ["*.md", "*/README.md", "docs/cards/*.md", "nbs/**/*.ipynb"])
def test_every_link_leads_somewhere(pattern: str):
    "From the page on which it stands."
    pages = list(ROOT.glob(pattern))
    links = []
    for path in pages:
        text = re.sub(r"^```.*?^```", "", path.read_text() if path.suffix == ".md" else shown_text(path), flags=re.M | re.S)
        links += [(path, link) for link in re.findall(r"\]\(([^)\s#]+)", text) if not re.match(r"https?:|attachment:", link)]
    assert links
    assert not [(path.name, link) for path, link in links if not (path.parent / link).exists()]


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_names_the_commands_that_ci_runs(command: str):
    assert f"```sh\n{command}\n```" in (ROOT / "README.md").read_text()
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert [line for line in lines if line.removesuffix(" || exit") == command]


@pytest.mark.parametrize("pattern", ["*.md", "*.toml", "*.yml", "data_prep/*", "nbs/**/*.ipynb", "npt/**/*.py"])
def test_nobody_is_sent_to_another_projects_package(pattern: str):
    "`npt` on the package index is someone else's."
    files = [path for path in ROOT.glob(pattern) if path.is_file()]
    assert files
    assert not [path.name for path in files if re.search(r"pip3? install (-\S+ )*npt\b(?!-)", path.read_text())]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a source distribution, which is built from a copy, as a release is.

    It is done with the setuptools that is installed, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    sdist = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", sdist, str(folder)], cwd=copy_checkout(folder / "source"), check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*build, str(next(folder.glob("npt_clip-*.tar.gz")))], cwd=folder, check=True)
    return next(folder.glob("npt_clip-*.whl"))


def test_wheel_holds_the_library_and_its_weights_and_nothing_else(wheel: Path):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for path in (ROOT / "npt").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {path.relative_to(ROOT).as_posix() for path in files}
    assert {"npt/world/world.safetensors", "npt/py.typed"} <= names
    assert wheel.stat().st_size < 7e6


def needed(requirements: list[str]) -> set[str]:
    "The names of the distributions that these requirements bring along."
    found, ahead = set(), [Requirement(text) for text in requirements]
    while ahead:
        requirement = ahead.pop()
        for extra in {"", *requirement.extras} - {extra for name, extra in found if name == requirement.name}:
            found.add((requirement.name, extra))
            further = map(Requirement, metadata.requires(requirement.name) or [])
            ahead += [r for r in further if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


@pytest.mark.slow
def test_wheel_runs_alone(wheel: Path, tmp_path: Path):
    """In a new environment with the wheel and what it requires, and none of the developers' tools.

    The requirements are linked from this environment, since downloading them again takes gigabytes.
    """
    venv.create(tmp_path / "venv")
    packages = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    for name in needed(PROJECT["dependencies"]):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", str(wheel)], check=True)
    subprocess.run([python, "-I", "-c", OFFLINE_RUN], cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True)
