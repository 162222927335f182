"The front door: `import npt` costs nothing, the ten names are the right ones, and the old paths are gone."

import configparser
import importlib
import importlib.util
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import npt

NAMES = {
    "load_clip": "npt.clip.load",
    "load_dataset": "npt.data.load",
    "build_learner": "npt.learners.build",
    "build_objective": "npt.objectives.objective",
    "fit": "npt.training.fit",
    "evaluate": "npt.training.evaluation",
    "simplex_etf": "npt.geometry.etf",
    "collapse_metrics": "npt.geometry.collapse",
    "load_run": "npt.study.restore",
    "predict": "npt.study.predict",
}
WINGS = "geometry", "objectives", "clip", "world", "data", "learners", "training", "study", "figures"
GONE = """adapters anchors archive backbones blocks collapse comparison context cross_entropy curves datasets etf evaluation
features fidelity files formats grid imbalance learner lens losses multimodal names official packing per_class prepare prompts
results runs show towers transfer use words""".split()
FRESH = "import sys, time; t = time.process_time(); import npt; print(time.process_time() - t, 'torch' in sys.modules)"


def fresh(code: str) -> str:
    "What this code prints in a new process."
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_import_takes_no_time_and_no_torch():
    runs = [fresh(FRESH).split() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in runs) < 0.3
    assert {with_torch for _, with_torch in runs} == {"False"}


@pytest.mark.parametrize("name, room", NAMES.items())
def test_each_name_is_what_its_room_defines(name, room):
    assert getattr(npt, name) is getattr(importlib.import_module(room), name)


def test_dir_shows_the_ten_names_the_wings_and_no_stray_ones():
    shown = fresh("import npt; before = dir(npt); npt.fit; print(before == dir(npt), *before)").split()
    assert shown[0] == "True" and "__version__" in shown
    assert {name for name in shown[1:] if not name.startswith("__")} == {*NAMES, *WINGS}


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_is_an_attribute_after_a_bare_import(wing):
    assert fresh(f"import npt, sys; print(npt.{wing}.__name__, 'torch' in sys.modules)").split() == [f"npt.{wing}", "False"]


@pytest.mark.parametrize("name", ["fti", "loss", "__wrapped__"])
def test_an_unknown_name_is_an_attribute_error_that_says_what_there_is(name):
    with pytest.raises(AttributeError, match=f"module 'npt' has no attribute '{name}'; it gives load_clip, .*, predict"):
        getattr(npt, name)
    assert not hasattr(npt, name)


def test_an_objective_built_first_thing_has_all_terms():
    assert fresh("import npt; print(npt.build_objective('npt'), npt.build_objective('ldam + kg'))") == "ce + lc + mi kg + ldam\n"


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_says_in_a_sentence_what_it_holds_and_lists_its_rooms(wing):
    package = importlib.import_module(f"npt.{wing}")
    rooms = {path.stem for path in (ROOT / "npt" / wing).glob("*.py")} - {"__init__"}
    assert re.fullmatch(r"[A-Z][^.]+(\.\w[^.]*)*\.", package.__doc__)
    assert {name for name in dir(package) if name[0] != "_"} - {"load_clip", "load_dataset"} == rooms


def test_a_wing_gives_its_rooms_after_a_bare_import():
    rooms = [f"npt.{wing}.{sorted((ROOT / 'npt' / wing).glob('[a-z]*.py'))[0].stem}" for wing in WINGS]
    assert fresh(f"import npt; print({', '.join(f'{room}.__name__' for room in rooms)})").split() == rooms


def test_an_unknown_name_of_a_wing_says_which_rooms_there_are():
    with pytest.raises(AttributeError, match="module 'npt.geometry' has no attribute 'eft'; it gives align, collapse, etf"):
        importlib.import_module("npt.geometry").eft


@pytest.mark.parametrize("wing, name", [("clip", "load_clip"), ("data", "load_dataset")])
def test_two_wings_have_doors_of_their_own(wing, name):
    package = importlib.import_module(f"npt.{wing}")
    assert getattr(package, name) is getattr(npt, name) and name in dir(package)
    assert fresh(f"import sys, npt.{wing}; print('torch' in sys.modules)") == "False\n"


def test_the_version_is_that_of_the_settings():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    assert npt.__version__ == settings["DEFAULT"]["version"]


def test_wings_are_packages_and_no_file_lies_beside_them():
    assert {path.name for path in (ROOT / "npt").iterdir() if path.is_dir() and path.name != "__pycache__"} == set(WINGS)
    assert {path.stem for path in (ROOT / "npt").glob("*.py")} == {"__init__", "_doors", "_files", "_lock", "_modidx", "_names"}


def test_old_paths_are_gone():
    assert [name for name in GONE if importlib.util.find_spec(f"npt.{name}")] == []
