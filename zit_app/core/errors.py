"""The one error that a user sees: what went wrong, and what to do about it."""

import difflib
from collections.abc import Iterable

REASONS = ("memory", "diverged", "weights", "disk")  # too little of it, a loss that is no number, damaged files


class ZitError(Exception):
    """An error with a cause that a user can remove.

    Raised where the cause is known and rendered once, by whoever talks to the user.

    what    one sentence: what is wrong, naming the file, key or value
    remedy  one sentence: what to do
    reason  one of `REASONS` where a program can offer the way out itself, else ""
    """

    def __init__(self, what: str, remedy: str, reason: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


def explain(error: Exception) -> tuple[str, str]:
    """What went wrong and what to do about it, of any error: two sentences for a person."""
    if isinstance(error, ZitError):
        return error.what, error.remedy
    if _out_of_memory(error):
        return "The memory was not enough.", "Use a smaller size or batch, or gradient checkpointing."
    return (
        f"Something broke: {type(error).__name__}: {error}.",
        "Run it again with --debug, or look into the log of the run, and report what it says.",
    )


def reason_of(error: Exception) -> str:
    """Which of `REASONS` it is, "" for any other."""
    if isinstance(error, ZitError):
        return error.reason
    return "memory" if _out_of_memory(error) else ""


def _out_of_memory(error: Exception) -> bool:
    # torch is not imported for the name of its error; on the processor it raises a plain RuntimeError
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "DefaultCPUAllocator" in str(error)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The known name that a misspelt one most likely meant, or None when nothing is close."""
    known = list(names)
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return lowered[close[0]] if close else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The remedy for an unknown name: the nearest known one, else all of them."""
    known = sorted(names)
    close = nearest(name, known)
    return f"Did you mean {close!r}?" if close else f"Known: {', '.join(known)}."
