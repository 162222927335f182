"""Lay out the pages of the site in `build/source`, where Sphinx reads them: a copy of the notebooks and texts of this repository.

Nothing here runs a notebook or asks a network. The copy keeps the places that files have in the repository, so that most links hold as they
stand; `docs/` itself becomes the top. What is changed on the way: a link to what is no page becomes a download or a page that stands for it,
a Plotly figure becomes its still picture with the figure's data beside it, nbdev's directives become labels, and the first use of a term
links to the glossary. A file is written only where its contents are new, so that Sphinx reads again what changed and nothing else.
"""

import ast
import configparser
import html
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SOURCE = DOCS / "build" / "source"
STATIC = DOCS / "build" / "static"
PLOTLY = "application/vnd.plotly.v1+json"

# What each wing holds, in the order in which wings may import each other; `package` is what they all use.
WINGS = {
    "geometry": "The simplex ETF, and how far vectors are from collapse",
    "world": "The offline world: its pictures, captions, label sets and small CLIP",
    "objectives": "Terms of the loss, and objectives that are sums of terms",
    "clip": "A frozen CLIP, where vectors enter its towers, and the fast text tower",
    "data": "Datasets, from files to few shots, features and loaders",
    "learners": "CoOp, MaPLe and the others, and the contract that they keep",
    "training": "Batches, the loop, checkpoints and evaluation",
    "study": "Runs and grids of runs, what was learned used again, and comparisons",
    "figures": "The pictures",
    "package": "What all wings use",
}
STANDS_FOR = {  # what is linked and is no page of its own, and the page that says what is in it
    "README.md": "nbs/index.ipynb",
    "workflow/results": "docs/results.md",
    "workflow/results/world": "docs/results.md",
    "workflow/grids": "workflow/README.md",
    "workflow": "workflow/README.md",
    "data_prep": "data_prep/README.md",
    "docs": "docs/index.md",
    "docs/drawings": "nbs/figures/drawings.ipynb",
    **{f"nbs/{wing}": f"docs/wings/{wing}.md" for wing in WINGS},
    "nbs/tutorial": "docs/tutorial.md",
    "nbs/experiments": "docs/experiments.md",
}
# Words with another meaning in plain English: they stand in the glossary, and we do not link every "in terms of" to it.
NOT_LINKED = {"cone", "deal", "door", "floor", "recipe", "room", "run", "spread", "term", "unit", "wing", "world", "H"}


def settings() -> configparser.SectionProxy:
    read = configparser.ConfigParser(delimiters=["="])
    read.read(ROOT / "settings.ini")
    return read["DEFAULT"]


VERSION, TITLE, BRANCH = settings()["version"], settings()["title"], settings()["branch"]
# The address of the repository on its code host, without a slash at its end. Badges need it; where it is empty, pages have none.
REPOSITORY = (os.environ.get("NPT_REPOSITORY") or settings()["git_url"]).rstrip("/")


# Which files are pages

def notebooks() -> list[str]:
    "The notebooks, by their paths in the repository."
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def texts() -> list[str]:
    "The pages in Markdown: those of docs/, and those that stand beside what they are about."
    docs = [path for path in DOCS.rglob("*.md") if "build" not in path.relative_to(DOCS).parts]
    beside = [path for pattern in ("*.md", "*/README.md", "npt/**/*.md") for path in ROOT.glob(pattern)]
    found = {path.relative_to(ROOT).as_posix() for path in [*docs, *beside]}
    return sorted(path for path in found - {"README.md"} if not path.startswith("."))  # README.md is made from nbs/index.ipynb


def generated() -> dict[str, str]:
    "The pages that are made here: a list of the notebooks, and one of the API, for each wing."
    wings = {f"docs/wings/{wing}.md": wing_page(wing) for wing in WINGS}
    api = {f"docs/api/{wing}.md": api_page(wing) for wing in WINGS if wing != "package"}
    return wings | api | {"docs/api/npt.md": front_door_page(), "docs/api/index.md": api_index_page()}


@cache
def pages() -> frozenset[str]:
    made = {f"docs/{kind}/{wing}.md" for kind in ("wings", "api") for wing in WINGS} - {"docs/api/package.md"}
    made |= {"docs/api/npt.md", "docs/api/index.md"}
    return frozenset({*notebooks(), *texts(), *made})


