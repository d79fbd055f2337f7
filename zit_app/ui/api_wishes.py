"""What programs send to `zit serve`, made a wish; and how they are told no."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from zit_app.core.errors import ZitError, did_you_mean
from zit_app.core.generate_settings import parse_size
from zit_app.service.guests import LIMITS, Refused
from zit_app.service.serving import Wish
from zit_app.ui.text import Words

# Fields of OpenAI's interface that change nothing here, and what they may say: nobody shall believe that they did.
FIXED: dict[str, tuple[Any, ...]] = {
    "response_format": ("b64_json",),
    "output_format": ("png",),
    "quality": ("auto", "standard"),
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "stream": (False,),
}
OPENAI = ("prompt", "model", "n", "size", "user", "seed", "steps", "loras", *FIXED)
PLAIN = ("prompt", "neg_prompt", "model", "seed", "steps", "width", "height", "loras")
WHOLE = ("seed", "steps", "width", "height")  # in an address they are text
PARAMS = {"empty": "prompt", "count": "n", "lora": "loras", "weight": "loras"} | dict.fromkeys(
    ("side", "sixteen", "pixels"), "size"
)
LATER = {"pending": 429, "busy": 503, "full": 507}  # nothing is wrong with the request itself


class Denied(Exception):
    """A request that gets no picture. `said` is an error, or the key of a sentence that `values` fill in."""

    def __init__(
        self,
        status: int,
        said: str | ZitError,
        param: str = "",
        code: str = "",
        headers: Mapping[str, str] | None = None,
        **values: object,
    ) -> None:
        super().__init__(str(said))
        self.status, self.said, self.values = status, said, values
        self.param, self.code, self.headers = param, code, headers

    def answer(self, words: Words) -> JSONResponse:
        """The error as OpenAI's interface has it, in a language."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        said = {
            "message": self._message(words),
            "type": "server_error" if self.status >= 500 else kind,
            "param": self.param or None,
            "code": self.code or None,
        }
        return JSONResponse({"error": said}, self.status, self.headers)

    def _message(self, words: Words) -> str:
        if isinstance(self.said, ZitError):
            return words.error(self.said)
        filled = {name: words.message(one) if isinstance(one, str) else one for name, one in self.values.items()}
        return words(self.said, **filled)


def refused(error: Refused) -> Denied:
    """What `service/guests.py` refuses, in the words that guests read."""
    status = LATER.get(error.key, 400)
    code = "model_not_found" if error.key == "model" else error.key
    headers = {"Retry-After": "5"} if status != 400 else None
    param = "" if status != 400 else PARAMS.get(error.key, error.key)
    return Denied(status, f"refused.{error.key}", param, code, headers, **error.values)


def plain_wish(query: Mapping[str, str], fields: Mapping[str, Any]) -> Wish:
    """`POST /generate`: parameters of the address, fields of the body, or both. Raises Denied."""
    given: dict[str, Any] = {name: _number(name, text) for name, text in query.items()} | dict(fields)
    _check_names(given, PLAIN)
    return Wish(
        prompt=given.pop("prompt", None),
        negative=given.pop("neg_prompt", ""),
        **{name: value for name, value in given.items() if value is not None},
    )


def wish_as_openai(fields: Mapping[str, Any]) -> Wish:
    """`POST /v1/images/generations`. Raises Denied."""
    given = {name: value for name, value in fields.items() if value is not None}
    _check_names(given, OPENAI)
    for name, known in FIXED.items():
        if name in given and given[name] not in known:
            said = " / ".join(str(value) for value in known)
            raise Denied(400, "api.only", name, "unsupported_value", name=name, allowed=said)
    width, height = _size(given.get("size", "auto"))
    return Wish(
        prompt=given.get("prompt"),
        model=given.get("model", ""),
        seed=given.get("seed"),
        count=given.get("n", 1),
        width=width,
        height=height,
        steps=given.get("steps", 0),
        loras=given.get("loras"),
    )


def _check_names(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise Denied(400, "api.unknown", name, "unknown_parameter", name=repr(name), hint=hint)


def _number(name: str, text: str) -> Any:
    return int(text) if name in WHOLE and text.isdecimal() and len(text) < 20 else text


def _size(text: Any) -> tuple[int, int]:
    if text == "auto":
        return 0, 0
    try:
        return parse_size(str(text))
    except ZitError as error:
        raise Denied(400, error, "size", "invalid_size") from error
    except ValueError as error:  # more digits than Python reads
        raise Denied(400, "refused.side", "size", "invalid_size", most=LIMITS.side) from error
