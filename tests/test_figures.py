"""Figures: odd but possible input, clear errors, and pictures that never cost a run."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from npt import figures, show
from npt.geometry.etf import simplex_etf

LONG = [f"a very long class name with the number {i}" for i in range(1000)]


@pytest.fixture
def no_chrome(monkeypatch):
    monkeypatch.setattr(figures, "figure_png", lambda fig: None)


def test_saves_html_without_chrome_and_leaves_nothing_unfinished(tmp_path, no_chrome):
    table = figures.results_table(dict(base=1.0, novel=2.0, h=3.0, zero_shot=dict(base=1.0, novel=2.0, h=3.0)))
    folder = tmp_path / "new" / "folder"
    assert figures.save_figure(table, folder, "table") == [folder / "table.html"]
    assert {path.name for path in folder.iterdir()} == {"table.html", "plotly.min.js"}
    page = (folder / "table.html").read_text()
    assert 'src="plotly.min.js"' in page and "https://cdn" not in page


def test_a_chrome_that_cannot_start_is_one_warning_and_no_wait(tmp_path):
    code = (
        "import plotly.graph_objects as go; from npt.figures import save_figure;"
        f"print([p.name for name in 'ab' for p in save_figure(go.Figure(), {str(tmp_path)!r}, name)])"
    )
    broken = dict(os.environ, BROWSER_PATH="/bin/false", PYTHONPATH=str(Path(figures.__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", code], env=broken, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "['a.html', 'b.html']" in done.stdout, done.stderr
    assert done.stderr.count("UserWarning: No PNG") == 1


@pytest.mark.skipif(not show.chrome_found(), reason="needs a Chrome")
def test_shown_and_saved_are_one_drawing(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(show._chrome, "png", lambda figure: drawn.append(figure) or b"png")
    show._png_of_json.cache_clear()
    fig = figures.image_sheet(torch.rand(2, 3, 8, 8), ["one", "two"])
    assert show._PngBeside().to_mimebundle(fig.to_dict()) == {"image/png": "cG5n"}
    figures.save_figure(fig, tmp_path, "sheet")
    assert len(drawn) == 1 and (tmp_path / "sheet.png").read_bytes() == b"png"
    show._png_of_json.cache_clear()


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (9, 3, 300, 200), (1, 3, 1, 1), (2, 3, 128, 7)])
def test_sheets_of_any_image_size(shape):
    fig = figures.image_sheet(torch.rand(shape), LONG[: shape[0]])
    assert len(fig.layout.annotations) == shape[0] and len(fig.to_json()) < 500_000


@pytest.mark.parametrize("images, fault", [
    (torch.rand(2, 1, 8, 8), "shape"),
    (torch.rand(3, 3, 8, 8), "captions"),
    (torch.rand(2, 3, 8, 8) - 2, "normalisation"),
])  # fmt: skip
def test_sheet_names_what_is_wrong(images, fault):
    with pytest.raises(ValueError, match=fault):
        figures.image_sheet(images, ["one", "two"])


def test_curves_of_one_epoch_and_of_epochs_that_were_not_measured():
    one = pd.DataFrame(dict(epoch=[1], loss=[0.5], accuracy=[50.0], term_ce=[0.5], train_nc1=[1.0], test_nc1=[2.0]))
    assert len(figures.training_curves(one).data) == 3 and len(figures.collapse_curves(one).data) == 2
    gaps = pd.DataFrame(dict(epoch=[1, 2, 3], train_nc1=[3.0, np.nan, 1.0]))
    assert list(figures.collapse_curves(gaps).data[0].x) == [1, 3]
    with pytest.raises(ValueError, match="accuracy"):
        figures.training_curves(one.drop(columns="accuracy"))
    with pytest.raises(ValueError, match="test_nc1"):
        figures.collapse_curves(one[["epoch", "loss"]])


def test_cosines_of_a_thousand_classes_stay_small_and_their_mean_counts_all():
    features = torch.nn.functional.normalize(torch.randn(1000, 64) + 1, dim=1).half()
    fig = figures.cosine_matrices(features, features, LONG)
    assert fig.data[0].z.shape == (200, 200) and len(fig.to_json()) < 1_000_000
    cosines = (features.float() @ features.float().T)[~torch.eye(1000, dtype=torch.bool)]
    assert f"{cosines.mean():.3f}" in fig.layout.annotations[0].text


def test_equal_cosines_have_equal_colours_whatever_the_range():
    "0 is white and a colour belongs to a value: the cropped scale agrees with the full one."
    fig = figures.cosine_matrices(simplex_etf(3, 8), simplex_etf(3, 8), ["a", "b", "c"])
    axis = fig.layout.coloraxis
    zero = min(axis.colorscale, key=lambda shade: abs(axis.cmin + shade[0] * (axis.cmax - axis.cmin)))
    red, green, blue = (int(float(part)) for part in zero[1][4:-1].split(","))
    assert min(red, green, blue) > 235


def test_projection_needs_images_of_what_it_shows():
    etf, names = simplex_etf(4, 8), ["a", "b", "c", "d"]
    assert "all 4 classes" in figures.feature_projection(etf, etf, torch.arange(4), names, etf).layout.title.text
    with pytest.raises(ValueError, match="'d'"):
        figures.feature_projection(etf, etf[:3], torch.arange(3), names, etf)
    with pytest.raises(ValueError, match="show=9"):
        figures.feature_projection(etf, etf, torch.arange(4), names, etf, show=9)


def test_accuracy_needs_one_number_a_class():
    assert len(figures.accuracy_by_shots([50.0] * 1000, [1] * 1000, LONG).layout.xaxis.tickvals) < 110
    with pytest.raises(ValueError, match="lengths"):
        figures.accuracy_by_shots([50.0, 60.0], [1], ["a", "b"])
