"""What stands around the code: citation, changelog, how to contribute, cards, forms for issues, and who may rely on the hints."""

import ast
import configparser
import hashlib
import importlib
import re
import shutil
import sys
from datetime import date
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import ROOT

from npt.world.captions import world_vocabulary
from npt.world.clip import load_world_clip
from npt.world.label_sets import _PER_CLASS, LABEL_SETS
from npt.world.pictures import OBJECTS, PAIRS, PATTERNS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
CLIP_CARD, PICTURES_CARD = ((ROOT / "docs" / "cards" / f"world_{what}.md").read_text() for what in ("clip", "pictures"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]  # that Keep a Changelog knows


def version() -> str:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    return settings["DEFAULT"]["version"]


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


# citation and changelog

def test_the_citation_is_of_this_version_and_names_the_paper():
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= told.keys() and told["cff-version"] == "1.2.0"
    assert told["version"] == version() and told["license"] == PYPROJECT["project"]["license"]
    assert [one["name"] for one in told["authors"]] == [one["name"] for one in PYPROJECT["project"]["authors"]]
    (paper,) = told["references"]
    assert len(paper["authors"]) == 7 and paper["year"] == 2024 and paper["end"] - paper["start"] == 9
    (preprint,) = (one["value"] for one in paper["identifiers"])
    assert preprint in (ROOT / "README.md").read_text()


def test_the_changelog_ends_at_this_version():
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert heads[0] == "[Unreleased]"
    told = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", head).groups() for head in heads[1:]]
    assert told[0][0] == version(), "a new version has its section, and what was unreleased is in it"
    versions, days = [numbers(number) for number, _ in told], [date.fromisoformat(day) for _, day in told]
    assert versions == sorted(versions, reverse=True) and days == sorted(days, reverse=True)


def test_the_changelog_has_the_kinds_of_change_that_its_form_knows():
    for section in re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)[2:]:
        kinds = re.findall(r"^### (.*)$", section, re.M)
        assert kinds and set(kinds) <= set(KINDS) and len(kinds) == len(set(kinds))
        assert all(part.strip().splitlines()[1:] for part in section.split("### ")[1:]), "a kind with nothing in it"


