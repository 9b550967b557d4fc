"""Takes the pictures of the panel that README shows: python -m tests.browser.screenshots [A1111|FORGE …]

Uses the same environment variables as the tests. Pictures land in docs/, with a palette of their own to keep them small.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.hosts.real import FLAGS as HOSTS
from tests.hosts.real import REPOSITORY, folder

from .page import CHROMIUM_FLAGS, Tab, chromium, started

SHOTS = (("light", 1200), ("dark", 1200), ("narrow", 400))


def save(png: bytes, name: str) -> None:
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(REPOSITORY / "docs" / name, optimize=True)
    print(f"docs/{name}: {(REPOSITORY / 'docs' / name).stat().st_size // 1024} KB")


def shoot(browser, name: str) -> None:
    server = started(name, Path(tempfile.mkdtemp()) / "data", True)
    try:
        server.post("/sdapi/v1/options", {"return_grid": False})
        for what, width in SHOTS:
            page = browser.new_page(viewport={"width": width, "height": 1500})
            page.goto(f"{server.url}/?__theme={'dark' if what == 'dark' else 'light'}")
            page.wait_for_selector("#txt2img_generate")
            page.wait_for_timeout(2500)
            tab = Tab(page, "txt2img").prepare(steps=20, cfg=5, size=96)
            tab.panel.locator(".label-wrap").first.click()
            tab.part("menu").wait_for()
            for tick in ("compare_with_off", "show_injected"):
                tab.set(tick, what == "light")
            tab.generate()
            page.wait_for_timeout(1500)
            save(tab.panel.screenshot(), f"panel-{name.lower()}-{what}.png")
            if what == "light":
                page.locator("#txt2img_gallery .thumbnails button").last.click()
                page.wait_for_timeout(1000)
                save(page.locator("#txt2img_gallery").screenshot(), f"gallery-{name.lower()}.png")
                tab.open()
                save(tab.part("advanced").screenshot(), f"panel-{name.lower()}-advanced.png")
            page.close()
    finally:
        server.stop()


def main() -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
        for name in sys.argv[1:] or [name for name in HOSTS if folder(name)]:
            shoot(browser, name)


if __name__ == "__main__":
    main()
