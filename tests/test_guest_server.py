"""The shared page as a stranger and as a bad guest meet it: a real server process and plain HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.responses import PlainTextResponse

from tests.guest_home import JSON, Client, make_model, make_run, wait_for
from zit_app.core import paths
from zit_app.service.guests import LIMITS
from zit_app.service.sharing import LETTERS, SHARING, SHORTEST, Share
from zit_app.service.throttle import EACH
from zit_app.ui.doors import MOST_BYTES
from zit_app.ui.guest_gate import GuestGate
from zit_app.ui.text import TABLES

SECRET = b"nobody else may read this"
FUNCTIONS = {"_draw", "_compare", "_stop", "_look"}
HARMLESS = {
    "accordion", "button", "checkbox", "column", "dropdown", "form", "html", "number", "radio", "row", "slider",
    "state", "tabitem", "tabs", "textbox", "timer",
}  # fmt: skip
GRADIO = (
    "config", "theme.css", "info", "api/info", "monitoring/summary", "queue/status", "static/img/logo.svg", "user",
    "gradio_api/info", "gradio_api/startup-events", "gradio_api/app_id", "gradio_api/heartbeat/abc",
    "gradio_api/queue/data?session_hash=abc", "gradio_api/file=/etc/hostname", "gradio_api/proxy=https://example.org",
    "gradio_api/runs", "gradio_api/openapi.json", "gradio_api/token", "svelte/a.js", "gradio_api/upload_progress",
)  # fmt: skip
POSTED = (
    "queue/join", "upload", "cancel", "reset", "component_server", "stream/abc", "call/look", "run-history/connect",
    "process_recording", "vibe-edit", "api/predict", "run/predict",
)  # fmt: skip


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Share]:
    """A guest app that runs; a secret lies beside its home folder."""
    home = tmp_path_factory.mktemp("shared") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZIT_HOME", str(home))
        make_model(home)
        (home / "secret.txt").write_bytes(SECRET)
        (home.parent / "secret.png").write_bytes(SECRET)
        SHARING.start("network", port=9500)
        wait_for(lambda: SHARING.now.phase != "opening")
        assert SHARING.now.phase == "open", (home / "guest.log").read_text()
        yield SHARING.now
        SHARING.stop()


@pytest.fixture
def guest(share: Share) -> Client:
    return Client(share.link).login(share.password)


@pytest.fixture(scope="module")
def functions(share: Share) -> dict[str, int]:
    """The functions of the page: name → number."""
    config = json.loads(Client(share.link).login(share.password).ask("GET", "/en/config").body)
    return {dependency["api_name"]: dependency["id"] for dependency in config["dependencies"]}


def identity(guest: Client, functions: dict[str, int]) -> str:
    """A guest's id, as the names of its runs show it. It draws something for that."""
    before = set(paths.guest_runs().glob("*"))
    assert "refused" not in drawn(guest, functions)
    (folder,) = set(paths.guest_runs().glob("*")) - before
    return folder.name.split("_")[1].split("-")[0]


def drawn(guest: Client, functions: dict[str, int], **other: Any) -> str:
    """What the page says to a wish; nothing when it was accepted."""
    wish = {
        "prompt": "a cat", "model": "named", "aspect": "square", "width": 0, "height": 0, "steps": 0, "count": 1,
        "seed": 1, "lock": True, "lora": "", "weight": 1, **other,
    }  # fmt: skip
    answer = json.loads(guest.call(functions["_draw"], *wish.values()).body)
    return str(answer["data"][0] if "data" in answer else answer["error"])


def said(key: str) -> str:
    """The beginning of a refusal, as far as it holds no figure."""
    return TABLES["en"][f"refused.{key}"].partition("{")[0]


# ------------------------------------------------------------ strangers


