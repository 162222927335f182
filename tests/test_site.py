"""The site: every notebook is on it, links lead somewhere, papers and terms are listed, and a few pages are built where Sphinx is installed."""

import importlib.util
import json
import posixpath
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import yaml
from conftest import ROOT
from notebooks import run_cells

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HOWTO = sorted((DOCS / "howto").glob("*.md"))
PYTHON = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
PACKAGES = ["sphinx", "myst_nb", "sphinx_book_theme", "sphinxcontrib.bibtex", "sphinx_copybutton", "jupyter_server_mathjax", "fastcore"]


@pytest.fixture(scope="module")
def mirror() -> ModuleType:
    "docs/mirror.py, which needs nothing but Python."
    spec = importlib.util.spec_from_file_location("mirror", DOCS / "mirror.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def laid_out(mirror: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The pages as Sphinx is given them. A link that leads nowhere raises already here."
    mirror.SOURCE = tmp_path_factory.mktemp("source")
    mirror.WRITTEN.clear()
    mirror.lay_out()
    return mirror.SOURCE


def text_of(page: Path) -> str:
    "The Markdown of a page that was laid out."
    if page.suffix == ".md":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def pages_of(folder: Path) -> list[Path]:
    return sorted([*folder.rglob("*.md"), *folder.rglob("*.ipynb")])


def listed(page: Path, top: Path) -> list[str]:
    "What the toctrees of a page list, as paths without endings."
    found = []
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text_of(page), re.M | re.S):
        lines = [line for line in block.splitlines() if line and not line.startswith(":")]
        found += [line.removeprefix("/") if line.startswith("/") else (page.parent.relative_to(top) / line).as_posix() for line in lines]
    return found


def test_every_page_is_in_one_table_of_contents(laid_out: Path, mirror: ModuleType):
    "And so is every notebook, since each is a page."
    entries = [entry for page in pages_of(laid_out) for entry in listed(page, laid_out)]
    assert len(entries) == len(set(entries)), f"listed twice: {sorted({entry for entry in entries if entries.count(entry) > 1})}"
    pages = {page.relative_to(laid_out).with_suffix("").as_posix() for page in pages_of(laid_out)}
    assert set(entries) == pages - {"index"}
    assert {f"nbs/{path.relative_to(ROOT / 'nbs').with_suffix('').as_posix()}" for path in (ROOT / "nbs").rglob("*.ipynb")} <= pages


def slugs(text: str) -> set[str]:
    "The anchors of a page's headings, as code hosts and MyST make them."
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    titles = [re.sub(r"\{\w+\}`|[`*_]|\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.+)$", without_code, re.M)]
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles} | set(re.findall(r"^\((.+)\)=$", text, re.M))


def test_links_between_pages_lead_somewhere(laid_out: Path, mirror: ModuleType):
    "To a page or a file that was laid out, and where they name a heading, to one that is there."
    wrong, seen = [], 0
    for page in pages_of(laid_out):
        for part in [mirror.SPARED.sub("", text_of(page))]:
            for _, link, anchor in mirror.LINK.findall(part):
                if mirror.ELSEWHERE.match(link) or not (link or anchor):
                    continue
                there, seen = (page.parent / link) if link else page, seen + 1
                if not there.exists():
                    wrong.append((page.name, link))
                elif anchor and anchor[1:] not in slugs(text_of(there)):
                    wrong.append((page.name, link + anchor))
    assert seen > 500
    assert not wrong


def test_a_link_to_nothing_is_refused(mirror: ModuleType):
    with pytest.raises(FileNotFoundError, match=r"nbs/train\.ipynb links to nowhere\.ipynb, and there is no nbs/nowhere\.ipynb"):
        mirror.with_moved_links("[see](nowhere.ipynb)", "nbs/train.ipynb", set())
    with pytest.raises(FileNotFoundError, match="name a page for it in STANDS_FOR"):
        mirror.with_moved_links("[see](../tests)", "nbs/train.ipynb", set())


def test_links_move_with_their_pages(mirror: ModuleType):
    files: set[str] = set()
    moved = mirror.with_moved_links("[a](../../nbs/train.ipynb#x) `[b](c)` [d](https://e.f) [g](../../workflow/results/gpu.json)",
                                    "docs/howto/gpu.md", files)
    assert moved == "[a](../nbs/train.ipynb#x) `[b](c)` [d](https://e.f) [g](../workflow/results/gpu.json)"
    assert files == {"workflow/results/gpu.json"}
    assert mirror.with_moved_links("[r](../README.md)", "nbs/train.ipynb", files) == "[r](index.ipynb)"


def test_a_figure_is_a_still_picture_with_its_data(mirror: ModuleType):
    figure = {"data": [], "layout": {"title": {"text": "Accuracy <b>of</b> classes </script>"}}}
    cell = {"cell_type": "code", "source": "#| export\nfig.show()", "metadata": {}, "outputs": [
        {"output_type": "display_data", "metadata": {}, "data": {mirror.PLOTLY: figure, "image/jpeg": "abc"}}]}
    shown = mirror.shown_code(cell)
    assert shown["source"] == "fig.show()" and shown["metadata"]["tags"] == ["export"]
    assert shown["metadata"]["mystnb"]["image"]["alt"].split() == ["Accuracy", "of", "classes"]
    still, data = shown["outputs"]
    assert still["data"] == {"image/jpeg": "abc"}
    assert data["data"]["text/html"].count("</script>") == 1
    assert mirror.shown_code(cell | {"source": "#| hide\nplayground.cleanup()"}) is None


