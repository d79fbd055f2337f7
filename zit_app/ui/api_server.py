"""The process of `zit serve`: it answers until it is told to end, and a start never trips over what an end left."""

import errno
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from zit_app.core.errors import ZitError
from zit_app.service import sharing
from zit_app.service.serving import PATIENCE_SECONDS, alone, begin
from zit_app.service.worker import keep_tending

CONNECTIONS = 200  # at once; more are turned away
GRACE_SECONDS = 5  # for answers on their way
_LOOK_SECONDS = 0.2


class Ending:
    """Whether SIGTERM or SIGINT came; from now on they end the server and not the process."""

    def __init__(self) -> None:
        self.came = False
        self.server: Any = None
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, self._come)

    def __call__(self) -> bool:
        return self.came or bool(self.server is not None and self.server.should_exit)

    def _come(self, number: int, frame: Any) -> None:
        self.came = True
        if self.server is not None:
            self.server.should_exit = True


def serve(port: int, listen: bool, password: str, model: str, announce: Callable[[str], None]) -> None:
    """Serve until a signal comes. `announce` gets the address as soon as requests are taken.

    Raises ZitError when another server runs for this home folder, the port stays taken or there is no such model.
    """
    ending = Ending()
    with alone(ending) as first:
        bound = _bound(sharing.EVERYWHERE if listen else sharing.HERE, port, ending) if first else None
        if bound is None:
            return
        with bound:
            host = sharing.own_address() if listen else sharing.HERE
            _serve(bound, f"http://{host}:{bound.getsockname()[1]}", password, model, ending, announce)


def _serve(
    bound: socket.socket, address: str, password: str, model: str, ending: Ending, announce: Callable[[str], None]
) -> None:
    import uvicorn

    from zit_app.ui.api import Api

    serving = begin(address, model)
    keep_tending()
    config = uvicorn.Config(
        Api(serving, password, ending),
        log_level="warning",
        lifespan="off",
        proxy_headers=False,  # who asks is told by the connection
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    ending.server = server = uvicorn.Server(config)
    server.should_exit = ending.came
    bound.listen(128)  # what comes from now on waits for the first answer
    announce(address)
    try:
        server.run(sockets=[bound])
    finally:
        serving.stop_all()


def _bound(host: str, port: int, ending: Ending) -> socket.socket | None:
    """A socket at the port, which a server before this one may hold for a moment; None when `ending` meanwhile."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ending():
        found = socket.socket()
        if sys.platform != "win32":  # there it would allow to take a port that is in use
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, port))
            return found
        except OSError as error:
            found.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                what = f"Port {port} cannot be used: {error.strerror}."
                raise ZitError(what, "Give another one with --port.") from error
        time.sleep(_LOOK_SECONDS)
    return None
