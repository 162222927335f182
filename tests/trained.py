"Runs that tests leave behind, with and without the time that measuring takes."

import json
from pathlib import Path

import torch

from npt._files import write_text
from npt.data.load import load_dataset
from npt.learners.base import Learner
from npt.learners.saving import save_prompts
from npt.study.folder import _write_metrics
from npt.study.runs import set_up
from npt.study.settings import RunSettings
from npt.training.fit import fit

SMALL = dict(shots=2, epochs=3)
MEASURED = {"base": 91.25, "novel": 80.5, "h": 85.54, "base_per_class": [91.25], "seconds": 1.5}
NAMES = ["red striped pattern", "blue dotted pattern", "green solid pattern"]


def train_a_little(folder: Path, **settings) -> tuple[Path, Learner]:
    "Leave a run's folder behind, without the time that measuring takes; give it and the learner that was trained."
    run = set_up(RunSettings(**{**dict(dataset="world/textures", learner="coop", shots=1, runs_dir=str(folder)), **settings}))
    write_text(fit(run.learner, run.data.base.train, objective=run.settings.objective, epochs=1).to_csv(index=False), run.folder.history)
    save_prompts(run.learner, run.folder.prompts)
    _write_metrics(MEASURED, run.folder)
    return run.folder.path, run.learner.eval()


def logits(learner: Learner, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return learner.logits(pixels)


def without_time(metrics):
    return {key: value for key, value in metrics.items() if key not in ("seconds", "times")}


def write_texts(path: Path, says: str = "It is a {}.") -> str:  # the path
    "Write two sentences about each class of the offline world's textures."
    classnames = load_dataset("world/textures", shots=1).all.classnames
    write_text(json.dumps({name.upper(): [says.format(name), "One sees it."] for name in classnames}), path)
    return str(path)
