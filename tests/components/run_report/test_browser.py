"""The page in a real browser, of digits and of photographs."""

import base64
import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from components.run_report import comparison, page
from tests.browser import NEEDS_BROWSER, WIDTHS, launched
from tests.components.run_report import sample

pytestmark = NEEDS_BROWSER

# The least contrast of a text with what is behind it, and the size of the smallest text, as drawn.
LEGIBLE = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let contrast = [21, ""], size = [99, ""];
  for (let text; (text = walker.nextNode()); ) {
    const element = text.parentElement, said = text.textContent.trim();
    if (!said || !element.checkVisibility() || element.closest("script, style")) continue;
    const style = getComputedStyle(element), svg = element.closest("svg");
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    const [a, b] = [light(parse(svg ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const pixels = parseFloat(style.fontSize) * scale;
    if (ratio < contrast[0]) contrast = [ratio, said];
    if (pixels < size[0]) size = [pixels, said];
  }
  return {contrast, size};
}"""


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


def photographs(count, seed):
    """Smooth colours with some noise: as hard to compress as a photograph."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, size=(count, 32, 32, 3))
    smooth = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)
    return np.clip(smooth + generator.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def report_of(kind):
    made = sample.report()
    if kind == "digits":
        return made
    classes = np.repeat(np.arange(16), 8)
    ranked = {**made.ranked, "originals": photographs(12, 0), "reconstructions": photographs(12, 1)}
    ranked |= {
        "labels": np.zeros(12, np.int64),
        "groups": np.repeat([0, 1, 2], 4),
        "values": np.full(12, 20.0),
    }
    return dataclasses.replace(
        made,
        dataset={**made.dataset, "class_names": [f"class number {one}" for one in range(16)]},
        samples={"images": photographs(128, 2), "classes": classes},
        pairs={
            "originals": photographs(32, 3),
            "reconstructions": photographs(32, 4),
            "labels": np.arange(32) % 16,
        },
        ranked=ranked,
        neighbours={
            "samples": photographs(12, 5),
            "classes": np.arange(12),
            "of": np.repeat(np.arange(12), 4),
            "by": np.tile([0, 0, 0, 1], 12),
            "images": photographs(48, 6),
            "distances": np.ones(48, np.float32),
        },
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for kind in ("digits", "photographs"):
        (folder / f"{kind}.html").write_text(page.render(report_of(kind)))
    two = [sample.report(), sample.report(reconstruction={"psnr": 25.0})]
    (folder / "comparison.html").write_text(comparison.page(["runs/a", "runs/b"], two))
    return folder


@pytest.fixture
def open_page(browser, files):
    """Open a page; the test fails if its script fails or it asks for anything."""
    contexts, faults = [], []

    def opened(name, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(20_000)
        contexts.append(context)
        opened = context.new_page()
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on(
            "request",
            lambda asked: None if asked.url.startswith(("data:", "file:")) else faults.append(asked.url),
        )
        opened.goto(f"file://{files / name}.html")
        return opened

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["digits", "photographs", "comparison"])
def test_pages_can_be_read_at_every_width(open_page, name, width, scheme):
    opened = open_page(name, width, scheme)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    legible = opened.evaluate(LEGIBLE)
    assert legible["contrast"][0] >= 4.5, legible
    assert legible["size"][0] >= 11.99, legible
    # Every picture is drawn, and none is wider than its card.
    pictures = opened.locator(".picture img").evaluate_all(
        "all => all.filter((one) => one.checkVisibility()).map((one) => [one.naturalWidth, one.offsetWidth])"
    )
    assert pictures
    assert all(natural and 0 < drawn <= width for natural, drawn in pictures)


def test_photographs_are_embedded_at_their_size_and_drawn_smoothly(open_page, files):
    opened = open_page("photographs")
    image = opened.locator(".picture img").first
    assert image.evaluate("one => [one.naturalWidth, getComputedStyle(one).imageRendering]") == [256, "auto"]
    assert (files / "photographs.html").stat().st_size < 8e6
    image = open_page("digits").locator(".picture img").first
    assert image.evaluate("one => [one.naturalWidth, getComputedStyle(one).imageRendering]") == [
        8,
        "pixelated",
    ]


def test_a_picture_is_enlarged_by_a_click_and_by_keys(open_page):
    opened = open_page("digits")
    dialog, large = opened.locator("dialog"), opened.locator("dialog img")
    assert not dialog.is_visible()
    pictures = opened.locator(".picture button")
    pictures.first.click()
    assert dialog.is_visible()
    assert large.get_attribute("src") == pictures.first.locator("img").get_attribute("src")
    assert large.evaluate("one => one.offsetWidth") > 300
    assert "sample of class dark" in dialog.inner_text()
    opened.keyboard.press("ArrowRight")
    assert large.get_attribute("src") == pictures.nth(1).locator("img").get_attribute("src")
    opened.keyboard.press("Escape")
    assert not dialog.is_visible()
    # The focus is where one left: the next picture opens by the keyboard alone.
    opened.keyboard.press("Enter")
    assert dialog.is_visible()
    assert large.get_attribute("src") == pictures.nth(1).locator("img").get_attribute("src")


def test_a_curve_tells_the_value_under_the_pointer(open_page):
    opened = open_page("digits")
    figure = opened.locator("figure.chart", has_text="loss").first
    values = figure.locator(".key i")
    assert values.all_inner_texts() == ["0.4", "0.5"]
    figure.scroll_into_view_if_needed()
    box = figure.locator("svg").bounding_box()
    opened.mouse.move(box["x"] + 0.16 * box["width"], box["y"] + box["height"] / 2)
    assert figure.locator(".at").inner_text() == "at 1 training steps"
    assert values.all_inner_texts() == ["0.9", "0.5"]  # held-out has one value
    opened.mouse.move(0, 0)
    assert values.all_inner_texts() == ["0.4", "0.5"]
    figure.locator("svg").focus()
    opened.keyboard.press("ArrowLeft")
    assert values.all_inner_texts()[0] == "0.9"


def test_links_lead_to_sections_and_to_the_whole_of_metrics_json(open_page):
    opened = open_page("digits")
    links = opened.locator("nav a").evaluate_all("all => all.map((one) => one.getAttribute('href'))")
    for link in links:
        if link.startswith("#"):
            assert opened.locator(link).count() == 1, link
    (data,) = (link for link in links if not link.startswith("#"))
    held = json.loads(base64.b64decode(data.partition("base64,")[2]))
    assert held == json.loads(json.dumps(report_of("digits").metrics))


def test_headings_and_tables_are_such_to_a_screen_reader(open_page):
    for name in ("digits", "comparison"):
        opened = open_page(name)
        tags = opened.locator("h1, h2, h3").evaluate_all("all => all.map((one) => one.tagName)")
        levels = [int(tag[1]) for tag in tags]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        for table in opened.locator("table").all():
            assert table.locator("thead th[scope=col]").count()
            assert table.locator("tbody tr").count() == table.locator("tbody th[scope=row]").count()
        alts = opened.locator(".picture img").evaluate_all("all => all.map((one) => one.alt)")
        assert all(alts)
        assert all(
            re.search(" from .* to ", one)
            for one in opened.locator("svg").evaluate_all(
                "all => all.map((one) => one.getAttribute('aria-label'))"
            )
        )


def test_without_scripts_all_is_there_but_the_large_picture(browser, files):
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(f"file://{Path(files) / 'digits.html'}")
    assert opened.locator(".picture img").count() > 20
    assert opened.locator("polyline").count() > 3
    context.close()
