"""A web server of this machine's own that serves a folder as an archive's host or as the hub does, and has bad days."""

import contextlib
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

HANGS = "hangs"


class Handler(BaseHTTPRequestHandler):
    "Answers a GET with a file, or with the part that its Range asks for, and a POST as the hub tells of files."

    def do_POST(self) -> None:
        "The hub's call /api/models/OWNER/NAME/paths-info/REVISION: each path that is there, with its SHA-256."
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
        kind, owner, name, _, revision = self.path.removeprefix("/api/").split("/")
        folder = f"{'datasets/' if kind == 'datasets' else ''}{owner}/{name}/resolve/{revision}"
        with self.server.state.lock:
            self.server.state.log.append((self.path.lstrip("/"), None))
        answer = [self.server.state.hub_file(f"{folder}/{path}", path) for path in asked]
        content = json.dumps([about for about in answer if about]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        server, path = self.server.state, self.path.lstrip("/")
        asked = self.headers["Range"]
        with server.lock:
            server.log.append((path, asked))
            trouble = server.troubles[path].pop(0) if server.troubles.get(path) else None
        file = server.folder / path
        if isinstance(trouble, int) and trouble < 0 or not file.is_file():
            self.send_error(-trouble if trouble else 404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        content = file.read_bytes()
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client has read enough
            if trouble == HANGS:
                self.wfile.write(content[start : len(content) // 2])
                server.ended.wait(300)
            else:
                self.wfile.write(content[start:trouble])

    def log_message(self, *arguments: object) -> None:
        pass


@dataclass
class Server:
    "What is served, what goes wrong, and what was asked for."

    folder: Path
    url: str = ""
    ranges: bool = True  # False: answers a Range with the whole file
    # path -> what happens to its requests, in turn: None nothing, n > 0 the answer breaks off at byte n, -503 that status,
    # HANGS the second half never comes
    troubles: dict[str, list[int | str | None]] = field(default_factory=dict)
    log: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range of every request
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    sums: dict[str, str] = field(default_factory=dict)  # path -> the SHA-256 that the hub tells, where it is not the true one

    def hub_file(self, path: str, name: str) -> dict | None:
        "What the hub tells of a file."
        if not (self.folder / path).is_file():
            return None
        content = (self.folder / path).read_bytes()
        sha256 = self.sums.get(path, hashlib.sha256(content).hexdigest())
        lfs = {"oid": sha256, "size": len(content), "pointerSize": 134}
        return {"type": "file", "path": name, "size": len(content), "oid": "0" * 40, "lfs": lfs}

    def counts(self) -> Counter:
        "How often each path was asked for."
        return Counter(path for path, _ in self.log)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    "Serve a folder, at `url`, until the block ends."
    state = Server(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.state, state.url = state, f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield state
        finally:
            state.ended.set()
            server.shutdown()
