"""Synthetic adapter files of every layout, each with what it must do to the weights, by the formula of its trainer.

Nothing here uses the code under test: names are written out, changes are computed with plain torch.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
Layer = tuple[str, torch.Tensor]  # name in diffusers, base weight

ATTENTION = [f"layers.{i}.attention.{tail}" for i in (0, 1) for tail in ("to_q", "to_k", "to_v", "to_out.0")]
FEED_FORWARD = [f"layers.{i}.feed_forward.{tail}" for i in (0, 1) for tail in ("w1", "w2", "w3")]
MAIN = ATTENTION + FEED_FORWARD
MODULATION = [f"layers.{i}.adaLN_modulation.0" for i in (0, 1)]
REFINERS = [
    f"{part}.0.{tail}"
    for part in ("noise_refiner", "context_refiner")
    for tail in ("attention.to_q", "attention.to_out.0", "feed_forward.w2")
]
OUTER = ["t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.1", "all_x_embedder.2-1"]
OUTER += ["all_final_layer.2-1.linear", "all_final_layer.2-1.adaLN_modulation.1"]
NORMS = ["layers.0.attention.norm_q", "layers.0.attention_norm1", "layers.1.ffn_norm2", "cap_embedder.0"]
ORIGINAL = {
    "all_x_embedder.2-1": "x_embedder",
    "all_final_layer.2-1": "final_layer",
    "attention.to_out.0": "attention.out",
    "attention.norm_q": "attention.q_norm",
    "attention.norm_k": "attention.k_norm",
}


@dataclass
class Zoo:
    """One file in the making. ``after`` are the weights and biases that it must lead to, by parameter name."""

    weights: Tensors
    seed: int = 0
    tensors: Tensors = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    after: Tensors = field(default_factory=dict)
    config: dict[str, object] | None = None  # adapter_config.json of PEFT beside it
    refused: str = ""

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def random(self, *shape: int, scale: float = 0.3) -> torch.Tensor:
        """Values that bf16 holds exactly."""
        return (scale * torch.randn(shape, generator=self.generator)).bfloat16().float()

    def weight(self, name: str) -> torch.Tensor:
        return self.weights[f"{name}.weight"]

    def add(self, name: str, change: torch.Tensor) -> None:
        """W' = W + change."""
        key = f"{name}.weight"
        self.after[key] = self.after.get(key, self.weights[key]) + change

    def write(self, folder: Path) -> Path:
        path = folder / ("adapter_model.safetensors" if self.config else "adapter.safetensors")
        save_file({key: value.contiguous() for key, value in self.tensors.items()}, path, metadata=self.metadata)
        if self.config:
            (folder / "adapter_config.json").write_text(json.dumps(self.config))
        return path


# ---------------------------------------------------------------- names

Naming = Callable[[str], str]


def dotted(prefix: str) -> Naming:
    return lambda name: f"{prefix}{name}"


def flat(prefix: str) -> Naming:
    return lambda name: prefix + name.replace(".", "_")


def original(naming: Naming) -> Naming:
    """The module names of the original checkpoint."""

    def renamed(name: str) -> str:
        for new, old in ORIGINAL.items():
            name = name.replace(new, old)
        return naming(name)

    return renamed


COMFY, DIFFUSERS, PEFT = dotted("diffusion_model."), dotted("transformer."), dotted("base_model.model.")
BARE, KOHYA, LYCORIS = dotted(""), flat("lora_unet_"), flat("lycoris_")
AB, DOWN_UP = (".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight")

# ---------------------------------------------------------------- LoRA


