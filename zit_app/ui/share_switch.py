"""The share switch of the sidebar: off, in this network, or by a link on the internet."""

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr
import segno

from zit_app.service.sharing import SHARING, Share, log_file
from zit_app.ui import cards
from zit_app.ui.page import Page, Snapshot, asks

OFF, REACHES = "off", ("network", "internet")


class ShareSwitch:
    """Opens and closes the guest app, and shows the owner link, password and QR code."""

    def __init__(self, page: Page) -> None:
        self.w = w = page.w
        gr.HTML(f"<h3>{w('share.title')}</h3>")
        choices = [(w("share." + name), name) for name in (OFF, *REACHES)]
        self.reach = gr.Radio(
            choices, value=OFF, label=w("share.title"), show_label=False, container=False, elem_id="share"
        )
        self.panel = gr.HTML(elem_id="share-panel", elem_classes="maybe")
        self.reach.input(asks(self._choose), [self.reach], [self.panel], api_visibility="private")
        page.watch([self.reach, self.panel], self._read)

    def _choose(self, reach: str) -> str:
        if reach in REACHES:
            SHARING.start(reach)  # type: ignore[arg-type]
        else:
            SHARING.stop()
        return self._panel(SHARING.now)

    def _read(self, now: Snapshot) -> Sequence[Any]:
        share = SHARING.now
        return [share.reach or OFF, self._panel(share)]

    def _panel(self, share: Share) -> str:
        w = self.w
        if share.phase == "off":
            return ""
        if share.phase == "failed":
            return cards.note(w("share.failed", file=log_file()), "warning")
        if share.phase == "opening":
            return cards.note(w("share.opening"))
        here = share.reach == "internet" and not share.tunnel  # a phone's camera has no use for this link
        notes = cards.note(w("share.tunnelling")) if here and not share.no_tunnel else ""
        if share.no_tunnel:
            notes += cards.note(w("tunnel." + share.no_tunnel), "warning")
        where = "here" if here else "carried" if share.tunnel else "open"
        notes += cards.note(w("share." + where))
        return (
            f'<div class="card share"><a href="{escape(share.address)}" target="_blank" rel="noopener">'
            f"{escape(share.address)}</a>{self._copy(share.address, 'share.copy_link')}"
            f"<div>{escape(w('share.password'))}<br><code>{escape(share.password)}</code></div>"
            f"{self._copy(share.password, 'share.copy_password')}{'' if here else self._code(share)}{notes}</div>"
        )

    def _copy(self, text: str, label: str) -> str:
        script = "navigator.clipboard.writeText(this.dataset.text); this.textContent = this.dataset.done"
        data = f'data-text="{escape(text, quote=True)}" data-done="{escape(self.w("failure.copied"), quote=True)}"'
        return f'<button class="copy" {data} onclick="{script}">{escape(self.w(label))}</button>'

    def _code(self, share: Share) -> str:
        """Link and password as a QR code."""
        code = segno.make(share.entry, error="m", micro=False)
        drawn = code.svg_inline(scale=4, border=3, dark="#0f172a", light="#ffffff", omitsize=True)
        return f'<div class="qr" role="img" aria-label="{escape(self.w("share.code"), quote=True)}">{drawn}</div>'
