"""What stands in front of Gradio: headers that both servers send, and the door of the owner's app.

The owner's app asks for no password, because only this machine reaches it. But a web page of somebody else runs on this
machine, too, in the owner's browser: it may send requests to 127.0.0.1, or give its own name this address ("DNS
rebinding"). So the app heeds what a browser says about where a request comes from and cannot be made to leave out.
"""

import re
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # nobody puts the app into a frame and lets people click
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with "no-referrer" a browser hides the origin of our own forms, too
    "Cross-Origin-Resource-Policy": "same-origin",
}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
# Whatever is no picture (a page or a drawing with a script in a dataset) is saved, never shown as a page of the app.
AS_FILE = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox; frame-ancestors 'none'"}
MOST_BYTES = 16 << 10  # of a guest's body: a prompt of 1000 letters needs 12 kB at worst
_OWN = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")  # any port: it may be forwarded, as by ssh
_ELSEWHERE = re.compile(r"\w{2,}:/")  # Gradio would fetch it; one letter is a drive of Windows
_FILE = re.compile(r"/\w+/gradio_api/file[=/](?P<path>.*)", re.DOTALL)
_PAGE = re.compile(r"/(\w+/)?")


class OwnerDoor:
    """Lets in what this machine's browser asks on behalf of the app's own page, and nothing that others make it ask."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":  # the page uses none
            await WebSocketClose()(scope, receive, send)
        else:
            found = _FILE.fullmatch(scope["path"])
            forced = AS_FILE if found and not found["path"].lower().endswith(PICTURES) else {}
            answer = self._refusal(Request(scope), found["path"] if found else "") or self.app
            await answer(scope, receive, sending(send, forced))

    def _refusal(self, request: Request, file: str) -> Response | None:
        host = request.headers.get("host", "")
        if not is_own(host):
            return PlainTextResponse("This is not the address of the app.", 400)
        if is_foreign(request.headers, host) or (is_from_elsewhere(request) and not _is_visit(request)):
            return PlainTextResponse("Another page asked for this.", 403)
        if _ELSEWHERE.match(file):
            return PlainTextResponse("The app fetches nothing from elsewhere.", 403)
        return None


def is_own(host: str) -> bool:
    """Whether a request was sent to a name that only this machine has: no page can give its own name to it."""
    return _OWN.fullmatch(host) is not None


def is_foreign(headers: Headers, *hosts: str) -> bool:
    """Whether a request carries the origin of a page that is none of these hosts'."""
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] not in filter(None, hosts)


def is_from_elsewhere(request: Request) -> bool:
    """Whether the browser says that a page of another origin, even of this machine, is behind the request."""
    return request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _is_visit(request: Request) -> bool:
    """Whether a link somewhere else simply opens the app."""
    opens = request.headers.get("sec-fetch-mode") == "navigate" and request.method == "GET"
    return opens and _PAGE.fullmatch(request.scope["path"]) is not None


def sending(send: Send, forced: Mapping[str, str] | None = None) -> Send:
    """`send` with `HEADERS` on every answer that has none of its own under a name, and `forced` in any case."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            for name, value in (forced or {}).items():
                headers[name] = value
        await send(message)

    return with_headers


def header(scope: Scope, name: str, value: str) -> dict[str, Any]:
    """The scope with one header set, whatever the client sent under that name."""
    key = name.lower().encode("latin-1")
    others = [(given, text) for given, text in scope["headers"] if given.lower() != key]
    return {**scope, "headers": [*others, (key, value.encode("latin-1"))]}


async def read_body(request: Request) -> bytes | None:
    """The body, None when it is larger than a guest's may be."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MOST_BYTES:
        return None
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            return None
    return body
