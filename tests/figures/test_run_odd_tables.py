"Figures of one row, of many and of none."

import pandas as pd
import pytest
import torch

from npt.figures.run import reliability, transfer_bars
from npt.training.calibration import reliability_bins


def test_figures_of_odd_tables():
    one = reliability_bins(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    assert len(reliability({"one": one}).data) == 4 and len(reliability({"a": one, "b": one, "c": one}).data) == 12
    row = pd.DataFrame(dict(kind=["source"], accuracy=[0.0], zero_shot=[100.0], difference=[-100.0]), index=["a/" + "long" * 20])
    assert len(transfer_bars(row).data) == 2
    for draw, nothing in (reliability, {}), (transfer_bars, row[:0]):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw(nothing)
