"""Flags of the command line, generated from settings: name, type, range, default and help stand in the field."""

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from zit_app.core.errors import ZitError, did_you_mean
from zit_app.core.settings import FieldInfo, checked, describe


class WrongUsage(Exception):
    """The words of the command line make no command."""


class Parser(argparse.ArgumentParser):
    """argparse that says in one sentence what is wrong, and leaves the rendering to its caller."""

    def error(self, message: str) -> NoReturn:
        chosen = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if chosen:
            known = [name.strip(" '") for name in chosen[2].split(",")]
            message = f"there is no {chosen[1]!r}. {did_you_mean(chosen[1], known)}"
        ending = "" if message.endswith(("?", ".")) else "."
        raise WrongUsage(f"{self.prog}: {message}{ending} See {self.prog} --help.")


def fields(settings: type) -> dict[str, FieldInfo]:
    """The settings of a dataclass by name."""
    return {info.name: info for info in describe(settings)}


def setting_flag(parser: argparse.ArgumentParser, info: FieldInfo, flag: str = "") -> None:
    """Add a flag whose type, range, default and help are those of the setting; lists are written with commas, yes and
    no as in a settings file: true, false."""
    flag = flag or f"--{info.name.replace('_', '-')}"
    default = str(info.default).lower() if info.type is bool else info.default
    details = ", ".join(filter(None, [info.unit, info.range, f"default {default}" if default else ""]))
    text = f"{info.help} ({details})" if details else info.help
    kind = _truth if info.type is bool else info.type if info.type in (int, float, str) else _numbers
    parser.add_argument(
        flag,
        dest=info.name,
        default=info.default,
        metavar=flag.strip("-").replace("-", "_").upper(),
        type=usage(lambda word: checked(info, kind(word), "")),
        help=text.replace("%", "%%"),
    )


def usage(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse report what `read` refuses as wrong usage."""

    def convert(word: str) -> Any:
        try:
            return read(word)
        except ZitError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{word!r} is no number") from error

    return convert


def _truth(word: str) -> bool | str:
    """Another word stays what it is, for `checked` to refuse."""
    return {"true": True, "false": False}.get(word.lower(), word)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(int(part) if part.strip().isdecimal() else float(part) for part in text.split(","))
