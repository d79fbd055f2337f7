"""Reading the disk for pages that look all the time, without working all the time."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
EASE = 20  # times as long as a reading took until the next one


class Eased(Generic[T]):
    """A reading that takes at most a twentieth of the time, however often it is asked for."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._last: T
        self._next = 0.0

    def now(self) -> T:
        """The newest reading, or the last one while it is too early for another."""
        with self._lock:
            begun = time.monotonic()
            if begun >= self._next:
                self._last = self._read()
                self._next = time.monotonic() + EASE * (time.monotonic() - begun)
            return self._last
