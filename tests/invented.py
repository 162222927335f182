"Runs that nobody made, whose truth is known."

import numpy as np
import pandas as pd

from npt.training.evaluation import harmonic_mean

METRICS = "nc1", "nc3", "nc4"
COLLAPSE = "nc1", "cdnv", "nc2_text_equiangularity", "nc3", "nc4"


def table(learners=("coop", "maple"), objectives=("own", "npt"), taus=(1.0, 0.25), seeds=(1, 2, 3), **more) -> pd.DataFrame:
    "Runs with the luck of a seed in common; NPT adds two points to novel accuracy."
    draw = np.random.default_rng(0)
    rows = []
    for learner in learners:
        for tau in taus:
            for seed in seeds:
                luck = draw.normal(0, 4)
                for objective in objectives:
                    base, novel = 60 + luck, 50 + luck + 2 * (objective == "npt")
                    rows.append(dict(dataset="world/shapes", learner=learner, objective=objective, tau=tau, seed=seed, base=base,
                                     novel=novel, h=harmonic_mean(base, novel), seconds=1.0, folder=f"{learner}{tau}{seed}",
                                     version="0.1.0") | {f"after_{name}": draw.uniform(0.1, 1) for name in COLLAPSE} | more)
    return pd.DataFrame(rows)


def on_the_world(runs: pd.DataFrame, clips=(None, "world-2", "world-3"), splits=("half", 3), step: float = 10.0) -> pd.DataFrame:
    "The same runs with each CLIP and class split of the offline world; each of these units is some points better than the one before."
    drawn = [(clip, split) for clip in clips for split in splits]
    return pd.concat([runs.assign(backbone="world", pretrained=clip, class_split=split,
                                  **{name: runs[name] + step * better for name in ("base", "novel", "h") if name in runs})
                      for better, (clip, split) in enumerate(drawn)], ignore_index=True)


def noise(learners=("coop", "maple", "kgcoop"), objectives=("own", "npt", "cpt"), taus=(1.0, 0.25), seeds=(1, 2)) -> pd.DataFrame:
    "Runs of noise, in which nothing goes with anything."
    draw = np.random.default_rng(0)
    keys = pd.MultiIndex.from_product([learners, objectives, taus, seeds], names=["learner", "objective", "tau", "seed"])
    runs = keys.to_frame(index=False)
    for name in (*(f"after_{metric}" for metric in METRICS), "novel", "h"):
        runs[name] = draw.uniform(0.1, 1, len(runs)) * (100 if name in ("novel", "h") else 1)
    return runs
