"""`zit serve`: pictures over HTTP, for programs."""

import argparse
import os
from collections.abc import Callable
from typing import Any

from zit_app.core.flags import WrongUsage
from zit_app.core.progress import Progress

PORT = 9398


def serve_command(arguments: argparse.Namespace) -> None:
    """Draw for programs: POST /generate, POST /v1/images/generations, GET /health."""
    password = arguments.password or os.environ.get("ZIT_PASSWORD", "")
    if arguments.listen and not password:
        raise WrongUsage("zit serve --listen needs a password: --password or ZIT_PASSWORD, at least 12 letters.")

    from zit_app.service.sharing import check_password
    from zit_app.ui.api_server import serve

    check_password(password)
    progress = Progress(as_json=arguments.json)

    def announce(address: str) -> None:
        words = f"ZIT Studio serves at {address} (end it with Ctrl-C)."
        progress.result(words, address=address, password=bool(password))

    serve(arguments.port, arguments.listen, password, arguments.model, announce)


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    added = command(serve_command, "serve")
    added.add_argument("--port", type=int, default=PORT, help=f"port (default: {PORT}); 0 = any free one")
    added.add_argument(
        "--model", metavar="M", default="", help="for requests that name none (default: turbo, else pocket)"
    )
    added.add_argument("--listen", action="store_true", help="also for other machines; needs a password")
    added.add_argument("--password", default="", help="asked as Bearer token; or ZIT_PASSWORD, which others cannot see")
