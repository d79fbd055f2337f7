"""Sharing as two people meet it: the owner turns the switch, the guest scans the code, draws and compares."""

import re
from typing import Any
from urllib.parse import urlsplit

from tests.browsing import App, Visit, expect
from tests.guest_home import answers, wait_for
from zit_app.ui.text import TABLES

EN, ZH = TABLES["en"], TABLES["zh"]


class Guest(Visit):
    """A window of a guest: it comes in by the link with the password in it."""

    def settle(self) -> None:
        self.shows("#prompt textarea")

    def no_sideways(self) -> None:
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), self.page.url


def test_from_the_switch_to_a_guests_picture_and_off_again(app: App, browser: Any) -> None:
    owner = Visit(browser, app.address)
    owner.page.locator("#share").get_by_text(EN["share.network"]).click()
    owner.shows("#share-panel .qr svg")
    link = owner.page.locator("#share-panel a").first.get_attribute("href")
    password = owner.page.locator("#share-panel code").inner_text()
    assert re.fullmatch(r"(\w{4}-){3}\w{4}", password)
    port = int(urlsplit(link).port or 0)
    entry = f"http://127.0.0.1:{port}/login#{password}"

    guest = Guest(browser, entry)
    assert guest.page.url == f"http://127.0.0.1:{port}/en/"  # without the password
    guest.page.locator("#generate").click()
    guest.shows("#guest-pictures img")
    expect(guest.page.locator("#guest-pictures img")).to_have_count(4)
    guest.page.wait_for_function("document.querySelector('#guest-pictures img').naturalWidth == 128")
    guest.page.locator("#prompt textarea").fill(" ")
    guest.page.locator("#generate").click()
    guest.shows("#guest-said", EN["refused.empty"])
    guest.open("compare")
    guest.page.locator("#compare-start").click()
    guest.shows("#guest-compare-said", EN["refused.same"])  # there is no LoRA here to compare with

    other = Guest(browser, entry, locale="zh-CN", width=390)
    other.shows("#guest-pictures .empty", ZH["guest.none"])
    other.no_sideways()
    other.open("compare", "zh")
    other.shows("#compare-start")
    other.no_sideways()
    other.page.get_by_role("button", name=ZH["guest.logout"]).click()
    expect(other.page.locator("#password")).to_be_visible()
    other.no_sideways()
    other.close()
    guest.close()

    owner.open("generate")
    owner.page.wait_for_timeout(3000)  # one look more
    assert owner.page.locator("#gallery img").count() == 0  # what guests draw is not the owner's gallery
    assert len(list((app.home / "runs" / "guest").glob("*/*.png"))) == 4
    owner.page.locator("#share").get_by_text(EN["share.off"], exact=True).click()
    expect(owner.page.locator("#share-panel")).to_be_hidden()
    wait_for(lambda: not answers(port), "the guest page is still open")
    owner.close()


def test_a_wrong_password_is_said_in_the_guests_language(app: App, browser: Any) -> None:
    owner = Visit(browser, app.address)
    owner.page.locator("#share").get_by_text(EN["share.network"]).click()
    owner.shows("#share-panel .qr svg")
    port = urlsplit(owner.page.locator("#share-panel a").first.get_attribute("href")).port
    context = browser.new_context(locale="zh-CN", viewport={"width": 390, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.get_by_label(ZH["guest.password"]).fill("wrong")
    page.get_by_role("button", name=ZH["guest.login"]).click()
    expect(page.get_by_role("alert")).to_have_text(ZH["guest.wrong"])
    context.close()
    owner.page.locator("#share").get_by_text(EN["share.off"], exact=True).click()
    expect(owner.page.locator("#share-panel")).to_be_hidden()
    owner.close()
