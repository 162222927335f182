"""Run a notebook's cells in a process that has imported PyTorch and this library already.

A kernel of its own takes five seconds to start and to import, and a hundred notebooks have a kernel each. A fork server imports once, and
every notebook gets a fork of it, which is as fresh: nothing that one notebook does is seen by another.
"""

import gc
import multiprocessing
import os
import traceback
from pathlib import Path

import nbformat

PRELOADED = ["IPython.core.interactiveshell", "gdown", "nbformat", "open_clip", "pandas", "plotly.graph_objects", "plotly.io", "pydantic",
             "requests", "scipy.stats", "sklearn.metrics", "snakemake.cli", "torch", "torchvision", "transformers", "npt.clip.load",
             "npt.data.images", "npt.figures.run", "npt.world.label_sets"]  # no learner, term or reader: notebooks register these
CONTEXT = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")
CONTEXT.set_forkserver_preload(PRELOADED) if CONTEXT.get_start_method() == "forkserver" else None


def _without_stills() -> None:
    "Show figures without drawing a JPEG of each, for which every notebook would start a Chrome; `figures/test_show.py` has one draw them."
    import npt.figures.show

    npt.figures.show._chrome_found = lambda: False


def _run_cells(path: Path, folder: Path, answer) -> None:
    "Run the code cells of a notebook one after another; answer with the ids of those that show something, or with what went wrong."
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    gc.freeze()  # what was imported before the fork stays: a collection that looks at it takes half a second, and copies its memory
    multiprocessing.set_start_method(None, force=True)  # what a notebook starts itself starts as it would in a kernel
    os.chdir(folder)
    _without_stills()
    shell, shows = InteractiveShell.instance(), set()
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        with capture_output() as seen:
            result = shell.run_cell(cell.source, store_history=True)
        if result.error_before_exec or result.error_in_exec:
            error = result.error_before_exec or result.error_in_exec
            answer.send("".join(traceback.format_exception(error)) + f"\nin the cell\n{cell.source}\nwhich printed\n{seen.stdout[-2000:]}")
            return
        if seen.stdout or seen.outputs:
            shows.add(cell.id)
    answer.send(shows)


def run_cells(path: Path, folder: Path) -> set[str]:
    "Run a notebook in a folder, and give the ids of the cells that print, show or return something. Raises AssertionError."
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run_cells, args=(path, folder, theirs))
    process.start()
    theirs.close()
    try:
        told = ours.recv()
    except EOFError:
        told = f"the process ended without a word, with the exit code {process.exitcode}"
    process.kill()  # it has told all that it has to tell, and taking an interpreter of this size down in order takes seconds
    process.join()
    assert isinstance(told, set), f"{path} failed:\n{told}"
    return told
