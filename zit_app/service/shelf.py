"""A dataset as it is now, for pages that look every two seconds: listed at once, examined beside it.

The first look reads headers only; a thread then decodes and measures the pictures, and what it finds appears in the
next look. Looking costs at most a twentieth of the time, however many files there are.
"""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from zit_app.core.errors import ZitError
from zit_app.data.formats import Size
from zit_app.data.health.measure import Measures, load_measures, measure_all, thumbnail_path
from zit_app.data.health.opinions import load_opinions, opinions_path
from zit_app.data.health.report import Finding, Report, find_repeats, judge
from zit_app.data.health.writing import Written, load_written, read_all
from zit_app.data.index import CACHE_FOLDER, load_known, save_known
from zit_app.data.pictures import DatasetScan, Item, Skipped, scan_dataset

READ_UP_TO = 300  # pictures in which writing is looked for here: a third of a second of processor each
EXAMINED_UP_TO = 2000  # pictures; a larger set is examined by `zit check`, which takes its time
_SHOWN = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".gif", ".bmp"}  # by browsers, without a thumbnail
_EASE = 20  # times as long as a look took until the next one


@dataclass(frozen=True, slots=True)
class DatasetItem:
    """One picture of a dataset. `size` is None when it cannot be read; `note` says why then."""

    name: str
    path: Path
    caption: str
    size: Size | None
    flags: tuple[str, ...]  # names of `report.ADVICE`, and "unreadable"
    note: str = ""
    duplicate_of: str = ""
    thumbnail: Path | None = None  # a small copy that every browser shows

    @property
    def shown(self) -> Path | None:
        """What a browser can show of it."""
        return self.thumbnail or (self.path if self.path.suffix.lower() in _SHOWN else None)


@dataclass(frozen=True)
class View:
    """A dataset at one look. While `examined` < `total` flags are still to come."""

    items: tuple[DatasetItem, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)  # "set" of the report
    examined: int = 0
    total: int = 0
    problem: str = ""  # why there is nothing to see


class Shelf:
    """One dataset folder, read again only when a file in it changed."""

    def __init__(self, folder: Path, pixels: int) -> None:
        self.folder, self.pixels = folder, pixels
        self._lock = threading.Lock()
        self._view = View()
        self._stamp: object = None
        self._next = 0.0
        self._thread: threading.Thread | None = None
        # Of the last examination: which pictures repeat others, of which contents, and which files were broken.
        self._repeats: dict[str, str] = {}
        self._compared = 0
        self._broken: dict[tuple[str, tuple[int, int]], Skipped] = {}

    def look(self) -> View:
        """The dataset as it is, or was a moment ago when it is large."""
        with self._lock:
            begun = time.monotonic()
            if begun < self._next:
                return self._view
            stamp = self._now()
            if stamp != self._stamp:
                self._stamp = stamp
                self._list()
            if self._view.examined < self._view.total and self._thread is None:
                self._thread = threading.Thread(target=self._examine, daemon=True)
                self._thread.start()
            self._next = time.monotonic() + _EASE * (time.monotonic() - begun)
            return self._view

    def items(self) -> list[Item]:
        """The readable pictures with all their captions."""
        return list(scan_dataset(self.folder, load_known(self.folder), verify=False).items)

    def _now(self) -> object:
        """Changes with every file that comes, goes or is written."""
        found = [(CACHE_FOLDER, _stamp(opinions_path(self.folder))[1])]  # a command may have formed them
        for place, folders, files in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in files:
                path = os.path.join(place, name)
                found.append((path, os.lstat(path).st_mtime_ns if os.path.lexists(path) else 0))
        return hash(tuple(found))

    def _list(self) -> None:
        """Show what headers and earlier examinations tell; pictures that are new wait for the thread."""
        try:
            scan = self._without_broken(scan_dataset(self.folder, load_known(self.folder), verify=False))
        except ZitError as error:
            self._view = View(problem=str(error))
            return
        known = load_measures(self.folder)
        new = sum(item.sha256 not in known or not thumbnail_path(item).is_file() for item in scan.items)
        if not new and self._compared != _contents(scan):
            new = len(scan.items)  # all are measured, but not compared with each other yet
        todo = new if len(scan.items) <= EXAMINED_UP_TO else 0
        self._show(scan, self._judged(scan, known, self._repeats, load_written(self.folder)), 0, todo)

    def _without_broken(self, scan: DatasetScan) -> DatasetScan:
        """The scan without files whose headers are fine and whose rest was not when it was last decoded."""
        broken = {item.name: self._broken[item.name, item.stamp] for item in scan.items
                  if (item.name, item.stamp) in self._broken}  # fmt: skip
        items = tuple(item for item in scan.items if item.name not in broken)
        return replace(scan, items=items, skipped=(*scan.skipped, *broken.values()))

    def _show(self, scan: DatasetScan, report: Report, examined: int = 0, total: int = 0) -> None:
        of = {finding.file: finding for finding in report.pictures}
        items = [_item(item, of[item.name]) for item in scan.items]
        items += [
            DatasetItem(name, scan.folder / name, "", None, ("unreadable",), reason)
            for name, reason in report.unreadable
        ]
        items.sort(key=lambda item: item.name)
        self._view = View(tuple(items), report.set, examined, total)

    def _examine(self) -> None:
        """Decode, measure and compare what is new, then show it; once more when something changed meanwhile."""
        stamp: object = None
        try:
            while stamp != self._stamp:
                stamp = self._stamp
                scan = scan_dataset(self.folder, load_known(self.folder))
                save_known(scan)
                measures = measure_all(self.folder, scan.items, self._examined)
                repeats = find_repeats(scan, measures)
                broken = {(one.name, _stamp(self.folder / one.name)): one for one in scan.skipped}
                with self._lock:
                    self._repeats, self._compared, self._broken = repeats, _contents(scan), broken
                self._tell(stamp, scan, self._judged(scan, measures, repeats, load_written(self.folder)))
                if len(scan.items) <= READ_UP_TO:
                    self._tell(stamp, scan, self._judged(scan, measures, repeats, read_all(self.folder, scan.items)))
        except ZitError as error:  # the folder is gone, or the disk is full: the next change tries again
            self._view = View(problem=str(error))
        finally:
            self._thread = None

    def _tell(self, stamp: object, scan: DatasetScan, report: Report) -> None:
        """Show a report unless the files have changed since."""
        with self._lock:
            if stamp == self._stamp:
                self._show(scan, report)

    def _judged(
        self, scan: DatasetScan, measures: Mapping[str, Measures], repeats: Mapping[str, str], written: Written
    ) -> Report:
        return judge(scan, measures, self.pixels, repeats, written, load_opinions(self.folder))

    def _examined(self, done: int) -> None:
        view = self._view
        self._view = View(view.items, view.summary, min(done, view.total), view.total)


@lru_cache(maxsize=16)
def shelf(folder: Path, pixels: int) -> Shelf:
    """The shelf of a folder, one for all pages and tabs. `pixels`² is what its pictures will be trained at."""
    return Shelf(folder, pixels)


def _item(item: Item, finding: Finding) -> DatasetItem:
    thumbnail = thumbnail_path(item)
    return DatasetItem(
        item.name,
        item.path,
        item.caption or "",
        item.size,
        finding.flags,
        "",
        finding.duplicate_of,
        thumbnail if item.sha256 and thumbnail.is_file() else None,
    )


def _contents(scan: DatasetScan) -> int:
    """Changes when a picture comes, goes or changes, not when a caption does."""
    return hash(tuple((item.name, item.sha256) for item in scan.items))


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file as a scan notes them; zeros for one that is not there."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