def test_the_texts_at_the_top_are_these():
    assert {path.name for path in ROOT.glob("*.md")} == {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"}


# how to contribute

NAMED = {  # what CONTRIBUTING sends people to, and where it is defined
    "_ROOMS": "npt/learners/build.py", "_RECORDS": "npt/learners/recipes.py", "_WORLD_RECIPES": "npt/learners/recipes.py",
    "_KINDS": "npt/study/price.py", "_TEST_IMAGES": "npt/study/price.py", "LITERAL": "tests/written_out.py", "EveryLearner": "tests/every_learner.py",
    "_READ_NO_LABELS": "npt/objectives/objective.py", "NAMED_OBJECTIVES": "npt/objectives/terms.py", "StepFeatures": "npt/objectives/terms.py",
    "DatasetRecord": "npt/data/datasets.py", "_ELEVEN": "npt/data/datasets.py", "_VARIANTS": "npt/data/datasets.py",
    "DATASETS": "npt/data/datasets.py", "CLASSES": "tests/miniature.py", "CLASSNAMES": "tests/miniature.py", "WRITERS": "tests/miniature.py",
    "BACKBONES": "npt/clip/backbone.py", "SAMPLERS": "npt/training/samplers.py", "_class_probabilities": "npt/training/samplers.py",
    "RunSettings": "npt/study/settings.py", "_Plan": "npt/training/fit.py", "_MMRL": "npt/learners/mmrl.py",
    "_datasets_table": "npt/data/cli.py", "register_learner": "npt/learners/base.py", "term": "npt/objectives/terms.py",
    "register_format": "npt/data/formats.py",
}


def defined(path: Path) -> set[str]:
    "The names that a module gives a meaning at its top."
    found = set()
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
        found |= {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()
    return found


@pytest.mark.parametrize("name", NAMED)
def test_what_contributing_sends_people_to_is_there(name: str):
    assert re.search(rf"`@?[^`]*\b{name}\b[^`]*`", CONTRIBUTING) or f"import {name}" in CONTRIBUTING
    assert name in defined(ROOT / NAMED[name])


def test_the_files_that_contributing_names_are_there():
    paths = re.findall(r"(?<![\w/])((?:nbs|tests|data_prep|docs|npt|\.ci)/[\w./*]*[\w*])", CONTRIBUTING)
    paths = [re.sub(r"^(nbs/.*)\.py$", r"\1.ipynb", path) for path in paths]  # which jupytext writes beside a notebook
    assert len(paths) > 40
    assert not [path for path in paths if "mine" not in path and not (ROOT / path).exists()]


def commands(text: str) -> list[str]:
    "Each line of each block of commands."
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.M | re.S)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_the_commands_of_contributing_exist():
    "Those that the extra dev brings; a program that has to be installed beside it is said to be."
    first = {command.split()[0] for command in commands(CONTRIBUTING)}
    beside = str(Path(sys.executable).parent)
    missing = {name for name in first if not (shutil.which(name, path=beside) or shutil.which(name))}
    assert missing <= {"jupytext"} and {"pytest", "nbdev_export", "nbdev_clean", "ruff", "jupyter"} <= first
    for test in re.findall(r"tests/test_notebooks\.py::(\w+)", CONTRIBUTING):
        assert test in defined(ROOT / "tests" / "test_notebooks.py")


def test_contributing_says_where_things_are():
    folders = [f"nbs/{path.name}" for path in (ROOT / "nbs").iterdir() if path.is_dir() and path.name not in (".ipynb_checkpoints", "runs")]
    assert not [folder for folder in folders if f"`{folder}/`" not in CONTRIBUTING]


# hints

def hinted(path: Path) -> dict[str, str]:
    "The names that a package imports for type checkers alone, each with its module."
    blocks = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {alias.asname: line.module for block in blocks for line in block.body for alias in line.names}


@pytest.mark.parametrize("package, names", [
    ("npt", None), ("npt.clip", ["load_clip"]), ("npt.data", ["load_dataset"]),
])  # fmt: skip
def test_a_type_checker_sees_what_python_sees(package: str, names: list[str] | None):
    module = importlib.import_module(package)
    told = hinted(Path(module.__file__))
    assert sorted(told) == (names or module.__all__)
    assert all(getattr(module, name) is getattr(importlib.import_module(place), name) for name, place in told.items())


def test_the_type_checker_is_an_extra_of_its_own():
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert any(one.startswith("mypy") for one in extras["types"]) and not any(one.startswith("mypy") for one in extras["dev"])
    assert PYPROJECT["tool"]["mypy"]["packages"] == ["npt"] and (ROOT / "npt" / "py.typed").is_file()


# cards

def printed(notebook: str) -> str:
    "What a notebook printed, its tables as text."
    cells = nbformat.read(ROOT / "nbs" / f"{notebook}.ipynb", as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


def rows(card: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("| ")]


def test_the_models_card_is_of_the_weights_that_ship():
    path = ROOT / "npt" / "world" / "world.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in CLIP_CARD and f"{path.stat().st_size:,} bytes" in CLIP_CARD
    model = load_world_clip()
    count = sum(p.numel() for name, p in model.named_parameters() if name != "token_embedding.weight")
    assert f"| {count:,} without the token table, of which {len(world_vocabulary())} rows of {model.token_embedding.embedding_dim} " in CLIP_CARD
    towers = f"{model.visual.transformer.layers} blocks over 16 patches", f"transformer of {model.transformer.layers} blocks"
    assert all(text in CLIP_CARD for text in towers) and f"{model.context_length} tokens" in CLIP_CARD
    assert f"It knows {len(world_vocabulary())} tokens" in CLIP_CARD


def test_the_models_card_says_what_pretraining_printed():
    said = printed("experiments/pretrain_world")
    steps, pairs, minutes = re.search(r"(\d+) steps, ([\d,]+) pairs, ([\d.]+) minutes", said).groups()
    assert f"{pairs} pairs of a drawn picture" in CLIP_CARD and f"{steps} steps of 256" in CLIP_CARD and f"took {minutes} minutes" in CLIP_CARD
    accuracy = {number: (seen, unseen) for number, seen, unseen in re.findall(r"\((\d+)\) +([\d.]+) +([\d.]+)", said)}
    told = {match[1]: tuple(row[1:]) for row in rows(CLIP_CARD) if (match := re.search(r"\((\d+) names\)", row[0]))}
    assert told == accuracy and len(told) == 3


def test_both_cards_give_the_worlds_verdict():
    met, opened, missed, total = re.search(r"(\d+) met, (\d+) open, (\d+) missed of (\d+)", printed("experiments/judge_world")).groups()
    clip, pictures = (" ".join(card.split()) for card in (CLIP_CARD, PICTURES_CARD))
    assert f"Of {total} comparisons with what was published of real CLIP, {met} are met, {opened} are open and {missed} is missed" in clip
    assert f"{met} of {total} comparisons are met, {opened} are open and {missed} is missed" in pictures


def test_the_data_card_counts_what_there_is():
    told = {row[3]: (int(row[1]), int(row[2])) for row in rows(PICTURES_CARD) if len(row) == 4 and row[1].isdigit()}
    kinds = {thing.name: things for things in (OBJECTS, PATTERNS, PAIRS) for thing in things}
    for example, counts in [(name, counts) for name, counts in told.items() if name in kinds]:
        assert counts == (len(kinds[example]), sum(not thing.seen for thing in kinds[example])), example
        assert not next(thing for thing in kinds[example] if thing.name == example).seen
    assert len([name for name in told if name in kinds]) == 3
    sets = {row[0].strip("`").removeprefix("world/"): (int(row[1]), int(row[2])) for row in rows(PICTURES_CARD) if row[0].startswith("`world/")}
    assert sets == {name: (len(one.things) // 2, len(one.things) - len(one.things) // 2) for name, one in LABEL_SETS.items()}
    assert "{train} training, {val} validation and {test} test pictures".format(**_PER_CLASS) in PICTURES_CARD


# forms

@pytest.mark.parametrize("path", [path for path in FORMS if path.stem != "config"], ids=lambda path: path.stem)
def test_a_form_is_one_that_the_code_host_can_show(path: Path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in form["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert all(part["attributes"]["label"] for part in asked) and len({part["id"] for part in asked}) == len(asked)
    assert any(part.get("validations", {}).get("required") for part in asked)
    text = path.read_text()
    assert not [name for name in re.findall(r"\bnbs/[\w/]+\.ipynb|\b[A-Z]+\.md", text) if not (ROOT / name).exists()]


def test_there_is_a_form_for_each_kind_of_issue():
    assert {path.stem for path in FORMS} == {"bug", "reproduction", "new_method", "config"}
    asked = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text()
    assert asked.count("- [ ]") == 4 and "CHANGELOG.md" in asked and "nbdev_export" in asked