def test_only_the_first_use_of_a_term_is_linked(mirror: ModuleType):
    linked = mirror.Terms().link("## Backbone\n\nA backbone `backbone` and $x$ [backbone](a.md): the Backbone, and in terms of units.\n\n    papermill -p tau 1\n")
    assert linked == "## Backbone\n\nA {term}`backbone <backbone>` `backbone` and $x$ [backbone](a.md): the Backbone, and in terms of units.\n\n    papermill -p tau 1\n"


def test_badges_need_the_address_of_the_repository(mirror: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mirror, "REPOSITORY", "")
    assert mirror.badges("nbs/train.ipynb") == ""
    monkeypatch.setattr(mirror, "REPOSITORY", "https://github.com/owner/name")
    badges = mirror.badges("nbs/train.ipynb")
    assert f'href="https://colab.research.google.com/github/owner/name/blob/{mirror.BRANCH}/nbs/train.ipynb"' in badges
    assert f'href="https://mybinder.org/v2/gh/owner/name/{mirror.BRANCH}?urlpath=lab/tree/nbs/train.ipynb"' in badges


def test_binder_installs_this_project():
    lines = (ROOT / ".binder/requirements.txt").read_text().splitlines()
    [extra] = [match[1] for line in lines if (match := re.fullmatch(r"-e \.\[(\w+)\]", line))]
    assert extra in PROJECT["optional-dependencies"]
    assert re.fullmatch(r"python-3\.\d+\n", (ROOT / ".binder/runtime.txt").read_text())


def entries() -> list[str]:
    "The terms of the glossary with what is said of them."
    block = re.search(r"^:::\{glossary\}\n(.*?)^:::", (DOCS / "glossary.md").read_text(), re.M | re.S)[1]
    return [entry for entry in block.split("\n\n") if entry.strip()]


def test_the_glossary_is_in_order_and_says_two_sentences_of_each_term(mirror: ModuleType):
    names = [[line for line in entry.splitlines() if not line.startswith("  ")] for entry in entries()]
    said = [" ".join(line.strip() for line in entry.splitlines() if line.startswith("  ")) for entry in entries()]
    flat = [name for group in names for name in group]
    assert len(flat) == len(set(flat)) > 60
    assert not [text for text in said if not 1 <= len(re.findall(r"[.:] [A-Z`]|[a-z)*`%\d]\.(?= |$)", text)) <= 5 or not text.endswith(".")]
    wanted = {"ETF", "NC1", "NC2", "NC3", "NC4", "base", "novel", "H", "shots", "template", "context vector", "logit scale", "tau", "lc", "mi", "cone",
              "spread", "learner", "objective", "term", "recipe", "unit", "class split", "backbone", "harmonic mean", "ECE", "AUSUC"}
    assert wanted <= set(flat)


def bibliography() -> dict[str, dict[str, str]]:
    entries = re.split(r"^@\w+\{", (DOCS / "references.bib").read_text(), flags=re.M)[1:]
    return {entry.split(",")[0]: dict(re.findall(r"^  (\w+)\s*= \{(.*)\},$", entry, re.M)) for entry in entries}


CITED = re.compile(r"([A-ZÖ][\w'-]+(?:[- ][A-Z]\w+)?) et al\.[, ]*(?:\[)?\(?((?:[A-Z][\w.-]+ (?:workshops )?)?(?:19|20)\d\d)\b")


def citations() -> set[tuple[str, str]]:
    "Whom notebooks and README cite as `X et al., VENUE YEAR`: the first author, and the year."
    cited = set()
    for path in [ROOT / "README.md", *(ROOT / "nbs").rglob("*.ipynb")]:
        text = path.read_text() if path.suffix == ".md" else "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        cited |= {(match[1].split()[-1], match[2][-4:]) for match in CITED.finditer(re.sub(r"\s+", " ", text))}
    return cited


def test_every_cited_paper_is_listed():
    known = {(entry["author"].split(",")[0].split()[-1], entry["year"]) for entry in bibliography().values()}
    found = citations()
    assert len(found) > 50
    missing = {(author, year) for author, year in found if (author, year) not in known and (author, str(int(year) + 1)) not in known}
    assert not missing, f"put them into docs/references.bib: {sorted(missing)}"


