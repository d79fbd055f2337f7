"""Train a LoRA: AC-RF (Anchor-Coupled Rectified Flow), the training loop of the report on one page.

Through accelerate: one process, or one a card under `accelerate launch`, is the same code (`engine/parallel.py`).
"""

import io
import itertools
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import TrainSettings, load_job, settled
from zit_app.engine.beginning import with_own_start
from zit_app.engine.cache import build_cache
from zit_app.engine.checkpoints import TrainState, latest_checkpoint, load_checkpoint, save_checkpoint
from zit_app.engine.health import take_health
from zit_app.engine.objective import learning_rate
from zit_app.engine.own_pictures import draw_own_pictures
from zit_app.engine.parallel import (
    Onlooker,
    add_up,
    asked_of_all,
    flat,
    new_accelerator,
    start_tracker,
    told_to_all,
)
from zit_app.engine.preparation import prepare
from zit_app.engine.previews import draw_previews
from zit_app.engine.refusals import refuse_contradictions
from zit_app.engine.shipped import write_adapter
from zit_app.engine.step import batch_terms, by_node
from zit_app.engine.way_files import FOLDER as WAYS
from zit_app.engine.widened import widened
from zit_app.engine.work import Work
from zit_app.model.loading import find_model


def train(settings: TrainSettings, dataset: Path, model: str | Path, run: Run, progress: Progress) -> Path | None:
    """Train from the run's newest checkpoint, else from the start; builds what the cache lacks first.

    Returns `adapter.safetensors` in the run folder, or None when the run was asked to stop. Raises ZitError for bad
    data, a wrong model, a full disk, a loss that is no number.
    """
    data = settings.dataset
    accelerator = new_accelerator(settings.training.compute, settings.training.tracker, run.folder)
    if not accelerator.is_main_process:
        run = Onlooker(run.folder)
        progress = Progress(run, stream=io.StringIO())  # nobody hears the others
    with run.working():
        start_tracker(accelerator, settings.training.tracker)
        with accelerator.main_process_first():
            settings = settled(with_own_start(settings, run), find_model(model))
        job = load_job(run.folder / "settings.toml")[1]
        with accelerator.main_process_first():
            refuse_contradictions(settings, dataset, find_model(model), accelerator.device)
            if data.drawn:
                prompts = Path(job.prompts)
                dataset = draw_own_pictures(data.drawn, prompts, data.resolution, model, run, progress) or Path()
            elif data.own_pictures:
                dataset = widened(dataset, settings, model, run, progress) or Path()
            if progress.stop_requested():
                run.write_status("stopped", message="Stopped while preparing; what was made stays.")
                return None
            cache = build_cache(
                dataset,
                model,
                data.resolution,
                progress=progress,
                enable_bucket=data.enable_bucket,
                max_length=data.max_sequence_length,
                trigger_word=data.trigger_word,
                further=data.further_resolutions,
            )
        run.write_status("running", skipped=[[one.name, one.reason] for one in cache.skipped])
        if not cache.complete:
            run.write_status("stopped", message="Stopped while caching; what is cached stays.")
            return None
        work, state = prepare(settings, job.preset, cache, find_model(model), accelerator, progress)
        checkpoint = latest_checkpoint(run.folder)
        if checkpoint is not None:
            if load_checkpoint(checkpoint, state) != work.inputs:
                what = "The model, the pictures or the unrelated prompts"
                progress.note(f"{what} changed since: what follows is not the same run any more.")
            progress.note(f"Resumed at step {state.step}.")
        run.cut_metrics(state.step)
        adapter = take_steps(work, state, run, progress)
        if adapter is not None and accelerator.is_main_process:
            shutil.rmtree(run.folder / WAYS, ignore_errors=True)  # 8 MB each at 1024², of use to this run alone
        accelerator.end_training()
        return adapter


def resume(run: Run, progress: Progress) -> Path | None:
    """Go on with a run that was interrupted or stopped, as if nothing had happened."""
    settings, job = load_job(run.folder / "settings.toml")
    return train(settings, Path(job.dataset), job.model, run, progress)


