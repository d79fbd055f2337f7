"""A stack of adapters of any kind: weights, windows of steps, switches, and every format of the base model."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

from tests.adapter_zoo import (
    ATTENTION,
    COMFY,
    DOWN_UP,
    KOHYA,
    LYCORIS,
    MAIN,
    NORMS,
    OUTER,
    Zoo,
    bias_differences,
    differences,
    dora,
    loha,
    lokr,
    lora,
    lora_changes,
    plain,
)
from tests.test_adapter_layouts import velocity
from zit_app.model.adapter_files import Adapter, read_adapter
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.adapters import attach_lora, lora_state
from zit_app.model.precision import block_linears, store_blocks

KINDS: dict[str, Callable[[Zoo], None]] = {
    "lora": lambda zoo: lora(zoo, MAIN, COMFY, alpha=2.0),
    "wide": lambda zoo: lora(zoo, ATTENTION + OUTER, KOHYA, DOWN_UP, alpha=3.0, rank=6),
    "lokr": lambda zoo: plain(zoo, lokr(zoo, MAIN, COMFY, 4)),
    "loha": lambda zoo: plain(zoo, loha(zoo, MAIN, LYCORIS)),
    "dora": lambda zoo: dora(zoo, lora_changes(zoo, MAIN, KOHYA, DOWN_UP, 2.0), KOHYA, ".dora_scale"),
    "columns": lambda zoo: dora(zoo, lora_changes(zoo, OUTER, KOHYA, DOWN_UP, 2.0), KOHYA, ".dora_scale", 0),
    "norms": lambda zoo: differences(zoo, NORMS, COMFY),
    "biases": lambda zoo: bias_differences(zoo, OUTER, COMFY),
}
Member = tuple[Adapter, dict[str, torch.Tensor]]  # the file, and the change of every parameter by the formula


@pytest.fixture(scope="module")
def transformer(tiny_pipeline: ZImagePipeline) -> ZImageTransformer2DModel:
    return copy.deepcopy(tiny_pipeline.transformer)


@pytest.fixture(scope="module")
def members(transformer: ZImageTransformer2DModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Member]:
    weights = {key: value.clone() for key, value in transformer.state_dict().items()}
    found = {}
    for seed, (name, build) in enumerate(KINDS.items()):
        zoo = Zoo(weights, seed)
        build(zoo)
        changes = {key: after - weights[key] for key, after in zoo.after.items()}
        found[name] = (read_adapter(zoo.write(tmp_path_factory.mktemp(name))), changes)
    return found


def merged(transformer: ZImageTransformer2DModel, *shares: tuple[Member, float]) -> ZImageTransformer2DModel:
    """Every adapter changes the bare model; the changes add up."""
    result = copy.deepcopy(transformer)
    weights = dict(result.named_parameters())
    with torch.no_grad():
        for (_, changes), factor in shares:
            for key, change in changes.items():
                weights[key] += factor * change
    return result


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_all_kinds_together_with_any_weights(transformer: ZImageTransformer2DModel, members: dict[str, Member]) -> None:
    weights = dict(zip(KINDS, (0.7, -0.5, 1.3, 0.4, 0.6, -0.3, 1.0, 2.0), strict=True))
    bare = velocity(transformer)
    all_of_them = velocity(merged(transformer, *((members[name], weight) for name, weight in weights.items())))
    two_of_them = velocity(merged(transformer, (members["lokr"], 1.0), (members["norms"], 1.0)))
    stack = apply_adapters(transformer, [(members[name][0], weight, 1, 0) for name, weight in weights.items()])
    close(velocity(transformer), all_of_them)
    stack.set_weights([0.0] * len(weights))
    assert torch.equal(velocity(transformer), bare)
    stack.set_weights([1.0 if name in ("lokr", "norms") else 0.0 for name in weights])
    close(velocity(transformer), two_of_them)
    stack.remove()
    assert torch.equal(velocity(transformer), bare)


def test_every_kind_keeps_to_its_steps(transformer: ZImageTransformer2DModel, members: dict[str, Member]) -> None:
    windows = {"lora": (1, 2), "wide": (3, 0), "lokr": (1, 1), "dora": (2, 3), "norms": (2, 2), "biases": (4, 0)}
    by_step = []
    for step in range(1, 5):
        acting = [name for name, (first, last) in windows.items() if first <= step <= (last or 9)]
        by_step.append(velocity(merged(transformer, *((members[name], 0.8) for name in acting))))
    stack = apply_adapters(transformer, [(members[name][0], 0.8, *window) for name, window in windows.items()])
    for step in (0, 1, 2, 3, 0, 2):  # the second picture begins with the first step again
        stack.set_step(step)
        close(velocity(transformer), by_step[step])
    stack.remove()


def test_one_slot_holds_the_whole_stack(transformer: ZImageTransformer2DModel, members: dict[str, Member]) -> None:
    """Twenty LoRAs are as many products as one: two a layer."""
    calls = 0

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal calls
            calls += function is torch.nn.functional.linear
            return function(*args, **(kwargs or {}))

    counts = []
    for depth in (0, 1, 20):
        stack = apply_adapters(transformer, [(members["lora"][0], 0.05, 1, 0)] * depth)
        calls = 0
        with Counting():
            velocity(transformer)
        counts.append(calls)
        stack.remove()
    assert counts[1] - counts[0] == 2 * len(MAIN) and counts[2] == counts[1]


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4", "int8-quanto"])
def test_on_a_base_of_fewer_bits(transformer: ZImageTransformer2DModel, members: dict[str, Member], kind: str) -> None:
    """What an adapter adds does not depend on how the base is stored; a DoRA rescales the base as it is stored."""
    stored = copy.deepcopy(transformer)
    store_blocks(stored, kind, torch.device("cpu"))
    plain_weights = {}
    for name in block_linears(transformer):
        module = stored.get_submodule(name)
        plain_weights[f"{name}.weight"] = module(torch.eye(module.in_features)).detach().T
    unpacked = copy.deepcopy(transformer)
    unpacked.load_state_dict(dict(transformer.state_dict()) | plain_weights)
    uses = [(members[name][0], weight, 1, 0) for name, weight in (("lora", 1.0), ("lokr", 0.5), ("dora", 1.0))]
    bare = velocity(stored)
    first, second = apply_adapters(stored, uses), apply_adapters(unpacked, uses)
    got, expected = velocity(stored), velocity(unpacked)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=2e-3)
    assert (got - bare).abs().max() > 0.1
    for stack in (first, second):
        stack.remove()
    assert torch.equal(velocity(stored), bare)


def test_in_bf16_strengths_are_not_rounded(transformer: ZImageTransformer2DModel, members: dict[str, Member]) -> None:
    half = copy.deepcopy(transformer).bfloat16()
    expected = velocity(merged(transformer, *((members[name], 0.3) for name in ("lora", "lokr", "loha", "norms"))))
    stack = apply_adapters(half, [(members[name][0], 0.3, 1, 0) for name in ("lora", "lokr", "loha", "norms")])
    error = (velocity(half) - expected).norm() / expected.norm()
    stack.remove()
    assert error < 0.05  # what bf16 costs the bare model is 0.01 to 0.02


def test_beside_an_adapter_in_training(transformer: ZImageTransformer2DModel, members: dict[str, Member]) -> None:
    """A stack on top of layers that peft has wrapped: both act."""
    trained = copy.deepcopy(transformer)
    attach_lora(trained, 2, 2.0)
    with torch.no_grad():
        for weight in lora_state(trained).values():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    own = {}
    for name in MAIN:
        state = lora_state(trained)
        own[f"{name}.weight"] = state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
    expected = velocity(merged(transformer, (members["lora"], 0.5), ((members["lora"][0], own), 1.0)))
    stack = apply_adapters(trained, [(members["lora"][0], 0.5, 1, 0)])
    close(velocity(trained), expected)
    stack.remove()


def test_a_stack_survives_a_move(transformer: ZImageTransformer2DModel, members: dict[str, Member]) -> None:
    """Inputs of another number format after the first use: offloading and autocast do that."""
    expected = velocity(merged(transformer, (members["lora"], 1.0), (members["loha"], 1.0)))
    stack = apply_adapters(transformer, [(members["lora"][0], 1.0, 1, 0), (members["loha"][0], 1.0, 1, 0)])
    with torch.autocast("cpu", torch.bfloat16):
        velocity(transformer)
    close(velocity(transformer), expected)
    stack.remove()