def lora(
    zoo: Zoo,
    names: list[str],
    naming: Naming,
    halves: tuple[str, str] = AB,
    alpha: float | None = None,
    rank: int = 4,
    scale: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """dW = alpha / rank · up @ down; ``scale`` stands for what is noted elsewhere."""
    for name in names:
        rows, columns = zoo.weight(name).shape
        down, up = zoo.random(rank, columns).to(dtype), zoo.random(rows, rank).to(dtype)
        zoo.tensors |= {naming(name) + halves[0]: down, naming(name) + halves[1]: up}
        if alpha is not None:
            zoo.tensors[f"{naming(name)}.alpha"] = torch.tensor(alpha)
        factor = scale if scale is not None else 1.0 if alpha is None else alpha / rank
        zoo.add(name, factor * up.float() @ down.float())


def fused_lora(zoo: Zoo, naming: Naming, halves: tuple[str, str], alpha: float | None = None, rank: int = 4) -> None:
    """One LoRA over q, k and v stacked, one over the original's `attention.out`."""
    for block in ("layers.0", "layers.1", "noise_refiner.0"):
        own = [f"{block}.attention.to_{letter}" for letter in "qkv"]
        for stem, members in ((f"{block}.attention.qkv", own), (f"{block}.attention.out", [f"{own[0][:-1]}out.0"])):
            rows, columns = zoo.weight(members[0]).shape
            down, up = zoo.random(rank, columns), zoo.random(rows * len(members), rank)
            zoo.tensors |= {naming(stem) + halves[0]: down, naming(stem) + halves[1]: up}
            if alpha is not None:
                zoo.tensors[f"{naming(stem)}.alpha"] = torch.tensor(alpha)
            change = (1.0 if alpha is None else alpha / rank) * up @ down
            for i, member in enumerate(members):
                zoo.add(member, change[i * rows : (i + 1) * rows])


def mixed_ranks(zoo: Zoo, naming: Naming, halves: tuple[str, str]) -> None:
    for i, name in enumerate(MAIN):
        lora(zoo, [name], naming, halves, alpha=[1.0, 3.0, 8.0][i % 3], rank=[1, 4, 6][i % 3])


# ---------------------------------------------------------------- LoKr, LoHa


def factors(size: int, factor: int) -> tuple[int, int]:
    """LyCORIS' split of a side: the largest divisor up to ``factor`` and the rest; -1 = the closest pair."""
    most = int(size**0.5) if factor == -1 else factor
    first = max(i for i in range(1, most + 1) if size % i == 0)
    return first, size // first


def lokr(
    zoo: Zoo,
    names: list[str],
    naming: Naming,
    factor: int = 8,
    rank1: int = 0,
    rank2: int = 0,
    alpha: float | None = 1e10,
    scale: float = 1.0,
) -> Iterator[tuple[str, torch.Tensor]]:
    """dW = scale · w1 ⊗ w2; rank 0 = the factor is whole. Yields name and dW, for DoRA around it."""
    for name in names:
        rows, columns = zoo.weight(name).shape
        (a, c), (b, d) = factors(rows, factor), factors(columns, factor)
        whole = []
        for part, shape, rank in (("lokr_w1", (a, b), rank1), ("lokr_w2", (c, d), rank2)):
            stem = f"{naming(name)}.{part}"
            if rank:
                left, right = zoo.random(shape[0], rank, scale=0.6), zoo.random(rank, shape[1], scale=0.6)
                zoo.tensors |= {f"{stem}_a": left, f"{stem}_b": right}
                whole.append(left @ right)
            else:
                zoo.tensors[stem] = zoo.random(*shape)
                whole.append(zoo.tensors[stem])
        if alpha is not None:
            zoo.tensors[f"{naming(name)}.alpha"] = torch.tensor(alpha)
        yield name, scale * torch.kron(*whole)


def fused_lokr(zoo: Zoo, naming: Naming, a: int, rank2: int = 0, alpha: float = 1e10) -> None:
    """w1 (a, 8) ⊗ w2 over q, k and v stacked: with a = 8 the thirds cut through blocks of w2."""
    for block in ("layers.0", "context_refiner.0"):
        names = [f"{block}.attention.to_{letter}" for letter in "qkv"]
        rows, columns = zoo.weight(names[0]).shape
        w1, shape = zoo.random(a, 8), (3 * rows // a, columns // 8)
        stem = naming(f"{block}.attention.qkv")
        zoo.tensors |= {f"{stem}.lokr_w1": w1, f"{stem}.alpha": torch.tensor(alpha)}
        if rank2:
            left, right = zoo.random(shape[0], rank2, scale=0.6), zoo.random(rank2, shape[1], scale=0.6)
            zoo.tensors |= {f"{stem}.lokr_w2_a": left, f"{stem}.lokr_w2_b": right}
            change = alpha / rank2 * torch.kron(w1, left @ right)
        else:
            zoo.tensors[f"{stem}.lokr_w2"] = w2 = zoo.random(*shape)
            change = torch.kron(w1, w2)
        for i, name in enumerate(names):
            zoo.add(name, change[i * rows : (i + 1) * rows])


def loha(
    zoo: Zoo, names: list[str], naming: Naming, rank: int = 3, alpha: float | None = 1.5, scale: float | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """dW = alpha / rank · (w1_a @ w1_b) * (w2_a @ w2_b)."""
    for name in names:
        rows, columns = zoo.weight(name).shape
        parts = {}
        for part in ("w1", "w2"):
            parts |= {f"{part}_a": zoo.random(rows, rank, scale=0.5), f"{part}_b": zoo.random(rank, columns, scale=0.5)}
        zoo.tensors |= {f"{naming(name)}.hada_{part}": tensor for part, tensor in parts.items()}
        if alpha is not None:
            zoo.tensors[f"{naming(name)}.alpha"] = torch.tensor(alpha)
        factor = scale if scale is not None else 1.0 if alpha is None else alpha / rank
        yield name, factor * (parts["w1_a"] @ parts["w1_b"]) * (parts["w2_a"] @ parts["w2_b"])


def plain(zoo: Zoo, changes: Iterator[tuple[str, torch.Tensor]]) -> None:
    for name, change in changes:
        zoo.add(name, change)


# ---------------------------------------------------------------- DoRA, differences


def dora(zoo: Zoo, changes: Iterator[tuple[str, torch.Tensor]], naming: Naming, key: str, dim: int = 1) -> None:
    """W' = m (W + dW) / |W + dW|, the norm along ``dim``; PEFT writes m without the second axis."""
    for name, change in changes:
        changed = zoo.weight(name) + change
        norm = changed.norm(dim=dim, keepdim=True)
        magnitude = zoo.weight(name).norm(dim=dim, keepdim=True) * (1 + zoo.random(*norm.shape, scale=0.1))
        zoo.tensors[naming(name) + key] = magnitude if "dora_scale" in key else magnitude[:, 0]
        zoo.after[f"{name}.weight"] = magnitude * changed / norm


def lora_changes(zoo: Zoo, names: list[str], naming: Naming, halves: tuple[str, str], alpha: float | None) -> Iterator:
    for name in names:
        before = set(zoo.after)
        lora(zoo, [name], naming, halves, alpha)
        assert set(zoo.after) - before == {f"{name}.weight"}
        yield name, zoo.after[f"{name}.weight"] - zoo.weight(name)


def differences(zoo: Zoo, names: list[str], naming: Naming, key: str = "diff") -> None:
    for name in names:
        zoo.tensors[f"{naming(name)}.{key}"] = change = zoo.random(*zoo.weight(name).shape, scale=0.1)
        zoo.add(name, change)


def bias_differences(zoo: Zoo, names: list[str], naming: Naming, key: str = "diff_b") -> None:
    for name in names:
        zoo.tensors[f"{naming(name)}.{key}"] = change = zoo.random(*zoo.weights[f"{name}.bias"].shape)
        zoo.after[f"{name}.bias"] = zoo.weights[f"{name}.bias"] + change
