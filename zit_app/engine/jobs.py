"""One function a kind of run: from the run folder to the work."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from zit_app.core import workers
from zit_app.core.caption_settings import load_captioning
from zit_app.core.compare_settings import load_comparison
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import load_generation
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import load_job
from zit_app.engine.cache import cache_run
from zit_app.engine.caption import caption
from zit_app.engine.compare import compare
from zit_app.engine.describing import Captioned
from zit_app.engine.generate import generate
from zit_app.engine.launching import launch
from zit_app.engine.train import resume
from zit_app.engine.warm import Warm

SETTINGS = "settings.toml"
Job = Callable[[Run, Progress, Warm], None]


def train_job(run: Run, progress: Progress, warm: Warm) -> None:
    """Train from the newest checkpoint; the whole card is its own."""
    warm.clear()
    train_run(run, progress)


def generate_job(run: Run, progress: Progress, warm: Warm) -> None:
    """Draw the pictures that the run asks for."""
    settings, job = load_generation(run.folder / SETTINGS)
    generate(settings, job.model, Path(job.out) if job.out else None, progress, warm)


def compare_job(run: Run, progress: Progress, warm: Warm) -> None:
    """Draw what is missing of a comparison and measure it."""
    compare(load_comparison(run.folder / SETTINGS), run, progress, warm)


def cache_job(run: Run, progress: Progress, warm: Warm) -> None:
    """Encode what a dataset's cache lacks."""
    warm.clear()
    cache_run(run, progress)


def caption_job(run: Run, progress: Progress, warm: Warm) -> None:
    """Describe the pictures of a dataset; the whole card is the captioner's for that time."""
    warm.clear()
    caption_run(run, progress)


def train_run(run: Run, progress: Progress) -> Path | None:
    """Train in this process, or over several cards when the run's settings ask for them. Returns as `resume` does.

    Raises ZitError when there are fewer cards than asked for.
    """
    with run.working(), ExitStack() as held:
        wanted, cards = load_job(run.folder / SETTINGS)[0].training.cards, workers.all_cards()
        if wanted > max(len(cards), 1):
            raise ZitError(f"training.cards = {wanted}, but this machine has {len(cards)}.", "Ask for fewer; 0 = all.")
        count = wanted or len(cards)
        if count <= 1:
            return resume(run, progress)
        own = workers.own_card()
        chosen = [own, *(card for card in range(len(cards)) if card != own)][:count]
        for card in chosen[1:]:
            held.enter_context(workers.card_for_command(run.folder, progress.note, card))
        return launch(run, count, {"CUDA_VISIBLE_DEVICES": ",".join(cards[card] for card in chosen)})


def caption_run(run: Run, progress: Progress) -> Captioned:
    """Write the captions that a run of kind caption asks for."""
    settings = load_captioning(run.folder / SETTINGS)
    with run.working():
        done = caption(settings, run, progress)
        run.write_status("done" if done.complete else "stopped", message=done.summary, skipped=done.skipped)
    return done


JOBS: dict[str, Job] = {
    "train": train_job,
    "generate": generate_job,
    "compare": compare_job,
    "cache": cache_job,
    "caption": caption_job,
}
