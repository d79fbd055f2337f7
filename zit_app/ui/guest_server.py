"""The process of the guest app: `python -m zit_app.ui.guest_server`, started and ended by `service/sharing.py`.

It reads what to do from standard input and ends with it.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from zit_app.core import paths
from zit_app.core.lean import importing
from zit_app.core.quiet import quiet

CONNECTIONS = 200  # at once; more are turned away
LOOK_SECONDS = 1.0  # between two looks at the tunnel
Tell = Callable[..., None]


def main() -> None:
    """Serve until standard input ends."""
    quiet()
    asked = json.loads(sys.stdin.readline())
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may print; the channel is for the owner's app

    def tell(**said: Any) -> None:
        print(json.dumps(said), file=channel, flush=True)

    serve(asked, sys.stdin, tell)


def serve(asked: dict[str, Any], until: TextIO, tell: Tell) -> None:
    """Serve the guest app of `asked` (host, port, password, tunnel) until `until` ends."""
    with importing():
        import uvicorn

        from zit_app.ui.guest import build
        from zit_app.ui.guest_gate import GuestGate
        from zit_app.ui.mount import mounted

    app = mounted(build, asked["host"], asked["port"], show_error=False)
    gate = GuestGate(app, asked["password"], asked["port"], asked["tunnel"])
    config = uvicorn.Config(
        gate,
        host=asked["host"],
        port=asked["port"],
        log_level="warning",
        proxy_headers=False,  # the gate decides itself whom to believe
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)

    def wait_for_the_end() -> None:
        while until.read(1024):
            pass
        end_tunnels()
        server.should_exit = True

    def announce() -> None:
        while not server.started:
            time.sleep(0.05)
        tell(open=True)
        if asked["tunnel"]:
            follow_tunnel(asked["port"], tell)

    for work in (wait_for_the_end, announce):
        threading.Thread(target=work, daemon=True).start()
    server.run()
    end_tunnels()


def follow_tunnel(port: int, tell: Tell) -> None:
    """Open the tunnel, say where it leads or why there is none, and say when it ends."""
    import httpx
    from gradio import networking, tunneling
    from gradio.exceptions import ChecksumMismatchError

    os.chdir(paths.home())  # Gradio writes the tunnel's certificate into the current folder
    try:
        address = networking.setup_tunnel("127.0.0.1", port, f"zit{os.urandom(8).hex()}", None, None)
    except Exception as error:
        print(f"No tunnel: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if isinstance(error, httpx.HTTPError | ChecksumMismatchError):
            reason = "download"  # the tunnel's program did not come, or not whole
        elif isinstance(error, OSError):
            reason = "blocked"  # it is here and may not run, as when a virus scanner took it
        else:
            reason = "unreachable"
        tell(no_tunnel=reason)
        return
    tell(tunnel=f"{address.rstrip('/')}/")
    process = tunneling.CURRENT_TUNNELS[-1].proc
    while process is not None and process.poll() is None:
        time.sleep(LOOK_SECONDS)
    tell(tunnel="", no_tunnel="ended")


def end_tunnels() -> None:
    """End the tunnel's process; Gradio leaves it running when a server is closed."""
    tunneling = sys.modules.get("gradio.tunneling")
    for tunnel in tunneling.CURRENT_TUNNELS if tunneling else ():
        tunnel.kill()


if __name__ == "__main__":
    main()
