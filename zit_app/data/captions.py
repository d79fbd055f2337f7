"""Where captions are: `NAME.txt` beside a picture, more of them in `NAME.2.txt` …, or a table for the whole folder.

A table is `captions.jsonl` or `captions.csv` (also `metadata.*`, as other programs call it) with a picture's path and
its caption in each line. `NAME.txt` counts more than the table: an edit writes it, and the table stays as it came.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zit_app.core.errors import ZitError
from zit_app.data.formats import EXTENSIONS

TABLES = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv")
_FILE_KEYS = ("file_name", "file", "filename", "image", "image_path", "img_path", "path", "picture")
_TEXT_KEYS = ("caption", "text", "captions", "prompt", "description", "input_description")
_CATEGORY_KEYS = ("category", "input_category", "class")
_GROUP_KEYS = ("group", "item", "product_id", "input_productID", "item_id")


@dataclass(frozen=True)
class Listed:
    """What a table says about one picture. `group` holds views of one thing together."""

    captions: tuple[str, ...] = ()
    category: str = ""
    group: str = ""


def read_caption(picture: Path) -> str | None:
    """The text of `NAME.txt` beside a picture, or None when there is none or nothing in it.

    Raises ZitError when the file is not UTF-8.
    """
    return read_text(picture.with_suffix(".txt"))


def read_text(path: Path) -> str | None:
    """The text of a caption file, or None when there is none or nothing in it; raises ZitError when not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig").strip() or None
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ZitError(f"The caption {path} is not UTF-8 text.", "Save it again as UTF-8.") from error


def further_captions(picture: Path, names: set[str]) -> Iterator[Path]:
    """The files `NAME.2.txt`, `NAME.3.txt` … without a gap. `names` are the files of the picture's folder.

    A picture `NAME.2.png` would own `NAME.2.txt`; then it is no further caption.
    """
    number = 2
    while f"{picture.stem}.{number}.txt" in names:
        if not any(f"{picture.stem}.{number}{suffix}" in names for suffix in EXTENSIONS):
            yield picture.with_name(f"{picture.stem}.{number}.txt")
        number += 1


def read_table(folder: Path) -> dict[str, Listed]:
    """What the folder's table says, by picture name; empty without one. Lines of the same picture add up.

    Raises ZitError naming the line that is wrong, and for two tables in one folder.
    """
    found = [folder / name for name in TABLES if (folder / name).is_file()]
    if not found:
        return {}
    if len(found) > 1:
        raise ZitError(f"{folder} holds both {found[0].name} and {found[1].name}.", "Keep one of them.")
    listed: dict[str, Listed] = {}
    for number, row in table_rows(found[0]):
        name = first_of(row, _FILE_KEYS)
        if not name:
            raise ZitError(f"{found[0].name}, line {number}: no picture is named.", f"Call it {_FILE_KEYS[0]!r}.")
        key = name.replace("\\", "/").removeprefix("./")
        before = listed.get(key, Listed())
        listed[key] = Listed(
            before.captions + tuple(texts_of(row)),
            first_of(row, _CATEGORY_KEYS) or before.category,
            first_of(row, _GROUP_KEYS) or before.group,
        )
    return listed


def table_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The lines of a JSONL or CSV file as mappings, with their numbers; never the whole file at once.

    Raises ZitError naming the line that is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                yield from ((number, row) for number, row in enumerate(csv.DictReader(file), 2))
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ZitError(f"{path.name}, line {number} is not an object.", "Write one {…} a line.")
                    yield number, row
    except UnicodeDecodeError as error:
        raise ZitError(f"{path} is not UTF-8 text.", "Save it again as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise ZitError(f"{path.name}, line {number} is not JSON ({error.msg}).", "Correct that line.") from error
    except csv.Error as error:
        raise ZitError(f"{path.name} is not a CSV table ({error}).", "Save it again as CSV.") from error


def first_of(row: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The first of these entries that says something, as text."""
    return next((str(row[key]).strip() for key in keys if row.get(key) not in (None, "")), "")


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """The captions of a line: one text or a list of them."""
    value = next((row[key] for key in _TEXT_KEYS if row.get(key)), "")
    texts = value if isinstance(value, list) else [value]
    return [text for text in (str(each).strip() for each in texts) if text]


def estimated_tokens(caption: str) -> int:
    """About how many tokens Z-Image's text encoder makes of a caption, a little more rather than less.

    Qwen's vocabulary: a Chinese character is at most one token, an English word about 1.3, a mark one.
    """
    wide = len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]", caption))
    words = re.findall(r"[^\W\d_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+", caption)
    marks = len(re.findall(r"[^\w\s]|\d", caption))
    return wide + sum(1 + len(word) // 7 for word in words) + marks


def with_trigger(caption: str | None, trigger_word: str) -> str:
    """The caption with the trigger word in front where it does not occur already."""
    if caption is None:
        return trigger_word
    if not trigger_word or trigger_word.lower() in caption.lower():
        return caption
    return f"{trigger_word}, {caption}"