def take_steps(work: Work, state: TrainState, run: Run, progress: Progress) -> Path | None:
    """Optimizer steps of `gradient_accumulation_steps` batches each, to the end or to a request to stop.

    Gradients are averaged over pictures and not over batches, in which a picture of a short batch would count more.
    """
    training, accelerator = work.settings.training, work.accelerator
    weights = [parameter for parameter in state.transformer.parameters() if parameter.requires_grad]
    stream = work.order.stream(state.batches)
    progress.stage(f"Training on {work.cache.pictures} pictures")
    begun_at = state.step
    answered: dict[str, Any] = {}  # the requests at the last look: a new one has a new time
    while state.step < work.steps:
        asked = run.control()
        new = [asked.get(name) != answered.get(name) for name in ("save", "sample")]
        answered = asked
        stop, save, sample = asked_of_all(accelerator, [bool(asked.get("stop")), *new])
        first = training.sample_every and not state.step  # what is drawn before anything is learnt
        if accelerator.is_main_process and (sample or first or _due(training.sample_every, state.step, begun_at)):
            draw_previews(work, state, run.folder)
        if save or stop:
            _save(work, state, state.draws(), run)
        if stop:
            run.write_status("stopped", step=state.step, total=work.steps, message=f"Stopped at step {state.step}.")
            return None
        draws, begun = state.draws(), time.perf_counter()
        count = min(training.gradient_accumulation_steps, work.batches - state.batches)
        batches = [state.focus.choose(batch, state.generator) for batch in itertools.islice(stream, count)]
        pictures = sum(len(batch) for batch in batches)
        total, seen = torch.zeros(1, device=work.device), []
        for number, batch in enumerate(batches, state.batches):
            for summed, seen_2B in batch_terms(work, state, batch, number):
                if summed.requires_grad:
                    accelerator.backward(summed / pictures)
                total += summed.detach() / pictures
                seen.append(seen_2B)
        records = add_up(accelerator, weights, torch.cat([total, torch.cat(seen, 1).flatten()]))
        clipped = accelerator.clip_grad_norm_(weights, training.max_grad_norm or math.inf)
        norm, loss, *figures = torch.cat([clipped[None].to(records), records]).tolist()  # the one look at the card
        sigmas, losses = figures[:pictures], figures[pictures:]
        if not math.isfinite(loss + norm):
            raise _not_a_number(state.step, latest_checkpoint(run.folder), training.learning_rate)
        if _due(training.save_every, state.step, begun_at):
            _save(work, state, draws, run)  # only now are these weights known to give a finite loss
        rate = learning_rate(training, state.step, work.steps)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.move()
        state.step += 1
        state.batches += len(batches)
        state.follow(training.ema_decay)
        state.focus.saw(list(itertools.chain(*batches)), state.sampler.saw(sigmas, losses))

        told = {"loss": loss, "lr": rate, "grad_norm": norm, "seconds": time.perf_counter() - begun}
        run.append_metrics(step=state.step, **told, nodes=by_node(sigmas, losses, work.nodes_N))
        accelerator.log(told, step=state.step)
        progress.step(state.step, work.steps, loss=loss, lr=rate, seconds=told["seconds"])
        if state.step % work.health_every == 0:
            measured = take_health(work, state, run) if accelerator.is_main_process else {}
            state.focus.hear(told_to_all(accelerator, measured.get("held_out", {}).get("concepts", {})))
            accelerator.log(flat(measured), step=state.step)
    _save(work, state, state.draws(), run)
    adapter = run.folder / "adapter.safetensors"
    if accelerator.is_main_process:
        if training.sample_every:
            draw_previews(work, state, run.folder)
        write_adapter(work, state, adapter)
    return adapter


def _due(every: int, step: int, begun_at: int) -> bool:
    """Whether something happens after this many steps; what happened before a resume is not done again."""
    return bool(every) and step > begun_at and step % every == 0


def _save(work: Work, state: TrainState, draws: dict[str, Any], run: Run) -> None:
    if not work.accelerator.is_main_process:
        return
    folder = save_checkpoint(
        run.folder,
        state,
        draws,
        work.inputs,
        work.settings.training.keep_last,
        lambda path: write_adapter(work, state, path),
    )
    run.log(f"Saved {folder.name}.")


def _not_a_number(step: int, checkpoint: Path | None, rate: float) -> ZitError:
    last = f"the last checkpoint is {checkpoint.name}" if checkpoint else "no checkpoint was saved before"
    return ZitError(
        f"The loss of step {step + 1} is not a number; {last}.",
        f"Train again with a lower training.learning_rate (now {rate:g}).",
        "diverged",
    )
