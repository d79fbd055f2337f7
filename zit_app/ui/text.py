"""Every word of the app comes from a table of its language; a page speaks one language."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from zit_app.core.errors import ZitError
from zit_app.core.settings import FieldInfo
from zit_app.ui import text_en, text_zh, text_zh_errors, text_zh_settings

SHORT = {"lr", "snr", "fft", "hf", "lf", "lora"}  # abbreviations in names of settings
LANGUAGES = {"en": "English", "zh": "中文"}
TABLES: dict[str, Mapping[str, str]] = {"en": text_en.TABLE, "zh": text_zh.TABLE}


@dataclass(frozen=True)
class Words:
    """The words of one language: `w("train.start")`, with values where the text has a {place} for them."""

    language: str

    def __call__(self, key: str, **values: object) -> str:
        text = TABLES[self.language][key]
        return text.format(**values) if values else text

    def label(self, info: FieldInfo) -> str:
        """Name of a setting."""
        return self.setting(info.name)

    def setting(self, name: str) -> str:
        """Name of a setting that is known by its key."""
        if self.language == "zh":
            return text_zh_settings.TABLE[name][0]
        words = [word.upper() if word in SHORT else word for word in name.split("_")]
        return " ".join([words[0][0].upper() + words[0][1:], *words[1:]])

    def help(self, info: FieldInfo, also: str = "") -> str:
        """One line about a setting, with unit, range and what else is to be said."""
        text = text_zh_settings.TABLE[info.name][1] if self.language == "zh" else info.help
        allowed = "" if info.choices else info.range  # a list of choices shows its own
        if self.language == "zh":
            allowed = allowed.replace("at least", "至少").replace("at most", "最多").replace(" to ", " 至 ")
        unit = self("unit." + info.unit.replace(" ", "_")) if info.unit else ""
        details = ", ".join(filter(None, [unit, allowed, also]))
        return f"{text} ({details})" if details else text

    def message(self, text: str) -> str:
        """What a worker or an error says in English, in this language where the sentence is known."""
        return chinese(text) if self.language == "zh" else text

    def error(self, error: ZitError) -> str:
        """Both sentences of an error, in this language where they are known."""
        return f"{self.message(error.what)} {self.message(error.remedy)}"

    def size(self, count: float) -> str:
        """A number of bytes, in MB or GB with two digits at least."""
        if count < 999.5e6:
            return self("megabytes", n=f"{count / 1e6:.1f}" if count < 10e6 else f"{count / 1e6:.0f}")
        return self("gigabytes", n=f"{count / 1e9:.1f}" if count < 100e9 else f"{count / 1e9:.0f}")

    def duration(self, seconds: float) -> str:
        """A length of time, as exact as anybody wants it."""
        if seconds < 90:
            return self("time.seconds", n=max(1, round(seconds)))
        if seconds < 5400:
            return self("time.minutes", n=round(seconds / 60))
        return self("time.hours", n=f"{seconds / 3600:.1f}")


@lru_cache(maxsize=1024)
def chinese(text: str) -> str:
    """An English sentence of the worker, or of an error with what is filled in; as it is when it is not known."""
    for pattern, translated in text_zh.MESSAGES.items():
        match = re.fullmatch(pattern, text)
        if match:
            return translated.format(*match.groups())
    for known, template in _errors():
        match = known.fullmatch(text)
        if match:
            return _filled(template, [chinese(group) for group in match.groups()])
    return text


def _filled(template: str, values: Sequence[str]) -> str:
    """The sentence with its values; braces without a number are its own."""
    return re.sub(r"\{(\d+)\}", lambda place: values[int(place[1])], template)


@lru_cache(maxsize=1)
def _errors() -> list[tuple[re.Pattern[str], str]]:
    """Patterns of all errors, those with the most fixed letters first: "{} is not {}." fits many."""
    known = {**text_zh_errors.ERRORS, **text_zh_errors.PHRASES}
    ordered = sorted(known, key=lambda template: len(template.replace("{}", "")), reverse=True)
    return [(pattern_of(template), known[template]) for template in ordered]


def pattern_of(template: str) -> re.Pattern[str]:
    """The pattern of a sentence in which `{}` stands for what is filled in."""
    return re.compile("(.+?)".join(re.escape(part) for part in template.split("{}")), re.DOTALL)


def preferred(accept_language: str) -> str:
    """The first language of a browser's `Accept-Language` that the app speaks, else English."""
    for part in accept_language.lower().split(","):
        language = part.strip()[:2]
        if language in LANGUAGES:
            return language
    return "en"
