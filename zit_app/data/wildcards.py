"""Prompts that vary with the seed: `{red|blue} apple`, and `__fruit__` for a line of `<home>/wildcards/fruit.txt`.

Both nest. A group without a `|` is no choice and stays as it is written, so structured prompts pass through. A
backslash before one of `{ } | _ \\` takes its meaning away. The same seed always chooses the same.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias, TypeVar

from zit_app.core import paths
from zit_app.core.errors import ZitError, nearest

_TOKEN = re.compile(r"\\([\\{}|_])|__([\w-]+?(?:/[\w-]+?)*)__|([{}|])")
_DEEPEST = 20  # wildcards in lines of wildcards
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Choice:
    options: tuple["_Text", ...]


@dataclass(frozen=True)
class _Wildcard:
    name: str


_Text: TypeAlias = tuple[str | _Choice | _Wildcard, ...]


def resolved(prompt: str, seed: int) -> str:
    """The prompt as it is drawn with a seed. Raises ZitError for unknown wildcards and groups that never end."""
    return _written(_parsed(prompt), Random(f"{seed}"), 0)


def literal(text: str) -> str:
    """A prompt that is `text` for every seed."""
    try:
        if _parsed(text) == ((text,) if text else ()):
            return text
    except ZitError:
        pass
    return re.sub(r"\\(?=[\\{}|_])|[{}]|__(?=[\w-])", r"\\\g<0>", text)


def wildcards() -> list[str]:
    """The names of the wildcard files, those in folders as `folder/name`."""
    shelf = paths.wildcards()
    return sorted(file.relative_to(shelf).with_suffix("").as_posix() for file in shelf.rglob("*.txt"))


def _parsed(text: str) -> _Text:
    groups: list[list[list[str | _Choice | _Wildcard]]] = [[[]]]  # the open groups, their options, the parts of each
    end = 0
    for found in _TOKEN.finditer(text):
        escaped, name, mark = found.groups()
        groups[-1][-1].append(text[end : found.start()])
        end = found.end()
        if name:
            groups[-1][-1].append(_Wildcard(name))
        elif mark == "{":
            groups.append([[]])
        elif mark == "|" and len(groups) > 1:
            groups[-1].append([])
        elif mark == "}" and len(groups) > 1:
            options = groups.pop()
            groups[-1][-1] += [_Choice(tuple(map(_joined, options)))] if len(options) > 1 else ["{", *options[0], "}"]
        else:
            groups[-1][-1].append(escaped or mark)
    groups[-1][-1].append(text[end:])
    while len(groups) > 1:
        options = groups.pop()
        if len(options) > 1:
            raise ZitError("A { of the prompt is never closed.", r"Add the }, or write \{ where a brace is meant.")
        groups[-1][-1] += ["{", *options[0]]
    return _joined(groups[0][0])


def _joined(parts: Sequence[str | _Choice | _Wildcard]) -> _Text:
    """Neighbouring texts as one."""
    joined: list[str | _Choice | _Wildcard] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined)


def _written(parts: _Text, random: Random, depth: int) -> str:
    words = []
    for part in parts:
        if isinstance(part, _Choice):
            words.append(_written(_one_of(part.options, random), random, depth))
        elif isinstance(part, _Wildcard):
            if depth == _DEEPEST:
                raise ZitError(f"The wildcard __{part.name}__ leads back to itself.", "Take it out of its own lines.")
            words.append(_written(_parsed(_one_of(_lines(part.name), random)), random, depth + 1))
        else:
            words.append(part)
    return "".join(words)


def _one_of(options: Sequence[_T], random: Random) -> _T:
    return options[int(random.random() * len(options))]  # `choice` may draw differently in another Python


def _lines(name: str) -> list[str]:
    """The lines of a wildcard file without empty ones and those that begin with #."""
    file = paths.wildcards() / f"{name}.txt"
    if not file.is_file():
        known = wildcards()
        close = nearest(name, known)
        if close:
            raise ZitError(f"There is no wildcard __{name}__.", f"Did you mean __{close}__?")
        raise ZitError(f"There is no wildcard __{name}__.", f"Write its lines into {file}.")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ZitError(f"{file} cannot be read as text.", "Save it again as UTF-8.") from error
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ZitError(f"{file} holds no line.", "Write one choice a line.")
    return found
