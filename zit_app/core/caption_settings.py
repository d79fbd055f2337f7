"""Everything that decides the captions that a captioner writes."""

from dataclasses import dataclass
from pathlib import Path

from zit_app.core.settings import from_mapping, parse_toml, setting, to_toml

STYLES = ("person", "style", "product", "free")
LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class CaptionSettings:
    """The table `[caption]` of a captioning run's `settings.toml`."""

    dataset: str = setting("", "Folder of pictures")
    captioner: str = setting("auto", "Name or folder of the captioner, openai or ollama; auto = the best one here")
    endpoint: str = setting("", "With openai or ollama: address of your own service")
    endpoint_model: str = setting("", "With openai or ollama: name of the model there; empty = the only one it has")
    trigger: str = setting("", "Word put before every caption; empty = that of dataset.toml")
    style_of_prompt: str = setting("free", "What the captions are for: what belongs to it is left out", choices=STYLES)
    language: str = setting("en", "Language of the captions", choices=LANGUAGES)
    overwrite: bool = setting(False, "Replace captions that a person wrote or changed, too")
    max_tokens: int = setting(200, "Longest caption", unit="tokens", minimum=16, maximum=512)
    side: int = setting(
        768, "Side of a square as large as the largest picture it is shown", unit="pixels", minimum=64, maximum=2048
    )
    batch_size: int = setting(0, "Pictures a model describes together; 0 = by the memory", minimum=0, maximum=64)
    patience: int = setting(
        180, "With openai or ollama: the longest wait for one caption", unit="seconds", minimum=1, maximum=3600
    )


@dataclass(frozen=True)
class _CaptionFile:
    caption: CaptionSettings


def caption_toml(settings: CaptionSettings) -> str:
    """The frozen input of a captioning run."""
    return to_toml(_CaptionFile(settings))


def load_captioning(path: Path) -> CaptionSettings:
    """Read back what `caption_toml` wrote."""
    tables = parse_toml(path.read_text(encoding="utf-8"), path.name)
    return from_mapping(CaptionSettings, tables["caption"], f"{path.name} [caption]")
