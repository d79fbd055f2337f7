"""The web interface of `zit serve`: pictures for programs, behind the same limits as guests'.

    POST /generate               prompt, neg_prompt … in the address or as JSON → the PNG
    POST /v1/images/generations  as OpenAI's: prompt, n, size, model … → pictures in base64
    GET  /health                 for whoever looks after the process; needs no password

Errors have the form of OpenAI's, {"error": {"message", "type", "param", "code"}}, everywhere; the message is in the
language of Accept-Language.
"""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from zit_app.core import queue
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import load_generation
from zit_app.service import guests, runs, worker
from zit_app.service.guests import Refused
from zit_app.service.runs import RunView
from zit_app.service.serving import Serving, Wish
from zit_app.service.throttle import LoginThrottle
from zit_app.ui.api_wishes import Denied, plain_wish, refused, wish_as_openai
from zit_app.ui.doors import is_foreign, is_from_elsewhere, is_own, read_body, sending
from zit_app.ui.text import Words, preferred

ENDED = ("done", "stopped", "failed", "interrupted")
LOOK_SECONDS = 0.1  # between two looks at a run and at whether its caller is still there
Answer = Callable[[Request, Mapping[str, Any]], Awaitable[Response]]


class Api:
    """Answers programs. Without a password only what is sent to this machine's own names; `ending` = let them go."""

    def __init__(self, serving: Serving, password: str, ending: Callable[[], bool]) -> None:
        self.serving = serving
        self.password = password.strip().encode()
        self.ending = ending
        self.throttle = LoginThrottle()
        self.routes: dict[str, Answer] = {
            "/generate": self._generate,
            "/v1/images/generations": self._as_openai,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
            return
        request = Request(scope, receive)
        words = Words(preferred(request.headers.get("accept-language", "")))
        try:
            answer: ASGIApp = await self._answer(request)
        except ClientDisconnect:
            return
        except Denied as denied:
            answer = denied.answer(words)
        except ZitError as error:
            answer = Denied(500, error).answer(words)
        await answer(scope, receive, sending(send))

    async def _answer(self, request: Request) -> Response:
        path, method = request.scope["path"], request.method
        self._check_origin(request)
        if path == "/health":
            _check_method(method, "GET")
            return JSONResponse({"status": "ok", "queued": len(await asyncio.to_thread(queue.order))})
        self._check_password(request)
        if path not in self.routes:
            raise Denied(404, "api.path", code="not_found", path=path, known=", ".join([*self.routes, "/health"]))
        _check_method(method, "POST")
        body = await read_body(request)
        if body is None:
            raise Denied(413, "api.large")
        return await self.routes[path](request, _fields(body, request.headers.get("content-type", "")))

    async def _generate(self, request: Request, fields: Mapping[str, Any]) -> Response:
        (picture,) = await self._drawn(request, plain_wish(request.query_params, fields))
        settings, _ = load_generation(picture.parent / "settings.toml")
        seed = {"X-Seed": str(settings.seed)}  # so that it can be drawn again, and with another prompt
        return Response(await asyncio.to_thread(picture.read_bytes), media_type="image/png", headers=seed)

    async def _as_openai(self, request: Request, fields: Mapping[str, Any]) -> Response:
        pictures = await self._drawn(request, wish_as_openai(fields))
        data = [{"b64_json": base64.b64encode(picture.read_bytes()).decode()} for picture in pictures]
        return JSONResponse({"created": int(time.time()), "data": data})

    # ------------------------------------------------------------ who may

    def _check_origin(self, request: Request) -> None:
        """Refuse what pages of other people make a browser on this machine send."""
        host = request.headers.get("host", "")
        if not self.password and not is_own(host):
            raise Denied(400, "api.address")
        if is_foreign(request.headers, host) or is_from_elsewhere(request):
            raise Denied(403, "api.foreign")

    def _check_password(self, request: Request) -> None:
        """Check and note without a pause in between, so that tries at the same time cannot slip past the limit."""
        if not self.password:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        ask = {"WWW-Authenticate": "Bearer"}
        if kind.lower() != "bearer":
            raise Denied(401, "api.password", code="missing_password", headers=ask)
        wait = self.throttle.wait(_address(request))
        if wait:
            raise Denied(429, "api.tries", headers={"Retry-After": str(int(wait) + 1)})
        if not hmac.compare_digest(given.strip().encode(errors="replace"), self.password):
            self.throttle.wrong(_address(request))
            raise Denied(401, "api.wrong", code="invalid_api_key", headers=ask)

    # ------------------------------------------------------------ a run

    async def _drawn(self, request: Request, wish: Wish) -> list[Path]:
        """Queue a wish and wait for its pictures; a caller who goes takes the run along."""
        try:
            run = await asyncio.to_thread(self.serving.submit, _address(request), wish)
        except Refused as error:
            raise refused(error) from error
        view = runs.view(run.folder)
        try:
            while view.state not in ENDED:
                if self.ending():
                    raise Denied(503, "api.ends", headers={"Retry-After": "5"})
                if await request.is_disconnected():
                    raise ClientDisconnect
                await asyncio.sleep(LOOK_SECONDS)
                view = await asyncio.to_thread(runs.view, run.folder)
        finally:
            if view.state not in ENDED:
                worker.stop_run(run)
        return _pictures(view)


def _pictures(view: RunView) -> list[Path]:
    if view.state == "failed":
        raise ZitError(view.cause, view.remedy)
    if view.state != "done":
        raise Denied(503, "api.stopped", headers={"Retry-After": "5"})
    return guests.pictures(view.folder)


def _check_method(method: str, known: str) -> None:
    if method != known:
        raise Denied(405, "api.method", headers={"Allow": known}, method=known)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _fields(body: bytes, kind: str) -> Mapping[str, Any]:
    """The body's JSON object, empty without a body. A form is none: pages elsewhere could send one."""
    if not body:
        return {}
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise Denied(415, "api.json")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Denied(400, "api.body") from error
    if not isinstance(found, dict):
        raise Denied(400, "api.object")
    return found
