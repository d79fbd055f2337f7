"""A training as a person meets it: by mouse and by keys, in English and in Chinese, through and failing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import App, Visit, expect
from tests.test_cache import make_dataset
from tests.tiny import make_tiny_model
from zit_app.core.models import FOLDERS
from zit_app.ui.text import TABLES

EN, ZH = TABLES["en"], TABLES["zh"]
MOST_TABS = 150  # presses of the tabulator before something counts as out of reach


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """With a dataset, and the tiny model in the place of Turbo, so that it is the one that is chosen at first."""
    home = tmp_path_factory.mktemp("app_home")
    make_dataset(home / "datasets" / "pets")
    turbo = make_tiny_model(home / "models" / FOLDERS["turbo"])
    flavour = {"name": "turbo", "steps": 4, "guidance": 0.0, "pixels": 64}
    (turbo / "flavour.json").write_text(json.dumps({"zit_flavour": flavour}))
    app = App(home)
    yield app
    app.close()


def test_drop_pictures_train_try_it_and_compare(app: App, browser: Any, tmp_path: Path) -> None:
    visit = Visit(browser, app.address)
    visit.open("dataset")
    visit.page.locator("#dataset-new input, #dataset-new textarea").first.fill("toys")
    dropped = sorted(make_dataset(tmp_path / "toys").iterdir())
    visit.page.locator("#dataset-drop input[type=file]").set_input_files(dropped)
    visit.shows("#dataset-summary", "3")

    visit.open("train")
    expect(visit.page.locator("#train-dataset input")).to_have_value("toys")
    visit.shows("#plan", "3 pictures, ")
    visit.shows("#plan", EN["train.time_unknown"])
    assert visit.page.locator("#preset label").count() == 4
    visit.page.locator("#trigger input, #trigger textarea").first.fill("zyx")
    visit.page.locator("#train-prompts textarea").fill("a boat\n\n a zyx cup ")
    train_shortly(visit, curves=True)
    visit.page.locator("#setting_sample_every input").fill("4")
    visit.shows("#changed", "preset 250")
    visit.page.locator("#setting_learning_rate input").fill("0.5")
    visit.shows("#changed li:nth-child(3)")
    visit.page.locator("#changed [data-on=learning_rate]").click()
    expect(visit.page.locator("#changed li")).to_have_count(2)
    expect(visit.page.locator("#setting_learning_rate input")).not_to_have_value("0.5")

    visit.page.locator("#train").click()
    visit.shows("#train-status", EN["state.done"])
    # loss, rate; what is recognised, sharpness, distance and drift from the start
    expect(visit.page.locator("#loss svg")).to_have_count(6)
    expect(visit.page.locator("#samples img")).to_have_count(6)  # two prompts before, and after steps 4 and 8
    visit.page.wait_for_function("document.querySelector('#samples img').naturalWidth > 0")

    visit.page.locator("#try-it").click()
    visit.shows("#prompt")
    expect(visit.page.locator("#prompt textarea")).to_have_value("zyx, a boat")
    expect(visit.page.locator("#loras input[role=listbox], #loras input[role=combobox]").first).to_have_value("toys")
    visit.open("train")
    visit.page.locator("#train-compare").click()
    visit.shows("#compare-prompts")
    expect(visit.page.locator("#compare-prompts textarea")).to_have_value("zyx, a boat")
    visit.close()


def test_a_training_by_keys_alone(app: App, browser: Any) -> None:
    visit = Visit(browser, app.address)
    reach(visit, f"[role=tab]:has-text('{EN['tab.train']}')")
    visit.page.keyboard.press("Enter")
    visit.shows("#train-name")
    train_shortly(visit)  # the one thing that is not done by keys, to save time
    visit.page.get_by_text(EN["train.advanced"]).click()
    reach(visit, "#train-name input, #train-name textarea")
    visit.page.keyboard.type("by keys")
    reach(visit, "#train")
    visit.page.keyboard.press("Enter")
    visit.shows("#train-status .head", "by keys")
    visit.shows("#train-status .badge.done")
    reach(visit, "#try-it")
    visit.page.keyboard.press("Enter")
    visit.shows("#prompt")
    visit.close()


def test_stop_in_the_sidebar_and_the_queue_in_chinese(app: App, browser: Any) -> None:
    visit = Visit(browser, app.address, locale="zh-CN")
    visit.open("train", "zh")
    visit.page.get_by_text(ZH["train.advanced"]).click()
    visit.page.locator("#setting-search input, input#setting-search").fill("分辨率")  # at once, as a paste does
    expect(visit.page.locator("#setting_turbo_steps")).to_be_hidden()
    expect(visit.page.locator("#setting_further_resolutions")).to_be_visible()
    visit.page.locator("#setting-search input, input#setting-search").fill("")
    expect(visit.page.locator("#setting_turbo_steps")).to_be_visible()
    layers = visit.page.locator("#setting_layers").locator("input, textarea")
    layers.fill("99")
    visit.shows("#plan", "不是此模型的主块")
    layers.fill("0")
    expect(visit.page.locator("#plan")).not_to_contain_text("主块")
    visit.page.locator("#train-prompts textarea").fill("a boat --q 1")
    visit.shows("#plan", "--q")
    visit.page.locator("#train-prompts textarea").fill("")
    expect(visit.page.locator("#plan")).not_to_contain_text("--q")
    visit.page.locator("#setting_max_steps input").fill("5000")
    for name in ("first", "second", "third"):
        visit.page.locator("#train-name input, #train-name textarea").first.fill(name)
        visit.page.locator("#train").click()
        visit.shows("#sidebar", name)
    visit.shows("#current", "first")
    visit.page.get_by_role("button", name=ZH["sidebar.sooner"].format(name="third")).click()
    visit.shows("#queue li:nth-child(1)", "third")
    for name in ("third", "second"):
        visit.page.get_by_role("button", name=ZH["sidebar.cancel"].format(name=name)).click()
        expect(visit.page.locator("#sidebar")).not_to_contain_text(name)
    visit.shows("#current .bar")
    visit.page.locator("#current [data-do=stop]").click()
    visit.shows("#current", ZH["sidebar.idle"])
    visit.close()


def test_a_failed_card_says_why_and_retries_in_chinese(app: App, browser: Any) -> None:
    weights = next((app.home / "models" / FOLDERS["turbo"] / "transformer").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    visit = Visit(browser, app.address, locale="zh-CN")
    visit.open("train", "zh")
    train_shortly(visit, "zh")
    visit.page.locator("#train-name input, #train-name textarea").first.fill("broken")
    visit.page.locator("#train").click()
    visit.shows("#train-status .head", "broken")
    visit.shows("#train-status .cause", ZH["failure.weights"])
    visit.shows("#train-status .cause", "不完整：缺少结尾。")
    retry = visit.page.locator("#train-status [data-do=retry]")
    retry.click()
    visit.shows(".toast-wrap", "缺少结尾")  # it is broken still
    weights.write_bytes(whole)
    retry.click()
    visit.shows("#train-status .badge.done")
    visit.close()


def train_shortly(visit: Visit, language: str = "en", curves: bool = False) -> None:
    """Eight steps instead of the preset's many; the curves on unrelated prompts would take longer than these."""
    visit.page.get_by_text(TABLES[language]["train.advanced"]).click()
    visit.page.locator("#setting_max_steps input").fill("8")
    visit.shows("#changed", "8")
    if not curves:
        visit.page.locator("#setting_health_every input").fill("0")
        expect(visit.page.locator("#changed li")).to_have_count(2)


def reach(visit: Visit, selector: str) -> None:
    """Press the tabulator until the focus is on an element."""
    wanted = visit.page.locator(selector).first
    expect(wanted).to_be_visible()
    for _ in range(MOST_TABS):
        if wanted.evaluate("element => element === document.activeElement"):
            return
        visit.page.keyboard.press("Tab")
    raise AssertionError(f"{selector} is out of reach of the tabulator")
