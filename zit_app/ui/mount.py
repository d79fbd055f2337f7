"""One web application of a page in every language: Gradio builds a page in one language, a front door chooses."""

from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse

from zit_app.ui import statuses
from zit_app.ui.appearance import COOKIE as THEME
from zit_app.ui.appearance import theme_query
from zit_app.ui.text import LANGUAGES, preferred
from zit_app.ui.theme import ICON, STYLE, theme

COOKIE = "zit_language"
# Seconds between two looks of Gradio into an empty queue of events, as it has it on Windows. Elsewhere it looks a
# thousand times a second, for each language: more than half of what an app at rest costs.
REST = 0.05


def mounted(build: Callable[[str], gr.Blocks], host: str, port: int, **more: Any) -> FastAPI:
    """The application: `/en/`, `/zh/`, and `/` that leads to the one the browser prefers or a person chose.

    `more` goes to Gradio.
    """
    app = FastAPI(openapi_url=None)

    @app.get("/")
    def front_door(request: Request) -> RedirectResponse:
        return RedirectResponse(f"/{language_of(request)}/{theme_query(request.cookies.get(THEME))}")

    @app.get("/favicon.ico")
    def icon() -> FileResponse:
        return FileResponse(ICON, media_type="image/svg+xml")

    @app.get("/language/{language}")
    def choose(language: str, request: Request) -> RedirectResponse:
        query = theme_query(request.cookies.get(THEME))
        answer = RedirectResponse(f"/{language}/{query}" if language in LANGUAGES else "/")
        if language in LANGUAGES:
            answer.set_cookie(COOKIE, language, max_age=10 * 365 * 86400, samesite="lax")
        return answer

    for language in LANGUAGES:
        page = build(language)
        gr.mount_gradio_app(
            app,
            page,
            path=f"/{language}",
            root_path=f"/{language}",  # unqueued events of a mounted app do not find it out by themselves
            server_name=host,
            server_port=port,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=theme(),
            css_paths=[STYLE],
            favicon_path=str(ICON),
            head=statuses.script(),
            **more,
        )
        page._queue.sleep_when_free = REST
    return app


def language_of(request: Request) -> str:
    """The language that a person chose, else the one the browser prefers."""
    chosen = request.cookies.get(COOKIE, "")
    return chosen if chosen in LANGUAGES else preferred(request.headers.get("accept-language", ""))
