"""What every test may ask for: the checkout, a scratch copy of it, and the promise that it is left as it was."""

import gc
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")  # what is tested is small, and a second thread only waits
ROOT = Path(__file__).resolve().parent.parent
ABSENT = str(ROOT / "tests" / "absent")  # what the tests, and the processes that they start, shall not find
sys.path.insert(0, ABSENT)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ABSENT, os.environ.get("PYTHONPATH")]))
LEFT_OUT = shutil.ignore_patterns(
    ".git", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", ".ipynb_checkpoints"
)


PROCESSES = 3  # as pyproject.toml says


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "Let each process begin with tests that take long, so that at the end none of them works alone."
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    shares = [len(quick) * part // PROCESSES for part in range(PROCESSES + 1)]  # xdist gives each process as long a part of all
    items[:] = [item for part in range(PROCESSES) for item in (*slow[part::PROCESSES], *quick[shares[part] : shares[part + 1]])]


def pytest_collection_finish() -> None:
    "What is imported by now stays, so that no collection of garbage looks at it again, each for a third of a second."
    gc.collect()
    gc.freeze()


def copy_checkout(to: Path) -> Path:
    "Copy the checkout, but for what `LEFT_OUT` names."
    return Path(shutil.copytree(ROOT, to, ignore=LEFT_OUT))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    "Keep features and the like in a folder of this session's own, for what runs here, in notebooks and in the other process."
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPT_CACHE", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    "A copy of the checkout that a test may change."
    return copy_checkout(tmp_path / "copy")


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    "Size and time of last change of every file under `folder`, but for what `LEFT_OUT` names."
    found = {}
    for path in folder.iterdir():
        if LEFT_OUT(None, [path.name]):
            continue
        if path.is_dir():
            found |= state(path)
        else:
            found[path] = (path.stat().st_size, path.stat().st_mtime_ns)
    return found


@pytest.fixture
def untouched() -> None:
    "Fails a test that writes, changes or deletes a file of the checkout."
    before = state(ROOT)
    yield
    after = state(ROOT)
    touched = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    assert not touched, f"the test changed the checkout: {sorted(map(str, touched))}"


@pytest.fixture(scope="session")
def noise_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Four classes of ten photographs of noise, one folder per class; they are cropped at random in training."
    root, chance = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for name in ("bird", "cat", "dog", "frog"):
        (root / name).mkdir()
        for number in range(10):
            Image.fromarray(chance.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "Where the features of one test are kept."
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"
