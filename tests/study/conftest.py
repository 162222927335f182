"What the tests of several rooms ask for: a CLIP, pictures, and runs that are finished."

from pathlib import Path

import pytest
import torch
from trained import SMALL, train_a_little

from npt.clip.frozen import FrozenCLIP
from npt.clip.load import load_clip
from npt.data.images import make_loader
from npt.data.load import load_dataset
from npt.study.runs import do_run
from npt.study.settings import RunSettings
from npt.world.label_sets import _PER_CLASS


@pytest.fixture(scope="session")
def clip() -> FrozenCLIP:
    return load_clip("world")


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    split = load_dataset("world/textures", shots=1).base.test
    return next(iter(make_loader(split, load_clip("world").preprocess_cfg, batch_size=16)))[0]


@pytest.fixture(scope="session")
def trained_dir(tmp_path_factory) -> Path:
    "The folder of a run that was trained a little."
    return train_a_little(tmp_path_factory.mktemp("runs"))[0]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[RunSettings, dict]:
    "A whole run: its settings and its metrics."
    settings = RunSettings(dataset="world/textures", learner="coop", runs_dir=str(tmp_path_factory.mktemp("runs")), **SMALL)
    return settings, do_run(settings)


@pytest.fixture
def few_pictures(monkeypatch) -> None:
    "A tenth of the offline world's pictures: learners of the image tower take most of their time to look at them all."
    for split in ("test", "val"):
        monkeypatch.setitem(_PER_CLASS, split, 8)
