"Figures in notebooks and in folders: with a Chrome, without one, and with one that does not start."

import os
import subprocess
import sys

import plotly.graph_objects as go
import pytest
from conftest import ROOT

from npt.figures import show


@pytest.fixture
def no_chrome(monkeypatch):
    monkeypatch.setattr(show, "_figure_png", lambda fig: None)


def test_saves_html_without_chrome_and_leaves_nothing_unfinished(tmp_path, no_chrome):
    folder = tmp_path / "new" / "folder"
    assert show.save_figure(go.Figure(), folder, "table") == [folder / "table.html"]
    assert {path.name for path in folder.iterdir()} == {"table.html", "plotly.min.js"}
    page = (folder / "table.html").read_text()
    assert 'src="plotly.min.js"' in page and "https://cdn" not in page


def test_a_chrome_that_cannot_start_is_one_warning_and_no_wait(tmp_path):
    code = (
        "import plotly.graph_objects as go; from npt.figures.show import save_figure;"
        f"print([p.name for name in 'ab' for p in save_figure(go.Figure(), {str(tmp_path)!r}, name)])"
    )
    broken = dict(os.environ, BROWSER_PATH="/bin/false", PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], env=broken, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "['a.html', 'b.html']" in done.stdout, done.stderr
    assert done.stderr.count("UserWarning: No PNG") == 1


@pytest.mark.skipif(not show._chrome_found(), reason="needs a Chrome")
def test_shown_and_saved_are_one_drawing(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(show._chrome, "png", lambda figure: drawn.append(figure) or b"png")
    show._png_of_json.cache_clear()
    fig = go.Figure(go.Bar(y=[1, 2]))
    assert show._PngBeside().to_mimebundle(fig.to_dict()) == {"image/png": "cG5n"}
    show.save_figure(fig, tmp_path, "sheet")
    assert len(drawn) == 1 and (tmp_path / "sheet.png").read_bytes() == b"png"
    show._png_of_json.cache_clear()
