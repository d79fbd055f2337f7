"""A small model hub on this machine: the interfaces of Hugging Face and ModelScope, and ways to misbehave."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Hub:
    """What is offered, and how the server fails. ``requests`` collects (path within the repository, Range)."""

    folder: Path
    repo: str
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    break_after: dict[str, int] = field(default_factory=dict)  # file → bytes, then the connection is cut, once
    damaged: set[str] = field(default_factory=set)  # files that arrive with a wrong byte
    sizes: dict[str, int] = field(default_factory=dict)  # sizes that the list claims
    ranges: bool = True
    status: int = 200

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def hub_list(self) -> list[dict[str, Any]]:
        return [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "vae"}, *map(self._hub_entry, self.files())]

    def modelscope_list(self) -> dict[str, Any]:
        files = [{"Name": "vae", "Path": "vae", "Type": "tree", "Size": 0, "Sha256": ""}]
        for name in self.files():
            data = (self.folder / name).read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            files.append({"Name": Path(name).name, "Path": name, "Type": "blob", "Size": len(data), "Sha256": sha256})
        return {"Code": 200, "Success": True, "Data": {"Files": files}}

    def _hub_entry(self, name: str) -> dict[str, Any]:
        data = (self.folder / name).read_bytes()
        size = self.sizes.get(name, len(data))
        if name.endswith(".safetensors"):
            lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 135}
            return {"type": "file", "oid": "1" * 40, "size": size, "path": name, "lfs": lfs}
        blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        return {"type": "file", "oid": blob, "size": size, "path": name}


@contextmanager
def serving(folder: Path, repo: str) -> Iterator[Hub]:
    """Serve the files of a folder as the repository ``repo`` under both interfaces."""
    hub = Hub(folder, repo)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = parse_qs(address.query)
            if hub.status != 200:
                return self._answer(hub.status, b"")
            if address.path == f"/api/models/{hub.repo}/tree/main":
                return self._answer(200, json.dumps(hub.hub_list()).encode())
            if address.path == f"/api/v1/models/{hub.repo}/repo/files":
                return self._answer(200, json.dumps(hub.modelscope_list()).encode())
            if address.path == f"/api/v1/models/{hub.repo}/repo":
                return self._file(query["FilePath"][0])
            if address.path.startswith(f"/{hub.repo}/resolve/main/"):  # as the hub does: on to another address
                self.send_response(302)
                self.send_header("Location", "/elsewhere/" + address.path.split("/resolve/main/", 1)[1])
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if address.path.startswith("/elsewhere/"):
                return self._file(unquote(address.path.removeprefix("/elsewhere/")))
            return self._answer(404, b"not found")

        def _file(self, name: str) -> None:
            data = (hub.folder / name).read_bytes()
            if name in hub.damaged:
                data = bytes([data[0] ^ 1]) + data[1:]
            asked = self.headers.get("Range", "")
            hub.requests.append((name, asked))
            begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and hub.ranges else 0
            stop = hub.break_after.pop(name, None)
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(data) - begin))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write(data[begin:stop])
            if stop is not None:
                self.wfile.flush()
                self.close_connection = True

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
