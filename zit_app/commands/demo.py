"""`zit demo`: a LoRA trained on the embedded model, before and after."""

import argparse
from collections.abc import Callable
from typing import Any

from zit_app.commands.words import STOPPED
from zit_app.core.lean import importing
from zit_app.core.progress import Progress
from zit_app.core.workers import card_for_command


def demo_command(arguments: argparse.Namespace) -> int:
    """Train a LoRA on 24 pictures with the pocket model and draw before and after."""
    with importing():
        from zit_app.engine.demo import run_demo

    with card_for_command(None, Progress(as_json=arguments.json).note):
        files = run_demo(arguments.json)
    words = f"Before and after: {files['picture']}" if "picture" in files else f"Stopped: {files['run']}"
    Progress(as_json=arguments.json).result(words, **files)
    return 0 if "picture" in files else STOPPED


def add(command: Callable[..., Any]) -> None:
    """Register the command; ``command(function, name)`` is the parser's."""
    command(demo_command, "demo")
