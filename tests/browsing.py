"""A person at the app: a server process of its own, windows of a real browser, and everything that goes wrong in them.

Needs the package `playwright` and a Chromium (`zit_app.service.browser` says where it is looked for).
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.tiny import make_tiny_model
from zit_app.core import paths, process
from zit_app.core.errors import ZitError
from zit_app.core.files import read_json
from zit_app.service.browser import MISSING, find_browser
from zit_app.ui.launch import free_port
from zit_app.ui.text import TABLES

# Test files that run side by side look for free ports in ranges of their own.
PORTS = 9600 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
LONG = 180_000  # ms: a worker imports torch first, on machines that do other things, too
sync_api: Any = pytest.importorskip("playwright.sync_api", reason="the browser tests need the package playwright")
expect = sync_api.expect
expect.set_options(timeout=LONG)  # its own five seconds are too few on a busy machine
CUT_OFF = ("AbortError", "Connection errored out")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")  # also as root in a container


class App:
    """The app as a process in a home folder of its own, with the tiny model in it.

    opener  a program that is given the address, in place of the user's browser; without one no page is opened
    """

    def __init__(self, home: Path, opener: Path | None = None) -> None:
        self.home, self.opener = home, opener
        model = make_tiny_model(home / "models" / "tiny")
        flavour = {"name": "turbo", "steps": 4, "guidance": 0.0, "pixels": 64}
        (model / "flavour.json").write_text(json.dumps({"zit_flavour": flavour}))
        self.port = free_port(PORTS)
        self.address = ""
        self.seconds = 0.0  # from start to the first answer
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        begun = time.monotonic()
        with (self.home / "app.log").open("a") as log:
            self.process = subprocess.Popen(**self.command(), stdout=log, stderr=log)
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() - begun < LONG / 1000, self.log()
            time.sleep(0.1)
        self.seconds = time.monotonic() - begun

    def command(self) -> dict[str, Any]:
        """How the app is started, for `subprocess`."""
        environment = {**os.environ, "ZIT_HOME": str(self.home), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
        words = [sys.executable, "app.py", "app", "--port", str(self.port)]
        if self.opener is None:
            words.append("--no-browser")
        else:
            environment["BROWSER"] = f"{self.opener} %s"
        return {"args": words, "cwd": paths.PROJECT, "env": environment}

    def kill(self) -> None:
        """As a power cut would, for this process only."""
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        """What the server said."""
        return (self.home / "app.log").read_text()

    def close(self) -> None:
        """End the server, then the workers, which outlive it by design."""
        self.process.terminate()
        self.process.wait(60)
        for file in (self.home / "workers").glob("*.json"):
            found = json.loads(file.read_text())
            if process.started(found["pid"]) == found["started"]:
                with suppress(ProcessLookupError):
                    os.killpg(found["pid"], signal.SIGKILL)

    def _answers(self) -> bool:
        """Whether it is up; it says itself where, as another program may have been quicker at the port."""
        with suppress(OSError, ZitError):
            found = read_json(self.home / "app.json")
            if found["pid"] == self.process.pid:
                urllib.request.urlopen(found["address"], timeout=10).close()
                self.address, self.port = found["address"], int(found["address"].rstrip("/").rpartition(":")[2])
                return True
        return False


class Visit:
    """One browser window, and everything that went wrong in it.

    As new as one of a browser that was never here, but for the scripts that an earlier one has fetched and compiled:
    a third of what opening the page costs.
    """

    spare: ClassVar[dict[tuple[Any, str], list[Any]]] = {}  # emptied profiles, by browser and language

    def __init__(self, browser: Any, address: str, locale: str = "en-US", width: int = 1360) -> None:
        self.others = self.spare.setdefault((browser, locale), [])
        self.context = self.others.pop() if self.others else browser.new_context(locale=locale)
        self.context.set_default_timeout(LONG)
        self.page = self.context.new_page()
        self.page.set_viewport_size({"width": width, "height": 900})
        self.problems: list[str] = []
        self.page.on("console", lambda said: self._hear(said.type, said.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self._watch(request.url))
        self.page.goto(address)
        self.settle()

    def _hear(self, kind: str, text: str) -> None:
        if kind == "error":
            self.problems.append(f"{kind}: {text}")

    def _watch(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.problems.append(f"left this machine: {url}")

    def settle(self) -> None:
        """Wait until the page is built and has looked at the disk once."""
        self.shows("#machine .meter", visible=False)

    def open(self, tab: str, language: str = "en") -> None:
        """Open a tab; on a narrow page it may be in the menu."""
        name = TABLES[language][f"tab.{tab}"]
        shown = self.page.get_by_role("tab", name=name, exact=True)
        if not shown.count() or not shown.first.is_visible():
            self.page.locator("#tabs .overflow-menu > button").first.click()
            shown = self.page.locator("#tabs .overflow-dropdown button", has_text=name)
        shown.first.click()

    def shows(self, selector: str, text: str = "", visible: bool = True) -> Any:
        """Wait until an element is there, visible, and holds a text."""
        found = self.page.locator(selector).first
        expect(found).to_be_visible() if visible else expect(found).to_be_attached()
        if text:
            expect(found).to_contain_text(text)
        return found

    def reload(self) -> None:
        """Load the page anew. That its requests were cut off, the old page says while it goes, and is right."""
        before = len(self.problems)
        self.page.reload()
        self.problems[before:] = [one for one in self.problems[before:] if not any(word in one for word in CUT_OFF)]
        self.settle()

    def close(self) -> None:
        """Close the window; nothing may have gone wrong in it (that its requests are cut off now, it may say)."""
        origin = self.page.evaluate("origin")  # with the answer comes what was still to be heard
        assert self.problems == [], self.problems
        self.page.goto("about:blank")
        self.context.new_cdp_session(self.page).send(
            "Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "local_storage"}
        )
        for page in self.context.pages:
            page.close()
        self.context.clear_cookies()
        self.others.append(self.context)


@contextmanager
def a_browser() -> Iterator[Any]:
    """A Chromium without a window on the screen; skips the test where there is none."""
    found = find_browser()
    if found is None:
        pytest.skip(MISSING)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(found), args=list(ARGUMENTS), timeout=LONG)
        yield chromium
        chromium.close()
