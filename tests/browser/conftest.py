"""Real WebUIs and a headless Chromium.

Environment variables besides those of tests/hosts/real.py:
    NOISEORDER_CHROMIUM   the browser (default: `chromium` on the path)
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.hosts.real import REPOSITORY, Server, folder, grey_picture

from .page import CHROMIUM_FLAGS, Tab, chromium, started

PRESETS = REPOSITORY / "presets.json"


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def presets_of_their_own(tmp_path_factory):
    """The presets that someone has saved in this checkout are not for the tests."""
    aside = tmp_path_factory.mktemp("presets") / PRESETS.name
    if PRESETS.exists():
        shutil.move(PRESETS, aside)
    yield
    PRESETS.unlink(missing_ok=True)
    if aside.exists():
        shutil.move(aside, PRESETS)


@pytest.fixture(scope="module", params=[name for name in ("A1111", "FORGE", "NEO") if folder(name)])
def servers(request, browser, presets_of_their_own, tmp_path_factory):
    """A function that gives the running WebUI, with the extension or without."""
    name = request.param
    running = {}

    def server(with_extension: bool) -> Server:
        if with_extension not in running:
            running[with_extension] = started(name, tmp_path_factory.mktemp(name.lower()) / "data", with_extension)
        return running[with_extension]

    yield server
    for one in running.values():
        one.stop()


@pytest.fixture(scope="module")
def open_page(browser, servers):
    """A function that opens the WebUI's page; `page.errors` collects what its console complains about."""
    opened = []

    def open_(with_extension=True, width=1200, theme="light", **more):
        page = browser.new_page(viewport={"width": width, "height": 1400}, **more)
        opened.append(page)
        page.errors = []
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(f"{servers(with_extension).url}/?__theme={theme}")
        page.wait_for_selector("#txt2img_generate", timeout=60_000)
        page.wait_for_timeout(2000)
        return page

    yield open_
    for page in opened:
        page.close()


@pytest.fixture(params=["txt2img", "img2img"])
def tab(request, open_page, picture):
    page = open_page()
    made = Tab(page, request.param).prepare(picture=picture if request.param == "img2img" else None).open()
    yield made
    page.close()


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "start.png"
    Image.fromarray(grey_picture(64).astype(np.uint8)).save(path)
    return path
