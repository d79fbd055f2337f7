"""Generate and Compare in the hands of a person: from the keyboard alone, step by step, and back from pictures."""

import time
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.app_content import SEEDS, TRIGGER
from tests.browsing import App, Visit, expect
from zit_app.core.generate_settings import GenerateSettings, load_generation
from zit_app.ui.text import TABLES

EN = TABLES["en"]
FOCUSED = "id => !!document.activeElement.closest('#' + id)"


def press_until(visit: Visit, key: str, name: str) -> None:
    """Press a key until an element has the focus."""
    for _ in range(60):
        if visit.page.evaluate(FOCUSED, name):
            return
        visit.page.keyboard.press(key)
    raise AssertionError(f"{name} is not reached with {key}")


def unfold(visit: Visit, name: str) -> None:
    visit.page.locator(f"#{name} > button.label-wrap, #{name} button.label-wrap").first.click()


def test_a_first_picture_without_a_mouse(filled_app: App, browser: Any) -> None:
    before = len(list(filled_app.home.glob("runs/generate/*")))
    visit = Visit(browser, filled_app.address)
    press_until(visit, "Tab", "prompt")
    visit.page.keyboard.press("Control+A")
    visit.page.keyboard.type("a green pear")
    press_until(visit, "Tab", "generate")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_function("document.querySelectorAll('#gallery img').length >= 8")
    assert len(list(filled_app.home.glob("runs/generate/*"))) == before + 1
    run = sorted(filled_app.home.glob("runs/generate/*"))[-1]
    assert load_generation(run / "settings.toml")[0].prompts == ("a green pear",)
    visit.close()


def test_steps_are_seen_while_they_are_drawn_and_stop_ends_them(filled_app: App, browser: Any) -> None:
    visit = Visit(browser, filled_app.address)
    visit.page.locator("#prompt textarea").fill("a long one")
    unfold(visit, "generate-more")
    steps = visit.page.locator("#generate_steps input").first
    steps.fill("200")
    steps.press("Tab")
    expect(steps).to_have_value("200")
    visit.page.wait_for_timeout(500)
    visit.page.locator("#generate").click()
    glance = visit.shows("#step-preview img")
    # two by two pictures of 16 latents a side
    visit.page.wait_for_function("document.querySelector('#step-preview img').naturalWidth == 32")
    first = glance.get_attribute("src")
    visit.page.wait_for_function("first => document.querySelector('#step-preview img').src != first", arg=first)
    visit.page.locator("#generate-stop").click()
    expect(visit.page.locator("#generate-stop")).to_be_hidden()
    expect(visit.page.locator("#step-preview img")).to_have_count(0)
    visit.close()


def test_what_was_entered_is_there_after_a_reload(filled_app: App, browser: Any) -> None:
    visit = Visit(browser, filled_app.address)
    visit.page.locator("#prompt textarea").fill("kept words")
    visit.page.locator("#seed input").fill("77")
    visit.page.get_by_text("16:9", exact=True).click()
    visit.shows("#pixels", "176 × 96")
    visit.shows("#memory-plan summary", EN["memory.none"].split("{")[0]).click()
    visit.shows("#memory-plan li", "(fp32)")
    visit.open("train")
    visit.page.locator("#train-prompts textarea").fill("a boat\na cup")
    visit.open("generate")
    visit.reload()
    expect(visit.page.locator("#prompt textarea")).to_have_value("kept words")
    expect(visit.page.locator("#seed input")).to_have_value("77")
    expect(visit.page.get_by_role("radio", name="16:9")).to_be_checked()
    visit.shows("#pixels", "176 × 96")
    visit.open("train")
    expect(visit.page.locator("#train-prompts textarea")).to_have_value("a boat\na cup")
    visit.close()


def test_a_lora_brings_its_word(filled_app: App, browser: Any) -> None:
    visit = Visit(browser, filled_app.address)
    unfold(visit, "loras")
    row = visit.page.locator("#lora-1")
    expect(visit.page.locator("#lora-2")).to_be_hidden()
    row.get_by_role("listbox").or_(row.locator(".lora-file input:not([type=checkbox])")).first.click()
    visit.page.get_by_role("option", name="ink").click()
    row.get_by_role("button", name=EN["lora.say"].format(word=TRIGGER)).click()
    expect(visit.page.locator("#prompt textarea")).to_have_value(f"{TRIGGER}, {EN['generate.example']}")
    expect(visit.page.locator("#lora-2")).to_be_visible()
    visit.close()


