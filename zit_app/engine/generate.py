"""Draw pictures: read the prompts, free the text encoder, denoise, decode, write PNGs with their recipes.

Shapes: B pictures, H W pixels.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from PIL import Image

from zit_app.core.errors import ZitError
from zit_app.core.files import sha256_of_known
from zit_app.core.generate_settings import GenerateJob, GenerateSettings, generate_toml
from zit_app.core.library import adapter_name, find_adapter
from zit_app.core.memory import Request
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.data.index import component_fingerprint
from zit_app.data.recipe import LoraRecipe, Recipe, ReferenceRecipe, picture_paths, save_png
from zit_app.engine.plan import Plan, Shot, make_plan, note_idle
from zit_app.engine.source_picture import (
    keep_source,
    mask_tensor,
    middle_tensor,
    put_back,
    source_tensor,
    whole_patches,
)
from zit_app.engine.step_preview import StepPreview
from zit_app.engine.warm import Warm
from zit_app.flow.solvers import SOLVERS, StepCallback
from zit_app.model.adapter_files import Adapter, read_adapter
from zit_app.model.adapter_stack import AdapterStack, apply_adapters
from zit_app.model.attention import attention
from zit_app.model.draw import draw_latents, starting_point
from zit_app.model.forward import predict_velocity
from zit_app.model.latents import decode_latents, encode_pictures, normalise
from zit_app.model.loading import default_device, find_model, read_flavour, read_limits
from zit_app.model.omni import Reference, looking_at, segments

AdapterUse = tuple[Adapter, float, int, int]  # weight, first step, last step
Witness = Callable[[Shot, torch.Tensor], None]  # (N + 1, C, H, W): one picture's states


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
        note_idle(settings, plan, progress)
        paths = picture_paths(out or run.folder, [shot.seed for shot in plan.shots])
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
    witness: Witness | None = None,
) -> int:
    """Draw the shots of a plan to their paths; returns how many were saved, fewer when asked to stop.

    A ``witness`` is told the states of each picture before and after all steps.
    """
    warm.arrange(folder, plan.formats, _request(plan, adapters), progress)
    captions = _captions(plan, folder, progress, warm)
    sights = warm.sights(folder, plan.formats, plan.references, progress) if plan.references else []
    transformer, vae = warm.drawing(folder, plan.formats, progress)
    stack = apply_adapters(transformer, adapters)
    try:
        _report_adapters(stack, progress)
        recipes = _recipes(settings, plan, folder, adapters)
        references = [_reference(vae, *seen) for seen in zip(plan.references, sights, strict=True)]
        easel = _Easel(plan, captions, references, transformer, vae, stack, progress, warm.colours(), witness)
        with attention(plan.attention):
            return _draw(easel, recipes, paths)
    finally:
        stack.remove()


def _request(plan: Plan, adapters: Sequence[AdapterUse]) -> Request:
    """What the memory is planned for: the larger of two passes, the longest prompt."""
    width, height = plan.larger.size if plan.larger else plan.size
    together = max((len(batch) for batch in plan.batches), default=1)
    size = sum(adapter.path.stat().st_size for adapter, *_ in adapters)
    references = tuple(whole_patches(picture) for picture in plan.references)
    return Request(width, height, together, plan.guidance > 0, plan.max_length, size, references)


def _captions(plan: Plan, folder: Path, progress: Progress, warm: Warm) -> dict[str, list[torch.Tensor]]:
    """The features of every prompt, in segments where pictures stand between them."""
    count = len(plan.references)
    parts = {prompt: segments(prompt, count) if count else [prompt] for prompt in plan.prompts}
    texts = list(dict.fromkeys(chain.from_iterable(parts.values())))
    found = warm.features(folder, plan.formats, texts, plan.max_length, progress, template=not count)
    return {prompt: [found[part] for part in own] for prompt, own in parts.items()}


def _reference(vae: AutoencoderKL, picture: Image.Image, sight_RSD: torch.Tensor) -> Reference:
    latents_1CHW = normalise(vae, encode_pictures(vae, middle_tensor(picture))[0])
    return Reference(latents_1CHW[0], sight_RSD)


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


def _recipes(settings: GenerateSettings, plan: Plan, folder: Path, adapters: Sequence[AdapterUse]) -> list[Recipe]:
    files = [(use[0].path, use[1:]) for use in adapters]
    loras = tuple(
        LoraRecipe(file.name, sha256_of_known(file, file.stat().st_mtime_ns), *window) for file, window in files
    )
    model_hash = component_fingerprint(folder / "transformer")
    image, mask = Path(settings.image), Path(settings.mask)
    image_sha256 = keep_source(image) if plan.source else ""
    mask_sha256 = keep_source(mask) if plan.mask else ""
    references = tuple(ReferenceRecipe(Path(file).name, keep_source(Path(file))) for file in settings.references)
    return [
        Recipe(
            prompt=shot.prompt,
            template=shot.template,
            negative_prompt=settings.negative_prompt,
            seed=shot.seed,
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
            mask=mask.name,
            mask_sha256=mask_sha256,
            mask_blur=plan.mask_blur,
            references=references,
            larger=settings.larger,
            larger_strength=settings.larger_strength,
            larger_steps=plan.larger.steps if plan.larger else 0,
            attention=plan.attention,
        )
        for shot in plan.shots
    ]


@dataclass
class _Easel:
    """What is the same for every batch, and how many steps are behind."""

    plan: Plan
    captions: dict[str, list[torch.Tensor]]
    references: list[Reference]
    transformer: ZImageTransformer2DModel
    vae: AutoencoderKL
    stack: AdapterStack
    progress: Progress
    colours: torch.Tensor
    witness: Witness | None = None
    done: int = 0

    def draw(
        self,
        shots: Sequence[Shot],
        size: tuple[int, int],
        sigmas: torch.Tensor,
        pictures: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Pictures, uint8 (B, H, W, 3), from noise or from ``pictures``' latents; None when asked to stop."""
        plan, seeds, begun = self.plan, [shot.seed for shot in shots], time.perf_counter()
        start = starting_point(seeds, self.transformer.in_channels, size, sigmas, pictures)
        run = self.progress.run
        preview = StepPreview(run.folder, self.colours, start, sigmas) if run else None
        caps = [self.captions[shot.prompt] for shot in shots]
        negative = [self.captions[plan.negative_prompt]] * len(shots) if plan.guidance > 0 else []
        lengths = [[len(part) for part in own] for own in (*caps, *negative)]
        states = [start.cpu()]
        after_step = _after_step(self.progress, self.done, plan.steps * len(plan.batches), preview)
        if self.witness:
            after_step = _kept(states, after_step)
        latents = draw_latents(
            self.transformer,
            [torch.cat(own) for own in caps],
            [torch.cat(own) for own in negative],
            seeds,
            size,
            sigmas,
            plan.guidance,
            after_step,
            self.stack,
            SOLVERS[plan.solver],
            pictures,
            mask,
            looking_at(self.references, lengths) if self.references else predict_velocity,
        )
        self.done += len(sigmas)
        if self.progress.stop_requested():
            return None
        if self.witness:
            for shot, states_MCHW in zip(shots, torch.stack(states, 1), strict=True):
                self.witness(shot, states_MCHW)
        drawn = decode_latents(self.vae, latents)
        if run:  # what `zit plan` tells times from
            passes = len(sigmas) * (2 if plan.guidance > 0 else 1) * (2 if plan.solver == "heun" else 1)
            facts = {"pictures": len(shots), "width": size[0], "height": size[1], "passes": passes}
            run.append_metrics(step=self.done, **facts, seconds=time.perf_counter() - begun)
        return drawn

    def encode(self, pictures: Sequence[Image.Image], size: tuple[int, int]) -> torch.Tensor:
        """Normalised latents of pictures, scaled to a size."""
        x_B3HW = torch.cat([source_tensor(picture, size) for picture in pictures])
        return normalise(self.vae, encode_pictures(self.vae, x_B3HW)[0])


