"""How often a password may be tried: a few times from one address, some more from all of them together."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_SECONDS = 300.0
EACH, ALL = 5, 50  # wrong passwords within the window


@dataclass
class LoginThrottle:
    """Wrong tries of the last five minutes.

    The limit over all addresses is the one that holds behind a tunnel, where the address is only what a proxy says. It
    also bounds what is remembered. Against a random password of 79 bits 50 tries in five minutes are nothing.
    """

    now: Callable[[], float] = time.monotonic
    _wrong: deque[tuple[float, str]] = field(default_factory=deque)

    def wait(self, address: str) -> float:
        """Seconds until this address may try again, 0 when it may."""
        now = self.now()
        while self._wrong and now - self._wrong[0][0] >= WINDOW_SECONDS:
            self._wrong.popleft()
        own = [when for when, whose in self._wrong if whose == address]
        blocking = [times[-limit] for times, limit in ((own, EACH), (self._times(), ALL)) if len(times) >= limit]
        return max((when + WINDOW_SECONDS - now for when in blocking), default=0.0)

    def wrong(self, address: str) -> None:
        """Note a wrong password."""
        self._wrong.append((self.now(), address))

    def _times(self) -> list[float]:
        return [when for when, _ in self._wrong]