def place(repository_path: str) -> str:
    "Where a file of the repository stands on the site: docs/ is the top."
    return repository_path.removeprefix("docs/")


# Links

SPARED = re.compile(r"(^ {0,3}(```+|~~~+|:::+\{toctree\}).*?^ {0,3}\2[^\n]*$|`[^`\n]*`|(?<!\\)\$\$.+?\$\$)", re.M | re.S)
LINK = re.compile(r"(\]\(|\b(?:href|src)=[\"'])([^)\s\"'#]*)(#[^)\s\"']*)?")
PLACE_NAMED = re.compile(r'^<a id="([\w-]+)"></a>$', re.M)
ELSEWHERE = re.compile(r"[a-z]+:|attachment:|//")


def target(link: str, page: str) -> str:
    "What a relative link on a page means: a path in the repository. Raises FileNotFoundError where nothing is there."
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if path not in pages() and path not in STANDS_FOR and not (ROOT / path).exists():
        raise FileNotFoundError(f"{page} links to {link}, and there is no {path}")
    return path


def moved(link: str, page: str, linked_files: set[str]) -> str:
    "The same link, from the page's place on the site; a file that is no page is noted, to be copied."
    path = target(link, page)
    path = STANDS_FOR.get(path, path)
    if path not in pages():
        if not (ROOT / path).is_file():
            raise FileNotFoundError(f"{page} links to the folder {path}: name a page for it in STANDS_FOR of docs/mirror.py")
        linked_files.add(path)
    return posixpath.relpath(place(path), posixpath.dirname(place(page)) or ".")


def outside_code(change: Callable[[str], str], text: str) -> str:
    "Change a text in Markdown, and leave code and formulae in it as they are."
    pieces, at = [], 0
    for match in SPARED.finditer(text):
        pieces += [change(text[at : match.start()]), match[0]]
        at = match.end()
    return "".join([*pieces, change(text[at:])])


def with_moved_links(text: str, page: str, linked_files: set[str]) -> str:
    def change(match: re.Match) -> str:
        opening, link, anchor = match[1], match[2], match[3] or ""
        if not link or ELSEWHERE.match(link):
            return match[0]
        return opening + moved(link, page, linked_files) + anchor

    return outside_code(lambda part: LINK.sub(change, part), text)


# Terms of the glossary

@cache
def glossary() -> tuple[str, ...]:
    "The terms of docs/glossary.md that are linked."
    block = re.search(r"^:::\{glossary\}\n(.*?)^:::", (DOCS / "glossary.md").read_text(), re.M | re.S)[1]
    names = [line for line in block.splitlines() if line and not line.startswith("  ")]
    return tuple(name for name in names if name not in NOT_LINKED)


NO_TERMS = re.compile(
    r"(^ {0,3}(```+|~~~+|:::+).*?^ {0,3}\2[^\n]*$|`[^`\n]*`|(?<!\\)\$\$.+?\$\$|(?<!\\)\$[^$\n]+(?:\n[^$\n]+)*\$|!?\[[^\]]*\]\([^)]*\)|\{\w+\}`[^`]*`"
    r"|^(?: {4}|#+ )[^\n]*|^<.*?(?:\n\n|\Z)|<[^>]+>|^\|[^\n]*|^>[^\n]*|https?://\S+)", re.M | re.S)


@cache
def any_term() -> re.Pattern:
    "A pattern of all terms that are linked, one of several words before those that it begins with; in the plural, too."
    longest_first = sorted(glossary(), key=len, reverse=True)
    return re.compile(rf"(?<![\w/-])({'|'.join(map(re.escape, longest_first))})(s?)(?![\w-])", re.I)


