"""The page that asks a guest for the password. It stands alone: no part of Gradio is served to strangers."""

import secrets
from html import escape

from starlette.responses import HTMLResponse

from zit_app.ui.text import Words

STYLE = """
:root { color-scheme: light dark; --back: #f8fafc; --card: #fff; --text: #0f172a; --quiet: #475569; --line: #cbd5e1;
        --accent: #4f46e5; --wrong: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --back: #020617; --card: #0f172a; --text: #f1f5f9; --quiet: #94a3b8;
        --line: #475569; --wrong: #fca5a5; } }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--back); color: var(--text);
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { width: min(360px, calc(100vw - 72px)); padding: 28px; background: var(--card); border: 1px solid var(--line);
       border-radius: 12px; }
h1 { font-size: 1.25rem; margin: 0 0 4px; }
p { margin: 0 0 18px; color: var(--quiet); font-size: 0.92rem; }
p.wrong { color: var(--wrong); margin: 14px 0 0; }
label { display: block; font-size: 0.9rem; font-weight: 500; margin-bottom: 6px; }
input, button { box-sizing: border-box; width: 100%; font: inherit; padding: 10px 12px; border-radius: 8px; }
input { border: 1px solid var(--line); background: var(--back); color: var(--text); }
button { margin-top: 14px; border: 0; background: var(--accent); color: #fff; font-weight: 600; cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
"""
# The part of an address behind # stays in the browser: the QR code brings the password without showing it to a server.
SCRIPT = """
function enter() {
  const given = decodeURIComponent(location.hash.slice(1)), form = document.forms[0];
  if (!given) return;
  history.replaceState(null, "", location.pathname);
  form.elements.password.value = given;
  form.submit();
}
addEventListener("hashchange", enter);
enter();
"""


def login_page(w: Words, status: int = 200, wrong: bool = False, wait: float = 0) -> HTMLResponse:
    """The page, with what went wrong before: a wrong password, or `wait` seconds to go after too many of them."""
    nonce = secrets.token_urlsafe(12)
    said = w("guest.wrong") if wrong else w("guest.wait", time=w.duration(wait)) if wait else ""
    error = f'<p class="wrong" role="alert">{escape(said)}</p>' if said else ""
    page = f"""<!doctype html><html lang="{w.language}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">
<title>ZIT Studio</title><link rel="icon" href="data:,"><style nonce="{nonce}">{STYLE}</style></head><body><main>
<h1>ZIT Studio</h1><p>{escape(w("guest.login_help"))}</p><form method="post" action="/login">
<label for="password">{escape(w("guest.password"))}</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
<button>{escape(w("guest.login"))}</button></form>{error}</main>
<script nonce="{nonce}">{SCRIPT}</script></body></html>"""
    allowed = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": allowed, "Cache-Control": "no-store"}
    if wait:
        headers["Retry-After"] = str(int(wait) + 1)
    return HTMLResponse(page, status, headers)
