"""What the untrained model does with prompts that have nothing to do with the data set, recorded before training.

The replay buffer of the AC-RF documents in both of its readings: the states that the model itself visits at the nodes
on its way, with its velocity there, and the pictures that it draws. Training may be held to the former (tether), mix
in the latter (prior preservation), and its health is measured against both.

M prompts, N nodes, C latent channels, H and W latent pixels, L tokens, D caption width.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from torch import Tensor

from zit_app.core.progress import Progress
from zit_app.core.train_settings import TrainSettings
from zit_app.data.formats import Size
from zit_app.data.prompts import read_prompts, shipped_prompts, unrelated
from zit_app.engine.recognition import recognised
from zit_app.flow.solvers import euler
from zit_app.model.draw import noise_for
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import read_flavour

FEW = 8  # prompts that are enough to see health
FIRST_SEED = 1000
TOGETHER = 4  # pictures drawn at once


@dataclass(frozen=True)
class Frozen:
    """M prompts as the untrained model draws them, all on the CPU."""

    caps: list[Tensor]  # (L, D) each
    seeds: list[int]
    sigma_N: Tensor
    x_MNCHW: Tensor  # states on the way, before the call at each node
    v_MNCHW: Tensor  # its answers there
    x0_MCHW: Tensor  # where it arrives
    recall: float = 0.0  # the share of the first few pictures in which it recognises their prompts; 0 where nobody asks


def prompts_wanted(settings: TrainSettings) -> int:
    """How many unrelated prompts this training needs."""
    training = settings.training
    watched = FEW if training.health_every else 0
    return max(watched, training.unrelated_count) if training.asks_unrelated else watched


def unrelated_prompts(settings: TrainSettings, captions: Iterable[str], own: Iterable[str], model: Path) -> list[str]:
    """The prompts, none of which has to do with the captions that are learnt, nor asks for what own pictures show.

    Raises ZitError when the file of prompts cannot be read.
    """
    count, named = prompts_wanted(settings), settings.training.unrelated_prompts
    if not count:
        return []
    known = read_prompts(shipped_prompts(read_flavour(model).pixels, named))
    return unrelated(known, captions, own)[:count]


def passes(prompts: int, nodes: int, guidance: float) -> int:
    """Forward passes that `watch` makes."""
    return math.ceil(prompts / TOGETHER) * nodes * (2 if guidance else 1)


def watch(
    transformer: ZImageTransformer2DModel,
    caps: list[Tensor],
    empty: Tensor,
    seeds: Sequence[int],
    size: Size,
    nodes_N: Tensor,
    guidance: float,
    progress: Progress,
    stage: str,
) -> Frozen:
    """Draw every prompt at its own seed through the nodes, in a size in pixels, and record states and answers.

    With guidance the states are those of the guided way, the answers the model's own to the prompt.
    """
    progress.stage(stage)
    device = transformer.device
    states: list[Tensor] = []
    answers: list[Tensor] = []
    ends: list[Tensor] = []
    for at in range(0, len(caps), TOGETHER):
        own = [cap.to(device) for cap in caps[at : at + TOGETHER]]
        neither = [empty.to(device)] * len(own)
        seen: list[tuple[Tensor, Tensor]] = []

        def velocity(x: Tensor, sigma: Tensor, step: int) -> Tensor:
            v = predict_velocity(transformer, x, sigma.expand(len(x)), own)  # noqa: B023  # called within this turn
            seen.append((x.cpu(), v.cpu()))  # noqa: B023
            progress.step(at * len(nodes_N) + len(seen) * len(own), len(caps) * len(nodes_N))  # noqa: B023
            if not guidance:
                return v
            return v + guidance * (v - predict_velocity(transformer, x, sigma.expand(len(x)), neither))  # noqa: B023

        noise = noise_for(seeds[at : at + TOGETHER], transformer.in_channels, size)
        with torch.no_grad():
            ends.append(euler(velocity, noise.to(device), nodes_N).cpu())
        states.append(torch.stack([x for x, _ in seen], 1))
        answers.append(torch.stack([v for _, v in seen], 1))
    return Frozen(caps, list(seeds), nodes_N.float(), torch.cat(states), torch.cat(answers), torch.cat(ends))


def with_recall(frozen: Frozen, transformer: ZImageTransformer2DModel) -> Frozen:
    """How well the untrained model recognises what it drew, for the health curves."""
    return replace(frozen, recall=recognised(transformer, frozen.x0_MCHW[:FEW], frozen.caps[:FEW]))


def frozen_states(frozen: Frozen, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """States (K, C, H, W), noise levels (K,), the untrained model's velocities there, and captions."""
    rows, columns = zip(*pairs, strict=True)
    picked = (list(rows), list(columns))
    return (
        frozen.x_MNCHW[picked],
        frozen.sigma_N[list(columns)],
        frozen.v_MNCHW[picked],
        [frozen.caps[row] for row in rows],
    )
