"""Captioners that run elsewhere: a service of the user's own that speaks OpenAI's or Ollama's language.

Pictures go to the address that the user gave, and nowhere else: redirections are not followed.
"""

import base64
import io
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from zit_app.core.caption_settings import CaptionSettings
from zit_app.core.captioners import Question, Stopped, check_endpoint
from zit_app.core.errors import ZitError

KEY = "ZIT_CAPTION_KEY"  # environment variable: a key does not belong into files and command lines
_LOOK_SECONDS = 0.25
_LONGEST_ANSWER = 1 << 20  # bytes; a caption has a few hundred


class Service:
    """A captioner at an address. One picture a request."""

    together = 1

    def __init__(self, settings: CaptionSettings, max_tokens: int, tick: Callable[[], bool]) -> None:
        self.base = check_endpoint(settings.endpoint)
        self.ollama = settings.captioner == "ollama"
        if self.ollama:
            self.base = self.base.removesuffix("/api")
        else:
            self.base = self.base.removesuffix("/chat/completions")
            self.base += "" if urlsplit(self.base).path.strip("/") else "/v1"
        self.name = urlsplit(self.base).netloc
        self.max_tokens, self.patience, self._tick = max_tokens, settings.patience, tick
        key = os.environ.get(KEY, "")
        own = urlsplit(self.base).hostname in ("127.0.0.1", "localhost", "::1")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.patience, connect=min(15, settings.patience)),
            trust_env=not own,  # the way to this machine leads through no proxy
        )
        self.model = settings.endpoint_model or self._only_model()

    def describe(self, pictures: Sequence[Image.Image], question: Question) -> list[str]:
        """One answer a picture. Raises Stopped when asked to; ZitError for a service that refuses or errs."""
        return [self._patiently(lambda picture=picture: self._ask(picture, question)) for picture in pictures]  # type: ignore[misc]

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _ask(self, picture: Image.Image, question: Question) -> str:
        data = base64.b64encode(_jpeg(picture)).decode()
        if self.ollama:
            message: dict[str, Any] = {"role": "user", "content": question.text, "images": [data]}
            options = {"temperature": 0, "num_predict": self.max_tokens}
            body = {"model": self.model, "messages": [message], "stream": False, "options": options}
            answer = self._request("POST", "/api/chat", body)
            return self._text(answer, lambda: answer["message"]["content"])
        content = [
            {"type": "text", "text": question.text},
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}},
        ]
        message = {"role": "user", "content": content}
        body = {"model": self.model, "messages": [message], "max_tokens": self.max_tokens, "temperature": 0}
        answer = self._request("POST", "/chat/completions", body)
        return self._text(answer, lambda: answer["choices"][0]["message"]["content"])

    def _only_model(self) -> str:
        found = self._request("GET", "/api/tags" if self.ollama else "/models", None)
        entries = found.get("models" if self.ollama else "data") if isinstance(found, dict) else None
        keys = "name" if self.ollama else "id"
        names = [str(entry[keys]) for entry in entries or [] if isinstance(entry, dict) and entry.get(keys)]
        if len(names) == 1:
            return names[0]
        known = f"It has: {', '.join(names[:20])}." if names else "Ask it for a model that sees pictures."
        raise ZitError(f"{self.name} does not say by itself which model is to describe.", f"Name one. {known}")

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            with self._client.stream(method, self.base + path, json=body) as response:
                data = b""
                for chunk in response.iter_bytes():
                    data += chunk
                    if len(data) > _LONGEST_ANSWER:
                        raise self._strange()
        except httpx.TimeoutException as error:
            raise ZitError(
                f"{self.name} did not answer within {self.patience} s.", "Be more patient, or use a smaller model."
            ) from error
        except httpx.TransportError as error:
            raise ZitError(f"{self.name} cannot be reached.", "Start the service, or check its address.") from error
        if response.status_code in (401, 403):
            raise ZitError(f"{self.name} asks for a key.", f"Put it into the environment variable {KEY}.")
        if response.status_code != 200:
            raise ZitError(
                f"{self.name} answered {response.status_code}{_words(data)}.", "Check its address and the model's name."
            )
        try:
            return httpx.Response(200, content=data).json()
        except ValueError as error:
            raise self._strange() from error

    def _text(self, answer: Any, read: Callable[[], Any]) -> str:
        try:
            text = read()
        except (KeyError, IndexError, TypeError) as error:
            raise self._strange() from error
        if not isinstance(text, str):
            raise self._strange()
        return text

    def _strange(self) -> ZitError:
        kind = "Ollama" if self.ollama else "an OpenAI-compatible service"
        return ZitError(f"{self.name} does not answer as {kind} does.", "Check its address and which kind it is.")

    def _patiently(self, ask: Callable[[], str]) -> str:
        """The answer of `ask`, on a thread of its own, while the run shows that it lives and may be stopped."""
        answer: Future[str] = Future()

        def work() -> None:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        while not wait([answer], _LOOK_SECONDS).done:
            if self._tick():
                raise Stopped
        return answer.result()


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _words(data: bytes) -> str:
    """What a service says about its error, on one line after a colon; "" when it says nothing."""
    try:
        found = httpx.Response(200, content=data).json()
        error = found.get("error", "") if isinstance(found, dict) else ""
        said = error.get("message", "") if isinstance(error, dict) else error
    except ValueError:
        said = ""
    line = " ".join(str(said).split()).rstrip(".")[:200]
    return f": {line}" if line else ""
