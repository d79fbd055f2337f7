"""`zit doctor`: one page about this machine."""

import argparse
from collections.abc import Callable
from typing import Any

from zit_app.commands.words import FAILED
from zit_app.core.progress import Progress


def doctor_command(arguments: argparse.Namespace) -> int:
    """Examine this machine."""
    from zit_app.service.doctor import examine, page

    checks = examine()
    healthy = all(one.remedy == "" for one in checks)
    Progress(as_json=arguments.json).result(page(checks), ok=healthy, checks=[vars(one) for one in checks])
    return 0 if healthy else FAILED


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    command(doctor_command, "doctor")
