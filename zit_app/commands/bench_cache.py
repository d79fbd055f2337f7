"""`zit bench cache`: how fast this machine encodes a dataset, beside the plain loop."""

import argparse
from collections.abc import Callable
from typing import Any

from zit_app.core.progress import Progress
from zit_app.core.workers import card_for_command


def bench_cache_command(arguments: argparse.Namespace) -> None:
    """Measure caching beside a plain loop over vae.encode and encode_prompt."""
    from zit_app.engine.cache_bench import bench_cache

    progress = Progress(as_json=arguments.json)
    with card_for_command(None, progress.note):
        found = bench_cache(arguments.model, arguments.count, arguments.resolution, progress)
    words = (
        f"plain loop {found['plain']:.3f} s a picture, here {found['ours']:.3f} s: {found['faster']:.1f} times as fast"
        f" ({found['faster_processor']:.1f} by processor time);"
        f" a second run over {found['pictures']} unchanged pictures takes {found['second_run']:.2f} s"
    )
    progress.result(words, **found)


def add(command: Callable[..., Any], among: Any) -> None:
    """Register the command in the group `bench`; ``command(function, name, among)`` is the parser's."""
    parser = command(bench_cache_command, "cache", among)
    parser.add_argument("--model", metavar="M", default="pocket", help="model whose encoders are measured")
    parser.add_argument("--count", type=int, default=192, help="pictures (default: 192)")
    parser.add_argument("--resolution", type=int, default=0, help="pixels; 0 = the model's own")
