"""How sharp pictures are: what falls when few-step pictures blur.

Shapes: B batch, H W pixels; RGB in 0 … 1.
"""

import torch

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def sharpness(x_B3HW: torch.Tensor) -> torch.Tensor:
    """``mean |4 y - its four neighbours|`` of the luminance y, (B,): the absolute discrete Laplacian."""
    y = torch.einsum("bchw,c->bhw", x_B3HW, x_B3HW.new_tensor(LUMINANCE))
    centre = y[:, 1:-1, 1:-1]
    around = y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:]
    return (4 * centre - around).abs().mean((1, 2))