def test_a_picture_of_another_program_gives_its_settings(filled_app: App, browser: Any, tmp_path: Path) -> None:
    words = PngInfo()
    facts = "Steps: 7, Sampler: Euler, CFG scale: 3, Seed: 55, Size: 64x64, Model: somebody's"
    words.add_text("parameters", f"theirs\nNegative prompt: blur\n{facts}")
    Image.new("RGB", (8, 8)).save(tmp_path / "theirs.png", pnginfo=words)
    visit = Visit(browser, filled_app.address)
    unfold(visit, "generate-more")
    visit.shows("#negative-note", "guidance is 0")
    visit.page.locator("#restore input[type=file]").set_input_files(tmp_path / "theirs.png")
    expect(visit.page.locator("#prompt textarea")).to_have_value("theirs")
    expect(visit.page.locator("#generate_steps input")).to_have_value("7")
    expect(visit.page.locator("#generate_guidance input")).to_have_value("2")
    negative = visit.page.locator("#generate_negative_prompt").locator("input, textarea")
    expect(negative).to_have_value("blur")
    expect(visit.page.locator("#seed input")).to_have_value("55")
    visit.page.get_by_text("somebody's").first.wait_for()  # what is not here is named
    expect(visit.page.locator("#negative-note .note")).to_have_count(0)
    visit.close()


def test_from_a_picture_to_compare_and_into_two_cells(filled_app: App, browser: Any) -> None:
    visit = Visit(browser, filled_app.address)
    visit.page.get_by_placeholder(EN["generate.search_help"]).fill("red apple")
    expect(visit.page.locator("#gallery img")).to_have_count(4)
    visit.page.locator("#gallery img").last.click()
    visit.shows("#picture", "a red apple")
    before = len(list(filled_app.home.glob("runs/generate/*")))
    visit.page.locator("#vary").click()  # the same, with another seed
    again = newest(filled_app, before + 1)
    assert again.prompts == ("a red apple",) and again.seed != SEEDS[0] and again.count == 4
    visit.page.locator("#to-compare").click()
    expect(visit.page.locator("#compare-prompts textarea")).to_have_value("a red apple")
    expect(visit.page.locator("#compare-seeds input, #compare-seeds textarea")).to_have_value("3-6")
    numbers = visit.shows("#compare-numbers", "seeds differ")
    expect(numbers).to_contain_text(EN["compare.less"].format(n=50, name="without"))
    expect(visit.page.locator("#compare-grid img")).to_have_count(2 * 2 * len(SEEDS))
    visit.page.locator("#compare-grid button.cell").last.click()  # with LoRA, the second prompt, the last seed
    closer = visit.page.locator("#compare-closer")
    expect(closer.get_by_label(EN["generate.seed"], exact=True)).to_have_value(str(SEEDS[-1]))
    expect(closer.get_by_label(EN["generate.prompt"], exact=True)).to_have_value("a green pear")
    closer.locator("img").first.wait_for()
    visit.close()


def newest(app: App, count: int) -> GenerateSettings:
    """The settings of the newest run, once there are so many."""
    for _ in range(1200):
        found = sorted(app.home.glob("runs/generate/*/settings.toml"))
        if len(found) >= count:
            return load_generation(found[-1])[0]
        time.sleep(0.1)
    raise AssertionError(f"there are not {count} runs")


def test_a_template_a_painted_part_and_what_to_do_when_it_fails(
    filled_app: App, browser: Any, tmp_path: Path
) -> None:
    before = len(list(filled_app.home.glob("runs/generate/*")))
    visit = Visit(browser, filled_app.address)
    page = visit.page
    page.locator("#template input").first.click()
    page.get_by_role("option", name=EN["template.poster"]).click()
    expect(page.locator("#prompt textarea")).to_have_value(EN["template.poster_prompt"])
    expect(page.get_by_role("radio", name="3:4")).to_be_checked()
    page.locator("#template input").first.click()
    page.get_by_role("option", name=EN["template.background"]).click()
    expect(page.locator("#prompt textarea")).to_have_value(EN["template.background_prompt"])
    Image.new("RGB", (64, 48), "orange").save(tmp_path / "photo.png")
    page.locator("#generate_image input[type=file]").set_input_files(tmp_path / "photo.png")  # it has unfolded
    canvas = page.locator("#generate_mask canvas").first
    canvas.wait_for()
    page.wait_for_timeout(2000)  # its brush is ready some time after it is seen
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 20, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 20, box["y"] + box["height"] / 2, steps=10)
    page.mouse.up()
    page.wait_for_timeout(500)
    page.locator("#generate").click()
    drawn = newest(filled_app, before + 1)
    assert drawn.prompts == (EN["template.background_prompt"],)
    with Image.open(drawn.mask) as mask:
        assert mask.size == (64, 48) and mask.getextrema() == (0, 255)
    page.locator("#gallery img").first.wait_for()
    # a mask and a larger picture exclude each other: the card says so, and leads to the guide
    unfold(visit, "generate-larger")
    page.locator("#generate_larger input[type=number]").fill("2")
    page.locator("#generate_larger input[type=number]").press("Tab")
    visit.shows("#pixels", EN["generate.pixels_first"].split("{")[0])
    page.locator("#generate").click()
    assert newest(filled_app, before + 2).larger == 2
    failed = visit.shows("#generate-status", "is not drawn larger")
    with page.context.expect_page() as opened:
        failed.locator("a.help").first.click()
    opened.value.get_by_role("heading", name=EN["help.title"]).first.wait_for()
    visit.close()
