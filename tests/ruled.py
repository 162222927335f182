"Runs with a truth that a function says, for tests of curves and weights."

from itertools import product

import pandas as pd


def runs_of_rule(objectives, h, **axes) -> pd.DataFrame:
    "Runs over three seeds and the axes, whose H is what a function of a row says."
    names = ["seed", "objective", *axes]
    rows = [dict(zip(names, values)) for values in product((1, 2, 3), objectives, *axes.values())]
    common = dict(dataset="world/shapes", learner="coop", classes="base", measured_on="test", zero_shot_h=50.0)
    return pd.DataFrame([common | row | dict(minimised=row["objective"], h=h(row)) for row in rows])


def weighed(weights=(0.1, 1, 10), measured_on="val") -> pd.DataFrame:
    sums = {f"ce + {lc}*lc + {mi}*mi": 10 * lc + mi for lc in weights for mi in weights}
    return runs_of_rule(["ce", *sums], lambda row: sums.get(row["objective"], 0) + row["seed"]).assign(measured_on=measured_on)
