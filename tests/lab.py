"""JupyterLab in a headless Chrome: how a stored notebook looks to who opens it, with nothing run and no mouse on the page."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from choreographer import Browser, Tab  # Kaleido drives its Chrome with it

SETTINGS = {  # all cells are drawn, those below the window too, and nobody is asked about news
    "notebook-extension/tracker": dict(windowingMode="none"),
    "apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False),
}
FIGURES = """JSON.stringify([...document.querySelectorAll(".jp-RenderedPlotly")].map(figure => ({
    live: Boolean(figure.querySelector(".main-svg")) && figure.querySelector(".plot-img").offsetWidth == 0,
    right: Math.max(...[...figure.querySelectorAll(".svg-container, .plot-img")].map(drawn => drawn.getBoundingClientRect().right)),
    room: figure.closest(".jp-OutputArea-output").getBoundingClientRect().right,
})))"""


def _environment(home: Path) -> dict[str, str]:
    "What keeps JupyterLab from this machine's settings and from writing outside of `home`."
    for name, setting in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(setting))
    kept = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
            "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    return os.environ | {name: str(home / folder) for name, folder in kept.items()}


@contextmanager
def _jupyterlab(folder: Path, home: Path) -> Iterator[str]:
    "The address of a JupyterLab that shows `folder`, while the block runs."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", "--IdentityProvider.token=test", f"--ServerApp.root_dir={folder}"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, env=_environment(home), cwd=home, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token=test", server, home / "log")
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token=test&reset"
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            return urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            assert server.poll() is None and time.monotonic() < until, f"JupyterLab did not start:\n{log.read_text()[-3000:]}"
            time.sleep(0.3)


async def _figures(tab: Tab) -> list[dict]:
    answer = await tab.send_command("Runtime.evaluate", dict(expression=FIGURES))
    return json.loads(answer["result"]["result"].get("value", "[]"))


async def _settled(tab: Tab, count: int) -> list[dict]:
    "The page's figures, when there are `count` and they move no more."
    before, until = None, time.monotonic() + 120
    while time.monotonic() < until:
        await asyncio.sleep(0.7)
        seen = await _figures(tab)
        if len(seen) == count and seen == before:
            return seen
        before = seen
    raise AssertionError(f"of {count} figures JupyterLab draws {before}")


async def _look(address: str, counts: dict[str, int], width: int) -> dict[str, list[dict]]:
    async with Browser(headless=True) as browser:
        tab, seen = await browser.create_tab("about:blank"), {}
        window = dict(width=width, height=800, deviceScaleFactor=1, mobile=False)
        await tab.send_command("Emulation.setDeviceMetricsOverride", window)
        for name, count in counts.items():
            await tab.send_command("Page.navigate", dict(url=address.format(name)))
            seen[name] = await _settled(tab, count)
        return seen


def figures_on_pages(
    folder: Path,  # where the notebooks lie; JupyterLab may change them
    counts: dict[str, int],  # file name in the folder to how many figures are stored in it
    home: Path,  # an empty folder, for what JupyterLab writes
    width: int = 1280,  # pixels of the window
) -> dict[str, list[dict]]:  # of each figure: whether it is live, its right edge and that of its cell's output area, in pixels
    "Open notebooks one after another and measure their figures."
    with _jupyterlab(folder, home) as address:
        return asyncio.run(_look(address, counts, width))
