"""Captions of a dataset, changed one by one or many at once; every change can be taken back.

A change writes `NAME.txt`; what was there before stays in `.zit_edits` beside it, as one file a change: JSON, or for a
change that grows picture by picture JSON lines, its name first.
"""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from zit_app.core.errors import ZitError
from zit_app.core.files import append_line, read_json, write_atomic, write_json
from zit_app.data.captions import further_captions
from zit_app.data.editing import Edit, edited
from zit_app.data.pictures import Item

JOURNAL, KEPT = ".zit_edits", 200  # folder, and changes that can be taken back
TYPING = 30.0  # seconds between two changes of the same caption that count as one


@dataclass(frozen=True)
class Change:
    """What an edit makes of one picture's captions."""

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]


def changes(items: Iterable[Item], edit: Edit) -> list[Change]:
    """What the edit would change, picture by picture; nothing is written. Raises ZitError as `edited` does."""
    found = []
    for item in items:
        before = item.captions or ("",)
        after = tuple(text for text in (edited(caption, edit, item.name) for caption in before) if text)
        if after != item.captions:
            found.append(Change(item.name, item.captions, after))
    return found


def apply(folder: Path, made: Iterable[Change], what: str) -> int:
    """Write these captions; the number of pictures whose captions changed. `what` names the change for `history`."""
    texts: dict[str, tuple[str, ...]] = {change.name: change.after for change in made}
    written: dict[str, list[str | None]] = {}
    for name, captions in texts.items():
        for path, text in _files(folder, name, captions).items():
            written[path.relative_to(folder).as_posix()] = [_read(path), text]
    if texts:
        _remember(folder, what, written)
        _write(folder, {name: after for name, (_, after) in written.items()})
    return len(texts)


def save_caption(folder: Path, name: str, text: str) -> None:
    """Write the first caption of one picture, whole or not at all. What is typed in one go is one change."""
    picture = _picture(folder, name)
    path = picture.with_suffix(".txt")
    place, before, after = path.relative_to(folder).as_posix(), _read(path), text.strip() + "\n"
    if before == after or (before is None and not text.strip()):
        return
    last = _entries(folder)[-1:]
    if last and last[0].suffix == ".json":
        entry = read_json(last[0])
        if list(entry["files"]) == [place] and entry["what"] == name and time.time() - entry["time"] < TYPING:
            entry["files"][place][1], entry["time"] = after, time.time()
            write_json(last[0], entry, durable=False)
            _write(folder, {place: after})
            return
    _remember(folder, name, {place: [before, after]})
    _write(folder, {place: after})


class GrowingChange:
    """A change that is made picture by picture over hours, such as a captioner's, and taken back as one.

    place  file of the change as an earlier `GrowingChange` made it, to go on with it; None begins a new one
    """

    def __init__(self, folder: Path, what: str, place: Path | None = None) -> None:
        self.folder, self.what, self.place = folder, what, place

    def write(self, captions: dict[str, str]) -> None:
        """Write the first captions of these pictures, by their names."""
        files: dict[str, list[str | None]] = {}
        for name, text in captions.items():
            path = _picture(self.folder, name).with_suffix(".txt")
            files[path.relative_to(self.folder).as_posix()] = [_read(path), text + "\n"]
        if self.place is None or not self.place.is_file():  # taken back, or one of more than are kept, meanwhile
            self.place = _next_entry(self.folder).with_suffix(".jsonl")
            append_line(self.place, json.dumps({"what": self.what, "time": time.time()}, ensure_ascii=False))
        append_line(self.place, json.dumps(files, ensure_ascii=False))
        _write(self.folder, {name: after for name, (_, after) in files.items()})


def history(folder: Path) -> list[str]:
    """The changes that can be taken back, by name, the last one first."""
    return [_name(path, path.stat().st_mtime_ns) for path in reversed(_entries(folder))]


def undo(folder: Path) -> int:
    """Take the last change back; the number of files restored. What somebody changed since is left alone.

    Raises ZitError when there is nothing to take back.
    """
    entries = _entries(folder)
    if not entries:
        raise ZitError("There is no change to take back.", "Captions are as they came.")
    files = {name: both for name, both in _load(entries[-1])["files"].items() if _read(folder / name) == both[1]}
    _write(folder, {name: before for name, (before, _) in files.items()})
    entries[-1].unlink()
    return len(files)


@lru_cache(maxsize=4 * KEPT)
def _name(entry: Path, stamp: int) -> str:
    """What a change is called; read once for each time it was written, as pages ask every two seconds."""
    return str(_load(entry)["what"])


def _picture(folder: Path, name: str) -> Path:
    picture = folder / name
    if not picture.is_file() or not picture.resolve().is_relative_to(folder.resolve()):
        raise ZitError(f"There is no picture {name} in {folder.name}.", "Choose one of the dataset.")
    return picture


def _files(folder: Path, name: str, captions: tuple[str, ...]) -> dict[Path, str | None]:
    """The caption files of a picture with what belongs into each; None for one that has to go."""
    picture = _picture(folder, name)
    beside = {path.name for path in picture.parent.glob(f"{_literal(picture.stem)}.*")}
    places = [picture.with_suffix(".txt"), *further_captions(picture, beside)]
    more = range(len(places) + 1, len(captions) + 1)
    places += [picture.with_name(f"{picture.stem}.{number}.txt") for number in more]
    if not captions:  # an empty file says "no caption", also where a table of the folder has one
        return {places[0]: "\n", **dict.fromkeys(places[1:])}
    return {path: captions[i] + "\n" if i < len(captions) else None for i, path in enumerate(places)}


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ZitError(f"The caption {path} is not UTF-8 text.", "Save it again as UTF-8.") from error


def _write(folder: Path, texts: dict[str, str | None]) -> None:
    for name, text in texts.items():
        if text is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_atomic(folder / name, text, durable=False)


def _entries(folder: Path) -> list[Path]:
    return sorted((folder / JOURNAL).glob("[0-9]*.json*"))


def _load(entry: Path) -> dict[str, Any]:
    """What a change is called, and by file what was there before it and after."""
    if entry.suffix == ".json":
        return dict(read_json(entry))
    found: dict[str, Any] = {"what": "", "files": {}}
    for number, line in enumerate(entry.read_text(encoding="utf-8", errors="replace").splitlines()):
        with suppress(ValueError):  # a line that a killed process left half; its captions were not written
            row = json.loads(line)
            found["files"] |= row if number else {}
            found["what"] = found["what"] if number else row["what"]
    return found


def _next_entry(folder: Path) -> Path:
    """The place of a new change, without its ending; the oldest ones go."""
    entries = _entries(folder)
    for old in entries[: len(entries) + 1 - KEPT]:
        old.unlink()
    (folder / JOURNAL).mkdir(exist_ok=True)
    return folder / JOURNAL / f"{int(entries[-1].stem) + 1 if entries else 1:08d}"


def _remember(folder: Path, what: str, files: dict[str, list[str | None]]) -> None:
    place = _next_entry(folder).with_suffix(".json")
    write_json(place, {"what": what, "time": time.time(), "files": files})
