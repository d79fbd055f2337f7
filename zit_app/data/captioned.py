"""What captioners wrote into a dataset: the record that tells their captions from those of a person.

`.zit_edits/captioned.jsonl`, one line a caption, appended *before* the caption is written: an answer that a kill left
unwritten is written by the resumed run, which asks nobody again.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from zit_app.core.files import append_line
from zit_app.data.captions import read_text
from zit_app.data.edits import JOURNAL
from zit_app.data.pictures import Item

FILE = "captioned.jsonl"


@dataclass(frozen=True, slots=True)
class Written:
    """One caption by a captioner. `asked` is the fingerprint of captioner, question, settings and picture."""

    name: str  # of the picture
    before: str | None  # text of NAME.txt, None without one
    after: str
    asked: str
    run: str  # name of the run's folder


def load(folder: Path) -> dict[str, Written]:
    """By picture name what was last written; a line that a killed process left half is not among it."""
    path = folder / JOURNAL / FILE
    found: dict[str, Written] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError):
                one = Written(**json.loads(line))
                found[one.name] = one
    return found


def remember(folder: Path, written: Iterable[Written]) -> None:
    """Add to the record."""
    lines = [json.dumps(asdict(one), ensure_ascii=False) for one in written]
    if lines:
        (folder / JOURNAL).mkdir(exist_ok=True)
        append_line(folder / JOURNAL / FILE, "\n".join(lines))


def caption_file(folder: Path, name: str) -> Path:
    """Where the first caption of a picture lies."""
    return (folder / name).with_suffix(".txt")


def verdict(item: Item, last: Written | None, asked: str, run: str, overwrite: bool) -> str:
    """What to do about one picture: "ask", "write" what `last` holds, "done", or "keep" a person's caption.

    A caption is a captioner's own as long as it says what the record says. It is asked for again when the captioner,
    the question or the picture is another one now; a caption that a person wrote or changed only with `overwrite`.

    Raises ZitError for a caption file that is not UTF-8.
    """
    now = read_text(caption_file(item.folder, item.name))
    if last is not None and last.run == run:  # of this run, which was interrupted and goes on
        return "done" if now == last.after else "write" if now == last.before else "keep"
    own = last is not None and now == last.after
    if own and last is not None and last.asked == asked and not overwrite:
        return "done"
    return "ask" if overwrite or own or not item.captions else "keep"
