"""The optimizers of a training, by name."""

import importlib
from collections.abc import Sequence

import torch

from zit_app.core.errors import ZitError
from zit_app.core.train_settings import TrainingSettings


def new_optimizer(
    training: TrainingSettings, weights: Sequence[torch.nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer that the settings name; ``auto`` is AdamW with 8-bit moments on a card and plain AdamW elsewhere.

    Raises ZitError for 8 bits without a card.
    """
    check_optimizer(training, device)
    name = training.optimizer
    if name == "auto":
        name = "adamw8bit" if device.type == "cuda" else "adamw"
    rate, decay = training.learning_rate, training.weight_decay
    if name == "adamw8bit":
        made = importlib.import_module("bitsandbytes.optim").AdamW8bit(weights, lr=rate, weight_decay=decay)
    elif name == "prodigy":
        # Bias correction and safeguarded warm-up as its author advises for a warm-up and a cosine.
        made = importlib.import_module("prodigyopt").Prodigy(
            weights, lr=rate, weight_decay=decay, use_bias_correction=True, safeguard_warmup=True
        )
    elif name == "adafactor":
        made = torch.optim.Adafactor(weights, lr=rate, weight_decay=decay)
    else:
        made = torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
    assert isinstance(made, torch.optim.Optimizer)
    return made


def check_optimizer(training: TrainingSettings, device: torch.device) -> None:
    """Raises ZitError for 8 bits without a card."""
    if training.optimizer == "adamw8bit" and device.type != "cuda":
        raise ZitError("adamw8bit needs a graphics card.", "Set training.optimizer to auto or adamw.")
