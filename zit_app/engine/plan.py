"""What is to be drawn: settings with the model's own values filled in, checked as a whole before anything is loaded."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from PIL import Image

from zit_app.core.errors import ZitError
from zit_app.core.flavours import check_size
from zit_app.core.generate_settings import GenerateSettings, enlarged, together
from zit_app.core.progress import Progress
from zit_app.data.wildcards import literal, resolved
from zit_app.engine.source_picture import REFERENCE_PIXELS, as_reference, natural_size, open_mask, open_source
from zit_app.flow.schedule import nodes, redrawing
from zit_app.model.attention import choose
from zit_app.model.loading import Flavour, Limits, default_dtype
from zit_app.model.precision import Formats, formats

PICTURE_STEPS = 12  # from a picture, at least: strength 0.75 leaves 9 of them (the documents' default)
SEGMENT = 32  # tokens at the most that a reference, and the end behind the last one, adds to a caption

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Shot:
    """One picture: its prompt as it is drawn, its seed, and the prompt as it was written where that has choices."""

    prompt: str
    seed: int
    template: str = ""


@dataclass(frozen=True)
class Larger:
    """The second pass: the picture of the first, enlarged to ``size``, is redrawn at the nodes ``visited``."""

    size: Size
    visited: torch.Tensor
    steps: int  # before the strength took its share


@dataclass(frozen=True)
class Plan:
    """Settings with the model's own values filled in: ``shots`` are the pictures in their order."""

    shots: tuple[Shot, ...]
    negative_prompt: str
    size: Size
    sigmas: torch.Tensor  # before a picture's strength takes its share
    guidance: float
    formats: Formats
    max_length: int
    solver: str
    source: Image.Image | None  # the picture to start from
    mask: Image.Image | None  # of the source's size, white where it is redrawn
    mask_blur: int
    strength: float
    references: tuple[Image.Image, ...]  # pictures that the prompt speaks of
    larger: Larger | None
    attention: str

    @property
    def visited(self) -> torch.Tensor:
        """The nodes that are denoised at."""
        return self.sigmas if self.source is None else redrawing(self.sigmas, self.strength)

    @property
    def steps(self) -> int:
        """Denoising steps of one picture, both passes."""
        return len(self.visited) + (len(self.larger.visited) if self.larger else 0)

    @property
    def prompts(self) -> list[str]:
        """Every prompt that is to be read, once."""
        negative = [self.negative_prompt] if self.guidance > 0 else []
        return list(dict.fromkeys([shot.prompt for shot in self.shots] + negative))

    @property
    def batches(self) -> list[range]:
        """Which shots are drawn together."""
        count = max(1, together(self.larger.size if self.larger else self.size) // (1 + len(self.references)))
        return [range(i, min(i + count, len(self.shots))) for i in range(0, len(self.shots), count)]


def shots_of(prompts: Iterable[str], seeds: Iterable[int]) -> tuple[Shot, ...]:
    """Every prompt with every seed, its choices made. Raises ZitError for a prompt that cannot be resolved."""
    shots = []
    for written, seed in product(prompts, seeds):
        prompt = resolved(written, seed)
        shots.append(Shot(prompt, seed, "" if written in (prompt, literal(prompt)) else written))
    return tuple(shots)


def make_plan(settings: GenerateSettings, flavour: Flavour, limits: Limits, device: torch.device) -> Plan:
    """Fill in the model's own values and check what only the whole can tell. Raises ZitError."""
    if not settings.prompts:
        raise ZitError("There is no prompt.", "Give one with --prompt or --prompts.")
    for text in (*settings.prompts, settings.negative_prompt):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ZitError("The prompt holds bytes that are no text.", "Write it as UTF-8.") from error
    source, mask = _pictures(settings)
    references = _references(settings, limits)
    shape = source or (references[-1] if references else None)
    natural = natural_size(shape, flavour, limits) if shape else (flavour.pixels, flavour.pixels)
    size = (settings.width or natural[0], settings.height or natural[1])
    check_size(size, limits)
    kept = formats(settings.precision, settings.text_precision, device, default_dtype(device))
    plan = Plan(
        shots=shots_of(settings.prompts, range(settings.seed, settings.seed + settings.count)),
        negative_prompt=settings.negative_prompt,
        size=size,
        sigmas=_sigmas(settings, flavour, source is not None),
        guidance=flavour.guidance if settings.guidance < 0 else settings.guidance,
        formats=kept,
        max_length=min(settings.max_sequence_length, limits.tokens - _beside(len(references))),
        solver=settings.solver,
        source=source,
        mask=mask,
        mask_blur=settings.mask_blur,
        strength=settings.strength,
        references=references,
        larger=_larger(settings, flavour, limits, size),
        attention=choose(settings.attention, device, kept.dtype),
    )
    steps = len(plan.visited)
    for use in settings.loras:
        if use.first > steps:
            raise ZitError(f"{use.file} begins at step {use.first} of {steps}.", "Let it begin earlier.")
    return plan


def note_idle(settings: GenerateSettings, plan: Plan, progress: Progress) -> None:
    """Say which of the settings do nothing here."""
    usual = GenerateSettings()
    if settings.negative_prompt and plan.guidance == 0:
        progress.note("The negative prompt does nothing: guidance is 0.")
    if plan.source is None and settings.strength != usual.strength:
        progress.note("The strength does nothing: there is no picture to start from.")
    if plan.mask is None and settings.mask_blur != usual.mask_blur:
        progress.note("The soft edge does nothing: there is no mask.")
    idle = (settings.larger_strength, settings.larger_steps) != (usual.larger_strength, usual.larger_steps)
    if plan.larger is None and idle:
        progress.note("Strength and steps of the larger picture do nothing: it is not drawn larger.")


def _pictures(settings: GenerateSettings) -> tuple[Image.Image | None, Image.Image | None]:
    """The picture to start from and its mask."""
    source = open_source(Path(settings.image)) if settings.image else None
    if not settings.mask:
        return source, None
    if source is None:
        raise ZitError("A mask needs a picture.", "Give the picture with --image.")
    if settings.larger > 1:
        raise ZitError("A picture with a mask is not drawn larger: what the mask keeps would change.", "Do one first.")
    return source, open_mask(Path(settings.mask), source)


def _references(settings: GenerateSettings, limits: Limits) -> tuple[Image.Image, ...]:
    """The pictures that the prompt speaks of."""
    count = len(settings.references)
    if count and not limits.references:
        raise ZitError(
            "This model looks at no pictures.",
            "Give a Z-Image Omni or Edit; --image begins from a picture with every model.",
        )
    if count > limits.references:
        raise ZitError(f"{count} pictures are too many to look at.", f"Give at most {limits.references}.")
    area = settings.width * settings.height or REFERENCE_PIXELS
    files = [Path(file) for file in settings.references]
    return tuple(as_reference(open_source(file), area, limits, file.name) for file in files)


def _beside(references: int) -> int:
    """Tokens of a caption that are not the prompt's."""
    return SEGMENT * (references + 1) if references else 0


def _sigmas(settings: GenerateSettings, flavour: Flavour, picture: bool) -> torch.Tensor:
    """The nodes, float64 (N,), before a picture's strength takes its share."""
    given = torch.tensor(settings.sigmas, dtype=torch.float64)
    sigmas = given if settings.sigmas else nodes(settings.steps or _own_steps(flavour, picture), flavour.shift)
    if not (sigmas.max() <= 1 and sigmas.min() > 0 and (sigmas.diff() < 0).all()):
        raise ZitError("The sigmas must fall from at most 1 to above 0.", "Write such as 1,0.9,0.75,0.5,0.3.")
    if settings.sigmas and settings.steps not in (0, len(settings.sigmas)):
        raise ZitError(f"{len(settings.sigmas)} sigmas are not {settings.steps} steps.", "Give only one of the two.")
    return sigmas


def _larger(settings: GenerateSettings, flavour: Flavour, limits: Limits, size: Size) -> Larger | None:
    if settings.larger == 1:
        return None
    large = enlarged(size, settings.larger)
    check_size(large, limits)
    steps = settings.larger_steps or _own_steps(flavour, True)
    return Larger(large, redrawing(nodes(steps, flavour.shift), settings.larger_strength), steps)


def _own_steps(flavour: Flavour, picture: bool) -> int:
    return max(flavour.steps, PICTURE_STEPS) if picture else flavour.steps
