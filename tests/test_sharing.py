"""Opening and closing: the owner's app, the guest app beside it, and a tunnel. Real processes, real ports."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.guest_home import Client, answers, make_model, make_run, wait_for
from zit_app.core import paths, process
from zit_app.core.errors import ZitError
from zit_app.service import sharing
from zit_app.service.sharing import SHARING
from zit_app.ui.launch import free_port

PASSWORD = "only for this test"
# In the place of frpc, the tunnel's program: it says what frpc says and stays.
TUNNEL = """#!/bin/sh
echo $$ > "{folder}/pid"
echo "{says}"
exec sleep 600
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for the tunnel's program is a shell script")


# ------------------------------------------------------------ the owner's app


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The owner's app, opened with `--listen`, and the guest app that it opened."""
    home = tmp_path_factory.mktemp("owner") / "home"
    make_model(home)
    (home / "secret.txt").write_text("secret")
    port = free_port(9520)
    command = [sys.executable, "-m", "zit_app.cli", "app", "--no-browser", "--port", str(port), "--listen"]
    environment = {**os.environ, "ZIT_HOME": str(home), "ZIT_PASSWORD": PASSWORD}
    with (home / "app.log").open("w") as log:
        app = subprocess.Popen(command, cwd=paths.PROJECT, env=environment, stdout=log, stderr=log)
    said = (home / "app.log").read_text
    wait_for(lambda: app.poll() is not None or "ZIT Studio is open" in said())
    assert app.poll() is None, said()
    guest = Client(said().partition("Guests: ")[2].split()[0])
    wait_for(lambda: answers(guest.port) or app.poll() is not None)
    yield {"app": app, "home": home, "own": Client(f"http://127.0.0.1:{port}/"), "guest": guest}
    app.kill()
    app.wait()


def file_of(path: Path) -> str:
    return "/en/gradio_api/file=" + quote(str(path))


def test_listening_opens_the_guest_app_and_never_the_owners(owner: dict[str, Any]) -> None:
    own, guest = owner["own"], owner["guest"]
    table = Path("/proc/net/tcp")
    if table.exists():  # which addresses the two listen at, as the system says
        rows = [line.split()[1].split(":") for line in table.read_text().splitlines()[1:] if line.split()[3] == "0A"]
        listening = {int(port, 16): address for address, port in rows}
        assert listening[own.port] == "0100007F" and listening[guest.port] == "00000000"
    assert guest.ask("GET", "/en/config").status == 401
    assert guest.login(PASSWORD).ask("GET", "/en/config").status == 200
    assert own.ask("GET", "/en/config").status == 200  # the owner needs none


def test_only_names_of_this_machine_lead_to_the_owners_app(owner: dict[str, Any]) -> None:
    own = owner["own"]
    for host in (f"127.0.0.1:{own.port}", "127.0.0.1", f"localhost:{own.port}", "localhost:8000"):
        assert own.ask("GET", "/en/config", host=host).status == 200, host
    for host in ("attacker.example", f"attacker.example:{own.port}", "127.0.0.1.attacker.example", "", "0.0.0.0",
                 "localhost.attacker.example:9198", "127.0.0.1:80@attacker.example"):  # fmt: skip
        assert own.ask("GET", "/en/config", host=host).status == 400, host


def test_no_other_page_can_make_the_owners_app_do_anything(owner: dict[str, Any]) -> None:
    own, guest = owner["own"], owner["guest"]
    config = json.loads(own.ask("GET", "/en/config").body)
    look = next(each["id"] for each in config["dependencies"] if each["api_name"].startswith("_look"))
    itself = f"http://127.0.0.1:{own.port}"
    for origin in ("https://attacker.example", "null", f"http://127.0.0.1:{guest.port}", f"{itself}.attacker.example"):
        assert own.call(look, origin=origin).status == 403, origin
        assert own.ask("POST", "/en/gradio_api/upload", b"x", origin=origin).status == 403, origin
        asks = {"access_control_request_method": "POST", "access_control_request_headers": "content-type"}
        asked = own.ask("OPTIONS", "/en/gradio_api/run/predict", origin=origin, **asks)
        assert asked.status == 403 and "access-control-allow-origin" not in asked.headers
    for site in ("cross-site", "same-site"):
        assert own.call(look, sec_fetch_site=site).status == 403
        assert own.ask("GET", "/en/config", sec_fetch_site=site, sec_fetch_mode="no-cors").status == 403
        assert own.ask("GET", "/en/", sec_fetch_site=site, sec_fetch_mode="navigate").status == 200  # a plain link
    assert own.ask("GET", "/en/config", origin=itself, sec_fetch_site="same-origin").status == 200
    assert "frame-ancestors 'none'" in own.ask("GET", "/en/").headers["content-security-policy"]


