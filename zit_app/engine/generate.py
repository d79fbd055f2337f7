"""Draw pictures: read the prompts, free the text encoder, denoise, decode, write PNGs with their recipes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from PIL import Image

from zit_app.core.errors import ZitError
from zit_app.core.files import sha256_of
from zit_app.core.generate_settings import GenerateJob, GenerateSettings, generate_toml
from zit_app.core.library import adapter_name, find_adapter
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.data.index import component_fingerprint
from zit_app.data.recipe import LoraRecipe, Recipe, picture_paths, save_png
from zit_app.engine.source_picture import keep_source, natural_size, open_source, source_tensor
from zit_app.engine.step_preview import StepPreview
from zit_app.engine.warm import Warm
from zit_app.flow.schedule import nodes, redrawing
from zit_app.flow.solvers import SOLVERS, StepCallback
from zit_app.model.adapter_files import Adapter, read_adapter
from zit_app.model.adapter_stack import AdapterStack, apply_adapters
from zit_app.model.draw import draw_latents, starting_point
from zit_app.model.latents import decode_latents, encode_pictures, normalise
from zit_app.model.loading import (
    Flavour,
    Limits,
    default_device,
    default_dtype,
    find_model,
    read_flavour,
    read_limits,
)
from zit_app.model.precision import Formats, formats

AdapterUse = tuple[Adapter, float, int, int]  # weight, first step, last step
PICTURE_STEPS = 12  # from a picture, at least: strength 0.75 leaves 9 of them (the documents' default)
TOKENS_A_BATCH, PICTURES_A_BATCH = 4096, 16  # one picture of 1024² is 4096 tokens; small ones are drawn together


@dataclass(frozen=True)
class Plan:
    """Settings with the model's own values filled in: ``shots`` are (prompt, seed), one a picture, in order."""

    shots: tuple[tuple[str, int], ...]
    negative_prompt: str
    size: tuple[int, int]
    sigmas: torch.Tensor  # before a picture's strength takes its share
    guidance: float
    formats: Formats
    max_length: int
    solver: str
    source: Image.Image | None  # the picture to start from
    strength: float

    @property
    def visited(self) -> torch.Tensor:
        """The nodes that are denoised at."""
        return self.sigmas if self.source is None else redrawing(self.sigmas, self.strength)

    @property
    def prompts(self) -> list[str]:
        """Every text that is to be encoded, once."""
        negative = [self.negative_prompt] if self.guidance > 0 else []
        return list(dict.fromkeys([prompt for prompt, _ in self.shots] + negative))

    @property
    def batches(self) -> list[range]:
        """Which shots are drawn together."""
        tokens = self.size[0] * self.size[1] // 256
        count = max(1, min(PICTURES_A_BATCH, TOKENS_A_BATCH // tokens))
        return [range(i, min(i + count, len(self.shots))) for i in range(0, len(self.shots), count)]


def generate(
    settings: GenerateSettings,
    model: str | Path,
    out: Path | None = None,
    progress: Progress | None = None,
    warm: Warm | None = None,
) -> list[Path]:
    """Draw the pictures of ``settings`` with a model given by name or folder; returns their paths.

    ``out`` is a PNG file (for one picture) or a folder; without it they lie in the run's folder. A run that is asked
    to stop keeps the pictures it has. ``warm`` keeps the loaded model for the next call. Raises ZitError for settings,
    models and adapters that cannot work.
    """
    progress = progress or Progress()
    folder = find_model(model)
    plan = make_plan(settings, read_flavour(folder), read_limits(folder), default_device())
    adapters = read_adapters(settings)
    _check_out(out, plan)
    if progress.run is None:
        job = GenerateJob(str(model), str(out.absolute()) if out else "")
        progress.run = Run.create("generate", settings.prompts[0], generate_toml(settings, job))
    run = progress.run
    with run.working():
        if settings.negative_prompt and plan.guidance == 0:
            progress.note("The negative prompt does nothing: guidance is 0.")
        if plan.source is None and settings.strength != GenerateSettings().strength:
            progress.note("The strength does nothing: there is no picture to start from.")
        paths = picture_paths(out or run.folder, [seed for _, seed in plan.shots])
        saved = draw(plan, settings, folder, adapters, paths, progress, warm or Warm())
        run.write_status("done" if saved == len(paths) else "stopped", pictures=[str(p) for p in paths[:saved]])
    return paths[:saved]


def read_adapters(settings: GenerateSettings) -> list[AdapterUse]:
    """The adapters of the stack, by file or name. Raises ZitError for one that is none or cannot be used whole."""
    return [(read_adapter(find_adapter(use.file)), use.weight, use.first, use.last) for use in settings.loras]


def draw(
    plan: Plan,
    settings: GenerateSettings,
    folder: Path,
    adapters: Sequence[AdapterUse],
    paths: Sequence[Path],
    progress: Progress,
    warm: Warm,
) -> int:
    """Draw the shots of a plan to their paths; returns how many were saved, fewer when asked to stop."""
    caps = warm.features(folder, plan.formats, plan.prompts, plan.max_length, progress)
    transformer, vae = warm.drawing(folder, plan.formats, progress)
    stack = apply_adapters(transformer, adapters)
    try:
        _report_adapters(stack, progress)
        recipes = _recipes(settings, plan, folder)
        return _draw(plan, caps, transformer, vae, stack, recipes, paths, progress, warm.colours())
    finally:
        stack.remove()


def make_plan(settings: GenerateSettings, flavour: Flavour, limits: Limits, device: torch.device) -> Plan:
    """Fill in the model's own values and check what only the whole can tell. Raises ZitError."""
    if not settings.prompts:
        raise ZitError("There is no prompt.", "Give one with --prompt or --prompts.")
    source = open_source(Path(settings.image)) if settings.image else None
    natural = natural_size(source, flavour, limits) if source else (flavour.pixels, flavour.pixels)
    size = (settings.width or natural[0], settings.height or natural[1])
    if size[0] % 16 or size[1] % 16:
        raise ZitError(f"{size[0]}x{size[1]}: sides must be multiples of 16.", "Choose multiples of 16.")
    if size[0] > limits.width or size[1] > limits.height:
        raise ZitError(
            f"{size[0]}x{size[1]} is larger than this model can draw.", f"Stay within {limits.width}x{limits.height}."
        )
    given = torch.tensor(settings.sigmas, dtype=torch.float64)
    own_steps = max(flavour.steps, PICTURE_STEPS) if source else flavour.steps
    sigmas = given if settings.sigmas else nodes(settings.steps or own_steps, flavour.shift)
    if not (sigmas.max() <= 1 and sigmas.min() > 0 and (sigmas.diff() < 0).all()):
        raise ZitError("The sigmas must fall from at most 1 to above 0.", "Write such as 1,0.9,0.75,0.5,0.3.")
    if settings.sigmas and settings.steps not in (0, len(settings.sigmas)):
        raise ZitError(f"{len(settings.sigmas)} sigmas are not {settings.steps} steps.", "Give only one of the two.")
    plan = Plan(
        shots=tuple(product(settings.prompts, range(settings.seed, settings.seed + settings.count))),
        negative_prompt=settings.negative_prompt,
        size=size,
        sigmas=sigmas,
        guidance=flavour.guidance if settings.guidance < 0 else settings.guidance,
        formats=formats(settings.precision, settings.text_precision, device, default_dtype(device)),
        max_length=min(settings.max_sequence_length, limits.tokens),
        solver=settings.solver,
        source=source,
        strength=settings.strength,
    )
    steps = len(plan.visited)
    for use in settings.loras:
        if use.first > steps:
            raise ZitError(f"{use.file} begins at step {use.first} of {steps}.", "Let it begin earlier.")
    return plan


def _check_out(out: Path | None, plan: Plan) -> None:
    if out is not None and out.suffix.lower() == ".png" and len(plan.shots) > 1:
        raise ZitError(f"{len(plan.shots)} pictures do not fit into {out}.", "Give a folder with --out.")
    if out is not None and out.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        raise ZitError(f"{out}: pictures are written as PNG, with their recipe inside.", "Let --out end in .png.")


def _report_adapters(stack: AdapterStack, progress: Progress) -> None:
    """Say of every adapter file how much of it acts: nobody should wonder whether it was applied."""
    for one in stack.placed:
        name, skipped = adapter_name(one.adapter.path), len(one.adapter.text_encoder)
        progress.note(f"{name}: {len(one.adapter.names)} modules, strength {one.weight:g}")
        if skipped:
            progress.note(f"{name}: {skipped} keys of the text encoder are not used.")


def _recipes(settings: GenerateSettings, plan: Plan, folder: Path) -> list[Recipe]:
    loras = tuple(
        LoraRecipe(file.name, sha256_of(file), use.weight, use.first, use.last)
        for use, file in ((use, find_adapter(use.file)) for use in settings.loras)
    )
    model_hash = component_fingerprint(folder / "transformer")
    image = Path(settings.image)
    image_sha256 = keep_source(image) if settings.image else ""
    return [
        Recipe(
            prompt=prompt,
            negative_prompt=settings.negative_prompt,
            seed=seed,
            steps=len(plan.sigmas),
            guidance=plan.guidance,
            sigmas=tuple(round(sigma, 9) for sigma in plan.sigmas.tolist()),
            width=plan.size[0],
            height=plan.size[1],
            precision=plan.formats.name,
            max_sequence_length=plan.max_length,
            model=folder.name,
            model_hash=model_hash,
            loras=loras,
            solver=plan.solver,
            text_precision=settings.text_precision,
            image=image.name,
            image_sha256=image_sha256,
            strength=plan.strength,
        )
        for prompt, seed in plan.shots
    ]


def _draw(
    plan: Plan,
    caps: dict[str, torch.Tensor],
    transformer: ZImageTransformer2DModel,
    vae: AutoencoderKL,
    stack: AdapterStack,
    recipes: Sequence[Recipe],
    paths: Sequence[Path],
    progress: Progress,
    colours: torch.Tensor,
) -> int:
    """Denoise and decode batch by batch, each written at once; returns how many pictures there are."""
    picture = None
    if plan.source is not None:
        picture = normalise(vae, encode_pictures(vae, source_tensor(plan.source, plan.size))[0])[0]
    sigmas = plan.visited
    steps = len(sigmas)
    total = steps * len(plan.batches)
    progress.stage(f"Drawing {len(paths)} picture{'s' if len(paths) > 1 else ''}")
    for number, batch in enumerate(plan.batches):
        shots = [plan.shots[i] for i in batch]
        seeds = [seed for _, seed in shots]
        start = starting_point(seeds, transformer.in_channels, plan.size, sigmas, picture)
        preview = StepPreview(progress.run.folder, colours, start, sigmas) if progress.run else None
        latents = draw_latents(
            transformer,
            [caps[prompt] for prompt, _ in shots],
            [caps[plan.negative_prompt] for _ in shots] if plan.guidance > 0 else [],
            seeds,
            plan.size,
            sigmas,
            plan.guidance,
            _after_step(progress, number * steps, total, preview),
            stack,
            SOLVERS[plan.solver],
            picture,
        )
        if progress.stop_requested():
            return batch.start
        for i, pixels_HW3 in zip(batch, decode_latents(vae, latents), strict=True):
            save_png(paths[i], Image.fromarray(pixels_HW3.numpy()), recipes[i])
    return len(paths)


def _after_step(progress: Progress, done: int, total: int, preview: StepPreview | None) -> StepCallback:
    """Tell how far it is, show what it will be, and listen whether to stop."""

    def after_step(step: int, x_BCHW: torch.Tensor) -> bool:
        progress.step(done + step + 1, total)
        if preview is not None:
            preview.see(step, x_BCHW)
        return progress.stop_requested()

    return after_step
