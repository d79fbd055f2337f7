"""The weights of a frozen layer, in whatever format it keeps them: plain, or behind a library's quantization.

Shapes: I inputs, O outputs of a linear layer.
"""

import torch

PROBE_ROWS = 1024  # rows of the identity a pass: 1024 × 10240 in bf16 are 20 MB


def is_linear(module: torch.nn.Module) -> bool:
    """Whether a module is a linear layer, quantized or wrapped by an adapter of its own."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def base_weight(module: torch.nn.Module, device: torch.device) -> torch.Tensor:
    """The weight (O, I) of a linear layer, fp32, on ``device``.

    A plain one is read; of a quantized one the layer itself is asked what it does to the identity, so that the answer
    is the weight that it works with, whoever packed it.
    """
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    if type(weight) in (torch.nn.Parameter, torch.Tensor) and weight.is_floating_point() and weight.ndim == 2:
        return weight.detach().to(device, torch.float32)
    inputs: int = module.in_features  # type: ignore[assignment]  # is_linear
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    eye = torch.eye(inputs, device=device, dtype=dtype)
    columns = [without_bias(module, module.forward(part)).float().T for part in eye.split(PROBE_ROWS)]
    return torch.cat(columns, 1)


def without_bias(module: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
    """A linear layer's output less its bias."""
    bias: torch.Tensor | None = getattr(module, "bias", None)
    return output if bias is None else output - bias.to(output)
