"""What an adapter changes about one weight, in every form that trainers write, as one small algebra.

    LowRank    dW = s U D                          LoRA (Hu et al. 2021)
    Kron       dW = s (W1 ⊗ W2)                    LoKr (LyCORIS, Yeh et al. 2023), each factor whole or a product
    Hadamard   dW = s (A1 B1) * (A2 B2)            LoHa (FedPara, Hyeon-Woo et al. 2021)
    Full       dW as it is                         differences of whole weights, of norms and biases
    Dora       W' = g (W + dW), g = m / |W + dW|   DoRA (Liu et al. 2024) around any of the above

Each can give its dW, be applied to an input without building it where that is cheaper, be cut by rows (a fused q, k, v
projection holds three modules) and, where that is exact, be written as a LowRank.

Shapes: r rank, I inputs, O outputs of a linear layer; LoKr: W1 (a, b), W2 (c, d) with O = a c, I = b d.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

Factor = tuple[torch.Tensor, ...]  # one whole matrix, or two whose product it is
Same = TypeVar("Same", bound="Change")


@dataclass(frozen=True)
class Change(ABC):
    """A change of one weight. Tensors keep the number format of the file; ``delta`` computes in fp32."""

    @property
    def kind(self) -> str:
        """What people call it."""
        names = {"LowRank": "LoRA", "Kron": "LoKr", "Hadamard": "LoHa", "Full": "difference", "Dora": "DoRA"}
        return names[type(self).__name__]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that it changes."""

    @abstractmethod
    def delta(self) -> torch.Tensor:
        """The change itself, fp32."""

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """dW x for x (..., I), in the type of x."""
        return F.linear(x, self.delta().to(x.dtype))

    @abstractmethod
    def rows(self: Same, start: int, stop: int) -> Same:
        """The change of the weight's rows ``start … stop``."""

    @property
    def rank(self) -> int:
        """Rank of ``low_rank()``, 0 where there is none."""
        return 0

    def low_rank(self) -> "LowRank | None":
        """The same change as up times down; None where that saves nothing."""
        return None

    def mapped(self: Same, move: Callable[[torch.Tensor], torch.Tensor]) -> Same:
        """A copy with ``move`` done to every tensor."""
        return replace(self, **{field.name: _mapped(getattr(self, field.name), move) for field in fields(self)})


