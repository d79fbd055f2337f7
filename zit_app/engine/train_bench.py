"""What a training step of ours costs beside a bare PyTorch loop, in one run, step by step in turns.

Both train the same LoRA on the same transformer with the same forward pass and optimizer. The bare loop holds its
latents and captions in memory and does what no loop can do without: noise, forward, mean squared error, backward, clip,
AdamW. Whatever ours adds, sampling at nodes, reading the cache, records, metrics, progress, control file, is overhead.

B batch, C latent channels, H and W latent pixels.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zit_app.core.paths import assets
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import (
    AcrfSettings,
    DatasetSettings,
    TrainingSettings,
    TrainJob,
    TrainSettings,
    job_toml,
)
from zit_app.engine.cache import build_cache
from zit_app.engine.cache_bench import Clock
from zit_app.engine.parallel import new_accelerator
from zit_app.engine.preparation import prepare
from zit_app.engine.train import take_steps
from zit_app.engine.work import Work
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import find_model

PLAIN = "standard"  # all further terms off: what the bare loop computes
MODES: dict[str, AcrfSettings] = {
    PLAIN: AcrfSettings(),
    "standard + cos + FFT": AcrfSettings(base="charbonnier", lambda_cos=0.1, lambda_fft=0.1),
    "frequency": AcrfSettings(loss_mode="frequency"),
    "style": AcrfSettings(loss_mode="style"),
    "unified": AcrfSettings(loss_mode="unified"),
}
TURN = 4  # steps of a mode in a row


@dataclass
class Pairs:
    """Steps of one mode and the bare steps between them."""

    ours: list[Clock] = field(default_factory=list)
    bare: list[Clock] = field(default_factory=list)

    def ratio(self, clock: str) -> float:
        """Median over the steps of ours over the bare one on the same pictures, by ``seconds`` or ``processor``."""
        both = zip(self.ours, self.bare, strict=True)
        return float(median(getattr(ours, clock) / getattr(bare, clock) for ours, bare in both))


def bench_train(
    model: str, steps: int, batch_size: int, resolution: int, compute: str, progress: Progress
) -> dict[str, Any]:
    """Seconds a step of the bare loop and of ours in every mode, and their ratios.

    ``steps`` of each mode are measured; modes take turns of four steps.
    """
    turns = max(1, -(-steps // TURN))
    training = TrainingSettings(
        optimizer="adamw",
        gradient_accumulation_steps=1,
        lr_warmup_steps=0,
        caption_dropout=0.0,  # an empty caption is a shorter step
        health_every=0,
        compute=compute,
    )
    settings = TrainSettings(
        training=replace(training, max_steps=turns * len(MODES) * (TURN + 1)),
        dataset=DatasetSettings(resolution=resolution, batch_size=batch_size),
    )
    pairs = {name: Pairs() for name in MODES}
    with TemporaryDirectory() as folder:
        dataset = Path(folder, "pictures")
        shutil.copytree(assets() / "demo" / "pictures", dataset)
        cache = build_cache(dataset, model, resolution, progress=Progress())
        run = Run.create("train", "bench", job_toml(settings, TrainJob(model, str(dataset))), Path(folder, "run"))
        work, state = prepare(settings, "", cache, find_model(model), new_accelerator(compute), Progress())
        bare = _bare_loop(work, state.transformer)
        progress.stage(f"{turns * TURN} steps of each of {len(MODES)} losses, bare steps between them")
        with run.working():
            for turn in range(turns):
                for number, (name, acrf) in enumerate(MODES.items()):
                    last = state.step + TURN + 1
                    mode = replace(work, settings=replace(settings, acrf=acrf), steps=last, batches=last)
                    take_steps(mode, state, run, _InTurns(run, bare, pairs[name]))
                    progress.step(turn * len(MODES) + number + 1, turns * len(MODES))
    every = [clock for pair in pairs.values() for clock in pair.bare]
    return {
        "model": model,
        "device": str(work.device),
        "format": str(work.dtype).removeprefix("torch."),
        "pixels": cache.resolution,
        "batch_size": batch_size,
        "steps": turns * TURN,
        "bare": median(clock.seconds for clock in every),
        "modes": {
            name: {
                "seconds": median(clock.seconds for clock in pair.ours),
                "over_bare": pair.ratio("seconds"),
                "over_bare_processor": pair.ratio("processor"),
                "over_plain": pair.ratio("seconds") / pairs[PLAIN].ratio("seconds"),
                "over_plain_processor": pair.ratio("processor") / pairs[PLAIN].ratio("processor"),
            }
            for name, pair in pairs.items()
        },
    }


class _InTurns(Progress):
    """After every step of ours a bare one. From the end of one to the begin of the next is a whole step of ours."""

    def __init__(self, run: Run, bare: Iterator[None], pairs: Pairs) -> None:
        super().__init__(run)
        self._bare, self._pairs, self._begun = bare, pairs, None

    _begun: Clock | None

    def stage(self, text: str) -> None:
        """The stage is told once, by the bench."""

    def step(self, done: int, total: int, **figures: float) -> None:
        """Measured: ours since the last bare step (the first of a turn only warms up), then a bare one."""
        super().step(done, total, **figures)
        now = _now()
        if self._begun is not None:
            self._pairs.ours.append(now - self._begun)
        next(self._bare)
        after = _now()
        if self._begun is not None:
            self._pairs.bare.append(after - now)
        self._begun = after

    def _show(self, done: int, total: int, figures: dict[str, float], left: float | None) -> None:
        """Nothing: the bench has a line of its own."""


def _bare_loop(work: Work, transformer: Any) -> Iterator[None]:
    """One training step each time it is asked, on the pictures that ours has just been trained on."""
    weights = [weight for weight in transformer.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-6, weight_decay=0.0)
    pictures = [work.load([sample], [False]) for sample in work.cache.samples]
    low_precision = work.dtype == torch.bfloat16
    for batch in work.order.stream(0):
        x0_BCHW, caps = torch.cat([pictures[i][0] for i in batch]), [pictures[i][1][0] for i in batch]
        noise_BCHW = torch.randn_like(x0_BCHW)
        sigma_B = torch.rand(len(x0_BCHW), device=work.device)
        sigma_B111: Tensor = sigma_B.view(-1, 1, 1, 1)
        x_BCHW = (1 - sigma_B111) * x0_BCHW + sigma_B111 * noise_BCHW
        with torch.autocast(work.device.type, torch.bfloat16, enabled=low_precision):
            v_BCHW = predict_velocity(transformer, x_BCHW, sigma_B, caps)
        F.mse_loss(v_BCHW, noise_BCHW - x0_BCHW).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield


def _now() -> Clock:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Clock.now()
