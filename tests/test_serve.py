"""`zit serve` as programs meet it: a real process, real workers, plain HTTP."""

import base64
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from tests.guest_home import PATIENCE, make_model, wait_for
from tests.tiny import make_tiny_model
from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.run import Run
from zit_app.data.recipe import read_recipe
from zit_app.engine.generate import generate
from zit_app.service import guests, serving, worker
from zit_app.service.guests import LIMITS
from zit_app.service.throttle import EACH
from zit_app.ui import api_server
from zit_app.ui.doors import MOST_BYTES

IMAGES = "/v1/images/generations"
LONG = {"prompt": "a house", "n": LIMITS.count, "size": "1024x1024", "steps": LIMITS.steps}


class Service:
    """One process of `zit serve`."""

    def __init__(self, home: Path, port: int = 0, **more: str) -> None:
        command = [sys.executable, "-m", "zit_app.cli", "serve", "--port", str(port), "--model", "tiny", "--json"]
        threads = str(torch.get_num_threads())
        env = os.environ | {"ZIT_HOME": str(home), "OMP_NUM_THREADS": threads, "NO_PROXY": "127.0.0.1", **more}
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = str(json.loads(self.process.stdout.readline())["address"])
        self.port = int(self.address.rpartition(":")[2])
        self.client = httpx.Client(base_url=self.address, timeout=PATIENCE, trust_env=False)

    def post(self, path: str, **given: Any) -> httpx.Response:
        return self.client.post(path, **given)

    def end(self, sign: int = signal.SIGTERM) -> int:
        self.process.send_signal(sign)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Starts services for one home folder with a tiny model; its worker stays warm from test to test."""
    home = tmp_path_factory.mktemp("served") / "home"
    make_tiny_model(home / "models" / "tiny")
    started: list[Service] = []

    def again(port: int = 0, **more: str) -> Service:
        started.append(Service(home, port, **more))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZIT_HOME", str(home))
        yield again
        for one in started:
            one.process.kill()
            one.process.wait()
        worker.end_worker()


@pytest.fixture(scope="module")
def service(start: Callable[..., Service]) -> Service:
    return start()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def served() -> list[Run]:
    return [Run(folder) for folder in sorted(paths.guest_runs().glob("*/"))]


def test_the_picture_is_that_of_zit_generate(service: Service, tmp_path: Path) -> None:
    answer = service.post("/generate", params={"prompt": "a cat", "seed": 7}, json={"width": 64, "height": 48})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["x-seed"] == "7"
    (own,) = generate(GenerateSettings(("a cat",), seed=7, width=64, height=48, steps=8), "tiny", tmp_path / "x.png")
    assert np.abs(pixels(answer.content) - pixels(own.read_bytes())).max() <= 1  # threads round otherwise
    (tmp_path / "y.png").write_bytes(answer.content)
    assert read_recipe(tmp_path / "y.png") == read_recipe(own)
    open_seeds = [service.post("/generate", json={"prompt": "a cat", "width": 32, "height": 32}) for _ in range(2)]
    assert open_seeds[0].headers["x-seed"] != open_seeds[1].headers["x-seed"]


def test_two_programs_at_once_get_their_own_pictures(service: Service) -> None:
    def draw(seed: int) -> httpx.Response:
        return httpx.post(
            service.address + IMAGES,
            json={"prompt": "a dog", "n": 2, "size": "64x48", "seed": seed, "model": "tiny", "user": "me"},
            timeout=PATIENCE,
            trust_env=False,
        )

    with ThreadPoolExecutor(2) as pool:
        first, second = [answer.json()["data"] for answer in pool.map(draw, [3, 4])]
    found = [[pixels(base64.b64decode(one["b64_json"])) for one in each] for each in (first, second)]
    assert [len(each) for each in found] == [2, 2] and found[0][0].shape == (48, 64, 3)
    assert np.abs(found[0][1] - found[1][0]).max() <= 1  # both seed 4
    assert np.abs(found[0][0] - found[1][1]).max() > 8


@pytest.mark.parametrize(
    ("status", "param", "path", "given"),
    [
        (400, "prompt", "/generate", {}),
        (400, "prompt", IMAGES, {"json": {"prompt": "x" * (LIMITS.prompt + 1)}}),
        (400, "prompt", IMAGES, {"json": {"prompt": ["a cat"]}}),
        (400, "n", IMAGES, {"json": {"prompt": "a cat", "n": LIMITS.count + 1}}),
        (400, "n", IMAGES, {"json": {"prompt": "a cat", "n": True}}),
        (400, "size", IMAGES, {"json": {"prompt": "a cat", "size": "2048x2048"}}),
        (400, "size", IMAGES, {"json": {"prompt": "a cat", "size": "100x100"}}),
        (400, "size", IMAGES, {"json": {"prompt": "a cat", "size": "large"}}),
        (400, "steps", "/generate", {"params": {"prompt": "a cat", "steps": LIMITS.steps + 1}}),
        (400, "seed", "/generate", {"params": {"prompt": "a cat", "seed": "-1"}}),
        (400, "model", IMAGES, {"json": {"prompt": "a cat", "model": "/etc"}}),
        (400, "loras", "/generate", {"json": {"prompt": "a cat", "loras": {"/etc/passwd": 1}}}),
        (400, "response_format", IMAGES, {"json": {"prompt": "a cat", "response_format": "url"}}),
        (400, "image", IMAGES, {"json": {"prompt": "a cat", "image": "/etc/passwd"}}),
        (400, None, IMAGES, {"content": b"{", "headers": {"content-type": "application/json"}}),
        (400, None, IMAGES, {"content": b"[" * 9000, "headers": {"content-type": "application/json"}}),
        (400, None, IMAGES, {"json": ["a cat"]}),
        (415, None, IMAGES, {"data": {"prompt": "a cat"}}),
        (413, None, IMAGES, {"json": {"prompt": "x" * MOST_BYTES}}),
        (404, None, "/v1/images/edits", {"json": {}}),
        (400, None, "/generate", {"params": {"prompt": "a cat"}, "headers": {"host": "evil.example"}}),
        (403, None, "/generate", {"params": {"prompt": "a cat"}, "headers": {"origin": "http://evil.example"}}),
        (403, None, "/generate", {"params": {"prompt": "a cat"}, "headers": {"sec-fetch-site": "cross-site"}}),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(
    service: Service, status: int, param: str | None, path: str, given: dict[str, Any]
) -> None:
    before = len(served())
    answer = service.post(path, **given)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert error["message"].endswith((".", "?")) and set(error) == {"message", "type", "param", "code"}
    assert len(served()) == before


@pytest.mark.parametrize(
    ("path", "given", "english", "chinese"),
    [
        ("/generate", {}, "Write what the picture shows.", "请写出图片的内容。"),
        (IMAGES, {"json": {"prompt": "a", "size": "64"}}, "'64' is not understood.", "无法理解 '64'。"),
        (IMAGES, {"json": {"prompt": "a", "siez": "1x1"}}, "Did you mean 'size'?", "您是指 'size' 吗？"),
        (IMAGES, {"json": {"prompt": "a", "quality": "hd"}}, "Only auto / standard works", "只能是 auto / standard"),
        ("/v1/images/edits", {}, "There is no /v1/images/edits.", "没有 /v1/images/edits。"),
        (IMAGES, {"content": b"{", "headers": {"content-type": "application/json"}}, "not JSON", "不是 JSON"),
    ],
)
def test_answers_are_in_the_language_of_the_program(
    service: Service, path: str, given: dict[str, Any], english: str, chinese: str
) -> None:
    for language, words in ((None, english), ("fr, en;q=0.5", english), ("zh-CN,zh;q=0.9,en;q=0.8", chinese)):
        headers = given.get("headers", {}) | ({"accept-language": language} if language else {})
        answer = service.post(path, **{**given, "headers": headers}).json()["error"]
        assert words in answer["message"] and answer["message"].endswith((".", "?", "。", "？")), answer


def test_health_needs_nothing_and_other_methods_are_named(service: Service) -> None:
    assert service.client.get("/health").json() == {"status": "ok", "queued": 0}
    answer = service.client.get("/generate")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_caller_who_goes_takes_the_run_along(service: Service) -> None:
    before = len(served())
    caller = http.client.HTTPConnection("127.0.0.1", service.port)
    caller.request("POST", IMAGES, json.dumps(LONG), {"content-type": "application/json"})
    wait_for(lambda: len(served()) > before and served()[-1].state() == "running")
    caller.close()
    wait_for(lambda: served()[-1].state() == "stopped")


def ends_while_it_draws(service: Service, sign: int) -> None:
    before = len(served())
    with ThreadPoolExecutor(LIMITS.pending) as pool:
        asked = [pool.submit(service.post, IMAGES, json=LONG) for _ in range(LIMITS.pending)]
        wait_for(lambda: len(served()) == before + 2 and "running" in [run.state() for run in served()])
        third = httpx.post(f"{service.address}/generate?prompt=x", timeout=PATIENCE, trust_env=False)
        assert (third.status_code, third.json()["error"]["code"]) == (429, "pending") and third.headers["retry-after"]
        assert service.end(sign) == 0
        assert [one.result().status_code for one in asked] == [503, 503]


def test_it_ends_while_it_draws_and_starts_again_at_the_same_port(
    start: Callable[..., Service], service: Service
) -> None:
    ends_while_it_draws(service, signal.SIGTERM)
    ends_while_it_draws(start(service.port), signal.SIGINT)
    again = start(service.port)
    killed = threading.Thread(target=lambda: pytest.raises(httpx.HTTPError, again.post, IMAGES, json=LONG))
    before = len(served())
    killed.start()
    wait_for(lambda: len(served()) > before)
    again.end(signal.SIGKILL)
    killed.join()
    last = start(service.port)
    wait_for(lambda: served()[before].state() == "stopped")  # nobody waits for it any more
    assert last.post("/generate", params={"prompt": "a cat", "width": 32, "height": 32}).status_code == 200
    assert last.end() == 0


def test_a_password_is_asked_and_cannot_be_guessed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_model(home, "tiny")
    service = Service(home, ZIT_PASSWORD="correct horse battery")
    try:
        assert service.client.get("/health").status_code == 200
        assert service.post("/generate", params={"prompt": "x"}).status_code == 401
        right = {"authorization": "Bearer correct horse battery", "host": "studio.example"}
        assert service.post("/generate", headers=right).json()["error"]["code"] == "empty"
        wrong = {"authorization": "Bearer correct horse batterx"}
        for _ in range(EACH):
            assert service.post("/generate", headers=wrong).status_code == 401
        answer = service.post("/generate", headers=wrong)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
        assert service.post("/generate", headers=right).status_code == 429  # as for guests: or it told who is right
        assert service.end() == 0
    finally:
        service.process.kill()


def test_one_service_a_home_and_one_a_port(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(api_server, "PATIENCE_SECONDS", 0.1)
    make_model(home, "named")
    with serving.alone(lambda: False) as first:
        assert first
        serving.begin("http://127.0.0.1:1", "named")
        with pytest.raises(ZitError, match="runs already at http://127.0.0.1:1"), serving.alone(lambda: False):
            pass
        with pytest.raises(ZitError, match="no model 'nemad'"):
            serving.begin("http://127.0.0.1:1", "nemad")
    with api_server._bound("127.0.0.1", 0, lambda: False) as taken:  # type: ignore[arg-type, union-attr]
        taken.listen()
        with pytest.raises(ZitError, match="cannot be used"):
            api_server._bound("127.0.0.1", taken.getsockname()[1], lambda: False)  # type: ignore[arg-type]


def test_old_pictures_make_room_and_other_guests_keep_theirs(home: Path) -> None:
    def made(guest: str, number: int, phase: str) -> Path:
        folder = paths.guest_runs() / f"20260101-{number:06d}_{guest}-00000000"
        folder.mkdir(parents=True)
        (folder / "settings.toml").write_text("")
        (folder / "status.json").write_text(json.dumps({"phase": phase, "kind": "generate", "queued": 1}))
        return folder

    own = [made("abcdef01" + "0" * 8, number, "queued" if number == 0 else "done") for number in range(5)]
    other = made("f" * 16, 9, "done")
    guests.forget("abcdef01", keep=2)
    assert [folder.exists() for folder in own] == [True, False, False, True, True] and other.exists()
