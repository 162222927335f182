"Figures in notebooks, on the pages of JupyterLab and in folders: with a Chrome, without one, and with one that does not start."

import base64
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest
from conftest import ROOT
from lab import figures_on_pages
from PIL import Image

from npt.figures import show

PLOTLY = "application/vnd.plotly.v1+json"


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
    assert done.stderr.count("UserWarning: No PNG of figures") == 1


@pytest.fixture
def drawn(monkeypatch):
    "The figures that were drawn, each as a white PNG of 1560 by 600 pixels."
    seen, white = [], io.BytesIO()
    Image.new("RGB", (1560, 600), "white").save(white, "PNG")
    monkeypatch.setattr(show, "_chrome_found", lambda: True)
    monkeypatch.setattr(show._chrome, "png", lambda figure: seen.append(figure) or white.getvalue())
    show._png_of_json.cache_clear()
    yield seen
    show._png_of_json.cache_clear()


def test_shown_and_saved_are_one_drawing(tmp_path, drawn):
    fig = go.Figure(go.Bar(y=[1, 2]))
    show._Fitting().to_mimebundle(fig.to_dict())
    show.save_figure(fig, tmp_path, "sheet")
    assert len(drawn) == 1 and Image.open(tmp_path / "sheet.png").size == (1560, 600)


def test_a_kept_figure_names_its_tables_and_no_other_content_does(tmp_path, drawn):
    table, picture = tmp_path / "runs.csv", tmp_path / "gains.png"
    table.write_text("a,b\n1,2\n")
    show._keep_figure(go.Figure(), picture, [table])
    made_from = Image.open(picture).text["made_from"]
    assert made_from == show._digest([table]) and Image.open(picture).size == (1560, 600)
    table.write_text("a,b\n1,3\n")
    assert made_from != show._digest([table]) != show._digest([table, table])


def test_a_figure_is_not_kept_without_a_chrome(tmp_path, no_chrome):
    (tmp_path / "runs.csv").write_text("a\n")
    with pytest.raises(RuntimeError, match="gains.png.*BROWSER_PATH"):
        show._keep_figure(go.Figure(), tmp_path / "gains.png", [tmp_path / "runs.csv"])
    assert not (tmp_path / "gains.png").exists()


@pytest.mark.parametrize("width, stored", [(640, dict(width=640)), (800, dict(width=800)), (1040, dict(autosize=True)), (None, {})])
def test_a_notebook_stores_a_figure_that_fits_its_page(width, stored, drawn):
    fig = go.Figure(go.Bar(y=[1, 2]), layout=dict(width=width, height=400, template="none"))
    bundle = show._Fitting().to_mimebundle(fig.to_dict())
    assert set(bundle) == {PLOTLY, "image/jpeg"}, "with a PNG JupyterLab shows that, unscaled, and no live figure"
    assert {key: value for key, value in bundle[PLOTLY]["layout"].items() if key != "template"} == dict(height=400, **stored)
    still = Image.open(io.BytesIO(base64.b64decode(bundle["image/jpeg"])))
    assert still.format == "JPEG" and still.size == (1100, 423)
    assert fig.layout.width == width and drawn[0]["layout"].get("width") == width


def test_without_chrome_a_notebook_stores_the_figure_alone(no_chrome):
    assert set(show._Fitting().to_mimebundle(go.Figure().to_dict())) == {PLOTLY}


@pytest.mark.slow
@pytest.mark.skipif(not show._chrome_found(), reason="JupyterLab is opened in a Chrome, and none is found here")
def test_figures_are_live_and_inside_the_page_in_jupyterlab(tmp_path):
    home, folder, counts = tmp_path / "home", tmp_path / "nbs", {}
    home.mkdir()
    folder.mkdir()
    for path in "report.ipynb", "experiments/nc_lens.ipynb", "geometry/etf.ipynb":
        opened = Path(shutil.copy(ROOT / "nbs" / path, folder))
        counts[opened.name] = opened.read_text().count(f'"{PLOTLY}"')
    assert min(counts.values()) >= 3
    for name, figures in figures_on_pages(folder, counts, home).items():
        assert all(figure["live"] for figure in figures), f"{name}: {figures}"
        assert not [figure for figure in figures if figure["right"] > figure["room"]], f"{name}: cut off at the right"
