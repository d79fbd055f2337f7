"""`zit update` and `zit shortcut`: the program itself on this machine."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from zit_app.core.progress import Progress


def update_command(arguments: argparse.Namespace) -> None:
    """Show what is new, ask, and take it; only forward, and never over edited files."""
    from zit_app.service import update

    progress = Progress(as_json=arguments.json)
    news = update.look()
    if not news:
        progress.result("This is the newest version.", news=[], updated=False)
        return
    progress.note("\n".join(["What is new:", *(f"  {title}" for title in news)]))
    wanted = arguments.yes or (sys.stdin.isatty() and _asked(f"Take {len(news)} changes? [y/N] "))
    if wanted:
        update.take()
        words = "Updated; the next start brings the packages up to date."
    else:
        words = "Nothing was changed; zit update --yes takes it."
    progress.result(words, news=news, updated=wanted)


def shortcut_command(arguments: argparse.Namespace) -> None:
    """Put an icon on the desktop that opens the app."""
    from zit_app.service import shortcut

    file = shortcut.create()
    Progress(as_json=arguments.json).result(f"Made: {file}", file=file)


def add(command: Callable[..., Any]) -> None:
    """Register the commands; ``command(function, name)`` is the parser's."""
    added = command(update_command, "update")
    added.add_argument("--yes", action="store_true", help="take it without asking")
    command(shortcut_command, "shortcut")


def _asked(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)  # standard output belongs to the result
    return sys.stdin.readline().strip().lower() in ("y", "yes")
