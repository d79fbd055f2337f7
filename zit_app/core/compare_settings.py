"""Everything that decides a comparison: the same prompts and seeds, drawn by each variant."""

import re
from dataclasses import dataclass
from pathlib import Path

from zit_app.core.errors import ZitError, did_you_mean
from zit_app.core.generate_settings import PRECISIONS, LoraUse, parse_lora
from zit_app.core.settings import from_mapping, parse_toml, setting, to_toml

_SEED_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_VARIANT_KEYS = ("model", "lora", "steps", "guidance")
_NAME = re.compile(r"[\w][\w .+-]*")  # becomes a folder name


@dataclass(frozen=True)
class Variant:
    """One way to draw: a model, adapters, steps and guidance; what is left open is the comparison's or the model's."""

    name: str = setting("", "Name of the variant, also of its folder")
    model: str = setting("", "Name or folder of the model; empty = that of the comparison")
    loras: tuple[LoraUse, ...] = setting((), "Adapters")
    steps: int = setting(0, "Denoising steps; 0 = the model's own", minimum=0, maximum=200)
    guidance: float = setting(
        -1.0, "Classifier-free guidance; 0 = off; -1 = the model's own", minimum=-1.0, maximum=30.0
    )


@dataclass(frozen=True)
class CompareSettings:
    """The table `[compare]` of a comparison's `settings.toml`; every cell is prompt × seed × variant."""

    model: str = setting("", "Name or folder of the model")
    prompts: tuple[str, ...] = setting((), "What the pictures show")
    seeds: tuple[int, ...] = setting((0, 1, 2, 3), "Seeds, the same for every prompt and variant")
    variants: tuple[Variant, ...] = setting((), "What is compared")
    width: int = setting(0, "Width, a multiple of 16; 0 = the model's own", unit="pixels", minimum=0, maximum=8192)
    height: int = setting(0, "Height, a multiple of 16; 0 = the model's own", unit="pixels", minimum=0, maximum=8192)
    precision: str = setting(
        "auto",
        "Number format; auto = bf16 on a card, fp32 without; int8 and fp8 halve the model's memory, nf4 quarters it",
        choices=PRECISIONS,
    )


@dataclass(frozen=True)
class _CompareFile:
    compare: CompareSettings


def compare_toml(settings: CompareSettings) -> str:
    """The frozen input of a comparison. Raises ZitError when there is nothing to compare."""
    check(settings)
    return to_toml(_CompareFile(settings))


def load_comparison(path: Path) -> CompareSettings:
    """Read back what `compare_toml` wrote."""
    tables = parse_toml(path.read_text(encoding="utf-8"), path.name)
    return from_mapping(CompareSettings, tables["compare"], f"{path.name} [compare]")


def check(settings: CompareSettings) -> None:
    """Raises ZitError for missing prompts, seeds or variants, and for names that cannot be folders or occur twice."""
    for found, what in ((settings.prompts, "prompt"), (settings.seeds, "seed"), (settings.variants, "variant")):
        if not found:
            raise ZitError(f"There is no {what} to compare.", f"Give at least one {what}.")
    names = [variant.name.casefold() for variant in settings.variants]
    for variant in settings.variants:
        if not _NAME.fullmatch(variant.name) or variant.name.endswith((".", " ")):
            raise ZitError(f"{variant.name!r} cannot name a variant.", "Use letters, digits, dots and dashes.")
        if names.count(variant.name.casefold()) > 1:
            raise ZitError(f"Two variants are called {variant.name!r}.", "Give each its own name.")


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0-15`, `3`, `1,4,8-11`."""
    seeds: list[int] = []
    for part in text.split(","):
        match = _SEED_RANGE.fullmatch(part.strip())
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ZitError(f"{part.strip()!r} are no seeds.", "Write such as 0-15 or 1,4,8-11.")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(seeds))


def parse_variant(text: str) -> Variant:
    """`NAME=SPEC`, SPEC being `key=value` pairs divided by `;`: `model=M`, `lora=FILE[@WEIGHT[@FIRST-LAST]]` (may be
    repeated), `steps=N`, `guidance=G`. An empty SPEC is the bare model; a SPEC without a key is an adapter.

        base=   ·   mine=style.safetensors@0.8   ·   slow=model=pocket-base;steps=30;guidance=4
    """
    name, equals, spec = text.partition("=")
    if not equals:
        raise ZitError(f"{text!r} is not understood.", "Write NAME=SPEC, such as mine=style.safetensors@0.8 or base=.")
    values: dict[str, object] = {"name": name.strip()}
    loras: list[LoraUse] = []
    for part in filter(None, (part.strip() for part in spec.split(";"))):
        key, has_key, value = part.partition("=")
        if not has_key:
            key, value = "lora", part
        if key == "lora":
            loras.append(parse_lora(value))
        elif key not in _VARIANT_KEYS:
            raise ZitError(f"{text!r}: unknown key {key!r}.", did_you_mean(key, _VARIANT_KEYS))
        else:
            values[key] = value if key == "model" else _number(value, text)
    return from_mapping(Variant, {**values, "loras": [vars(use) for use in loras]}, text)


def _number(value: str, where: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ZitError(f"{where!r}: {value!r} is no number.", "Write such as steps=8;guidance=0.") from error
