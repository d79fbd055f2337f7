"""Changes to captions as pure functions: replace, prepend, append, remove, trigger word in and out, shuffle."""

import re
from dataclasses import dataclass
from random import Random

from zit_app.core.errors import ZitError

KINDS = ("replace", "regex", "prepend", "append", "remove", "trigger_in", "trigger_out", "shuffle")


@dataclass(frozen=True)
class Edit:
    """One change for many captions. `text` is what is sought or added, `to` what takes its place."""

    kind: str  # one of KINDS
    text: str = ""
    to: str = ""
    match_case: bool = False


def edited(caption: str, edit: Edit, name: str = "") -> str:
    """The caption after the change. `name` of the picture decides how its tags are shuffled.

    Raises ZitError for an expression that is none and for an empty text where one is needed.
    """
    if edit.kind != "shuffle" and not edit.text.strip():
        raise ZitError("There is no text to look for or to add.", "Write it into the field.")
    text = edit.text.strip()
    if edit.kind == "replace":
        return _replaced(caption, re.escape(edit.text), lambda match: edit.to, edit.match_case)
    if edit.kind == "regex":
        return _by_expression(caption, edit)
    if edit.kind == "prepend":
        return f"{text}{'' if text.endswith(',') else ','} {caption}" if caption else text
    if edit.kind == "append":
        return f"{caption.rstrip(' ,')}, {text}" if caption else text
    if edit.kind in ("remove", "trigger_out"):
        return _without(caption, text, edit.match_case)
    if edit.kind == "trigger_in":
        known = text.lower() in caption.lower()
        return caption if known else f"{text}, {caption}" if caption else text
    return _shuffled(caption, text, name)


def _by_expression(caption: str, edit: Edit) -> str:
    try:
        return _replaced(caption, edit.text, edit.to, edit.match_case)
    except (re.error, IndexError) as error:
        raise ZitError(f"{edit.text!r} is not a regular expression ({error}).", "Correct it.") from error


def _replaced(caption: str, pattern: str, to: object, match_case: bool) -> str:
    return re.sub(pattern, to, caption, flags=0 if match_case else re.IGNORECASE)  # type: ignore[call-overload]


def _without(caption: str, text: str, match_case: bool) -> str:
    """The caption without these words, and without the comma that they leave behind."""
    edge = r"\b" if text.isascii() else ""
    start, end = (edge if text[i].isalnum() else "" for i in (0, -1))
    left = _replaced(caption, f"{start}{re.escape(text)}{end}", "", match_case)
    left = re.sub(r"\s{2,}", " ", left)
    left = re.sub(r"\s+([,，、.。])", r"\1", left)
    left = re.sub(r"([,，、])(?:\s*[,，、])+", r"\1", left)
    left = re.sub(r"[,，、]\s*([.。!！?？])", r"\1", left)
    return left.strip(" ,，、")


def _shuffled(caption: str, first: str, name: str) -> str:
    """The parts between commas in another order, the same for the same picture; a part like `first` stays in front."""
    comma = "，" if caption.count("，") > caption.count(",") else ","
    parts = [part.strip() for part in caption.split(comma) if part.strip()]
    kept = [part for part in parts if first and part.lower() == first.lower()]
    rest = [part for part in parts if part not in kept]
    Random(name).shuffle(rest)
    return (comma if comma == "，" else ", ").join([*kept, *rest])
