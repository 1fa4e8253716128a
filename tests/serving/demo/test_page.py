"""The page in a real browser, against the stand-in models."""

import re

import numpy as np
import pytest

from serving.cli import files
from serving.client import aio
from serving.wire.errors import ClientError
from tests import stand_ins
from tests.browser import NEEDS_BROWSER, WIDTHS, launched, playwright
from tests.serving.demo.conftest import background_demo
from tests.serving.demo.test_app import LEVELS, Endless

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    """Open an address; the test fails if the page reports an error or asks another server."""
    contexts, faults = [], []

    def opened(address, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append(request.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    # A stream of pictures may be open when the page is closed.
    assert not [fault for fault in faults if not fault.endswith(("/api/generate", "/api/complete"))]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "levels.png"
    path.write_bytes(files.png(LEVELS))
    return path


def said(page, form):
    return page.locator(f"{form} .said")


def choose(page, name):
    page.locator("#classes").get_by_text(name).click()


def drawn(page, grid="#drawn"):
    return page.locator(f"{grid} img").evaluate_all("images => images.map(image => image.src)")


def wait_for(locator, pattern):
    playwright.expect(locator).to_have_text(re.compile(pattern), timeout=20_000)


def test_pictures_are_drawn_with_class_and_seed_and_the_link_draws_them_again(open_page, demo):
    page = open_page(demo)
    choose(page, "bright")
    choose(page, "dark")  # the first class is chosen from the start
    page.get_by_label("Pictures").fill("3")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Seed", exact=True).fill("40")
    page.get_by_role("button", name="Draw", exact=True).click()
    wait_for(said(page, "#settings"), r"^3 pictures in [\d.]+ s$")
    assert page.locator("#drawn figcaption").all_inner_texts() == [
        "bright · seed 40", "bright · seed 41", "bright · seed 42",
    ]  # fmt: skip
    assert page.locator("#drawn img").first.get_attribute("alt") == "A drawn picture of class bright"
    pictures = drawn(page)
    again = open_page(page.url)
    playwright.expect(again.get_by_label("Temperature")).to_have_value("0.5")
    again.get_by_role("button", name="Draw", exact=True).click()
    wait_for(said(again, "#settings"), "^3 pictures")
    assert drawn(again) == pictures
    again.get_by_role("button", name="Another seed").click()
    assert again.get_by_label("Seed", exact=True).input_value() != "40"


def test_no_class_is_said_and_an_error_of_the_model_too(open_page, demo):
    page = open_page(demo)
    choose(page, "dark")
    page.get_by_role("button", name="Draw", exact=True).click()
    wait_for(said(page, "#settings"), "^choose a class$")
    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    wait_for(page.locator("#tokens-said"), "^image must be a JPEG")


def test_a_picture_is_taken_apart_and_its_tokens_are_walked(open_page, demo, picture):
    page = open_page(demo)
    page.set_input_files("#file", picture)
    card = page.locator(".tokenizer")
    assert card.locator("h3").inner_text() == "vit_vqgan · 2 × 2 tokens of 16 codes"  # noqa: RUF001
    assert card.locator(".quality").inner_text() == "reconstruction, no difference"
    cells = card.get_by_role("gridcell")
    assert cells.all_inner_texts() == ["0", "15", "3", "6"]
    cells.nth(2).click()
    near = card.locator(".neighbors figcaption")
    playwright.expect(near).to_have_count(15)
    assert near.all_inner_texts()[:2] == ["2 · 1.00", "4 · 1.00"]
    card.locator(".neighbors button").nth(1).click()
    wait_for(cells.nth(2), "^4$")
    assert cells.all_inner_texts() == ["0", "15", "4", "6"]
    wait_for(card.locator(".chosen"), "^Token 4: ")
    # Three patches as they were, and a brighter one.
    level = card.locator(".image").evaluate(
        """async image => {
             await image.decode();
             const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
             const context = canvas.getContext("2d");
             context.drawImage(image, 0, 0);
             return [...context.getImageData(0, 0, 8, 8).data].filter((_, index) => index % 4 === 0);
           }"""
    )
    expected = LEVELS[..., 0].copy()
    expected[4:, :4] = 68
    np.testing.assert_array_equal(np.reshape(level, (8, 8)), expected)
    card.get_by_role("button", name="Back to its own tokens").click()
    wait_for(cells.nth(2), "^3$")
    # By the keyboard alone: the focus is where it was, and stays in its row.
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    wait_for(card.locator(".chosen"), "^Token 15: ")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    playwright.expect(cells.nth(1)).to_be_focused()


def test_the_lower_part_is_completed_and_a_drawn_picture_can_be_looked_at(open_page, demo, picture):
    page = open_page(demo)
    playwright.expect(page.locator("#complete")).to_be_hidden()
    page.set_input_files("#file", picture)
    page.get_by_label("Keep").fill("1")
    wait_for(page.locator("#kept"), "^1 of 2 rows$")
    page.get_by_label("Completions").fill("6")
    page.get_by_role("button", name="Complete").click()
    wait_for(said(page, "#completion"), "^6 pictures")
    assert len(set(drawn(page, "#completed"))) > 1
    page.locator("#completed button").first.click()
    playwright.expect(page.locator(".tokenizer .seen")).to_have_attribute("src", drawn(page, "#completed")[0])


class Silent(Endless):
    """Knows what it is, and never answers anything else."""

    async def metadata(self, model):
        return stand_ins.metadata("generator")

    async def predict(self, model, signature, inputs):
        if signature == "neighbors":
            raise ClientError("no such signature")
        return await super().predict(model, signature, inputs)


def test_a_picture_that_comes_before_the_models_is_looked_at_when_they_do(open_page, demo, picture):
    page = open_page("about:blank")
    held = []
    page.route("**/api/models", lambda route: held.append(route))
    page.goto(demo)
    page.set_input_files("#file", picture)
    while not held:
        page.wait_for_timeout(20)
    page.wait_for_timeout(200)
    assert page.locator(".tokenizer").count() == 0
    held[0].continue_()
    wait_for(page.locator(".tokenizer .quality"), "^reconstruction, no difference$")
    playwright.expect(page.get_by_role("button", name="Draw", exact=True)).to_be_visible()


def test_late_neighbors_of_an_earlier_question_are_not_shown(open_page, demo, picture):
    page = open_page(demo)
    page.set_input_files("#file", picture)
    cells, waiting = page.get_by_role("gridcell"), []
    page.route("**/api/neighbors", lambda route: waiting.append(route))
    for place in (0, 1):
        cells.nth(place).click()
    while len(waiting) < 2:
        page.wait_for_timeout(20)
    for route in reversed(waiting):
        route.continue_()
    near = page.locator(".neighbors figcaption")
    playwright.expect(near).to_have_count(15)
    page.wait_for_timeout(200)
    # Of token 15, the second that was asked for.
    assert near.all_inner_texts()[0] == "14 · 0.00"
    assert page.locator(".chosen").inner_text().startswith("Token 15: ")


def test_numbers_are_needed_and_enter_in_the_filter_draws_nothing(open_page, demo):
    page = open_page(demo)
    page.get_by_label("Pictures").fill("")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_label("Pictures").fill("2")
    page.locator("#filter").evaluate("one => { one.hidden = false; }")
    page.locator("#filter").fill("bri")
    page.keyboard.press("Enter")
    page.wait_for_timeout(200)
    assert said(page, "#settings").inner_text() == ""
    playwright.expect(page.locator("#classes").get_by_text("grey")).to_be_hidden()
    playwright.expect(page.locator("#classes").get_by_text("bright")).to_be_visible()


def test_drawing_is_stopped(open_page):
    with background_demo(Silent) as address:
        page = open_page(address)
        page.get_by_role("button", name="Draw", exact=True).click()
        wait_for(said(page, "#settings"), "^0 of 8$")
        page.get_by_role("button", name="Stop").click()
        wait_for(said(page, "#settings"), "^stopped at 0 of 8$")
        playwright.expect(page.get_by_role("button", name="Draw", exact=True)).to_be_enabled()


def test_a_missing_tokenizer_and_a_missing_server_are_said(open_page, demo):
    page = open_page(demo)
    wait_for(page.locator("#models"), "stand-in: 8 . 8 pixels, 4 tokens · no tokenizer other: .*got 'other'")
    with background_demo(lambda: aio.connect("http://127.0.0.1:1", timeout=2.0)) as address:
        page = open_page(address)
        wait_for(page.locator("#models"), "^no image model: no server answers at http://127.0.0.1:1 ")
        playwright.expect(page.locator("#draw")).to_be_hidden()
        playwright.expect(page.locator("#tokens")).to_be_hidden()


# Everything that is seen has at least this contrast to what is behind it, and letters of this size.
LOOKED_AT = """
() => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => {
    const [r, g, b] = numbers(color).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if ((numbers(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const faults = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length || element.closest("option")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(style.color), light(behind(element))].sort((x, y) => y - x);
    const contrast = (a + .05) / (b + .05);
    if (contrast < 4.5) faults.push(`${element.outerHTML.slice(0, 80)} has contrast ${contrast.toFixed(2)}`);
    if (parseFloat(style.fontSize) < 12) faults.push(`${element.outerHTML.slice(0, 80)} has ${style.fontSize}`);
  }
  if (document.documentElement.scrollWidth > innerWidth) faults.push(`as wide as ${document.documentElement.scrollWidth}`);
  for (const image of document.images)
    if (image.getClientRects().length && !(image.naturalWidth && image.alt)) faults.push(image.outerHTML.slice(0, 80));
  return faults;
}
"""  # noqa: E501


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_everything_can_be_read_at_every_width(open_page, demo, picture, width, scheme):
    page = open_page(demo, width, scheme)
    choose(page, "bright")
    page.get_by_role("button", name="Draw", exact=True).click()
    wait_for(said(page, "#settings"), "^8 pictures")
    page.set_input_files("#file", picture)
    page.get_by_role("gridcell").first.click()
    playwright.expect(page.locator(".neighbors img")).to_have_count(15)
    assert page.evaluate(LOOKED_AT) == []
