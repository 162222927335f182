"Simplex ETFs and what replaces them: against the textbook's matrix, the bound, and whoever asks for the impossible."

import warnings

import numpy as np
import pytest
import torch

from npt.geometry.etf import etf_bound, etf_distance, simplex_etf


@pytest.mark.parametrize("num_classes, dim", [(2, 1), (3, 2), (4, 3), (9, 8), (10, 9), (5, 30)])
def test_cosines_are_those_of_the_textbooks_matrix(num_classes, dim):
    etf = simplex_etf(num_classes, dim).double().numpy()
    textbook = num_classes / (num_classes - 1) * (np.eye(num_classes) - 1 / num_classes)
    assert np.allclose(etf @ etf.T, textbook, atol=1e-6)


@pytest.mark.filterwarnings("ignore:No simplex ETF")
@pytest.mark.parametrize("num_classes, dim", [(10, 4), (10, 5), (11, 4), (11, 5)])
def test_frames_of_every_parity_meet_the_bound(num_classes, dim):
    "Even and odd dimensions of an even number of classes, and of an odd number, where both odd takes a search."
    frame = simplex_etf(num_classes, dim).double()
    assert etf_distance(frame).item() == pytest.approx(etf_bound(num_classes, dim), rel=1e-4)
    assert torch.allclose(frame.norm(dim=1), torch.ones(num_classes).double(), atol=1e-6)
    assert frame.sum(0).abs().max() < 1e-5


def test_who_asks_for_the_impossible_is_warned_once():
    with pytest.warns(UserWarning, match="No simplex ETF of 5 vectors exists in 2 dimensions") as caught:
        simplex_etf(5, 2)
    assert len(caught) == 1


def test_the_warning_names_the_line_that_asked():
    with pytest.warns(UserWarning) as caught:
        simplex_etf(5, 2)
    assert caught[0].filename == __file__


def test_what_exists_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simplex_etf(5, 4)


@pytest.mark.filterwarnings("ignore:No simplex ETF")
@pytest.mark.parametrize("num_classes, dim", [(5, 1), (5, 3), (1, 3), (3, 0)])
def test_what_does_not_exist_is_refused(num_classes, dim):
    with pytest.raises(ValueError):
        simplex_etf(num_classes, dim)
