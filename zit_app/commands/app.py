"""`zit app`: the app in the browser."""

import argparse
import os
from collections.abc import Callable
from typing import Any

from zit_app.core.flags import WrongUsage


def app_command(arguments: argparse.Namespace) -> None:
    """Open the app in the browser (also without any words)."""
    password = arguments.password or os.environ.get("ZIT_PASSWORD", "")
    if arguments.reach == "network" and not password:
        raise WrongUsage("zit app --listen needs a password: --password or ZIT_PASSWORD, at least 12 letters.")
    if arguments.password and not arguments.reach:
        raise WrongUsage("zit app: a password is for --listen or --share; the app itself is open on this machine only.")

    from zit_app.service.sharing import check_password
    from zit_app.ui.launch import launch

    check_password(password)
    launch(arguments.port, arguments.browser, arguments.reach, password)


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    parser = command(app_command, "app")
    parser.add_argument("--port", type=int, default=9198, help="port on this machine (default: 9198)")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="serve without opening a page")
    reach = parser.add_mutually_exclusive_group()
    for flag, value, about in (
        ("--listen", "network", "open the guest page (draw and compare) on this network; needs a password"),
        ("--share", "internet", "open the guest page by a link on the internet; makes a password unless one is given"),
    ):
        reach.add_argument(flag, dest="reach", action="store_const", const=value, help=about)
    parser.add_argument("--password", default="", help="of the guest page; or ZIT_PASSWORD, which others cannot see")
