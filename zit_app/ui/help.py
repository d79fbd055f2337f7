"""What to do when something goes wrong: the guide of `docs`, as a page of its own in the language of the app."""

from html import escape

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from markdown_it import MarkdownIt

from zit_app.core import paths
from zit_app.ui.text import LANGUAGES, Words

FILES = {"en": "troubleshooting.md", "zh": "troubleshooting.zh.md"}
_STYLE = """:root { color-scheme: light dark; }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.6 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.3; } h3 { margin-bottom: 0.3rem; } code { overflow-wrap: anywhere; }"""


def add_help(app: FastAPI) -> None:
    """Serve the guide at `/help/<language>`."""

    @app.get("/help/{language}")
    def guide(language: str) -> HTMLResponse:
        return HTMLResponse(guide_page(language if language in LANGUAGES else "en"))


def guide_page(language: str) -> str:
    """The guide as HTML."""
    text = (paths.PROJECT / "docs" / FILES[language]).read_text(encoding="utf-8")
    title = escape(Words(language)("help.title"))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = MarkdownIt("commonmark").render(text)
    head += f"<style>{_STYLE}</style>"
    return f'<!doctype html><html lang="{language}"><head>{head}</head><body>{body}</body></html>'


def help_link(w: Words) -> str:
    """The way to the guide, in a window of its own."""
    return f'<a class="help" href="../help/{w.language}" target="_blank">{escape(w("help.title"))}</a>'
