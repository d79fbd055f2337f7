"""The guide for when something goes wrong: in both languages, with the names that the controls really have."""

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from zit_app.core import paths
from zit_app.ui.help import FILES, add_help, help_link
from zit_app.ui.text import LANGUAGES, TABLES, Words
from zit_app.ui.text_zh_settings import TABLE

DOCS = paths.PROJECT / "docs"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_control_of_the_guide_exists(language: str) -> None:
    words = Words(language)
    known = {*TABLES[language].values(), *(words.setting(name) for name in TABLE)}
    named = set(re.findall(r"\*\*(.+?)\*\*", (DOCS / FILES[language]).read_text(encoding="utf-8").replace("\n", " ")))
    assert named - {"bold", "粗体"} <= known, named - known


def test_both_languages_tell_the_same() -> None:
    pages = [(DOCS / FILES[language]).read_text(encoding="utf-8") for language in LANGUAGES]
    for mark in ("## ", "### ", "`zit "):
        counts = [page.count(mark) for page in pages]
        assert counts[0] == counts[1] > 1, mark
    assert len({len(page.split("\n- ")) for page in pages}) == 1


def test_the_page_is_served_in_the_language_of_the_app() -> None:
    app = FastAPI()
    add_help(app)
    client = TestClient(app)
    for language in LANGUAGES:
        link = help_link(Words(language))
        address = re.findall(r'href="\.\.(/help/\w+)"', link)[0]
        page = client.get(address)
        assert page.status_code == 200 and f'<html lang="{language}">' in page.text
        assert "<h3>" in page.text and "**" not in page.text
    assert 'lang="en"' in client.get("/help/../../etc").text or client.get("/help/xx").text.count('lang="en"') == 1


def test_the_readme_leads_to_it() -> None:
    assert "docs/troubleshooting.md" in (paths.PROJECT / "README.md").read_text(encoding="utf-8")
    assert Path(DOCS / "troubleshooting.md").is_file()
