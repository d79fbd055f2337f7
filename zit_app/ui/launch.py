"""Serve the owner's app on this machine only, once: a second start opens the page of the first."""

import contextlib
import os
import sys
import threading
import time
import urllib.request
import webbrowser
from pathlib import Path
from typing import Any

from zit_app.core import lock, paths, process
from zit_app.core.errors import ZitError
from zit_app.core.files import read_json, write_json, writing
from zit_app.core.lean import importing
from zit_app.service import sharing
from zit_app.service.sharing import SHARING, Reach
from zit_app.ui.text import TABLES

HOST, PORT = "127.0.0.1", 9198
DEAF_SECONDS = 60.0  # a first start may take so long until it answers, on a busy machine
LARGEST_UPLOAD = "8gb"  # a dataset as one zip
FOLDERS = ("runs", "datasets", "inputs", "loras")  # where a person looks for things, from the start
STATIC = FOLDERS[:3]  # whose files the page shows in place, without copies


def launch(port: int = PORT, browser: bool = True, reach: Reach | None = None, password: str = "") -> str:
    """Serve until the process is told to end; returns the address. The page opens when the server answers.

    With a reach the guest app is opened as well. When the app runs already for this home folder, only its page is
    opened; raises ZitError when it was to be shared, or when it does not answer.
    """
    home = paths.home()
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + DEAF_SECONDS
    while time.monotonic() < deadline:  # the first one may have begun only now, or be about to end
        with lock.held(home / "app.lock") as first:
            if first:
                port = free_port(port)
                address = f"http://{HOST}:{port}/"
                write_json(home / "app.json", {"address": address, **process.own_identity()})
                threading.Thread(target=_announce, args=(address, browser), daemon=True).start()
                _serve(port, reach, password)
                return address
        address = _running(home)
        if address and reach:
            raise ZitError(f"The app runs already at {address}.", "Share it with the switch on its page.")
        if address:
            print(f"The app runs already: {address}", flush=True)
            if browser:
                open_page(address)
            return address
    raise ZitError("The app runs already, but does not answer.", f"End its process, see {home / 'app.json'}.")


def _running(home: Path) -> str:
    """The address of the app that runs already; empty when it does not answer."""
    with contextlib.suppress(ZitError, KeyError):
        found = read_json(home / "app.json")
        if found["started"] == process.started(found["pid"]) and _answers(found["address"]):
            return str(found["address"])
    return ""


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


def open_page(address: str) -> None:
    """Open a page in the user's browser; on a machine without a screen nothing happens."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform != "linux" or any(name in os.environ for name in screens):
        webbrowser.open(address)  # without a screen, a browser for terminals would take this one


def _serve(port: int, reach: Reach | None, password: str) -> None:
    os.environ.setdefault("GRADIO_TEMP_DIR", str(paths.home() / "uploads"))
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import uvicorn

    from zit_app.service.worker import keep_tending

    keep_tending()
    config = uvicorn.Config(server(port), host=HOST, port=port, log_level="warning", timeout_graceful_shutdown=1)
    if reach:
        share = SHARING.start(reach, password)
        print(f"Guests: {share.link}" + ("" if password else f", password {share.password}"), flush=True)
        if reach == "internet":
            threading.Thread(target=_announce_tunnel, daemon=True).start()
    try:
        uvicorn.Server(config).run()
    finally:
        SHARING.stop()


def server(port: int) -> Any:
    """The owner's web application behind its door."""
    with importing():
        import gradio as gr

        from zit_app.ui.app import build
        from zit_app.ui.doors import OwnerDoor
        from zit_app.ui.help import add_help
        from zit_app.ui.mount import mounted

    made = {name: _made(paths.home() / name) for name in FOLDERS}
    gr.set_static_paths([made[name] for name in STATIC])
    app = mounted(build, HOST, port, max_file_size=LARGEST_UPLOAD)
    add_help(app)
    return OwnerDoor(app)


def free_port(wanted: int) -> int:
    """The wanted port, else the next free one; raises ZitError when there is none near it."""
    return sharing.free_port(HOST, wanted)


def _announce_tunnel() -> None:
    while (share := SHARING.now).phase in ("opening", "open") and not (share.tunnel or share.no_tunnel):
        time.sleep(0.1)
    print(share.tunnel or TABLES["en"][f"tunnel.{share.no_tunnel or 'ended'}"], flush=True)


def _announce(address: str, browser: bool) -> None:
    while not _answers(address):
        time.sleep(0.1)
    print(f"ZIT Studio is open at {address} (end it with Ctrl-C; runs go on without it).", flush=True)
    if browser:
        open_page(address)


def _made(folder: Path) -> Path:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
