"""A home folder for tests of sharing: a model that is named but never loaded, and ways to talk to a server bluntly."""

import http.client
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from PIL import Image

from zit_app.core import paths

PATIENCE = 300  # seconds: a server imports Gradio first, on machines that do other things, too
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes


def make_model(home: Path, name: str = "named", pixels: int = 256, steps: int = 8) -> None:
    """A model folder that can be chosen; its weights are missing."""
    folder = home / "models" / name
    for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        (folder / part).mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "ZImagePipeline"}')
    (folder / "transformer" / "config.json").write_text('{"axes_lens": [1536, 512, 512]}')
    flavour = {"name": name, "steps": steps, "guidance": 0.0, "pixels": pixels}
    (folder / "flavour.json").write_text(json.dumps({"zit_flavour": flavour}))


def make_run(guest: str, name: str = "0000_1.png", colour: str = "red") -> Path:
    """A finished run of a guest with one picture in it; returns the picture."""
    folder = paths.guest_runs() / f"20260101-000000_{guest}-00000000"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "settings.toml").write_text("")
    (folder / "status.json").write_text('{"phase": "done", "kind": "generate", "name": "x"}')
    Image.new("RGB", (16, 16), colour).save(folder / name)
    return folder / name


class Client:
    """Sends paths as they are: no library straightens `..` out on the way."""

    def __init__(self, address: str) -> None:
        self.port = int(urlsplit(address).port or 0)
        self.cookie = ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request on a connection of its own. A generator is sent in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            given = {"cookie": self.cookie} if self.cookie else {}
            sent = {**given, **{name.replace("_", "-"): value for name, value in headers.items()}}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def login(self, password: str) -> "Client":
        """Log in as a new guest."""
        form = {"content_type": "application/x-www-form-urlencoded"}
        answer = self.ask("POST", "/login", urlencode({"password": password}), **form)
        assert answer.status == 303, answer
        self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return self

    def call(self, function: int, *data: Any, route: str = "/en/gradio_api/run/predict", **headers: str) -> Answer:
        """Call one function of the page."""
        body = json.dumps({"data": list(data), "fn_index": function, "session_hash": "test"})
        return self.ask("POST", route, body, content_type="application/json", **headers)


def answers(port: int) -> bool:
    """Whether anybody listens at a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(true: Callable[[], object], what: str = "nothing happened") -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
