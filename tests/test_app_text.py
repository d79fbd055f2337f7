"""The words of the app: every language has all of them, and each is used."""

import re
import string
from pathlib import Path

import pytest

from zit_app.core.generate_settings import GenerateSettings
from zit_app.core.settings import describe
from zit_app.core.train_settings import TrainSettings
from zit_app.ui import text_zh_settings
from zit_app.ui.generate import MORE
from zit_app.ui.text import LANGUAGES, TABLES, Words, preferred

UI = Path(__file__).resolve().parents[1] / "zit_app" / "ui"
SOURCE = "\n".join(file.read_text(encoding="utf-8") for file in sorted(UI.glob("*.py")) if "text_" not in file.name)


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def settings() -> list[str]:
    tables = [type(group) for group in vars(TrainSettings()).values()]
    return [info.name for table in tables for info in describe(table)] + list(MORE)


def test_all_languages_have_the_same_words_with_the_same_places() -> None:
    english = TABLES["en"]
    for language in LANGUAGES:
        assert TABLES[language].keys() == english.keys()
        assert [key for key in english if places(english[key]) != places(TABLES[language][key])] == []
        assert all(text.strip() for text in TABLES[language].values())


def test_chinese_is_chinese() -> None:
    latin = {key for key, text in TABLES["zh"].items() if not re.search(r"[\u4e00-\u9fff]", text)}
    assert latin == {"megabytes", "gigabytes", "sidebar.of", "unit.sigma", "lora.title", "lora.on", "table.lora",
                     "compare.lora", "settings.loras"}  # fmt: skip


def test_every_word_is_used_and_every_used_word_exists() -> None:
    exact = set(re.findall(r'["\']([a-z]+(?:\.[a-z_]+)?)["\']', SOURCE))
    # f"state.{name}" and "state." + name: everything under that heading counts as used
    headings = set(re.findall(r'f["\']([a-z]+\.)\{', SOURCE)) | set(re.findall(r'["\']([a-z]+\.)["\'] \+', SOURCE))
    for key in TABLES["en"]:
        assert key in exact or any(key.startswith(heading) for heading in headings), f"{key} is used nowhere"
    asked = set(re.findall(r'\bw\(\s*["\']([a-z_.]+)["\']', SOURCE)) - headings
    assert asked <= TABLES["en"].keys()


@pytest.mark.parametrize("name", settings())
def test_every_setting_has_a_chinese_name_and_help(name: str) -> None:
    label, help = text_zh_settings.TABLE[name]
    assert label and re.search(r"[\u4e00-\u9fff]", help)


def test_no_translation_is_left_over() -> None:
    assert text_zh_settings.TABLE.keys() <= set(settings())


def test_a_setting_speaks_the_language_of_the_page() -> None:
    info = next(info for info in describe(GenerateSettings) if info.name == "steps")
    assert Words("en").help(info) == "Denoising steps; 0 = the model's own (0 to 200)"
    assert Words("zh").help(info) == "去噪步数；0 = 模型自身的值 (0 至 200)"
    assert Words("zh").message("Encoding 24 captions") == "正在编码 24 条描述"
    assert Words("zh").message("something new") == "something new"


def test_the_browser_chooses_the_language() -> None:
    assert preferred("zh-CN,zh;q=0.9,en;q=0.8") == "zh"
    assert preferred("fr-FR,en;q=0.5,zh;q=0.3") == "en"
    assert preferred("") == preferred("fr") == "en"
