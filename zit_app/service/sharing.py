"""Share the guest app: start it, say under which links and with which password, and stop it whole.

The guest app is a process of its own. What Gradio knows of files it knows once a process, so in the owner's process the
guest app would give out the owner's folders; and what a guest does to a process must not slow down the owner's. It also
stops whole: ending the process closes the port with every connection, and takes the tunnel with it. The process reads
its standard input, which ends when the owner's app ends, however it ends; then it ends, too.

    owner → guest app   one line of JSON: host, port, password, tunnel; later the end of the input
    guest app → owner   lines of JSON: {"open": true}, {"tunnel": address}, {"no_tunnel": reason}
"""

import atexit
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.files import writing
from zit_app.service import guests

HERE, EVERYWHERE = "127.0.0.1", "0.0.0.0"
PORT, PORTS = 9298, 20
SHORTEST = 12  # letters of a password
LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that look alike
Reach = Literal["network", "internet"]


@dataclass(frozen=True)
class Share:
    """What is shared right now. `phase` is off, opening, open or failed.

    link       for the network: this machine's address in it; for the internet: this machine alone
    tunnel     the address on the internet, "" as long as there is none
    no_tunnel  why there is none: unreachable, download, blocked, ended; "" while it is being opened
    """

    phase: str = "off"
    reach: Reach | None = None
    password: str = ""
    link: str = ""
    tunnel: str = ""
    no_tunnel: str = ""

    @property
    def address(self) -> str:
        """The address to hand out."""
        return self.tunnel or self.link

    @property
    def entry(self) -> str:
        """Address and password in one. What stands behind # reaches the login page, but no server on the way."""
        return f"{self.address}login#{quote(self.password)}"


class Sharing:
    """The one guest app of this process."""

    def __init__(self) -> None:
        self._changing = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self._share = Share()
        atexit.register(self.stop)

    @property
    def now(self) -> Share:
        """What is shared."""
        return self._share

    def start(self, reach: Reach, password: str = "", port: int = PORT) -> Share:
        """Open the guest app for this network, or for the internet through a tunnel; the port is the next free one.

        Without a password a random one is made. Raises ZitError for a short password and when all ports are taken.
        """
        check_password(password)
        with self._changing:
            self.stop()
            host = EVERYWHERE if reach == "network" else HERE
            port = free_port(host, port)
            link = f"http://{own_address() if reach == 'network' else HERE}:{port}/"
            self._share = Share("opening", reach, password or new_password(), link)
            asked = {"host": host, "port": port, "password": self._share.password, "tunnel": reach == "internet"}
            self._process = process = _spawn()
            assert process.stdin is not None
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            threading.Thread(target=self._listen, args=(process,), name="sharing", daemon=True).start()
            return self._share

    def stop(self) -> None:
        """Close server and tunnel; what guests wait for is cancelled. Returns when the process is gone."""
        with self._changing:
            process, self._process = self._process, None
            self._share = Share()
            if process is None:
                return
            _end_tree(process)
            guests.stop(None)

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        """Follow what the guest app says until it ends."""
        assert process.stdout is not None
        for line in process.stdout:
            self._change(process, **_heard(json.loads(line)))
        process.wait()
        if self._process is process:
            _end_tree(process)
            self._change(process, phase="failed", tunnel="")

    def _change(self, process: "subprocess.Popen[str]", **fields: Any) -> None:
        if self._process is process:
            self._share = replace(self._share, **fields)


SHARING = Sharing()


def check_password(password: str) -> None:
    """Raises ZitError for a password that is too short; an empty one means that one is made."""
    if password and len(password) < SHORTEST:
        raise ZitError("The password is too short.", f"Give one of at least {SHORTEST} letters.")


def new_password() -> str:
    """A random password of 16 letters, in groups that can be read aloud: 80 bits."""
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(4))


def own_address() -> str:
    """This machine's address in its network. Nothing is sent: a datagram socket only looks up the way."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # an address for documentation
        return str(probe.getsockname()[0])
    return HERE


def free_port(host: str, wanted: int) -> int:
    """The wanted port, else the next free one; raises ZitError when there is none near it."""
    for port in range(wanted, wanted + PORTS):
        with contextlib.suppress(OSError), socket.socket() as probe:
            if sys.platform != "win32":  # there it would allow to take a port that is in use
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return port
    raise ZitError(f"The ports {wanted} to {wanted + PORTS - 1} are taken.", "Close a program that uses them.")


def log_file() -> Path:
    """What the guest app prints."""
    return paths.home() / "guest.log"


def _heard(said: dict[str, Any]) -> dict[str, Any]:
    return {"phase": "open"} if said.pop("open", False) else said


def _spawn() -> "subprocess.Popen[str]":
    log = log_file()
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "zit_app.ui.guest_server"],
                cwd=paths.PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # a group of its own, which the tunnel is part of
            )


def _end_tree(process: "subprocess.Popen[str]") -> None:
    """End the guest app and its tunnel by force and at once: it has nothing to save."""
    if sys.platform == "win32":
        if process.poll() is None:
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
