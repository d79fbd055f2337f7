"""`zit bench attention`: the installed ways to compute attention, how fast and how exact they are on this machine."""

import argparse
from collections.abc import Callable
from typing import Any

from zit_app.core.attention import BACK_ENDS
from zit_app.core.flags import usage
from zit_app.core.generate_settings import parse_size
from zit_app.core.progress import Progress
from zit_app.core.workers import card_for_command


def bench_attention_command(arguments: argparse.Namespace) -> None:
    """Measure the installed ways to compute attention on one layer of Z-Image."""
    from zit_app.model.attention import choose, measure
    from zit_app.model.loading import default_device, default_dtype

    progress = Progress(as_json=arguments.json)
    width, height = arguments.size
    tokens = width * height // 256
    with card_for_command(None, progress.note):
        device = default_device()
        dtype = default_dtype(device)
        found, failed = measure(device, dtype, tokens)
        chosen = choose("auto", device, dtype)
    lines = [f"one layer, {tokens} tokens of {width}x{height} pixels, {str(dtype).removeprefix('torch.')}"]
    lines += [
        f"{one.name:<18} {one.seconds * 1000:9.2f} ms   error {one.error:.1e}"
        f"{'' if BACK_ENDS[one.name].exact else '   not exact'}{'   = auto' if one.name == chosen else ''}"
        for one in found
    ]
    lines += [f"{name:<18} {why}" for name, why in failed]
    progress.result("\n".join(lines), auto=chosen, tokens=tokens, measured=[vars(one) for one in found], failed=failed)


def add(command: Callable[..., Any], among: Any) -> None:
    """Register the command in the group `bench`; ``command(function, name, among)`` is the parser's."""
    parser = command(bench_attention_command, "attention", among)
    parser.add_argument(
        "--size", metavar="WxH", type=usage(parse_size), default=(1024, 1024), help="pixels (default: 1024x1024)"
    )
