"""The gate of the guest app: in front of Gradio, so that nothing of Gradio is reached without the password.

Behind it only what the guest's page needs can be called; uploads, Gradio's file routes and its queue cannot. Pictures
come from a route of the gate's own, which knows the folders of this guest and no others.
"""

import hmac
import json
import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from zit_app.service import guests
from zit_app.service.throttle import LoginThrottle
from zit_app.ui.doors import header, is_foreign, is_from_elsewhere, read_body, sending
from zit_app.ui.guest_login import login_page
from zit_app.ui.mount import language_of
from zit_app.ui.text import LANGUAGES, Words

IDENTITY = "x-zit-guest"  # set by the gate for the page behind it
DAYS = 7 * 86400
_LANGUAGES = "|".join(LANGUAGES)
_READ = re.compile(
    rf"/(?:favicon\.ico|language/\w+|(?:{_LANGUAGES})/?"
    rf"|(?:{_LANGUAGES})/(?:config|theme\.css|manifest\.json|(?:assets|static)/(?:[\w.-]+/)*[\w.-]+"
    r"|gradio_api/(?:info|startup-events|app_id|theme\.css|heartbeat/\w+)))?"
)
_CALL = re.compile(rf"/(?:{_LANGUAGES})/gradio_api/(?:run|api)/\w+/?")
_PICTURE = re.compile(r"/pictures/([\w-]+)/((?:cells/\w+/)?\w+\.png)")


class GuestGate:
    """Logs guests in, tells them apart, and lets through what a guest may ask."""

    def __init__(self, app: ASGIApp, password: str, port: int, tunnelled: bool) -> None:
        self.app = app
        self.password = password.strip().encode()
        self.cookie = f"zit_guest_{port}"  # cookies do not know ports
        self.tunnelled = tunnelled
        self.throttle = LoginThrottle()
        self.guests: dict[str, str] = {}  # secret of the cookie → id; they end with this process

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # the page uses none
            await WebSocketClose()(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            body = await read_body(request)
        except ClientDisconnect:
            return
        guest = self.guests.get(request.cookies.get(self.cookie, ""))
        answer = self._answer(request, guest, body)
        if answer is None:
            await self.app(header(scope, IDENTITY, str(guest)), replay(body or b"", receive), sending(send))
        else:
            await answer(scope, receive, sending(send))

    def _answer(self, request: Request, guest: str | None, body: bytes | None) -> Response | None:
        """The gate's own answer, None when Gradio may answer."""
        path, method, headers = request.scope["path"], request.method, request.headers  # a Host can bend request.url
        if body is None:
            return refusal(413, "The request is too large.")
        if is_foreign(headers, headers.get("host", ""), headers.get("x-forwarded-host", "")):
            return refusal(403, "Another page asked for this.")
        if method == "POST" and is_from_elsewhere(request):
            return refusal(403, "Another page asked for this.")
        if path == "/login" and method == "POST":
            return self._login(request, body)
        if path == "/login":
            return self._login_page(request) if guest is None else RedirectResponse("/", 303)
        if guest is None:
            if method == "GET" and _is_page(path):
                return RedirectResponse("/login", 303)
            return refusal(401, "Log in first.")
        if path == "/logout" and method == "POST":
            return self._logout(request)
        found = _PICTURE.fullmatch(path)
        if found and method in ("GET", "HEAD"):
            return _picture(guest, *found.groups())
        if method in ("GET", "HEAD") and _READ.fullmatch(path) and ".." not in path:
            return None
        if method == "POST" and _CALL.fullmatch(path):
            return None if is_plain_call(body) else refusal(400, "The request is not understood.")
        return refusal(404, "There is no such page.")

    # ------------------------------------------------------------ login

    def _login_page(self, request: Request, status: int = 200, **more: Any) -> Response:
        return login_page(Words(language_of(request)), status, **more)

    def _login(self, request: Request, body: bytes) -> Response:
        """Check and note without a pause in between, so that tries at the same time cannot slip past the limit."""
        address = self._address(request)
        wait = self.throttle.wait(address)
        if wait:
            return self._login_page(request, 429, wait=wait)
        given = parse_qs(body.decode(errors="replace")).get("password", [""])[0]
        if not hmac.compare_digest(given.strip().encode(errors="replace"), self.password):
            self.throttle.wrong(address)
            return self._login_page(request, 401, wrong=True)
        secret = secrets.token_urlsafe(32)
        self.guests[secret] = secrets.token_hex(8)
        answer = RedirectResponse("/", 303)
        secure = request.headers.get("x-forwarded-proto", "") == "https"
        answer.set_cookie(self.cookie, secret, max_age=DAYS, httponly=True, samesite="lax", secure=secure)
        return answer

    def _logout(self, request: Request) -> Response:
        self.guests.pop(request.cookies.get(self.cookie, ""), None)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(self.cookie)
        return answer

    def _address(self, request: Request) -> str:
        """Who asks. Everybody behind a tunnel comes from this machine; there the tunnel's word has to do."""
        direct = request.client.host if request.client else ""
        if not self.tunnelled:
            return direct
        return request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip() or direct


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, then what the connection says."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def is_plain_call(body: bytes) -> bool:
    """Whether a call brings nothing but texts, numbers and flags.

    Gradio takes `{"path": …, "meta": {"_type": "gradio.FileData"}}` in the place of any value for a file, and fetches
    it when the path is an address; the guest's page has no file to send.
    """
    try:
        call = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return False
    if not isinstance(call, Mapping) or not isinstance(call.get("data"), list):
        return False
    return all(value is None or isinstance(value, str | int | float) for value in call["data"])


def refusal(status: int, words: str) -> Response:
    """A short no."""
    return JSONResponse({"detail": words}, status)


def _picture(guest: str, run: str, name: str) -> Response:
    file = guests.picture(guest, run, name)
    if file is None:
        return refusal(404, "There is no such picture.")
    keep = {"Cache-Control": "private, max-age=86400, immutable"}
    return FileResponse(file, media_type="image/png", headers=keep)


def _is_page(path: str) -> bool:
    return path.strip("/") in ("", *LANGUAGES)


def _no_number(word: str) -> None:
    raise ValueError(word)
