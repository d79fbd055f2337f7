"""Solvers of the flow equation ``dx/dsigma = v(x, sigma)``, from the first sigma down to 0.

``velocity(x, sigma, i)`` gets a scalar float32 tensor and the step's index. ``sigmas`` (N,) has no closing 0.
``callback(i, x)`` sees x after step i; when it returns true the run stops and x is returned as it stands.
"""

from collections.abc import Callable

import torch

VelocityFn = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
StepCallback = Callable[[int, torch.Tensor], bool | None]
Solver = Callable[[VelocityFn, torch.Tensor, torch.Tensor, StepCallback | None], torch.Tensor]


def euler(
    velocity: VelocityFn, x: torch.Tensor, sigmas: torch.Tensor, callback: StepCallback | None = None
) -> torch.Tensor:
    """``x ← x + (sigma_next - sigma) v(x, sigma)``. First order, N calls. What diffusers' scheduler does."""
    path = _path(sigmas, x)
    for i in range(len(sigmas)):
        x = x + (path[i + 1] - path[i]) * velocity(x, path[i], i)
        if callback is not None and callback(i, x):
            break
    return x


def heun(
    velocity: VelocityFn, x: torch.Tensor, sigmas: torch.Tensor, callback: StepCallback | None = None
) -> torch.Tensor:
    """Euler's step, then the mean of the velocities at both of its ends; the last step, to 0, stays Euler's.

    Second order, 2 N - 1 calls. Karras et al. 2022, algorithm 1 without its noise.
    """
    path = _path(sigmas, x)
    for i in range(len(sigmas)):
        step = path[i + 1] - path[i]
        v = velocity(x, path[i], i)
        if path[i + 1] > 0:
            v = (v + velocity(x + step * v, path[i + 1], i)) / 2
        x = x + step * v
        if callback is not None and callback(i, x):
            break
    return x


def dpmpp_2m(
    velocity: VelocityFn, x: torch.Tensor, sigmas: torch.Tensor, callback: StepCallback | None = None
) -> torch.Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2, for a flow. Second order, N calls.

    With ``a = 1 - s``, ``l = log(a / s)``, ``h = l_next - l`` and ``x0 = x - s v`` it goes
    ``x ← (s_next / s) x + (a_next - a s_next / s) D``, ``D = x0 + h / (2 h_before) (x0 - x0_before)``. The paper's
    ``-a_next (exp(-h) - 1)`` is written out, since l is infinite at both ends; there, and in the first step, D = x0.
    """
    path = _path(sigmas, x)
    rise = ((1 - path) / path).log()
    before = torch.zeros_like(x)
    for i in range(len(sigmas)):
        now, after = path[i], path[i + 1]
        x0 = x - now * velocity(x, now, i)
        lean = (rise[i + 1] - rise[i]) / (rise[i] - rise[i - 1]) / 2 if i and after > 0 else torch.zeros(())
        clean = x0 + lean.to(x) * (x0 - before)
        x = (after / now) * x + ((1 - after) - (1 - now) * after / now) * clean
        before = x0
        if callback is not None and callback(i, x):
            break
    return x


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun, "dpm++2m": dpmpp_2m}


def _path(sigmas: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([sigmas.float(), torch.zeros(1)]).to(x.device)
