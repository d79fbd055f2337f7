"""How the app looks, to whoever looks: both themes, a phone, a screen reader, a keyboard, and nothing from outside."""

import re
from typing import Any

import pytest

from tests.browsing import App, Visit, expect
from zit_app.ui import statuses

axe: Any = pytest.importorskip("axe_playwright_python.base", reason="needs the package axe-playwright-python")
TABS = {  # and what tells that they are filled
    "generate": "#gallery img",
    "dataset": "#dataset-summary",
    "train": "#loss svg",
    "compare": "#compare-grid img",
    "cache": "#cache-found",
    "settings": "#models table",
}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
# What sits inside Gradio's own widgets and no theme, text or layout of ours can reach.
OF_GRADIO = {
    ("aria-prohibited-attr", "empty"): "an empty gallery is a div with a label but no role",
}


def look_at(visit: Visit, tab: str) -> None:
    """A tab with everything in it unfolded."""
    visit.open(tab)
    visit.shows(TABS[tab])
    folded = visit.page.locator("button.label-wrap:not(.open):visible")
    while folded.count():
        folded.first.click()
        visit.page.wait_for_timeout(200)


def findings(visit: Visit) -> set[str]:
    """What axe finds, but what is Gradio's own."""
    found = visit.page.evaluate("rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']})", RULES)
    return {
        f"{violation['id']} {node['target']} {node['html'][:200]}"
        for violation in found["violations"]
        for node in violation["nodes"]
        if not any(violation["id"] == rule and f'class="{name} ' in node["html"] for rule, name in OF_GRADIO)
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_every_tab(filled_app: App, browser: Any, scheme: str) -> None:
    visit = Visit(browser, filled_app.address)
    visit.page.emulate_media(color_scheme=scheme)
    visit.page.evaluate(axe.AXE_SCRIPT)
    wrong: dict[str, set[str]] = {}
    for tab in TABS:
        look_at(visit, tab)
        wrong[tab] = findings(visit)
    assert visit.page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
    assert wrong == {tab: set() for tab in TABS}
    visit.close()


def test_a_phone_shows_all_of_it_without_scrolling_sideways(filled_app: App, browser: Any) -> None:
    visit = Visit(browser, filled_app.address, width=390)
    for tab in TABS:
        look_at(visit, tab)
        visit.page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
    visit.open("train")
    visit.shows("#plan", "steps, rank")  # of a page into which nothing was entered yet
    visit.close()


def test_the_chosen_theme_stays(filled_app: App, browser: Any) -> None:
    visit = Visit(browser, filled_app.address)
    dark = "document.body.classList.contains('dark')"
    assert not visit.page.evaluate(dark)
    visit.open("settings")
    visit.page.locator("#theme").get_by_text("Dark", exact=True).click()
    visit.page.wait_for_function(dark)
    visit.page.goto(filled_app.address)
    visit.settle()
    assert "__theme=dark" in visit.page.url
    visit.page.wait_for_function(dark)
    visit.page.goto(f"{filled_app.address}zh/")  # also where the front door was passed by
    visit.settle()
    visit.page.wait_for_function(dark)
    visit.open("settings", "zh")
    visit.page.locator("#theme").get_by_text("跟随系统", exact=True).click()
    visit.page.wait_for_function("!" + dark)
    visit.page.goto(filled_app.address)
    visit.settle()
    assert "__theme" not in visit.page.url and not visit.page.evaluate(dark)
    visit.close()


def test_the_settings_tab_tells_what_is_here(filled_app: App, browser: Any) -> None:
    visit = Visit(browser, filled_app.address)
    visit.open("settings")
    models = visit.shows("#models", "tiny")
    expect(models).to_contain_text("comes with the app")
    expect(models).to_contain_text("own folder")
    visit.shows("#lora-files", "zxc")
    visit.shows("#licences", "Fluent Emoji")
    visit.shows("#folders", str(filled_app.home))
    visit.shows("#hardware", "Processor cores")
    visit.page.locator("#examine").click()
    report = visit.page.locator("#report textarea")
    expect(report).to_have_value(re.compile("ZIT Studio.*python", re.DOTALL))
    assert str(filled_app.home) not in report.input_value() and "<home folder>" in report.input_value()
    visit.shows("#copy-report")
    visit.close()


def test_statuses_that_nobody_sees_are_not_written(filled_app: App, browser: Any) -> None:
    """As the page's own list of them has it: nothing for what comes and goes unseen, soon nothing for what is over."""
    visit = Visit(browser, filled_app.address)
    visit.page.evaluate(
        """async (name) => {
            const parts = await import(new URL("assets/" + name, document.baseURI));
            const list = Object.values(parts).find((part) => part?.prototype?.resolve_args).prototype;
            const update = list.update;
            window.most = window.unseen = 0;
            list.update = function (event) {
                update.call(this, event);
                window.kept = Object.keys(this.current).length;
                window.most = Math.max(window.most, window.kept);
                if (this.show_progress[event.fn_index] === "hidden") window.unseen += 1;
            };
        }""",
        statuses.tracker(),
    )
    visit.page.wait_for_function("unseen >= 4")  # two ticks of the timer
    assert visit.page.evaluate("most") == 0
    visit.open("settings")
    visit.page.locator("#examine").click()
    visit.page.wait_for_function("most > 0")  # Gradio still tells of what takes a while
    visit.page.wait_for_function("kept === 0")
    visit.close()
