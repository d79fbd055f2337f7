"""Pictures for programs: what `zit serve` is asked for becomes the run of a guest, within a guest's limits.

    <home>/serve.lock   held by the process that serves; it falls with the process, however that ends
    <home>/serve.json   who serves, where, and how the ids of its callers begin; outlives a restart

Callers are told apart by their address. Nobody waits for the runs of a server that was killed, so the next one stops
them before it begins.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from zit_app.core import lock, models, paths, process
from zit_app.core.errors import ZitError, did_you_mean
from zit_app.core.files import read_json, write_json, writing
from zit_app.core.run import Run
from zit_app.service import guests
from zit_app.service.guests import LARGEST_SEED, LIMITS, Refused, Shot
from zit_app.service.worker import ensure_workers

KEPT = 200  # runs of callers, so that a server never fills the disk
PATIENCE_SECONDS = 15.0  # for a server before this one that is about to end
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Wish:
    """What a caller asks for, as it came: nothing of it is checked yet. An open seed (None) is drawn."""

    prompt: Any = ""
    negative: Any = ""
    model: Any = ""
    seed: Any = None
    count: Any = 1
    width: Any = 0
    height: Any = 0
    steps: Any = 0
    loras: Any = None  # name in the library → weight


class Serving:
    """The callers of this server and their runs."""

    def __init__(self, callers: str, model: str) -> None:
        self.callers = callers  # how their ids begin, 8 hexadecimal digits
        self.model = model  # for wishes that name none

    def submit(self, address: str, wish: Wish) -> Run:
        """Queue the run of a wish and see to it that a worker comes. Raises Refused."""
        caller = self.callers + sha256(address.encode()).hexdigest()[:8]
        shot = Shot(wish.model or self.model, wish.width, wish.height, wish.steps)
        seed = secrets.randbelow(LARGEST_SEED - LIMITS.count) if wish.seed is None else wish.seed
        loras = _lora_ids({} if wish.loras is None else wish.loras)
        run = guests.submit_pictures(caller, shot, wish.prompt, wish.count, seed, loras, wish.negative)
        ensure_workers()
        guests.forget(self.callers, KEPT)
        return run

    def stop_all(self) -> None:
        """Stop what callers wait for."""
        guests.stop(self.callers)


@contextmanager
def alone(ending: Callable[[], bool]) -> Iterator[bool]:
    """Serve this home folder alone within the block; gives False when `ending` before it began.

    A server before this one may take a moment to end. Raises ZitError when it stays.
    """
    home = paths.home()
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ending():
        with lock.held(home / "serve.lock") as taken:
            if taken:
                yield True
                return
        if time.monotonic() > deadline:
            where = _record().get("address", "another port")
            raise ZitError(f"zit serve runs already at {where}.", "End it first, or give another ZIT_HOME.")
        time.sleep(_LOOK_SECONDS)
    yield False


def begin(address: str, model: str) -> Serving:
    """Note who serves and stop what callers of an earlier server waited for; call it while `alone`.

    Raises ZitError when there is no such model.
    """
    offered = guests.offered_models()
    model = model or models.default_model() or ""
    if model not in offered:
        raise ZitError(f"There is no model {model!r} to serve.", did_you_mean(model, offered))
    callers = str(_record().get("callers") or secrets.token_hex(4))
    write_json(paths.home() / "serve.json", {"address": address, "callers": callers, **process.own_identity()})
    serving = Serving(callers, model)
    serving.stop_all()
    return serving


def _record() -> dict[str, Any]:
    with contextlib.suppress(ZitError):
        found = read_json(paths.home() / "serve.json")
        if isinstance(found, dict):
            return found
    return {}


def _lora_ids(named: Any) -> list[tuple[Any, Any]]:
    """Ids and weights of LoRAs by name. Raises Refused for what is no table, unknown names and names of several."""
    if not isinstance(named, dict):
        raise Refused("lora")
    offered, found = guests.offered_loras(), []
    for name, weight in named.items():
        ids = [key for key, one in offered.items() if one.name == name]
        if len(ids) != 1:
            raise Refused("lora")
        found.append((ids[0], weight))
    return found
