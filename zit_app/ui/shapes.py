"""Shapes of pictures: an aspect in the model's own area, and back from a size to the aspect."""

import math
from dataclasses import replace

from zit_app.core.flavours import read_flavour, read_limits
from zit_app.core.generate_settings import GenerateSettings
from zit_app.service.estimates import model_place

SIDES = (1.0, 1.5, 2.0)  # of the model's own: 1024, 1536 and 2048 pixels for Turbo
ASPECTS = {"square": 1.0, "3:4": 3 / 4, "4:3": 4 / 3, "9:16": 9 / 16, "16:9": 16 / 9}  # width : height


def size_of(model: str, aspect: str, side: float = 1.0) -> tuple[int, int]:
    """Width and height of an aspect in `side`² times the model's own area, as far as it reaches, in steps of 16.

    (0, 0) is the model's own square. Raises ZitError for a model that is not here.
    """
    if aspect == "square" and side == 1:
        return 0, 0
    folder = model_place(model)
    limits, ratio = read_limits(folder), ASPECTS[aspect] ** 0.5
    length = min(read_flavour(folder).pixels * side, limits.width / ratio, limits.height * ratio)
    return round(length * ratio / 16) * 16, round(length / ratio / 16) * 16


def side_choices(model: str) -> list[tuple[str, float]]:
    """The sides of squares that a model draws, by their pixels."""
    own = read_flavour(model_place(model)).pixels
    return [(str(size_of(model, "square", side)[0] or own), side) for side in SIDES]


def pixels_of(model: str, aspect: str, side: float, width: int, height: int) -> tuple[int, int]:
    """The size that will be drawn: what is given, else by aspect and side, else the model's own."""
    own = read_flavour(model_place(model)).pixels
    chosen = size_of(model, aspect, side)
    return width or chosen[0] or own, height or chosen[1] or own


def without_defaults(settings: GenerateSettings, model: str) -> tuple[str, float, GenerateSettings]:
    """Aspect and side, and the settings without what these and the model say anyway: size and noise levels."""
    flavour = read_flavour(model_place(model))
    levels = [1 - i / settings.steps for i in range(settings.steps)]
    usual = [flavour.shift * u / (1 + (flavour.shift - 1) * u) for u in levels]
    same = len(settings.sigmas) == len(usual)
    if same and all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(settings.sigmas, usual, strict=True)):
        settings = replace(settings, sigmas=())
    size, own = (settings.width, settings.height), (flavour.pixels, flavour.pixels)
    for side in SIDES:
        for aspect in ASPECTS:
            if (size_of(model, aspect, side) if (aspect, side) != ("square", 1) else own) == size:
                return aspect, side, replace(settings, width=0, height=0)
    return "square", 1.0, settings
