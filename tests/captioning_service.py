"""A captioning service on this machine: OpenAI's and Ollama's languages, and ways to misbehave."""

import base64
import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


@dataclass
class CaptioningService:
    """What it answers, how it fails, and every picture that it was asked about (size and a digest)."""

    url: str = ""
    answer: str = "This image shows picture {n}."
    models: tuple[str, ...] = ("sees",)
    status: int = 200
    body: bytes | None = None  # in place of an answer
    wait: float = 0.0  # seconds before an answer
    key: str = ""
    failing: set[int] = field(default_factory=set)  # requests, counted from 1, that are answered 500
    asked: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def captioning_service() -> Iterator[CaptioningService]:
    """Serve until the block ends."""
    service = CaptioningService()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            entries = [{"id": name, "name": name} for name in service.models]
            self._answer(200, json.dumps({"data": entries, "models": entries}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service.paths.append(self.path)
            if service.key and self.headers.get("Authorization") != f"Bearer {service.key}":
                return self._answer(401, b"{}")
            data, text = taken(body)
            with Image.open(io.BytesIO(data)) as picture:
                assert picture.format == "JPEG"
                service.sizes.append(picture.size)
            service.texts.append(text)
            service.asked.append(hashlib.sha256(data).hexdigest())
            number = len(service.asked)
            time.sleep(service.wait)
            if number in service.failing:
                return self._answer(500, b'{"error": {"message": "out of\\nmemory"}}')
            if service.body is not None or service.status != 200:
                return self._answer(service.status, service.body or b"{}")
            said = service.answer.format(n=number)
            message = {"role": "assistant", "content": said}
            whole = {"message": message} if self.path == "/api/chat" else {"choices": [{"message": message}]}
            return self._answer(200, json.dumps(whole).encode())

        def _answer(self, status: int, body: bytes) -> None:
            try:
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", f"{service.url}/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):  # it did not wait
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()


def taken(body: dict[str, Any]) -> tuple[bytes, str]:
    """Picture and question of a request in either language."""
    message = body["messages"][0]
    if "images" in message:
        return base64.b64decode(message["images"][0]), message["content"]
    parts = {part["type"]: part for part in message["content"]}
    return base64.b64decode(parts["image_url"]["image_url"]["url"].partition(",")[2]), parts["text"]["text"]