class Terms:
    "The terms that a page has not used yet."

    def __init__(self):
        self.left = {name.lower(): name for name in glossary()}

    def link(self, text: str) -> str:
        "Link the first use of each term, outside of headings, code, formulae, tables, quotations and other links."
        pieces, at = [], 0
        for match in NO_TERMS.finditer(text):
            pieces += [any_term().sub(self._linked, text[at : match.start()]), match[0]]
            at = match.end()
        return "".join([*pieces, any_term().sub(self._linked, text[at:])])

    def _linked(self, match: re.Match) -> str:
        term = self.left.get(match[1].lower())
        if not term or (term.isupper() and match[1] != term):
            return match[0]
        del self.left[match[1].lower()]
        return f"{{term}}`{match[1]}{match[2]} <{term}>`"


# Notebooks

def title_and_blurb(page: str) -> tuple[str, str]:
    "A notebook's title and the sentence below it."
    cells = json.loads((ROOT / page).read_text())["cells"]
    first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    title = re.match(r"# (.+)", first)[1]
    blurb = re.search(r"^> ((?:.+\n?(?:> )?)+)", first, re.M)
    return title, " ".join(blurb[1].replace("> ", "").split()) if blurb else ""


def exports(notebook: dict) -> str | None:
    "The module that a notebook exports, such as `npt.geometry.etf`."
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and (found := re.search(r"^#\|\s*default_exp\s+(\S+)", "".join(cell["source"]), re.M)):
            return f"npt.{found[1]}"
    return None


def badges(page: str) -> str:
    "Links that open a notebook elsewhere; empty where nobody has said where the repository is."
    if not REPOSITORY:
        return ""
    owner_and_name = "/".join(REPOSITORY.split("/")[-2:])
    links = {
        "Open in Colab": f"https://colab.research.google.com/github/{owner_and_name}/blob/{BRANCH}/{page}",
        "Open in Binder": f"https://mybinder.org/v2/gh/{owner_and_name}/{BRANCH}?urlpath=lab/tree/{page}",
        "View the source": f"{REPOSITORY}/blob/{BRANCH}/{page}",
    }
    return " ".join(f'<a class="npt-badge" href="{html.escape(address)}">{label}</a>' for label, address in links.items())


def below_the_title(page: str, module: str | None) -> str:
    "What a notebook's page says of itself: where to open it, and what it exports."
    parts = []
    if shown := badges(page):
        how = posixpath.relpath("howto/colab_and_binder.md", posixpath.dirname(place(page)))
        parts.append(f'{shown} [what these need]({how})')
    if module and not module.split(".")[1].startswith("_"):
        documented = module.removesuffix(".__init__")
        parts.append(f"This notebook exports {{py:mod}}`{documented}`.")
    return "\n\n".join(parts)


def title_of_figure(figure: dict) -> str:
    "The title of a figure, without its mark-up, for those who cannot see it."
    title = figure.get("layout", {}).get("title", {})
    text = title.get("text", "") if isinstance(title, dict) else title
    return re.sub(r"<[^>]+>", " ", text or "").strip() or "a figure"


def shown_outputs(outputs: list[dict]) -> Iterator[dict]:
    "The outputs of a cell, each Plotly figure as its still picture with its data behind it."
    for output in outputs:
        data = output.get("data", {})
        if PLOTLY not in data:
            yield output
            continue
        text = json.dumps(data[PLOTLY], separators=(",", ":")).replace("</", "<\\/")
        if "image/jpeg" in data:
            yield {"output_type": "display_data", "metadata": {}, "data": {"image/jpeg": data["image/jpeg"]}}
        yield {"output_type": "display_data", "metadata": {},
               "data": {"text/html": f'<script type="application/json" class="npt-figure">{text}</script>'}}


def shown_code(cell: dict) -> dict | None:
    "A code cell as readers see it, or None for one that is nbdev's own."
    source = "".join(cell["source"])
    if not source.strip() or re.search(r"^#\|\s*(hide|default_exp)\b", source, re.M):
        return None
    tags = list(cell.get("metadata", {}).get("tags", []))
    if re.search(r"^#\|\s*export", source, re.M):
        source, tags = re.sub(r"^#\|.*\n?", "", source, flags=re.M), [*tags, "export"]
    metadata = {"tags": tags} if tags else {}
    figures = [output["data"][PLOTLY] for output in cell["outputs"] if PLOTLY in output.get("data", {})]
    if figures:
        metadata["mystnb"] = {"image": {"alt": "; ".join(map(title_of_figure, figures))}}
    return cell | {"source": source, "metadata": metadata, "outputs": list(shown_outputs(cell["outputs"]))}


