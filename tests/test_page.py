"""How a page keeps up with the disk without being busy."""

from pathlib import Path

import gradio as gr

from zit_app.ui.app import build
from zit_app.ui.page import Page, Snapshot
from zit_app.ui.text import Words


def test_a_tick_carries_nothing_however_large_the_page_is(home: Path) -> None:
    config = build("en").get_config_file()
    timer = next(one["id"] for one in config["components"] if one["type"] == "timer")
    (tick,) = (event for event in config["dependencies"] if [timer, "tick"] in map(list, event["targets"]))
    look = max(config["dependencies"], key=lambda event: len(event["inputs"]))
    assert len(look["inputs"]) > 100
    assert len(tick["inputs"]) == len(tick["outputs"]) == 1
    assert look["show_progress"] == tick["show_progress"] == "hidden"  # `ui/statuses.py` leaves them alone
    assert timer in [one["id"] for one in config["layout"]["children"][:3]]


def test_a_look_is_due_when_something_else_would_be_seen(home: Path) -> None:
    disk = {"runs": 1}
    with gr.Blocks() as blocks:
        page = Page(Words("en"))
        name, shown, echo = gr.Textbox(), gr.Number(), gr.Textbox()

        def read(_snapshot: Snapshot, word: str) -> list[object]:
            return [disk["runs"], word.upper()]

        page.watch([shown, echo], read, [name])
        page.connect(blocks)
    tick, look = (blocks.fns[number].fn for number in sorted(blocks.fns))
    assert tick is not None and look is not None
    still = gr.skip()
    assert tick(None) != still
    seen, *first = look(None, "fox")
    assert first == [1, "FOX"]
    assert tick(seen) == still
    disk["runs"] = 2
    assert tick(seen) != still
    seen, *second = look(seen, "fox")
    assert second == [2, still]
    assert tick(seen) == still
    seen, *third = look(seen, "owl")  # an input's own change
    assert third == [still, "OWL"]
    assert tick(seen) == still