def test_the_owners_app_gives_out_pictures_as_such_and_the_rest_only_to_save(owner: dict[str, Any]) -> None:
    own, home = owner["own"], owner["home"]
    page, drawing = home / "datasets" / "pets" / "x.html", home / "datasets" / "pets" / "x.svg"
    page.parent.mkdir()
    page.write_text("<script>alert(1)</script>")
    drawing.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZIT_HOME", str(home))
        picture = make_run("d" * 16)
    shown = own.ask("GET", file_of(picture))
    assert (shown.status, shown.headers["content-type"]) == (200, "image/png")
    for file in (page, drawing):
        saved = own.ask("GET", file_of(file))
        assert saved.status == 200
        assert saved.headers["content-disposition"] == "attachment"
        assert saved.headers["content-security-policy"].startswith("sandbox")
    outside = [home / "secret.txt", home / "queue.json", paths.PROJECT / "README.md", Path("/etc/hostname")]
    for path in (*outside, home / "runs" / ".." / "secret.txt", home / "models" / "named" / "model_index.json"):
        assert own.ask("GET", file_of(path)).status == 403, path
    for address in ("https://example.org/x.png", "HTTP://127.0.0.1:1/x.png", "file:///etc/hostname", "http:/a/x.png"):
        assert own.ask("GET", "/en/gradio_api/file=" + address).status == 403


def test_an_upload_has_an_end(owner: dict[str, Any]) -> None:
    config = json.loads(owner["own"].ask("GET", "/en/config").body)
    assert config["max_file_size"] == 8 << 30


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_app_takes_the_guest_app_with_it(owner: dict[str, Any]) -> None:
    """The last test of this app: it ends here, as after a crash."""
    owner["app"].send_signal(signal.SIGKILL)
    owner["app"].wait()
    wait_for(lambda: not answers(owner["guest"].port), "the guest app outlived the owner's")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--listen"], 2, "needs a password"),
        (["--listen", "--password", "short"], 1, "too short"),
        (["--share", "--password", "elevenlette"], 1, "too short"),
        (["--password", "long enough it is"], 2, "is for --listen or --share"),
        (["--listen", "--share"], 2, "not allowed with"),
    ],
)
def test_nothing_is_opened_without_a_good_password(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
) -> None:
    from zit_app.cli import main

    monkeypatch.delenv("ZIT_PASSWORD", raising=False)
    assert main(["app", "--no-browser", *words]) == code
    assert said in capsys.readouterr().err
    assert not home.exists()


# ------------------------------------------------------------ the tunnel


def put_tunnel(home: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> Path:
    """A stand-in where Gradio looks for frpc, and no server that Gradio would ask on the way; returns its folder."""
    from gradio.tunneling import BINARY_FILENAME

    folder = home / "hub" / "gradio" / "frpc"
    folder.mkdir(parents=True)
    binary = folder / BINARY_FILENAME
    binary.write_text(TUNNEL.format(folder=folder, says=says))
    binary.chmod(0o755)
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
    monkeypatch.setenv("GRADIO_SHARE_SERVER_ADDRESS", "127.0.0.1:9")
    return folder


@pytest.fixture
def ended() -> Iterator[None]:
    yield
    SHARING.stop()


@linux
def test_switching_off_ends_server_and_tunnel(home: Path, monkeypatch: pytest.MonkeyPatch, ended: None) -> None:
    folder = put_tunnel(home, monkeypatch, "start proxy success: https://abc.gradio.live")
    first = SHARING.start("internet", port=9560)
    wait_for(lambda: SHARING.now.tunnel or SHARING.now.phase == "failed")
    assert SHARING.now.entry == f"https://abc.gradio.live/login#{first.password}"
    client, pid = Client(first.link), int((folder / "pid").read_text())
    assert client.login(first.password).ask("GET", "/en/config").status == 200
    assert process.started(pid)
    SHARING.stop()
    assert SHARING.now.phase == "off" and not answers(client.port)
    wait_for(lambda: not process.started(pid), "the tunnel outlived the switch")
    assert SHARING.start("network", port=9560).password != first.password


@linux
def test_without_a_tunnel_the_link_on_this_machine_goes_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, ended: None
) -> None:
    put_tunnel(home, monkeypatch, "login to server failed: connection refused")
    share = SHARING.start("internet", port=9580)
    wait_for(lambda: SHARING.now.no_tunnel or SHARING.now.phase == "failed")
    assert (SHARING.now.phase, SHARING.now.no_tunnel, SHARING.now.address) == ("open", "unreachable", share.link)
    guest = Client(share.link)
    assert guest.login(share.password).ask("GET", "/en/config").status == 200
    os.killpg(SHARING._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    wait_for(lambda: SHARING.now.phase == "failed")  # and the owner sees it


def test_a_port_that_is_taken_gives_way_to_the_next() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert sharing.free_port("0.0.0.0", port) > port
        assert sharing.free_port("127.0.0.1", port) > port


def test_short_passwords_are_refused_and_new_ones_differ() -> None:
    with pytest.raises(ZitError, match="too short"):
        SHARING.start("network", "elevenlette")
    assert SHARING.now.phase == "off"
    assert len({sharing.new_password() for _ in range(50)}) == 50
