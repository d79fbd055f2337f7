"""Keep Gradio's page from writing statuses that nobody sees."""

from pathlib import Path

import gradio as gr

# The page's one list of statuses, a class that a file of Gradio's page exports, keeps whatever an event ever had as
# input or output, and at every event each of them is written again: a write searches the page from its beginning and
# copies a value. That was half of what our page cost beside a training. So events that show no progress have no status,
# and what is complete is forgotten some seconds later, when it was certainly written.
_SCRIPT = """<script type="module">
import * as parts from "./assets/NAME";
const list = Object.values(parts).find((part) => part?.prototype?.resolve_args).prototype;
const update = list.update;
list.update = function (event) {
  const now = performance.now(), since = (this.since ??= {});
  for (const [id, { status }] of Object.entries(this.current)) {
    if (status !== "complete") delete since[id];
    else if (now > (since[id] ??= now) + 3000) delete this.current[id], delete since[id];
  }
  if (this.show_progress[event.fn_index] !== "hidden") update.call(this, event);
};
</script>"""


def script() -> str:
    """What belongs into a page's head; nothing where this Gradio has no such list."""
    name = tracker()
    return _SCRIPT.replace("NAME", name) if name else ""


def tracker() -> str:
    """Name of the file among Gradio's assets that exports the list; empty where there is none."""
    folder = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
    files = sorted(folder.glob("statustracker-*.js"))
    return next((file.name for file in files if "resolve_args(" in file.read_text(encoding="utf-8")), "")