def test_a_stranger_gets_the_login_page_and_nothing_else(share: Share, functions: dict[str, int]) -> None:
    stranger = Client(share.link)
    for page in ("/", "/en/", "/zh/"):
        answer = stranger.ask("GET", page)
        assert (answer.status, answer.headers["location"]) == (303, "/login")
    assert b"gradio" not in stranger.ask("GET", "/login").body.lower()
    for path in GRADIO:
        assert stranger.ask("GET", f"/en/{path}").status == 401, path
        assert stranger.ask("GET", f"/{path}").status == 401, path
    for path in POSTED:
        assert stranger.ask("POST", f"/en/gradio_api/{path}", "{}", **_json()).status == 401, path
    assert stranger.ask("POST", "/logout").status == 401


@pytest.mark.parametrize("cookie", ["", "zit_guest_9500=", "zit_guest_9500=None", "zit_guest_9500=" + "A" * 43])
def test_no_function_can_be_called_without_a_login(share: Share, functions: dict[str, int], cookie: str) -> None:
    stranger = Client(share.link)
    stranger.cookie = cookie.replace("9500", str(stranger.port))
    assert len(functions) >= len(FUNCTIONS)
    for number in functions.values():
        for route in ("run/predict", "api/predict", "queue/join", "run/_look", "call/_look"):
            path = f"/en/gradio_api/{route}"
            assert stranger.call(number, route=path, x_zit_guest="a" * 16).status == 401, (number, route)


def test_the_password_is_long_and_never_on_a_command_line(share: Share) -> None:
    letters = share.password.replace("-", "")
    assert len(letters) >= SHORTEST and set(letters) <= set(LETTERS)
    assert SHARING._process is not None
    words = Path(f"/proc/{SHARING._process.pid}/cmdline")
    if words.exists():
        assert share.password.encode() not in words.read_bytes()


def test_a_request_that_another_page_makes_is_refused(share: Share, guest: Client, functions: dict[str, int]) -> None:
    look = functions["_look"]
    own = f"http://127.0.0.1:{guest.port}"
    assert guest.call(look, None, origin=own, sec_fetch_site="same-origin").status == 200
    assert guest.call(look, None, origin="https://elsewhere.example").status == 403
    assert guest.call(look, None, origin="null").status == 403
    assert guest.call(look, None, origin=f"http://127.0.0.1:{guest.port + 1}").status == 403
    assert guest.call(look, None, sec_fetch_site="same-site").status == 403


# ------------------------------------------------------------ what there is


def test_the_page_has_no_function_but_drawing_and_comparing(guest: Client) -> None:
    config = json.loads(guest.ask("GET", "/en/config").body)
    names = {dependency["api_name"].rstrip("_0123456789") for dependency in config["dependencies"]}
    assert names == FUNCTIONS
    assert {component["type"] for component in config["components"]} <= HARMLESS
    assert json.loads(guest.ask("GET", "/en/gradio_api/info").body) == {"named_endpoints": {}, "unnamed_endpoints": {}}
    text = json.dumps(config)
    assert str(paths.home()) not in text and str(paths.PROJECT) not in text
    for number in (len(config["dependencies"]), 10**6, -1):
        assert guest.call(number).status >= 400


def test_uploads_and_everything_else_of_gradio_are_closed_for_guests_too(guest: Client) -> None:
    for path in POSTED[:-2]:
        for prefix in ("/en/gradio_api/", "/gradio_api/", "/en/"):
            assert guest.ask("POST", prefix + path, "{}", **_json()).status == 404, prefix + path
    for path in ("monitoring/summary", "gradio_api/runs", "gradio_api/openapi.json", "gradio_api/queue/data", "user"):
        assert guest.ask("GET", f"/en/{path}").status == 404, path
    for host in ("a/en/config?", "a/login#", "a/en/config#", f"127.0.0.1:{guest.port}/en/"):  # it bends addresses
        assert guest.ask("POST", "/en/gradio_api/upload", "{}", host=host, **_json()).status in (400, 404), host
        assert guest.ask("GET", "/en/gradio_api/queue/data", host=host).status in (400, 404), host
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert guest.ask(method, "/en/config").status in (404, 405)