def _draw(easel: _Easel, recipes: Sequence[Recipe], paths: Sequence[Path]) -> int:
    """Denoise and decode batch by batch, each written at once; returns how many pictures there are."""
    plan = easel.plan
    source = easel.encode([plan.source], plan.size) if plan.source else None
    mask = mask_tensor(plan.mask, plan.size) if plan.mask else None
    easel.progress.stage(f"Drawing {len(paths)} picture{'s' if len(paths) > 1 else ''}")
    for batch in plan.batches:
        shots = [plan.shots[i] for i in batch]
        drawn = easel.draw(shots, plan.size, plan.visited, source, mask)
        if drawn is not None and plan.larger is not None:
            small = [Image.fromarray(pixels_HW3.numpy()) for pixels_HW3 in drawn]
            size = plan.larger.size
            drawn = easel.draw(shots, size, plan.larger.visited, easel.encode(small, size))
        if drawn is None:
            return batch.start
        for i, pixels_HW3 in zip(batch, drawn, strict=True):
            picture = Image.fromarray(pixels_HW3.numpy())
            if plan.source is not None and plan.mask is not None:
                picture = put_back(picture, plan.source, plan.mask, plan.mask_blur)
            save_png(paths[i], picture, recipes[i])
    return len(paths)


def _kept(states: list[torch.Tensor], then: StepCallback) -> StepCallback:
    """Keep what is there after each step."""

    def after_step(step: int, x_BCHW: torch.Tensor) -> bool | None:
        states.append(x_BCHW.cpu())
        return then(step, x_BCHW)

    return after_step


def _after_step(progress: Progress, done: int, total: int, preview: StepPreview | None) -> StepCallback:
    """Tell how far it is, show what it will be, and listen whether to stop."""

    def after_step(step: int, x_BCHW: torch.Tensor) -> bool:
        progress.step(done + step + 1, total)
        if preview is not None:
            preview.see(step, x_BCHW)
        return progress.stop_requested()

    return after_step
