"""An operating-system lock on a file: it ends with the process that holds it, however that process ends."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Whoever looks whether a lock is held holds it for a moment; a process that wants it waits that long before it
# concludes that another one works.
_PATIENCE_SECONDS = 0.5


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock of `path` within the block; gives False when another process (or another opening) has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (taken := _try(descriptor)) and time.monotonic() < deadline:
            time.sleep(0.01)
        yield taken
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether any process holds the lock of `path` right now."""
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDWR)
    try:
        return not _try(descriptor)
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            # flock, not lockf: a POSIX lock would fall when this process closes any other opening of the file.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