def test_a_file_cannot_be_smuggled_in_as_a_value(guest: Client, functions: dict[str, int]) -> None:
    secret = str(paths.home() / "secret.txt")
    for path in (secret, "http://127.0.0.1:9/x.png", "https://example.org/x.png"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for value in (file, [file], {"a": [file]}):
            assert guest.call(functions["_look"], value).status == 400
    for body in ("", "[]", "{}", '{"data": {}}', '{"data": [NaN]}', "[" * 10000, '{"data": null}', "\x00"):
        assert guest.ask("POST", "/en/gradio_api/run/predict", body, **_json()).status == 400


# ------------------------------------------------------------ paths


def test_paths_lead_to_nothing_but_ones_own_pictures(guest: Client, share: Share, functions: dict[str, int]) -> None:
    own, other = make_run(identity(guest, functions), colour="blue"), make_run("e" * 16)
    other.write_bytes(SECRET)
    folder = own.parent
    (folder / "link.png").symlink_to(paths.home().parent / "secret.png")
    (folder / "0000_2.png").symlink_to(other)
    shown = guest.ask("GET", f"/pictures/{folder.name}/{own.name}")
    assert (shown.status, shown.body) == (200, own.read_bytes())
    assert Client(share.link).ask("GET", f"/pictures/{folder.name}/{own.name}").status == 401
    assert Client(share.link).login(share.password).ask("GET", f"/pictures/{folder.name}/{own.name}").status == 404

    secret, up = str(paths.home() / "secret.txt"), "../" * 12
    targets = [
        secret, secret.lstrip("/"), up + secret.lstrip("/"), "../secret.txt", "../../../secret.txt", str(other),
        f"../{other.parent.name}/{other.name}", "link.png", "0000_2.png", "settings.toml", "status.json",
        "file://" + secret, "/etc/hostname", "//etc/hostname", "~/secret.txt", ".", "..", "\\..\\secret.txt",
        "C:\\secret.txt", "secret.txt\x00.png",
    ]  # fmt: skip
    written = {
        form for target in targets for form in (quote(target), quote(target, safe=""), quote(quote(target, safe="")))
    }
    written |= {quote(target).replace("..", "%2e%2e").replace("/", "%2f") for target in targets}
    doors = [
        "/en/gradio_api/file=", "/gradio_api/file=", "/en/file=", "/file=", "/en/gradio_api/file/", "/en/static/",
        "/en/assets/", "/en/svelte/", "/en/gradio_api/stream/", f"/pictures/{folder.name}/", "/pictures/", "/",
        "/en/custom_component/", "/en/gradio_api/proxy=",
    ]  # fmt: skip
    with httpx.Client(base_url=f"http://127.0.0.1:{guest.port}", headers={"cookie": guest.cookie}) as kept:
        for door in doors:
            for path in sorted(written):
                url = httpx.URL(f"http://127.0.0.1:{guest.port}/").copy_with(raw_path=(door + path).encode())
                answer = kept.send(kept.build_request("GET", url))
                assert answer.status_code in (303, 307, 400, 404), (door, path, answer.status_code)
                assert SECRET not in answer.content


# ------------------------------------------------------------ too much


def test_a_body_that_is_too_large_is_refused(guest: Client, share: Share) -> None:
    large = b'{"data": ["' + b"x" * MOST_BYTES + b'"]}'
    path = "/en/gradio_api/run/predict"
    for client in (guest, Client(share.link)):
        assert client.ask("POST", path, large, **_json()).status == 413
        assert client.ask("POST", path, iter([large[:9000], large[9000:]]), **_json()).status == 413  # in chunks
        assert client.ask("POST", "/login", b"password=" + b"x" * MOST_BYTES).status == 413


def test_what_is_too_much_is_refused_with_a_sentence(guest: Client, functions: dict[str, int]) -> None:
    before = len(list(paths.guest_runs().glob("*")))
    for key, wish in (
        ("prompt", {"prompt": "x" * (LIMITS.prompt + 1)}),
        ("empty", {"prompt": ""}),
        ("pixels", {"width": 2048, "height": 2048}),
        ("side", {"width": 10**9, "height": 16}),
        ("sixteen", {"width": 17, "height": 16}),
        ("steps", {"steps": LIMITS.steps + 1}),
        ("seed", {"seed": 1 << 60}),
        ("model", {"model": str(paths.home() / "models" / "named")}),
        ("lora", {"lora": str(paths.home() / "loras" / "a.safetensors")}),
        ("lora", {"lora": "../a.safetensors"}),
    ):
        assert said(key) in drawn(guest, functions, **wish), (key, wish)
    for count in (LIMITS.count + 1, 1e300):  # Gradio's slider heeds its ends before we do
        assert "greater than maximum" in drawn(guest, functions, count=count)
    assert drawn(guest, functions, count="many")
    assert len(list(paths.guest_runs().glob("*"))) == before


def test_a_guest_waits_for_what_was_asked_before(guest: Client, share: Share, functions: dict[str, int]) -> None:
    for _ in range(LIMITS.pending):
        assert drawn(guest, functions) == ""
    refused = TABLES["en"]["refused.pending"].format(most=LIMITS.pending)
    assert refused in drawn(guest, functions)
    assert drawn(Client(share.link).login(share.password), functions) == ""
    assert guest.call(functions["_stop"]).status == 200
    assert drawn(guest, functions) == ""


def test_logging_out_ends_the_visit(guest: Client) -> None:
    assert guest.ask("GET", "/en/config").status == 200
    assert guest.ask("POST", "/logout").status == 303
    assert guest.ask("GET", "/en/config").status == 401


def test_nobody_may_put_the_page_into_a_frame(guest: Client) -> None:
    for path in ("/login", "/en/", "/en/config", "/nowhere"):
        headers = guest.ask("GET", path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


# ------------------------------------------------------------ the gate alone


async def _behind(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("inside")(scope, receive, send)


def ask_gate(gate: GuestGate, password: str, address: str, **headers: str) -> httpx.Response:
    """One login at a gate from any address."""
    import asyncio

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=gate, client=(address, 1))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post("/login", data={"password": password}, headers=headers)

    return asyncio.run(ask())


def test_too_many_wrong_passwords_close_the_gate_for_that_address() -> None:
    gate = GuestGate(_behind, "right-right-right", 1, tunnelled=False)
    for _ in range(EACH):
        assert ask_gate(gate, "wrong", "10.0.0.1", x_forwarded_for="1.2.3.4").status_code == 401
    late = ask_gate(gate, "right-right-right", "10.0.0.1", x_forwarded_for="5.6.7.8")  # no way to seem another
    assert late.status_code == 429 and int(late.headers["retry-after"]) > 0
    assert TABLES["en"]["guest.wait"].partition("{")[0] in late.text
    welcome = ask_gate(gate, " right-right-right ", "10.0.0.2")
    assert welcome.status_code == 303
    assert {"httponly", "samesite=lax"} <= set(welcome.headers["set-cookie"].lower().split("; "))


def test_behind_a_tunnel_the_last_forwarded_address_counts_and_all_together() -> None:
    gate = GuestGate(_behind, "right-right-right", 1, tunnelled=True)
    for number in range(200):
        answer = ask_gate(gate, "wrong", "127.0.0.1", **{"x-forwarded-for": f"9.9.9.9, 10.0.0.{number}"})
    assert answer.status_code == 429
    assert ask_gate(gate, "right-right-right", "127.0.0.1", **{"x-forwarded-for": "8.8.8.8"}).status_code == 429
    fresh = GuestGate(_behind, "right-right-right", 1, tunnelled=True)
    https = ask_gate(fresh, "right-right-right", "127.0.0.1", **{"x-forwarded-proto": "https"})
    assert "Secure" in https.headers["set-cookie"]


def _json() -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in JSON.items()}
