"""Previews of a training: what its adapter draws so far, from the same prompts and seeds, so that steps compare.

They are drawn as `zit generate` draws from the saved file, so a preview is that picture.
"""

from pathlib import Path

from PIL import Image

from zit_app.core.files import replacing
from zit_app.engine.checkpoints import TrainState
from zit_app.engine.shipped import as_saved
from zit_app.engine.work import Work
from zit_app.flow.schedule import nodes
from zit_app.model.draw import draw_latents
from zit_app.model.latents import decode_latents
from zit_app.model.loading import load_vae, read_flavour


def draw_previews(work: Work, state: TrainState, run_folder: Path) -> list[Path]:
    """Draw `samples/<step>_<number>.png` in the run folder as the model is meant to be run: a few-step model at the
    nodes of the training's ``turbo_steps`` without guidance, a guided one at its own steps with it, unless a preview
    asks for other steps.

    Noise comes from generators of its own, so a training with previews is bit for bit the one without.
    """
    flavour = read_flavour(work.model)
    vae = load_vae(work.model, work.device, work.dtype)
    guided, run_at = flavour.guidance > 0, work.settings.acrf
    steps, shift = (flavour.steps, flavour.shift) if guided else (run_at.turbo_steps, run_at.shift)
    paths = []
    with as_saved(work, state) as stack:
        for number, one in enumerate(work.previews):
            latents = draw_latents(
                state.transformer,
                [work.cache.features(one.text)],
                [work.cache.features(one.negative)] if guided else [],
                [one.seed],
                one.size,
                nodes(one.steps or steps, shift),
                flavour.guidance,
                adapters=stack,
            )
            path = run_folder / "samples" / f"{state.step:06d}_{number}.png"
            with replacing(path, durable=False) as temporary:
                Image.fromarray(decode_latents(vae, latents)[0].numpy()).save(temporary)
            paths.append(path)
    return paths
