"""The app as a person meets it: a real browser, a real server process, a real worker, the tiny model."""

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import LONG, App, Visit, expect
from tests.hub import serving
from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.test_queue import wait_for
from tests.tiny import make_tiny_model
from zit_app.service import runs
from zit_app.ui.text import TABLES

STEP = "parseInt(/step (\\d+)/i.exec(document.querySelector('#current').textContent)?.[1])"
TABS = ("generate", "dataset", "train", "compare", "cache", "settings")


def test_first_picture_and_back_from_its_file(app: App, browser: Any) -> None:
    visit = Visit(browser, app.address)
    visit.shows("#welcome", TABLES["en"]["welcome.title"])
    visit.page.locator("#generate").click()
    visit.shows("#gallery img")
    expect(visit.page.locator("#gallery img")).to_have_count(4)
    visit.page.wait_for_function("document.querySelector('#gallery img').naturalWidth == 128")

    picture = sorted(app.home.glob("runs/generate/*/*.png"))[0]
    visit.page.locator("#prompt textarea").fill("something else")
    visit.page.get_by_text(TABLES["en"]["generate.more"]).click()
    visit.page.locator("#restore input[type=file]").set_input_files(picture)
    expect(visit.page.locator("#prompt textarea")).to_have_value(TABLES["en"]["generate.example"])
    expect(visit.page.locator("#seed input")).to_have_value(picture.stem.split("_")[1])
    visit.close()


def test_a_reload_keeps_a_running_training_in_sight_and_stop_keeps_a_checkpoint(app: App, browser: Any) -> None:
    visit = Visit(browser, app.address)
    visit.open("dataset")
    visit.page.locator("#dataset-demo").click()
    visit.shows("#dataset-summary", "24")
    visit.open("train")
    expect(visit.page.locator("#train-dataset input")).to_have_value("demo")
    visit.page.get_by_text(TABLES["en"]["train.advanced"]).click()
    visit.shows("#setting_max_steps input")
    visit.page.wait_for_timeout(1000)  # Gradio writes what was just unfolded once more, a frame after it is seen
    visit.page.locator("#setting_max_steps input").fill("5000")
    for drawn_first in ("ways", "unrelated_count"):  # to save time
        visit.page.locator(f"#setting_{drawn_first} input").fill("1")
    visit.page.locator("#train-name input, #train-name textarea").first.fill("long one")
    visit.page.locator("#train").click()
    visit.shows("#current", "long one")
    visit.reload()
    visit.shows("#current", "long one")
    visit.open("train")
    visit.shows("#loss svg")
    visit.page.locator("#train-stop").click()
    visit.shows("#train-status", TABLES["en"]["state.stopped"])
    visit.shows("#train-resume")
    assert list(app.home.glob("runs/train/*/checkpoints/*/lora.safetensors"))
    visit.close()


def test_open_tabs_go_on_when_the_server_was_killed_and_all_show_the_same_run(
    app: App, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZIT_HOME", str(app.home))
    tabs = [Visit(browser, app.address) for _ in range(2)]
    run = runs.submit_train(small_settings(max_steps=100_000), make_dataset(tmp_path / "data"), "tiny", "survivor")
    for tab in tabs:
        tab.shows("#current", "survivor")
    app.kill()
    reached = len(run.metrics())
    wait_for(lambda: len(run.metrics()) > reached, LONG / 1000)  # the worker does not care
    tabs[0].shows(".toast-wrap", "server was lost")
    app.start()
    reached = len(run.metrics())
    for tab in tabs:  # nobody reloaded them
        expect(tab.page.locator(".toast-wrap")).not_to_contain_text("server was lost")
        tab.page.wait_for_function(f"{STEP} > {reached}")
        assert not [problem for problem in tab.problems if problem.startswith("left")]
        tab.problems.clear()  # of the time without a server; from here on there are none again
    tabs[0].page.locator("#current [data-do=stop]").click()
    tabs[1].shows("#current", TABLES["en"]["sidebar.idle"])
    assert run.state() == "stopped"
    for tab in tabs:
        tab.close()


def test_the_language_follows_the_browser_and_can_be_changed(app: App, browser: Any) -> None:
    visit = Visit(browser, app.address, locale="zh-CN")
    assert visit.page.url.endswith("/zh/")
    for tab in TABS:
        visit.open(tab, "zh")
    visit.page.locator("#sidebar").get_by_role("link", name="English").click()
    visit.page.wait_for_url("**/en/")
    visit.page.goto(app.address)
    visit.page.wait_for_url("**/en/")  # remembered, although the browser prefers Chinese
    visit.settle()
    visit.open("train")
    visit.close()


def test_a_phone_never_scrolls_sideways(app: App, browser: Any) -> None:
    visit = Visit(browser, app.address, width=390)
    for tab in TABS:
        visit.open(tab)
        visit.page.wait_for_timeout(500)
        visit.page.wait_for_function("document.documentElement.scrollWidth <= innerWidth", timeout=60_000)
    visit.close()


def test_a_large_model_is_fetched_and_goes_on_after_its_mirror_failed(app: App, browser: Any, tmp_path: Path) -> None:
    transformer = "transformer/diffusion_pytorch_model.safetensors"
    with serving(make_tiny_model(tmp_path / "model"), "Tongyi-MAI/Z-Image-Turbo") as hub:
        hub.damaged = {transformer}
        visit = Visit(browser, app.address)
        visit.open("settings")
        visit.page.locator("#download-mirror input, #download-mirror textarea").first.fill(hub.url)
        visit.page.locator("#download-start").click()
        visit.shows("#download-status .cause", "its hash differs")
        hub.damaged, hub.requests = set(), []
        visit.page.get_by_role("button", name=TABLES["en"]["download.go_on"]).click()
        visit.shows("#models tr:has-text('turbo')", TABLES["en"]["model.ready"])
        expect(visit.page.locator("#models tr:has-text('turbo')").last).to_contain_text(hub.url)
        weights = [name for name, _ in hub.requests if name.endswith(".safetensors")]
        assert set(weights) == {transformer}  # what was whole is not fetched again
        visit.open("generate")
        visit.page.locator("#model input").first.click()
        visit.page.get_by_role("option", name="turbo").first.wait_for()
        visit.close()


def test_other_names_for_this_machine_are_refused(app: App) -> None:
    request = urllib.request.Request(app.address, headers={"Host": "attacker.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)
