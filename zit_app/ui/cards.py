"""Pieces of the page as HTML: run cards, failure cards, tables of facts. Everything from outside is escaped."""

from collections.abc import Iterable, Sequence
from html import escape

from zit_app.core.errors import REASONS
from zit_app.service.remedies import find_remedy
from zit_app.service.runs import RunView, log_tail
from zit_app.ui.help import help_link
from zit_app.ui.text import Words

WITH_BAR = ("preparing", "running", "stopping", "not responding", "stopped", "interrupted")
MOST_NAMES = 8  # of pictures that were left out; the log has all
HINTS = {
    "queued": "hint.queued",
    "stopping": "hint.stopping",
    "interrupted": "hint.interrupted",
    "not responding": "hint.not_responding",
}


def run_card(w: Words, run: RunView, buttons: str = "") -> str:
    """One run: name, state, how far it is; for a failed one the cause, a way out and the end of its log."""
    bar = progress_bar(run) if run.state in WITH_BAR else ""
    word = escape(w("state." + run.state.replace(" ", "_")))
    state = f'<span class="badge {run.state.replace(" ", "-")}">{word}</span>'
    sentence = escape(w.message(run.message)) if run.message and run.state not in ("failed", "done") else ""
    if run.state in HINTS:
        sentence = escape(w(HINTS[run.state]))
    names = ", ".join(f"{name} ({w.message(why)})" for name, why in run.skipped[:MOST_NAMES])
    names += f" + {len(run.skipped) - MOST_NAMES}" if len(run.skipped) > MOST_NAMES else ""
    skipped = escape(w("run.skipped", names=names)) if names else ""
    parts = (sentence, escape(facts_line(w, run)), skipped)
    body = "".join(f'<div class="line">{part}</div>' for part in parts if part)
    failure = failure_part(w, run) if run.state == "failed" else ""
    head = f'<div class="head"><b>{escape(run.name)}</b>{state}</div>'
    return f'<div class="card">{head}{bar}{body}{failure}{buttons}</div>'


def progress_bar(run: RunView) -> str:
    """How much of a run is done."""
    share = 100 * run.share
    return (
        f'<div class="bar" role="progressbar" aria-label="{escape(run.name)}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%"></i></div>'
    )


def facts_line(w: Words, run: RunView) -> str:
    """Step, speed, time left and loss, as far as known."""
    parts = []
    if run.total and run.state in WITH_BAR:
        parts.append(f"{100 * run.share:.0f} %")
    if run.total:
        parts.append(w("run.step", step=run.step, total=run.total))
    if run.state == "running" and run.seconds:
        parts.append(w("run.speed", seconds=f"{run.seconds:.2g}"))
    if run.state == "running" and run.left:
        parts.append(w("run.left", time=w.duration(run.left)))
    if run.loss is not None:
        parts.append(w("run.loss", loss=f"{run.loss:.4f}"))
    return " · ".join(parts)


def failure_part(w: Words, run: RunView) -> str:
    """Title, cause, what a person can do, what the app would do by itself, the end of the log, a report to copy."""
    tail = log_tail(run.folder)
    cause, remedy = w.message(run.cause or run.message), w.message(run.remedy)
    title = w(f"failure.{run.reason}") if run.reason in REASONS else w("failure.other")
    report = escape(f"{run.kind} {run.name}\n{run.folder}\n{cause} {remedy}\n\n{tail}", quote=True)
    copy = "navigator.clipboard.writeText(this.dataset.report); this.textContent = this.dataset.done"
    return (
        f'<div class="cause"><b>{escape(title)}</b><br>{escape(cause)}</div><div class="line">{escape(remedy)}</div>'
        f"{way_out(w, run)}<details><summary>{escape(w('failure.log'))}</summary><pre>{escape(tail)}</pre></details>"
        f'<button class="copy" data-report="{report}" data-done="{escape(w("failure.copied"))}" onclick="{copy}">'
        f"{escape(w('failure.copy'))}</button> {help_link(w)}"
    )


def way_out(w: Words, run: RunView) -> str:
    """What the app would change to try again, and the button that does it; "" where it knows no way."""
    remedy = find_remedy(run)
    if remedy is None:
        return ""
    plan = [f"{w.setting(change.name)}: {_shown(change.before)} → {_shown(change.after)}" for change in remedy.changes]
    plan += [w("failure.from_step", step=remedy.step)] if remedy.step else []
    plan = plan or [w(f"failure.{remedy.reason}_again")]
    retry = button("retry", str(run.folder), w("failure.retry"), "primary")
    return f'<div class="way-out"><div class="line">{escape(" · ".join(plan))}</div>{retry}</div>'


def button(do: str, on: str, text: str, kind: str = "", label: str = "") -> str:
    """A button inside a card: `ui/actions.py` hears what it does and on what. `label` is for those who only hear it."""
    spoken = f' aria-label="{escape(label, quote=True)}" title="{escape(label, quote=True)}"' if label else ""
    return (
        f'<button type="button" class="act {kind}" data-do="{do}" data-on="{escape(on, quote=True)}"{spoken}>'
        f"{escape(text)}</button>"
    )


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def empty(text: str) -> str:
    """What stands where nothing is yet."""
    return f'<div class="empty">{escape(text)}</div>'


def note(text: str, kind: str = "info") -> str:
    """One quiet sentence; `kind` is info or warning."""
    return f'<div class="note {kind}">{escape(text)}</div>' if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls inside itself on a narrow screen."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names with their values, one pair a line."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f'<dl class="facts">{lines}</dl>'
