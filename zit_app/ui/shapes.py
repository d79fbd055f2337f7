"""Shapes of pictures: an aspect in the model's own area, and back from a size to the aspect."""

import math
from dataclasses import replace

from zit_app.core.flavours import read_flavour, read_limits
from zit_app.core.generate_settings import GenerateSettings
from zit_app.service.estimates import model_place

ASPECTS = {"square": 1.0, "3:4": 3 / 4, "4:3": 4 / 3, "9:16": 9 / 16, "16:9": 16 / 9}  # width : height


def size_of(model: str, aspect: str) -> tuple[int, int]:
    """Width and height of an aspect in the model's own area, as far as the model reaches, in steps of 16.

    (0, 0) is the model's own square. Raises ZitError for a model that is not here.
    """
    if aspect == "square":
        return 0, 0
    folder = model_place(model)
    side, limits, ratio = read_flavour(folder).pixels, read_limits(folder), ASPECTS[aspect] ** 0.5
    side = min(side, limits.width / ratio, limits.height * ratio)
    return round(side * ratio / 16) * 16, round(side / ratio / 16) * 16


def pixels_of(model: str, aspect: str, width: int, height: int) -> tuple[int, int]:
    """The size that will be drawn: what is given, else by the aspect, else the model's own."""
    own = read_flavour(model_place(model)).pixels
    by_aspect = size_of(model, aspect)
    return width or by_aspect[0] or own, height or by_aspect[1] or own


def without_defaults(settings: GenerateSettings, model: str) -> tuple[str, GenerateSettings]:
    """The aspect, and the settings without what aspect and model say anyway: size and noise levels."""
    flavour = read_flavour(model_place(model))
    levels = [1 - i / settings.steps for i in range(settings.steps)]
    usual = [flavour.shift * u / (1 + (flavour.shift - 1) * u) for u in levels]
    same = len(settings.sigmas) == len(usual)
    if same and all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(settings.sigmas, usual, strict=True)):
        settings = replace(settings, sigmas=())
    size = (settings.width, settings.height)
    square = (flavour.pixels, flavour.pixels)
    aspect = next((name for name in ASPECTS if (size_of(model, name) if name != "square" else square) == size), None)
    return (aspect, replace(settings, width=0, height=0)) if aspect else ("square", settings)
