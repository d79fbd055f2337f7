"""`zit bench train`: what a training step costs beside a bare PyTorch loop, and what the losses add."""

import argparse
from collections.abc import Callable
from typing import Any

from zit_app.commands.words import model_flag
from zit_app.core.progress import Progress
from zit_app.core.workers import card_for_command


def bench_train_command(arguments: argparse.Namespace) -> None:
    """Measure a training step beside a bare PyTorch loop on the same LoRA."""
    from zit_app.engine.train_bench import bench_train

    progress = Progress(as_json=arguments.json)
    with card_for_command(None, progress.note):
        found = bench_train(
            arguments.model or "pocket",
            arguments.steps,
            arguments.batch_size,
            arguments.resolution,
            arguments.compute,
            progress,
        )
    lines = [
        f"{found['model']}, {found['pixels']} pixels, batch {found['batch_size']}, {found['format']} on"
        f" {found['device']}: a bare step takes {found['bare']:.3f} s (medians; by processor time in brackets)"
    ]
    for name, one in found["modes"].items():
        bare, plain = (
            f"{one[f'over_{other}']:.3f} ({one[f'over_{other}_processor']:.3f})" for other in ("bare", "plain")
        )
        lines.append(f"{name:<22} bare × {bare}   standard × {plain}")
    progress.result("\n".join(lines), **found)


def add(command: Callable[..., Any], among: Any) -> None:
    """Register the command in the group `bench`; ``command(function, name, among)`` is the parser's."""
    parser = command(bench_train_command, "train", among)
    model_flag(parser, required=False)
    parser.add_argument("--steps", type=int, default=24, help="steps measured of each loss (default: 24)")
    parser.add_argument("--batch-size", type=int, default=4, help="pictures a step (default: 4)")
    parser.add_argument("--resolution", type=int, default=0, help="pixels; 0 = the model's own")
    parser.add_argument(
        "--compute", choices=("auto", "bf16", "fp32"), default="auto", help="number format; auto = bf16 on a card"
    )