@dataclass(frozen=True)
class LowRank(Change):
    """``dW = scale * up @ down``. down (r, I), up (O, r)."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.up.shape[0], self.down.shape[1])

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self) -> torch.Tensor:
        return self.scale * (self.up.float() @ self.down.float())

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))

    def rows(self, start: int, stop: int) -> "LowRank":
        return replace(self, up=self.up[start:stop])

    def low_rank(self) -> "LowRank":
        return self


@dataclass(frozen=True)
class Kron(Change):
    """``dW = scale * kron(w1, w2)``, of which the rows ``start … stop`` count (stop 0 = all)."""

    w1: Factor
    w2: Factor
    scale: float
    start: int = 0
    stop: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        (a, b), (c, d) = _size(self.w1), _size(self.w2)
        return ((self.stop or a * c) - self.start, b * d)

    def delta(self) -> torch.Tensor:
        whole = self.scale * torch.kron(product(self.w1), product(self.w2))
        return whole[self.start : self.stop or None]

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """(W1 ⊗ W2) x = W1 X W2ᵀ with x seen as X (b, d): 1/a of the cost of the full product."""
        x_bd = x.unflatten(-1, (_size(self.w1)[1], _size(self.w2)[1]))
        for factor in reversed(self.w2):
            x_bd = F.linear(x_bd, factor.to(x.dtype))
        x_cb = x_bd.transpose(-1, -2)
        for factor in reversed(self.w1):
            x_cb = F.linear(x_cb, factor.to(x.dtype))
        return self.scale * x_cb.transpose(-1, -2).flatten(-2)[..., self.start : self.stop or None]

    def rows(self, start: int, stop: int) -> "Kron":
        """Only the rows of w1 that reach into the range are kept; blocks of c rows that it cuts stay cut."""
        height = _size(self.w2)[0]
        start, stop = self.start + start, self.start + stop
        first, last = start // height, -(-stop // height)
        w1 = (self.w1[0][first:last], *self.w1[1:])
        start, stop = start - first * height, stop - first * height
        return replace(self, w1=w1, start=start, stop=0 if stop == (last - first) * height else stop)

    @property
    def rank(self) -> int:
        if len(self.w2) == 1:
            return 0
        return self.w2[1].shape[0] * (self.w1[1].shape[0] if len(self.w1) == 2 else min(self.w1[0].shape))

    def low_rank(self) -> LowRank | None:
        """kron(A B, C D) = kron(A, C) kron(B, D): of rank r1 r2, which saves something when w2 is a product."""
        if len(self.w2) == 1:
            return None
        c, d = self.w2
        a, b = self.w1 if len(self.w1) == 2 else _halves(self.w1[0])
        up = torch.kron(a.float(), c.float())[self.start : self.stop or None]
        return LowRank(torch.kron(b.float(), d.float()), up, self.scale)


@dataclass(frozen=True)
class Hadamard(Change):
    """``dW = scale * (w1[0] @ w1[1]) * (w2[0] @ w2[1])``, pairs (O, r) and (r, I)."""

    w1: Factor
    w2: Factor
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.w1[0].shape[0], self.w1[1].shape[1])

    def delta(self) -> torch.Tensor:
        return self.scale * product(self.w1) * product(self.w2)

    def rows(self, start: int, stop: int) -> "Hadamard":
        return replace(self, w1=(self.w1[0][start:stop], self.w1[1]), w2=(self.w2[0][start:stop], self.w2[1]))

    @property
    def rank(self) -> int:
        return self.w1[1].shape[0] * self.w2[1].shape[0]

    def low_rank(self) -> LowRank:
        """The product of two sums is the sum over all pairs: of rank r1 r2, exactly."""
        (a1, b1), (a2, b2) = (tuple(factor.float() for factor in pair) for pair in (self.w1, self.w2))
        up = (a1[:, :, None] * a2[:, None, :]).flatten(1)
        down = (b1[:, None, :] * b2[None, :, :]).flatten(0, 1)
        return LowRank(down, up, self.scale)


@dataclass(frozen=True)
class Full(Change):
    """``dW = weight``; also of weights that are no matrices."""

    weight: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    def delta(self) -> torch.Tensor:
        return self.weight.float()

    def rows(self, start: int, stop: int) -> "Full":
        return Full(self.weight[start:stop])


@dataclass(frozen=True)
class Dora(Change):
    """``W' = g * (W + dW)`` with ``g = magnitude / |W + dW|``; magnitude (O, 1), norms of rows, or (1, I), of columns.

    The change depends on the base weight: ``delta`` and ``apply`` are those of the part inside.
    """

    inner: Change
    magnitude: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def by_rows(self) -> bool:
        """Whether the norms are those of rows (one an output), as PEFT and LyCORIS' newer versions have them."""
        return self.magnitude.shape[1] == 1

    def delta(self) -> torch.Tensor:
        return self.inner.delta()

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.apply(x)

    def gain(self, weight: torch.Tensor) -> torch.Tensor:
        """g for the base weight (O, I): (O, 1) or (1, I), fp32."""
        changed = weight.float() + self.delta().to(weight.device)
        norm = changed.norm(dim=1 if self.by_rows else 0, keepdim=True)
        return self.magnitude.to(norm) / (norm + torch.finfo(torch.float32).eps)

    def delta_of(self, weight: torch.Tensor) -> torch.Tensor:
        """W' - W for the base weight (O, I), fp32."""
        return self.gain(weight) * (weight.float() + self.delta().to(weight.device)) - weight.float()

    def rows(self, start: int, stop: int) -> "Dora":
        return Dora(self.inner.rows(start, stop), self.magnitude[start:stop] if self.by_rows else self.magnitude)


def product(factor: Factor) -> torch.Tensor:
    """The matrix that a factor stands for, fp32."""
    return factor[0].float() if len(factor) == 1 else factor[0].float() @ factor[1].float()


def tensors_of(change: Change) -> list[torch.Tensor]:
    """Every tensor that a change is made of."""
    found: list[torch.Tensor] = []
    change.mapped(lambda tensor: (found.append(tensor), tensor)[1])  # type: ignore[func-returns-value]
    return found


def delta_of(change: Change, weight: torch.Tensor) -> torch.Tensor:
    """The change of this base weight, fp32, on the weight's device."""
    return change.delta_of(weight) if isinstance(change, Dora) else change.delta().to(weight.device)


def _size(factor: Factor) -> tuple[int, int]:
    return factor[0].shape[0], factor[-1].shape[1]


def _halves(matrix: torch.Tensor) -> Factor:
    """A matrix as a product with the smaller identity."""
    rows, columns = matrix.shape
    eye = torch.eye(min(rows, columns), device=matrix.device)
    return (eye, matrix) if rows < columns else (matrix, eye)


def _mapped(value: Any, move: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return move(value)
    if isinstance(value, Change):
        return value.mapped(move)
    return tuple(move(one) for one in value) if isinstance(value, tuple) else value