def shown_notebook(page: str, linked_files: set[str]) -> str:
    "A notebook as the site shows it."
    notebook = json.loads((ROOT / page).read_text())
    terms = Terms() if page.startswith(("nbs/tutorial/", "nbs/experiments/")) or page.count("/") == 1 else None
    below, cells = below_the_title(page, exports(notebook)), []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cells += [shown] if (shown := shown_code(cell)) else []
            continue
        text = with_moved_links(PLACE_NAMED.sub(r"(\1)=", "".join(cell["source"])), page, linked_files)
        if cell["cell_type"] == "markdown" and terms:
            text = terms.link(text)
        cells.append(cell | {"source": text, "metadata": {}})
        if below:
            cells.append({"cell_type": "markdown", "id": "below-the-title", "metadata": {}, "source": below})
            below = ""
    language = {"name": "python", "pygments_lexer": "ipython3"}
    return json.dumps(notebook | {"cells": cells, "metadata": notebook["metadata"] | {"language_info": language}}, indent=1)


# Pages that are made

def table_of(found: list[str], page: str) -> str:
    "A table of notebooks with the sentence that each begins with."
    rows = []
    for notebook in found:
        title, blurb = title_and_blurb(notebook)
        link = posixpath.relpath(place(notebook), posixpath.dirname(place(page)) or ".")
        rows.append(f"| [{title}]({link}) | {blurb} |".replace("$|$", "$\\mid$"))
    return "\n".join(["| notebook | what it is about |", "| --- | --- |", *rows])


def hidden_toctree(entries: list[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *entries, "```"])


def wing_page(wing: str) -> str:
    found = [page for page in notebooks() if page.startswith(f"nbs/{wing}/")]
    found.sort(key=lambda page: (page.endswith("door.ipynb"), page))  # the door last: it is the shortest
    page = f"docs/wings/{wing}.md"
    api = "" if wing == "package" else f" The names that it exports are listed in the [API of `npt.{wing}`](../api/{wing}.md)."
    entries = [f"/{place(one).removesuffix('.ipynb')}" for one in found]
    return f"# {wing}\n\n{WINGS[wing]}.{api}\n\n{table_of(found, page)}\n\n{hidden_toctree(entries)}\n"


def public(module: Path) -> list[str]:
    "The names in a module's `__all__`, read and not imported."
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def api_page(wing: str) -> str:
    "A section for each module of a wing that has names to show."
    parts = [f"# npt.{wing}", f"{WINGS[wing]}. Each module is exported by the notebook of the same name."]
    for module in sorted((ROOT / "npt" / wing).glob("*.py")):
        names = public(module)
        if not names and module.stem != "__init__":
            continue
        room, name = ("door", f"npt.{wing}") if module.stem == "__init__" else (module.stem, f"npt.{wing}.{module.stem}")
        heading = [] if room == "door" else [f"## {module.stem}", f"Built step by step in [nbs/{wing}/{room}.ipynb](../nbs/{wing}/{room}.ipynb)."]
        members = f"   :members: {', '.join(names)}" if names else "   :no-members:"
        parts += [*heading, f"```{{eval-rst}}\n.. automodule:: {name}\n{members}\n```"]
    return "\n\n".join(parts) + "\n"


def front_door_page() -> str:
    "The ten names that most users need, and where each is built."
    doors = {}
    for node in ast.walk(ast.parse((ROOT / "npt" / "__init__.py").read_text())):
        if isinstance(node, ast.Dict):
            doors = ast.literal_eval(node)
    rows = [f"| {{py:func}}`{name} <npt.{room}.{name}>` | {{py:mod}}`npt.{room}` |" for name, room in doors.items()]
    return "\n".join(["# npt", "", "These names can be imported from `npt` itself; each is loaded when you first ask for it.", "",
                      "```{eval-rst}", ".. automodule:: npt", "   :no-members:", "```", "",
                      "| name | from |", "| --- | --- |", *rows, ""])


