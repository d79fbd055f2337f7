"""Light, dark, or as the system has it: chosen in the tab Models & settings, kept in a cookie.

Gradio looks for `__theme` in the address when a page begins; the front door puts it there, so that no page of the wrong
colour is seen first. A page that was opened without it is put right when it is built.
"""

COOKIE = "zit_theme"
MODES = ("system", "light", "dark")

_APPLY = """const apply = mode => {
    const dark = mode === 'dark' || (mode === 'system' && matchMedia('(prefers-color-scheme: dark)').matches);
    document.body.classList.toggle('dark', dark);
  };"""
# What the radio shows when a page opens.
SHOW = f"""() => {{
  {_APPLY}
  const kept = document.cookie.match(/(?:^|; ){COOKIE}=(light|dark)/);
  const mode = kept ? kept[1] : 'system';
  if (kept) apply(mode);
  return mode;
}}"""
CHANGE = f"""(mode) => {{
  {_APPLY}
  const lasts = mode === 'system' ? 0 : 315360000;
  document.cookie = `{COOKIE}=${{mode}}; max-age=${{lasts}}; path=/; samesite=lax`;
  const address = new URL(location);
  if (mode === 'system') address.searchParams.delete('__theme'); else address.searchParams.set('__theme', mode);
  history.replaceState(null, '', address);
  apply(mode);
}}"""


def theme_query(kept: str | None) -> str:
    """What the front door adds to a page's address for the mode in a browser's cookie."""
    return f"?__theme={kept}" if kept in MODES[1:] else ""
