"""Solvers: the order of their error on a flow with a known solution, and diffusers' own formulas."""

import math

import pytest
import torch

from zit_app.flow.schedule import nodes, unshifted
from zit_app.flow.solvers import SOLVERS, dpmpp_2m, euler

MEAN, SPREAD = 0.7, 0.3


def velocity(x: torch.Tensor, sigma: torch.Tensor, _: int) -> torch.Tensor:
    """The true velocity when clean values are N(MEAN, SPREAD²): d/dsigma of ``solution`` below."""
    s = sigma.double()
    spread = ((1 - s) ** 2 * SPREAD**2 + s**2).sqrt()
    return -MEAN + (s - (1 - s) * SPREAD**2) / spread**2 * (x - (1 - s) * MEAN)


def solution(z: torch.Tensor, sigma: float) -> torch.Tensor:
    return (1 - sigma) * MEAN + math.sqrt((1 - sigma) ** 2 * SPREAD**2 + sigma**2) * z


def error(name: str, sigmas: torch.Tensor) -> float:
    z = torch.tensor([-1.5, 0.4, 2.0], dtype=torch.float64)
    found = SOLVERS[name](velocity, solution(z, 1.0), sigmas, None)
    return (found - solution(z, 0.0)).abs().max().item()


@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2), ("dpm++2m", 2)])
def test_the_error_falls_with_the_order_of_the_method(name: str, order: int) -> None:
    """DPM-Solver's falls with N^-2 log N, as its steps in log-SNR stay as large as ever near both ends."""
    measured = math.log2(error(name, unshifted(256)) / error(name, unshifted(1024))) / 2
    assert abs(measured - order) < 0.3


def test_second_order_is_worth_it() -> None:
    by_euler = error("euler", nodes(32))
    assert error("dpm++2m", nodes(32)) < by_euler / 3
    assert error("heun", nodes(16)) < 2 * by_euler and error("heun", nodes(32)) < error("euler", nodes(63))


def test_dpm_solver_is_that_of_diffusers() -> None:
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=2
    )
    scheduler.set_timesteps(10)
    start = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))

    def model(x: torch.Tensor, sigma: torch.Tensor, _: int = 0) -> torch.Tensor:
        return torch.sin(3 * x) * sigma + x / 2

    expected = start
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        expected = scheduler.step(model(expected, sigma), timestep, expected).prev_sample
    found = dpmpp_2m(model, start, scheduler.sigmas[:-1])
    assert torch.allclose(found, expected, atol=1e-5)


def test_one_step_is_the_same_for_all() -> None:
    x = torch.randn(5, generator=torch.Generator().manual_seed(1))
    by_euler = euler(velocity, x, torch.tensor([1.0]))
    for solver in SOLVERS.values():
        assert torch.allclose(solver(velocity, x, torch.tensor([1.0]), None), by_euler)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_callback_sees_every_step_and_can_end_the_run(name: str) -> None:
    seen: list[int] = []

    def callback(step: int, x: torch.Tensor) -> bool:
        seen.append(step)
        return step == 2

    SOLVERS[name](velocity, torch.ones(1), unshifted(8), callback)
    assert seen == [0, 1, 2]
