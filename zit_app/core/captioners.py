"""Which captioners there are, where their folders lie, and which of them suits a card."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from zit_app.core import paths
from zit_app.core.errors import ZitError, did_you_mean
from zit_app.core.files import read_json

ENDPOINTS = ("openai", "ollama")
POCKET = "pocket"
_CONFIG = "config.json"
_GIB = 1 << 30


@dataclass(frozen=True)
class Known:
    """A captioner with a name. Sizes and licences are those of its model card."""

    repo: str  # OWNER/NAME on a model hub; "" for the one that ships
    size: int  # bytes of its weights in bf16
    card: int  # bytes of a graphics card that it runs on well: weights, one picture, the driver
    licence: str
    languages: tuple[str, ...]


# From the best down; a captioner of fewer weights sees less. Sizes: parameters × 2 bytes (Z-Image notes, captioners).
KNOWN = {
    "qwen3-vl-8b": Known("Qwen/Qwen3-VL-8B-Instruct", 17_540_000_000, 21 * _GIB, "Apache-2.0", ("en", "zh")),
    "qwen3-vl-4b": Known("Qwen/Qwen3-VL-4B-Instruct", 8_880_000_000, 11 * _GIB, "Apache-2.0", ("en", "zh")),
    "qwen3-vl-2b": Known("Qwen/Qwen3-VL-2B-Instruct", 4_260_000_000, 6 * _GIB, "Apache-2.0", ("en", "zh")),
    "florence-2-large": Known("florence-community/Florence-2-large", 1_560_000_000, 3 * _GIB, "MIT", ("en",)),
    "florence-2-base": Known("florence-community/Florence-2-base", 460_000_000, 0, "MIT", ("en",)),
    "joycaption": Known(
        "fancyfeast/llama-joycaption-beta-one-hf-llava", 17_000_000_000, 21 * _GIB, "Llama 3.1 Community", ("en",)
    ),
    POCKET: Known("", 10_000_000, 0, "Apache-2.0", ("en", "zh")),
}
_BY_CARD = ("qwen3-vl-8b", "qwen3-vl-4b", "qwen3-vl-2b", "florence-2-large", "florence-2-base")


@dataclass(frozen=True)
class Question:
    """What a captioner is asked about a picture: in words, or by its kind where a model knows fixed tasks only."""

    text: str
    style: str  # one of caption_settings.STYLES
    language: str  # one of caption_settings.LANGUAGES


class Stopped(Exception):
    """The owner of the run asked it to stop while a picture was being described."""


def folder_of(name: str) -> Path:
    """Where a known captioner lies, or is put."""
    if name == POCKET:
        return paths.assets() / "pocket" / "captioner"
    return paths.captioners() / KNOWN[name].repo.rpartition("/")[2]


def is_here(name: str) -> bool:
    """Whether a known captioner is on this machine; a download writes its config.json last."""
    return (folder_of(name) / _CONFIG).is_file()


def recommended(card: int) -> str:
    """The captioner that suits a card of so many bytes, 0 without one: the largest that runs on it well."""
    return next(name for name in _BY_CARD if KNOWN[name].card <= card)


def best_here(card: int) -> str:
    """The captioner to begin with: the best one on this machine that runs on such a card, else the pocket's."""
    return next((name for name in _BY_CARD if KNOWN[name].card <= card and is_here(name)), POCKET)


def find_captioner(name_or_folder: str) -> Path:
    """The folder of a captioner given by name or path.

    Raises ZitError when it is not on this machine or is no model of transformers.
    """
    if name_or_folder in KNOWN:
        if not is_here(name_or_folder):
            raise _missing(name_or_folder)
        return folder_of(name_or_folder)
    given = Path(name_or_folder).expanduser()
    stored = paths.captioners() / name_or_folder
    folder = stored if name_or_folder and stored.is_dir() else given
    if not folder.is_dir():
        remedy = did_you_mean(name_or_folder, [*KNOWN, *ENDPOINTS])
        raise ZitError(f"There is no captioner {name_or_folder!r}.", f"{remedy} A folder can be given, too.")
    if not (folder / _CONFIG).is_file() or "model_type" not in read_json(folder / _CONFIG):
        raise ZitError(
            f"{folder} is no captioner: it lacks the config.json of a model.",
            "Give the folder of a vision-language model in transformers' layout.",
        )
    return folder


def languages_of(folder: Path, kind: str) -> tuple[str, ...]:
    """What a captioner speaks, as far as it is known; `kind` is the model type of its configuration."""
    known = next((one for name, one in KNOWN.items() if folder_of(name) == folder), None)
    return known.languages if known else ("en",) if kind == "florence2" else ("en", "zh")


def check_endpoint(address: str) -> str:
    """An address without its closing slash. Raises ZitError for what is none."""
    try:
        parts = urlsplit(address.strip())
        known = parts.port is None or parts.port > 0
    except ValueError:  # a port or an IPv6 address that is none
        parts, known = urlsplit(""), False
    if not known or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ZitError(
            f"{address!r} is no address of a service." if address.strip() else "The address of the service is missing.",
            "Write such as http://127.0.0.1:11434.",
        )
    return address.strip().rstrip("/")


def _missing(name: str) -> ZitError:
    if name == POCKET:
        return ZitError("The pocket captioner is not part of this copy of the project.", "Get the complete project.")
    return ZitError(
        f"The captioner {name!r} is not on this machine.",
        f"Download it (zit models download {name}), put its folder at {folder_of(name)}, or choose another one.",
    )
