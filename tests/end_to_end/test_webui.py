"""The web page as people use it: Debian's Chromium, the real command, the bundled model. `make browser-check`."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from tempfile import TemporaryFile

import pytest
from PIL import Image

from paligemma.scenes import draw_scene

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 120_000
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian, Ubuntu: apt install chromium)"),
]


@contextmanager
def served(folder, errors=None):
    """`paligemma ui` with its temporary files in `folder`, and where it says it is."""
    command = [sys.executable, "-m", "paligemma", "ui", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process:
        try:
            line = process.stdout.readline()
            assert line.endswith("(nano-mix-224; Ctrl+C ends it)\n"), line
            yield process, line.split()[0]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served(tmp_path_factory.mktemp("page")) as (_, where):
        yield where


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright is installed (pip install playwright)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET, timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """Opens the page; at the end no visit has asked another host for anything, nor met an error."""
    contexts, asked, errors = [], [], []

    def go(locale="en-US", size=(1280, 860), scheme="light", **more):
        width, height = size
        context = chromium.new_context(
            locale=locale, viewport={"width": width, "height": height}, color_scheme=scheme, **more
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        context.on("request", lambda request: asked.append(request.url))
        context.on("weberror", lambda error: errors.append(str(error.error)))
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("#run")
        page.wait_for_selector("#picture img")
        return page

    yield go
    for context in contexts:
        context.close()
    assert {url for url in asked if not url.startswith((address, "data:", "blob:"))} == set()
    assert errors == []


def choose(page, verb):
    page.locator(f"#verbs input[value={verb}]").check(force=True)


def run(page):
    """Presses the button; what was told before is marked, so that `finished` does not take it for the new answer."""
    page.evaluate("document.querySelectorAll('#status p').forEach((told) => { told.dataset.old = 1 })")
    page.click("#run")


def finished(page):
    """Waits until the answer is whole: its time is told then, and only then."""
    told = page.wait_for_function(
        r"""() => {
            const told = document.querySelector('#status p:not([data-old])')
            return told && (told.matches('.error') || /\d (s|秒)$/.test(told.innerText)) && told.innerText
        }"""
    )
    assert page.locator("#status .error").count() == 0, told.json_value()


def rows(page):
    """The table of boxes, as the page has it."""
    page.wait_for_selector("#boxes >> text=label")
    words = page.inner_text("#boxes").split("bottom", 1)[1].split()
    return [words[i : i + 6] for i in range(0, len(words), 6)]


def scene_file(seed=1_000_000_003):
    file = io.BytesIO()
    draw_scene(seed, kind="objects").image.save(file, "PNG")
    return {"name": "scene.png", "mimeType": "image/png", "buffer": file.getvalue()}


def give(page, file):
    """Puts another picture in the place of the first one."""
    before = page.locator("#picture img").get_attribute("src")
    page.locator("#picture input[type=file]").set_input_files(file)
    page.wait_for_function("(before) => document.querySelector('#picture img')?.src !== before", arg=before)


def test_an_example_is_found_drawn_and_saved(visit):
    page = visit()
    run(page)
    finished(page)
    page.wait_for_selector("#drawn img")
    assert "3 found" in page.inner_text("#status")
    assert sorted(label for label, *_ in rows(page)) == ["cat", "cat", "rocket"]
    with page.expect_download() as saved:
        page.click("#downloads >> text=JSON")
    found = json.loads(saved.value.path().read_text())
    assert saved.value.suggested_filename == "detect.json"
    assert sorted(box["label"] for box in found["boxes"]) == ["cat", "cat", "rocket"]
    with page.expect_download() as saved:
        page.click("#downloads >> text=Picture")
    assert Image.open(saved.value.path()).format == "PNG"
    page.click("#raw >> text=Raw text")
    page.wait_for_selector("#raw textarea")
    assert "<loc" in page.locator("#raw textarea").input_value()


def test_the_least_score_hides_boxes(visit):
    page = visit()
    run(page)
    page.wait_for_selector("#least input[type=number]")
    page.fill("#least input[type=number]", "1")
    page.press("#least input[type=number]", "Enter")
    page.wait_for_function("() => document.querySelector('#status').innerText.includes('below the minimum score')")


@pytest.mark.parametrize("verb", ["caption", "ask", "ocr", "generate", "segment"])
def test_every_other_verb_answers(visit, verb):
    page = visit()
    choose(page, verb)
    run(page)
    finished(page)
    page.wait_for_selector("#drawn img" if verb == "segment" else "#answer textarea")
    if verb == "caption":
        assert re.search("cat|rocket", page.locator("#answer textarea").input_value())


def test_an_uploaded_and_a_pasted_picture_are_answered(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    choose(page, "caption")
    give(page, scene_file())
    run(page)
    page.wait_for_function("() => document.querySelector('#answer textarea')?.value.includes('car')")
    finished(page)
    page.evaluate(
        """async (bytes) => navigator.clipboard.write(
            [new ClipboardItem({"image/png": new Blob([new Uint8Array(bytes)], {type: "image/png"})})])""",
        list(scene_file(1_000_000_006)["buffer"]),
    )
    before = page.locator("#picture img").get_attribute("src")
    page.get_by_label("Paste from clipboard").click()
    page.wait_for_function("(before) => document.querySelector('#picture img')?.src !== before", arg=before)
    run(page)
    page.wait_for_function("() => document.querySelector('#answer textarea')?.value.includes('turtle')")


def test_a_drawing_is_answered(visit):
    page = visit()
    page.get_by_role("tab", name="Draw").click()
    page.wait_for_selector("#sketch canvas")
    page.wait_for_function("() => document.querySelectorAll('#sketch button.quite-round').length > 2")  # a pen in hand
    run(page)
    page.wait_for_selector("#status .error >> text=There is no picture yet")
    paper = page.locator("#sketch canvas").first.bounding_box()
    x, y = paper["x"] + paper["width"] / 2, paper["y"] + paper["height"] / 2
    page.mouse.move(x - 50, y)
    page.mouse.down()
    for step in range(-50, 60, 10):
        page.mouse.move(x + step, y + step / 2)
    page.mouse.up()
    page.wait_for_selector("#sketch button[aria-label=Undo]:not([disabled])")
    choose(page, "caption")
    run(page)
    finished(page)


def test_mistakes_are_one_sentence(visit):
    page = visit()
    page.fill("#objects textarea", " ; ")
    run(page)
    page.wait_for_selector("#status .error")
    assert page.inner_text("#status").strip() == "Nothing is named to be found; name things, such as: cat; dog"
    page.fill("#objects textarea", "cat")
    whole = scene_file()
    page.locator("#picture input[type=file]").set_input_files({**whole, "buffer": whole["buffer"][:500]})
    page.wait_for_timeout(1500)
    run(page)
    page.wait_for_function("() => document.querySelector('#status').innerText.includes('truncated or damaged')")


def test_the_browsers_language_and_the_switch(visit):
    page = visit("zh-CN")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.inner_text("#run") == "回答"
    run(page)
    finished(page)
    assert "找到 3 个" in page.inner_text("#status")
    page.locator("#picture .icon-button").last.click()  # takes the picture away
    page.wait_for_selector("#picture >> text=拖入")
    page.click("nav >> text=English")
    page.wait_for_selector("#run >> text=Answer")
    assert page.evaluate("navigator.language") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(visit, scheme):
    page = visit(size=(390, 844), scheme=scheme)
    run(page)
    finished(page)
    assert len(rows(page)) == 3
    button, results = (page.locator(part).bounding_box() for part in ("#run", "#results"))
    assert results["y"] > button["y"]
    assert results["width"] > 350
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    red, green, blue = map(
        int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    assert (red + green + blue < 200) == (scheme == "dark")


def test_two_pages_are_both_answered(visit):
    pages = [visit(), visit("zh-CN")]
    for page in pages:
        choose(page, "caption")
        run(page)
    for page in pages:
        page.wait_for_function("() => /cat|猫/.test(document.querySelector('#answer textarea')?.value)")


def test_two_examples_differ(visit):
    page = visit()
    page.locator("#examples button").nth(1).click()
    page.wait_for_function("() => document.querySelector('#objects textarea').value === 'car; sun'")
    page.wait_for_function("() => document.querySelector('#picture img')?.naturalWidth > 0")
    run(page)
    finished(page)
    assert [label for label, *_ in rows(page)] == ["car", "sun"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_ends_at_once_and_leaves_no_file(chromium, tmp_path, number, status):
    with TemporaryFile("w+") as errors, served(tmp_path, errors) as (process, where):
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(where)
        page.wait_for_selector("#picture img")
        assert list(tmp_path.rglob("*.png"))
        process.send_signal(number)
        assert process.wait(60) == status  # although the page is still open
        page.close()
        errors.seek(0)
        assert errors.read() == ("the page is closed\n" if status == 0 else "")
    assert list(tmp_path.iterdir()) == []
