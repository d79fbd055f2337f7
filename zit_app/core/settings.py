"""Settings are frozen dataclasses: type, default, range, unit and one line of help stand in the field.

Everything that shows or reads a setting (presets, command line, app, run folders, documentation) goes through
`describe` and `from_mapping`, so there is one truth for each.
"""

import dataclasses
import math
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import tomlkit
from tomlkit.items import Table

from zit_app.core.errors import ZitError, did_you_mean

# Twenty times as quick at reading as tomlkit, which keeps comments and order for writing.
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
_BOUNDLESS = 1e9  # a maximum above it (that of a seed) is a limit of the machine and tells a person nothing


@dataclass(frozen=True)
class FieldInfo:
    """One setting as people meet it. `type` is bool, int, float, str or a `tuple[…]` of those or of dataclasses."""

    name: str
    type: Any
    default: Any
    help: str
    unit: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]

    @property
    def range(self) -> str:
        """The allowed values in words, empty when every value of the type goes."""
        if self.choices:
            return " | ".join(self.choices)
        if self.minimum is not None and self.maximum is not None and self.maximum < _BOUNDLESS:
            return f"{self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"at least {self.minimum:g}"
        return f"at most {self.maximum:g}" if self.maximum is not None else ""


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that knows its default, one line of help, unit, inclusive range or choices."""
    return dataclasses.field(
        default=default,
        metadata={"help": help, "unit": unit, "minimum": minimum, "maximum": maximum, "choices": choices},
    )


def describe(cls: type) -> list[FieldInfo]:
    """The settings of a dataclass whose fields were made by `setting`, in their order."""
    kinds = typing.get_type_hints(cls)
    return [
        FieldInfo(field.name, kinds[field.name], field.default, **field.metadata) for field in dataclasses.fields(cls)
    ]


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build a settings dataclass from parsed TOML or JSON; missing keys keep their default.

    where  names the source in errors, such as "presets/style.toml [acrf]"

    Raises ZitError for an unknown key (naming the nearest known one), a wrong type or a value out of range.
    """
    fields = {info.name: info for info in describe(cls)}
    for key in mapping:
        if key not in fields:
            raise ZitError(f"{where}: unknown key {key!r}.", did_you_mean(key, fields))
    return cls(**{key: checked(fields[key], value, where) for key, value in mapping.items()})


def checked(info: FieldInfo, value: Any, where: str) -> Any:
    """The value in the field's own type and range; raises ZitError, beginning with `where`, otherwise."""
    shown = f"{where}: {info.name} = {value!r}" if where else repr(value)
    try:
        result = _coerce(info.type, value, f"{where} {info.name}")
    except (TypeError, ValueError) as error:
        raise ZitError(f"{shown} is not {error}.", f"{info.help}.") from error
    out_of_range = any(
        _out_of_range(info, entry) for entry in (result if isinstance(result, tuple) else (result,))
    ) or (isinstance(result, float) and not math.isfinite(result))
    if out_of_range or (info.choices and result not in info.choices):
        raise ZitError(f"{shown} is not allowed.", f"Allowed: {info.range}.")
    return result


def _out_of_range(info: FieldInfo, value: Any) -> bool:
    return (info.minimum is not None and value < info.minimum) or (info.maximum is not None and value > info.maximum)


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML; raises ZitError with the line of the mistake."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ZitError(f"{where} is not valid TOML ({error}).", "Correct that line.") from error


def apply_set(mapping: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    """A copy of nested tables with one `table.key=value` applied.

    The value is read as TOML; a bare word that is no TOML value is a string, so `acrf.sampler=anchor` needs no quotes.
    """
    name, equals, text = assignment.partition("=")
    table, dot, key = name.strip().partition(".")
    if not (equals and dot and table and key):
        raise ZitError(f"--set {assignment} is not understood.", "Write --set table.key=value.")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    return {**mapping, table: {**mapping.get(table, {}), key: value}}


def to_toml(settings: Any) -> str:
    """Settings as TOML that explains itself: help and unit as a comment behind each key; dataclass fields as tables."""
    document = tomlkit.document()
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            table = tomlkit.table()
            _fill(table, value)
            document.add(field.name, table)
    if not document:
        _fill(document, settings)
    return tomlkit.dumps(document)


def _fill(container: Table | tomlkit.TOMLDocument, settings: Any) -> None:
    for info in describe(type(settings)):
        item = tomlkit.item(_plain(getattr(settings, info.name)))
        if info.help:
            item.comment(f"{info.help} [{info.unit}]" if info.unit else info.help)
        container.add(info.name, item)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if dataclasses.is_dataclass(value):
        inline = tomlkit.inline_table()
        inline.update({field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)})
        return inline
    return value


def _coerce(kind: Any, value: Any, where: str) -> Any:
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError("a list")
        return tuple(_coerce(typing.get_args(kind)[0], entry, where) for entry in value)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise TypeError("a table")
        return from_mapping(typing.cast(type, kind), value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a trigger word 2024, block 3
    if type(value) is not kind:
        raise TypeError({bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind])
    return value
