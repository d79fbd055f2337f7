"""What a person has entered stays where it was entered: in the browser, over reloads and restarts."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

# Entries that are as the page was served are not kept, so that a later version's defaults, or a model that has come
# since, are seen. `ready` tells entries of a person from those that appear while the page is built.
RESTORE = """(...shown) => {
  window.zitForms ??= {};
  window.zitForms.NAME = {served: JSON.stringify(shown), ready: true};
  const kept = JSON.parse(localStorage.getItem('zit.NAME') ?? 'null');
  return kept?.length === shown.length ? kept : shown;
}"""
KEEP = """(...shown) => {
  const form = window.zitForms?.NAME, now = JSON.stringify(shown);
  if (!form?.ready) return;
  if (now === form.served) localStorage.removeItem('zit.NAME');
  else localStorage.setItem('zit.NAME', now);
}"""


def keep(blocks: gr.Blocks, name: str, controls: Sequence[Component]) -> None:
    """Keep what `controls` hold in this browser under `name`, an identifier, and put it back when a page opens."""
    given: list[Any] = list(controls)
    blocks.load(None, given, given, js=RESTORE.replace("NAME", name), api_visibility="private")
    changes = [control.change for control in given]
    gr.on(changes, None, given, None, js=KEEP.replace("NAME", name), api_visibility="private")
