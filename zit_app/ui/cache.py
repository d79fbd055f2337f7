"""The tab Cache: what is encoded already. Training does it by itself; here it can be seen and done beforehand."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from zit_app.core.cache_settings import CacheSettings
from zit_app.core.errors import ZitError
from zit_app.core.train_settings import DatasetSettings, TrainJob, load_job
from zit_app.service import caches, runs
from zit_app.service.caches import CacheOverview
from zit_app.service.easing import Eased
from zit_app.ui import cards
from zit_app.ui.actions import Actions
from zit_app.ui.choices import (
    chooser,
    dataset_choices,
    default_model,
    first_dataset,
    followed,
    model_choices,
    require_model,
)
from zit_app.ui.generate import stop_all
from zit_app.ui.page import Page, Snapshot, asks

LISTED = 8  # stale pictures that are named for each reason
BARS = 12  # buckets that are drawn


class CacheTab:
    """Shows, builds and clears the cache of one dataset."""

    def __init__(self, page: Page) -> None:
        self.page, self.w = page, page.w
        w = self.w
        gr.HTML(cards.note(w("cache.about")))
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=4, min_width=300):
                self.dataset = chooser(dataset_choices(), value=first_dataset(), label=w("dataset"))
                self.model = chooser(model_choices(), value=default_model(), label=w("model"))
                with gr.Row():
                    self.resolution = gr.Number(
                        0,
                        label=w("cache.resolution"),
                        info=w("cache.resolution_help"),
                        precision=0,
                        minimum=0,
                        min_width=150,
                    )
                    self.trigger = gr.Textbox(
                        "",
                        label=w("train.trigger"),
                        info=w("cache.trigger_help"),
                        max_lines=1,
                        min_width=150,
                        elem_id="cache-trigger",
                    )
                with gr.Row():
                    self.go = gr.Button(w("cache.build"), variant="primary", scale=2, elem_id="cache-build")
                    self.clear = gr.Button(w("cache.clear"), min_width=90, elem_id="cache-clear")
                    self.stop = gr.Button(w("stop"), variant="stop", visible=False, min_width=90)
            with gr.Column(scale=7, min_width=320):
                self.status = Actions(page).html(elem_id="cache-status", elem_classes="maybe")
                self.found = gr.HTML(elem_id="cache-found")
        asked = [self.dataset, self.model, self.resolution, self.trigger]
        self.go.click(asks(self._submit), asked, api_visibility="private")
        self.clear.click(asks(self._clear), [self.dataset], api_visibility="private")
        self.stop.click(asks(self._stop), api_visibility="private")
        page.watch([self.status, self.stop, self.clear], self._read_status)
        page.watch([self.found, self.dataset, self.model], self._read, asked)

    def _submit(self, dataset: str | None, model: str, resolution: int | None, trigger: str) -> None:
        if not dataset:
            raise ZitError(self.w("train.no_dataset"), self.w("train.no_dataset_help"))
        known = require_model(self.w, model)
        asked = CacheSettings(dataset, known, int(resolution or 0), trigger_word=trigger)
        runs.submit_cache(as_trained(asked, runs.list_runs("train")))

    def _clear(self, dataset: str | None) -> None:
        if dataset:
            caches.clear(Path(dataset))
            eased_overview.cache_clear()

    def _stop(self) -> None:
        stop_all("cache")

    def _read_status(self, now: Snapshot) -> Sequence[Any]:
        own = now.of("cache")
        busy = now.current is not None and now.current.kind in ("cache", "train")
        return [
            cards.run_card(self.w, own[0]) if own else "",
            gr.update(visible=any(run.can_stop for run in own)),
            gr.update(interactive=not busy),
        ]

    def _read(
        self, now: Snapshot, dataset: str | None, model: str | None, resolution: int | None, trigger: str
    ) -> Sequence[Any]:
        choices = [followed(dataset_choices(), dataset), followed(model_choices(), model, default_model())]
        if not dataset or not model:
            return [cards.empty(self.w("dataset.none")), *choices]
        try:
            asked = CacheSettings(dataset, model, int(resolution or 0), trigger_word=trigger)
            found = eased_overview(as_trained(asked, now.of("train"))).now()
        except ZitError as error:
            return [cards.empty(self.w.error(error)), *choices]
        return [self._facts(found) + self._buckets(found) + self._stale(found), *choices]

    def _facts(self, found: CacheOverview) -> str:
        w = self.w
        pairs = [
            (w("cache.latents"), w("cache.of", n=found.latents_ready, total=found.latents)),
            (w("cache.texts"), w("cache.of", n=found.texts_ready, total=found.texts)),
            (w("cache.size"), w.size(found.size)),
            (w("cache.unused"), w.size(found.unused)),
            (w("cache.cropped"), f"{100 * found.cropped:.1f} %"),
        ]
        notes = cards.note(w("cache.uncaptioned", n=found.uncaptioned), "warning") if found.uncaptioned else ""
        return cards.facts(pairs) + notes

    def _buckets(self, found: CacheOverview) -> str:
        """How many pictures go into which size, as bars."""
        most = found.buckets[0][1]
        lines = "".join(
            f'<span>{width} × {height}</span><div class="bar quiet"><i style="width:{100 * count / most:.0f}%"></i>'
            f"</div><span>{count}</span>"
            for (width, height), count in found.buckets[:BARS]
        )
        rest = sum(count for _, count in found.buckets[BARS:])
        more = cards.note(self.w("cache.more_buckets", n=rest)) if rest else ""
        return f'<h3>{escape(self.w("cache.buckets"))}</h3><div class="histogram">{lines}</div>{more}'

    def _stale(self, found: CacheOverview) -> str:
        """What is to be encoded, and why."""
        w = self.w
        if not found.stale:
            return cards.note(w("cache.complete"))
        names: dict[tuple[str, ...], list[str]] = {}
        for name, why in found.stale:
            names.setdefault(why, []).append(name)
        counts = Counter({why: len(of) for why, of in names.items()})
        rows = []
        for why, count in counts.most_common():
            listed = ", ".join(names[why][:LISTED]) + (" …" if count > LISTED else "")
            rows.append((w("cache.and").join(w("stale." + one) for one in why), str(count), listed))
        head = (w("cache.reason"), w("cache.pictures"), w("cache.which"))
        return f"<h3>{escape(w('cache.stale'))}</h3>" + cards.table(head, rows)


@lru_cache(maxsize=16)
def eased_overview(asked: CacheSettings) -> Eased[CacheOverview]:
    """The comparison of a dataset with its cache, for pages that look all the time."""
    return Eased(lambda: caches.overview(asked))


def as_trained(asked: CacheSettings, trainings: Sequence[runs.RunView]) -> CacheSettings:
    """What was left open as in the newest training on this dataset, which encoded it: the trigger word, and of the same
    model the resolutions, their shapes and the longest caption."""

    def newest(*models: str) -> DatasetSettings:
        done = filter(None, map(_asked_of, (run.folder for run in trainings)))
        found = (data for job, data in done if job.dataset == asked.dataset and (not models or job.model in models))
        return next(found, DatasetSettings())

    data = newest(asked.model)
    asked = replace(
        asked,
        trigger_word=asked.trigger_word.strip() or newest().trigger_word,
        enable_bucket=data.enable_bucket,
        max_sequence_length=data.max_sequence_length,
    )
    if asked.resolution:
        return asked
    return replace(asked, resolution=data.resolution, further_resolutions=data.further_resolutions)


@lru_cache(maxsize=256)
def _asked_of(run: Path) -> tuple[TrainJob, DatasetSettings] | None:
    """What a training was asked, which never changes; None for one of another version of the program."""
    try:
        settings, job = load_job(run / "settings.toml")
    except ZitError:
        return None
    return job, settings.dataset
