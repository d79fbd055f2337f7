"""What one batch adds to a training step: its draws and its losses, by the settings.

Draws are made for the whole batch in every process; losses are computed for the process's share of it. Each term is
given out by itself, so that its gradients are taken before the next one needs memory.
B batch, S share of it, K states, C latent channels, H and W latent pixels, N nodes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zit_app.engine.checkpoints import TrainState
from zit_app.engine.frozen import frozen_states
from zit_app.engine.objective import TETHER_DELTA, at_nodes, frozen_velocity, sample_losses, tether_losses
from zit_app.engine.parallel import own_share
from zit_app.engine.work import Work
from zit_app.flow.curvature import curvature
from zit_app.flow.losses import huber, masked
from zit_app.flow.schedule import noisy, velocity
from zit_app.flow.weights import min_snr
from zit_app.model.draw import PIXELS_PER_LATENT
from zit_app.model.forward import predict_velocity

# A summed loss, and for the records (2, B): noise levels and losses before any weight. Both stay on the device, where
# a step fetches them once: every earlier look would make the card wait for the processor.
Term = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Draws:
    """All that is random about a batch, on the CPU, so that it is the same everywhere."""

    sigma_B: Tensor
    noise_BCHW: Tensor
    dropped: list[bool]  # whose caption is left out
    chances_2B: Tensor  # on ways of the model's own: how far a state is moved, and which of them it is


def batch_terms(work: Work, state: TrainState, batch: Sequence[int], number: int) -> Iterator[Term]:
    """The terms of batch ``number``: AC-RF on its pictures; states and pictures of the untrained model; curvature.

    Losses are summed over this process's share; what another process computes is 0 in the records.
    """
    training, acrf = work.settings.training, work.settings.acrf
    draws = draw(work, state, batch)
    yield picture_term(work, state, batch, draws)
    if work.held_to is not None and work.settings.training.tethered:
        yield from _unrelated_states(work, state, _times(len(batch), training.tether_unrelated, state))
    if work.held_to is not None and training.replay:
        yield from _replayed_pictures(work, state, _times(len(batch), training.replay, state))
    due = acrf.curvature and number % acrf.curvature_every == 0 and state.step >= acrf.curvature_start * work.steps
    if due:
        first = int(torch.randint(len(work.nodes_N) - 2, (), generator=state.generator))
        yield from _bend(work, state, batch, draws, first)


def draw(work: Work, state: TrainState, batch: Sequence[int]) -> Draws:
    """The randomness of the batch's pictures, from the one generator."""
    count, generator = len(batch), state.generator
    dropped = (torch.rand(count, generator=generator) < work.settings.training.caption_dropout).tolist()
    sigma_B = state.sampler.draw(count, generator)
    chances_2B = torch.ones(2, count)
    if work.ways is not None:
        sigma_B, chances_2B = work.ways.nearest(sigma_B), torch.rand(2, count, generator=generator)
    width, height = (side // PIXELS_PER_LATENT for side in work.cache.samples[batch[0]].size)
    noise_BCHW = torch.randn(count, state.transformer.in_channels, height, width, generator=generator)
    return Draws(sigma_B, noise_BCHW, dropped, chances_2B)


def picture_term(work: Work, state: TrainState, batch: Sequence[int], draws: Draws) -> Term:
    """w(σ) d(v, n - x0) at x = (1 - σ) x0 + σ n, and tether · Huber(v, v_untrained) where σ is at a node.

    On the model's own ways x0 and n are those of a recorded state (`engine/ways.py`).
    """
    acrf, training, share = work.settings.acrf, work.settings.training, own_share(work.accelerator, len(batch))
    tethered = training.tethers_pictures
    seen_2B = torch.zeros(2, len(batch), device=work.device)
    if not batch[share]:
        return torch.zeros((), device=work.device), seen_2B
    x0_SCHW, noise_SCHW, sigma_S, caps = _share(work, batch, draws, share)
    if work.ways is not None:
        samples, (far_S, which_S) = [work.cache.samples[i] for i in batch[share]], draws.chances_2B[:, share]
        x0_SCHW, noise_SCHW = work.ways.redirected(samples, x0_SCHW, draws.sigma_B[share], far_S, which_S)
    x_SCHW = noisy(x0_SCHW, noise_SCHW, sigma_S)
    with work.accelerator.autocast():
        if tethered:
            held = at_nodes(draws.sigma_B[share], work.nodes_N, state.sampler.reach_K)
            frozen_MCHW = frozen_velocity(state.transformer, x_SCHW, sigma_S, caps, held)
        v_SCHW = predict_velocity(state.transformer, x_SCHW, sigma_S, caps)
    compared_SCHW = v_SCHW
    if work.masks is not None:
        mask_S1HW = work.masks.load([work.cache.samples[i] for i in batch[share]]).to(v_SCHW)
        compared_SCHW = masked(v_SCHW, velocity(x0_SCHW, noise_SCHW), mask_S1HW)
    plain_S = sample_losses(acrf, compared_SCHW, x_SCHW, x0_SCHW, noise_SCHW, sigma_S, work.lab)
    losses_S = min_snr(sigma_S, acrf.snr_gamma) * plain_S
    if tethered:
        losses_S = losses_S + training.tether * tether_losses(v_SCHW, held, frozen_MCHW)
    seen_2B[:, share] = torch.stack([sigma_S, plain_S.detach()])
    return losses_S.sum(), seen_2B


def by_node(sigma: Sequence[float], losses: Sequence[float], nodes_N: Tensor) -> dict[str, float]:
    """Mean loss at each node that was visited (the nearest to a picture's sigma), keyed by its sigma."""
    found: dict[str, list[float]] = {}
    for own, loss in zip(sigma, losses, strict=True):
        nearest = min(nodes_N.tolist(), key=lambda node: abs(node - own))
        found.setdefault(f"{nearest:.4f}", []).append(loss)
    return {node: sum(each) / len(each) for node, each in sorted(found.items(), reverse=True)}


def _share(work: Work, batch: Sequence[int], draws: Draws, share: slice) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Clean latents, noise, noise levels and captions of this process's pictures, on its device."""
    x0_SCHW, caps = work.load([work.cache.samples[i] for i in batch[share]], draws.dropped[share])
    return x0_SCHW, draws.noise_BCHW[share].to(work.device), draws.sigma_B[share].to(work.device), caps


def _times(pictures: int, ratio: float, state: TrainState) -> int:
    """``pictures · ratio``, its fraction by chance."""
    return int(pictures * ratio + torch.rand((), generator=state.generator).item())


def _unrecorded(work: Work) -> Tensor:
    """The records of a term that is not about the pictures of the batch."""
    return torch.zeros(2, 0, device=work.device)


def _unrelated_states(work: Work, state: TrainState, count: int) -> Iterator[Term]:
    """tether · Huber(v, v_untrained) on states that the untrained model visits on its way from unrelated prompts."""
    assert work.held_to is not None
    generator = state.generator
    rows = torch.randint(len(work.held_to.caps), (count,), generator=generator).tolist()
    columns = torch.randint(len(work.nodes_N), (count,), generator=generator).tolist()
    pairs = list(zip(rows, columns, strict=True))[own_share(work.accelerator, count)]
    if not pairs:
        return
    x_KCHW, sigma_K, frozen_KCHW, caps = frozen_states(work.held_to, pairs)
    with state.as_held():  # until the gradients are taken: checkpointing computes the forward pass again
        with work.accelerator.autocast():
            own_caps = [cap.to(work.device) for cap in caps]
            v_KCHW = predict_velocity(state.transformer, x_KCHW.to(work.device), sigma_K.to(work.device), own_caps)
        losses_K = huber(v_KCHW, frozen_KCHW.to(v_KCHW), TETHER_DELTA)
        yield work.settings.training.tether * losses_K.sum(), _unrecorded(work)


def _replayed_pictures(work: Work, state: TrainState, count: int) -> Iterator[Term]:
    """The training's own loss on pictures that the untrained model drew: prior preservation."""
    assert work.held_to is not None
    acrf, generator, frozen = work.settings.acrf, state.generator, work.held_to
    rows = torch.randint(len(frozen.caps), (count,), generator=generator).tolist()
    sigma_K = state.sampler.draw(count, generator)
    noise_KCHW = torch.randn(count, *frozen.x0_MCHW.shape[1:], generator=generator)
    share = own_share(work.accelerator, count)
    if not rows[share]:
        return
    x0, noise, sigma = (t.to(work.device) for t in (frozen.x0_MCHW[rows[share]], noise_KCHW[share], sigma_K[share]))
    x = noisy(x0, noise, sigma)
    with work.accelerator.autocast():
        v = predict_velocity(state.transformer, x, sigma, [frozen.caps[row].to(work.device) for row in rows[share]])
    losses_K = min_snr(sigma, acrf.snr_gamma) * sample_losses(acrf, v, x, x0, noise, sigma, work.lab)
    yield losses_K.sum(), _unrecorded(work)


def _bend(work: Work, state: TrainState, batch: Sequence[int], draws: Draws, first: int) -> Iterator[Term]:
    """curvature · second difference² of the velocity at three nodes from ``first`` on, along the model's own steps."""
    share = own_share(work.accelerator, len(batch))
    if not batch[share]:
        return
    x0, noise, _, caps = _share(work, batch, draws, share)
    sigmas = (work.nodes_N[first].item(), work.nodes_N[first + 1].item(), work.nodes_N[first + 2].item())
    level = [torch.full((len(x0),), sigma, device=work.device) for sigma in sigmas]
    with state.unguarded():
        with work.accelerator.autocast():
            x = noisy(x0, noise, level[0])
            with torch.no_grad():
                before = predict_velocity(state.transformer, x, level[0], caps)
            x = x + (sigmas[1] - sigmas[0]) * before
            here = predict_velocity(state.transformer, x, level[1], caps)
            x = x + (sigmas[2] - sigmas[1]) * here.detach()
            with torch.no_grad():
                after = predict_velocity(state.transformer, x, level[2], caps)
        yield work.settings.acrf.curvature * curvature(before, here, after, sigmas).sum(), _unrecorded(work)
