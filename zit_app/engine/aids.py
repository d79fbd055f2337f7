"""What is on while a LoRA trains on a few-step model and off whenever the model is used: previews, health, the tether.

Training by flow matching pulls a distilled model towards averages, which its few steps cannot afford. Either aid lets
the LoRA learn beside that: a training adapter that takes the distillation out (ostris' recipe), or the undistilled
model's own weights in the place of the distilled ones.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

from zit_app.core.errors import ZitError
from zit_app.core.models import find_model
from zit_app.core.train_settings import TrainSettings
from zit_app.core.undistilled import origin_of
from zit_app.model.adapter_files import Adapter, read_adapter
from zit_app.model.adapter_stack import AdapterStack
from zit_app.model.loading import read_flavour


class Aid(ABC):
    """On when it is made; ``take_off`` and ``put_on`` may be said twice.

    off_when_held  the states that a tether holds to were recorded without it
    """

    off_when_held: bool

    @abstractmethod
    def take_off(self) -> None:
        """The model as it will be used."""

    @abstractmethod
    def put_on(self) -> None:
        """The model as it is trained."""


class TrainingAdapter(Aid):
    """An adapter at +1."""

    off_when_held = True

    def __init__(self, stack: AdapterStack) -> None:
        self.stack = stack

    def take_off(self) -> None:
        self.stack.set_weights([0.0])

    def put_on(self) -> None:
        self.stack.set_weights([1.0])


class UndistilledWeights(Aid):
    """Two sets of weights that change places: one in the model, the other in the computer's memory.

    The layers' parameters stay the same objects, so what an adapter or an optimizer holds of them stays right, and no
    number is rounded: changed forth and back, every weight is as it was. What is trained is a model of its own, so a
    tether holds to that one's states: changing places in every step would cost more than the step.
    """

    off_when_held = False

    def __init__(self, transformer: ZImageTransformer2DModel, other: ZImageTransformer2DModel) -> None:
        """Raises ZitError when the two are not of the same shape. The weights of ``other`` are used up."""
        own, others = dict(transformer.named_parameters()), dict(other.named_parameters())
        if {name: w.shape for name, w in own.items()} != {name: w.shape for name, w in others.items()}:
            raise ZitError(
                "The undistilled model has other layers than the one to be used.",
                "Name the one that it was distilled from in training.protection_base.",
            )
        self.pairs = [(weight, others[name].data.to(weight.dtype)) for name, weight in own.items()]
        self.on = False
        self.put_on()

    def put_on(self) -> None:
        self._turn(True)

    def take_off(self) -> None:
        self._turn(False)

    @torch.no_grad()
    def _turn(self, on: bool) -> None:
        if on == self.on:
            return
        self.on = on
        for weight, other in self.pairs:
            before = weight.to(other.device, copy=True)
            weight.copy_(other)
            other.copy_(before)


def training_adapter(settings: TrainSettings) -> Adapter | None:
    """The training adapter when the protection asks for one. Raises ZitError when its file is not named or is none."""
    if settings.training.protection not in ("adapter", "both"):
        return None
    named = settings.training.protection_adapter
    if not named:
        raise ZitError(
            f"training.protection = {settings.training.protection} needs the file of a training adapter.",
            "Name it in training.protection_adapter, or build one with: zit train --preset adapter --prompts FILE.",
        )
    return read_adapter(Path(named).expanduser())


def undistilled(settings: TrainSettings, model: Path) -> Path | None:
    """Folder of the model whose weights are trained on, when the protection asks for one.

    Raises ZitError when it is not known or not there, and for a model that is not distilled.
    """
    if not settings.training.on_undistilled:
        return None
    if read_flavour(model).guidance > 0:
        raise ZitError(
            f"training.protection = {settings.training.protection} is for few-step models; this one is not distilled.",
            "Set training.protection to none.",
        )
    base = settings.training.protection_base or origin_of(model)
    if base is None:
        raise ZitError(
            f"It is not known what {model.name} was distilled from.",
            "Name the undistilled model in training.protection_base: a name of zit models list, or a folder.",
        )
    return find_model(base)