def api_index_page() -> str:
    wings = [wing for wing in WINGS if wing != "package"]
    rows = [f"| [npt.{wing}]({wing}.md) | {WINGS[wing]} |" for wing in wings]
    return "\n".join(["# API reference", "", "Names that begin with an underscore are not listed: they may change at any time. The comments beside",
                      "the parameters in the notebooks are their descriptions here.", "", "| module | what it holds |", "| --- | --- |",
                      "| [npt](npt.md) | The ten names that most users need |", *rows, "", hidden_toctree(["npt", *wings]), ""])


# Writing

WRITTEN: set[Path] = set()


def write(path: Path, contents: bytes) -> None:
    "Write a file where its contents are new."
    WRITTEN.add(path)
    if not path.exists() or path.read_bytes() != contents:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)


def fitting(patterns: str) -> list[str]:
    "The notebooks that fit one of some patterns, in the order of the patterns."
    return [one for pattern in patterns.split() for one in notebooks() if re.fullmatch(pattern.replace("*", "[^/]*"), one)]


def project_pages() -> list[str]:
    "The texts at the top of the repository, and the cards of the world's CLIP and its pictures."
    return [page for page in texts() if page.startswith("docs/cards/") or not page.startswith(("docs/", "workflow/", "data_prep/"))]


def filled_in(text: str, page: str) -> str:
    "Put lists of pages where a page asks for them in a comment."
    def list_notebooks(match: re.Match) -> str:
        if not (found := fitting(match[1])):
            raise FileNotFoundError(f"{page} asks for {match[1]}, and there is no such notebook")
        return table_of(found, page) + "\n\n" + hidden_toctree([f"/{place(one).removesuffix('.ipynb')}" for one in found])

    wings = "\n".join(f"| [{wing}](wings/{wing}.md) | {holds} |" for wing, holds in WINGS.items())
    text = text.replace("<!-- wings -->", wings + "\n\n" + hidden_toctree([f"wings/{wing}" for wing in WINGS]))
    project = ["/nbs/index", *(f"/{place(page).removesuffix('.md')}" for page in project_pages())]
    text = text.replace("<!-- project -->", "\n".join(["```{toctree}", *project, "```"]))
    return re.sub(r"^<!-- notebooks: (.+?) -->$", list_notebooks, text, flags=re.M)


def lay_out(only: Callable[[str], bool] = lambda page: True) -> set[str]:  # the files that are linked and are no pages
    "Write all pages, or those for which `only` says yes."
    linked_files: set[str] = set()
    for page in filter(only, notebooks()):
        write(SOURCE / place(page), shown_notebook(page, linked_files).encode())
    for page in filter(only, texts()):
        text = filled_in(with_moved_links((ROOT / page).read_text(), page, linked_files), page)
        if page.startswith("docs/howto/"):
            text = Terms().link(text)
        write(SOURCE / place(page), text.encode())
    for page, text in generated().items():
        write(SOURCE / place(page), text.encode())
    for path in linked_files:
        write(SOURCE / place(path), (ROOT / path).read_bytes())
    for path in SOURCE.rglob("*"):
        if path.is_file() and path not in WRITTEN:
            path.unlink()
    return linked_files


def share_scripts() -> None:
    "Plotly's and MathJax's code, from the packages that bring them, so that the site needs no other host."
    import jupyter_server_mathjax
    from plotly.offline import get_plotlyjs

    write(STATIC / "plotly.min.js", get_plotlyjs().encode())
    static = Path(jupyter_server_mathjax.__file__).parent / "static"
    wanted = ["LICENSE", "MathJax.js", "config/TeX-AMS-MML_HTMLorMML-full.js", "extensions/TeX", "extensions/HTML-CSS", "extensions/MathEvents.js",
              "extensions/MatchWebFonts.js", "fonts", "jax/element", "jax/output/HTML-CSS"]
    for part in wanted:
        files = [path for path in (static / part).rglob("*") if path.is_file()] if (static / part).is_dir() else [static / part]
        for path in files:
            write(STATIC / "mathjax" / path.relative_to(static), path.read_bytes())


def main() -> None:
    files = lay_out()
    share_scripts()
    print(f"laid out {len(pages())} pages and {len(files)} files that they link to in {SOURCE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
