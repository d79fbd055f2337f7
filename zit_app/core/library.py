"""The library of adapters: those that were trained here and those put into `<home>/loras/`, found by name."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from zit_app.core import paths
from zit_app.core.errors import ZitError, did_you_mean
from zit_app.core.run import Run

TRAINED = "adapter.safetensors"  # in the folder of a training
PEFT = "adapter_model.safetensors"  # in a folder that PEFT wrote
DIFFUSERS = "pytorch_lora_weights.safetensors"  # what diffusers calls every adapter


def shelves() -> list[Path]:
    """Every file that may be an adapter: what lies in `<home>/loras/`, and the results of trainings."""
    own = sorted(file for file in (paths.home() / "loras").rglob("*.safetensors") if not file.name.startswith("."))
    return own + sorted(paths.runs("train").glob(f"*/{TRAINED}"))


def adapter_name(file: Path) -> str:
    """What an adapter of the library is called: the name of its training, else its file's; where the file has a name
    that says nothing, its folder's.
    """
    if file.name == TRAINED:
        return str(Run(file.parent).status().get("name") or file.parent.name)
    return file.parent.name if file.name in (PEFT, DIFFUSERS) else file.stem


def trigger_of(metadata: Mapping[str, str]) -> str:
    """The word that calls an adapter, "" when none is noted: what ModelSpec says, else the most frequent tag of a
    training with kohya's tools, which in practice is the trigger word.
    """
    noted = metadata.get("modelspec.trigger_phrase")
    if noted:
        return noted
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts = {tag: count for tags in folders.values() for tag, count in tags.items()}
        return max(counts, key=lambda tag: counts[tag], default="").strip()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return ""


def base_of(metadata: Mapping[str, str]) -> tuple[str, str]:
    """Name and hash of the model that an adapter was trained on, as far as it says so."""
    name = metadata.get("ss_sd_model_name") or metadata.get("ss_base_model_version") or ""
    return name, metadata.get("ss_sd_model_hash") or metadata.get("ss_new_sd_model_hash") or ""


def find_adapter(text: str) -> Path:
    """The adapter file that a path, a folder written by PEFT or a name from the library stands for.

    Raises ZitError when there is none, or when several have that name.
    """
    given = Path(text).expanduser()
    if given.is_file():
        return given
    if given.is_dir():
        found = [given / name for name in (TRAINED, PEFT) if (given / name).is_file()]
        if not found:
            raise ZitError(f"{given} is a folder without an adapter.", "Give the .safetensors file.")
        return found[0]
    named = [file for file in shelves() if text in _names(file)]
    if len(named) == 1:
        return named[0]
    if named:
        newest = max(named, key=lambda file: file.stat().st_mtime)
        raise ZitError(f"{len(named)} adapters are called {text!r}.", f"Give the file; the newest is {newest}.")
    if len(given.parts) > 1 or given.suffix:
        raise ZitError(f"{given} does not exist.", "Check the path.")
    known = [name for file in shelves() for name in _names(file)]
    remedy = did_you_mean(text, known) if known else "Give the .safetensors file."
    raise ZitError(f"There is no adapter {text!r}.", remedy)


def _names(file: Path) -> Iterator[str]:
    yield adapter_name(file)
    if file.name == TRAINED:
        yield file.parent.name