def test_every_linked_preprint_is_listed():
    linked = set()
    for path in [ROOT / "README.md", *(ROOT / "nbs").rglob("*.ipynb")]:
        linked |= set(re.findall(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", path.read_text()))
    assert linked
    missing = linked - {entry.get("eprint") for entry in bibliography().values()}
    assert not missing, f"put arXiv {sorted(missing)} into docs/references.bib"


def test_entries_of_the_bibliography_are_whole():
    found = bibliography()
    assert not [key for key, entry in found.items() if not {"title", "author", "year"} <= entry.keys()]
    titles = [entry["title"].lower() for entry in found.values()]
    assert len(titles) == len(set(titles))
    key = next(re.finditer(r"@inproceedings\{(\w+),", (ROOT / "README.md").read_text()))[1]
    assert key in found, "the entry that the README asks you to cite"


def test_the_page_of_results_names_every_kept_table():
    page = (DOCS / "results.md").read_text()
    kept = [path.relative_to(ROOT / "workflow/results").as_posix() for path in (ROOT / "workflow/results").rglob("*") if path.is_file()]
    assert not [path for path in kept if f"(../workflow/results/{path})" not in page]


def test_commands_of_the_docs_name_what_is_there():
    commands = [line for path in DOCS.glob("**/*.md") if "build" not in path.relative_to(DOCS).parts
                for text in [path.read_text().replace("\\\n", " ")]
                for line in re.findall(r"`((?:papermill|snakemake|python) [^`]+)`", text)
                + [line for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]]
    words = {word for command in commands for word in shlex.split(command, comments=True)}
    files = {word for word in words if re.match(r"(nbs|workflow|data_prep|docs)/", word) and "*" not in word}
    assert len(files) > 10
    assert not [name for name in files if not (ROOT / name).exists()]


def test_whoever_checks_in_public_runs_the_commands_of_the_readme():
    jobs = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())["jobs"]
    run = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert "make -C docs html" in run and "ruff check && pytest" in run
    extras = {match[1] for command in run if (match := re.search(r"\.\[(\w+)\]", command))}
    assert extras == {"dev", "docs", "types"} and extras <= PROJECT["optional-dependencies"].keys()


def test_sphinx_is_asked_for_what_the_docs_extra_brings():
    asked = {re.split(r"[<>=;]", requirement)[0] for requirement in PROJECT["optional-dependencies"]["docs"]}
    assert asked == {package.replace("_", "-").replace("sphinxcontrib.", "sphinxcontrib-") for package in PACKAGES}
    conf = (DOCS / "conf.py").read_text()
    extensions = json.loads(re.search(r"^extensions = (\[.*\])$", conf, re.M)[1])
    assert not [name for name in extensions if name.split(".")[0] not in {"sphinx", *(p.split(".")[0] for p in PACKAGES)}
                and not (DOCS / f"{name}.py").exists()]
    assert "build/" in (ROOT / ".gitignore").read_text().splitlines()
    makefile = (DOCS / "Makefile").read_text()
    assert " -W --keep-going " in makefile and "mirror.py" in makefile and 'nb_execution_mode = "off"' in conf


@pytest.mark.parametrize("path", [path for path in HOWTO if PYTHON.search(path.read_text())], ids=lambda path: path.stem)
def test_the_python_of_a_how_to_page_runs(path: Path, tmp_path: Path, untouched: None):
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(block) for block in PYTHON.findall(path.read_text())])
    nbformat.write(page, tmp_path / "page.ipynb")
    assert len(run_cells(tmp_path / "page.ipynb", tmp_path)) > 0, "it shows something"


MISSING = [package for package in PACKAGES if find_spec(package.split(".")[0]) is None or find_spec(package) is None]
FEW = """# A few pages

```{toctree}
nbs/tutorial/2_neural_collapse
nbs/report
api/geometry
glossary
references
```
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f'building needs pip install -e ".[docs]", and {", ".join(MISSING)} are missing')
def test_a_few_pages_are_built(laid_out: Path, tmp_path: Path):
    "`make -C docs html` builds all of them, and a warning is an error there; here links lead to pages that are left out."
    source = tmp_path / "source"
    for page in "nbs/tutorial/2_neural_collapse.ipynb", "nbs/report.ipynb", "api/geometry.md", "glossary.md", "references.md":
        (source / page).parent.mkdir(parents=True, exist_ok=True)
        (source / page).write_text((laid_out / page).read_text())
    (source / "index.md").write_text(FEW)
    done = subprocess.run([sys.executable, "-m", "sphinx", "-b", "html", "-q", "-c", str(DOCS), str(source), str(tmp_path / "html")],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = r"xref_missing|html_static_path|static asset|toctree|ref\.(term|mod|doc|myst)|term not in glossary"
    assert not [line for line in done.stderr.splitlines() if "WARNING" in line and not re.search(expected, line)], done.stderr
    chapter = (tmp_path / "html/nbs/tutorial/2_neural_collapse.html").read_text()
    assert chapter.count('class="npt-figure"') > 2 and "\\(K - 1 = 3\\)" in chapter
    assert "<table" in (tmp_path / "html/nbs/report.html").read_text()
    api = (tmp_path / "html/api/geometry.html").read_text()
    assert "K, number of class vectors, at least 2" in api and "rows of unit length" in api
    assert "Prevalence of Neural Collapse" in (tmp_path / "html/references.html").read_text()
    assert posixpath.basename(str(tmp_path / "html/search.html")) in {path.name for path in (tmp_path / "html").iterdir()}
