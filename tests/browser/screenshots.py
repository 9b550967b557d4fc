"""Takes the pictures that the documents show: python -m tests.browser.screenshots [A1111|FORGE|REPORT.html …]

Of a WebUI the panel, of a page that `noiseorder compare` has written its top. Uses the same environment variables as the tests.
Pictures land in docs/, with a palette of their own to keep them small.
docs/screenshots.json records the panel that was photographed; tests/hosts/test_screenshots.py fails once it is another one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.hosts.panel_state import panel_state
from tests.hosts.real import FLAGS as HOSTS
from tests.hosts.real import REPOSITORY, folder

from .page import CHROMIUM_FLAGS, Tab, chromium, started

SHOTS = (("light", 1200), ("dark", 1200), ("narrow", 400))
RECORD = REPOSITORY / "docs/screenshots.json"


def save(png: bytes, name: str) -> None:
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    path = REPOSITORY / "docs" / name
    picture.save(path, optimize=True)
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {"pictures": {}}
    record["pictures"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    record["panel"] = panel_state()
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"docs/{name}: {path.stat().st_size // 1024} KB")


def shoot(browser, name: str) -> None:
    server = started(name, Path(tempfile.mkdtemp()) / "data", True)
    try:
        server.post("/sdapi/v1/options", {"return_grid": False})
        for what, width in SHOTS:
            page = browser.new_page(viewport={"width": width, "height": 1700})
            page.goto(f"{server.url}/?__theme={'dark' if what == 'dark' else 'light'}")
            page.wait_for_selector("#txt2img_generate")
            page.wait_for_timeout(2500)
            tab = Tab(page, "txt2img").prepare(steps=20, cfg=5, size=192)
            tab.panel.locator(".label-wrap").first.click()
            tab.part("menu").wait_for()
            tab.set("show_injected", what == "light")
            tab.generate()
            page.wait_for_timeout(2500)
            save(tab.panel.screenshot(), f"panel-{name.lower()}-{what}.png")
            if what == "light" and name == "A1111":  # a trained checkpoint's; random ones show nothing
                sheet = page.locator("#txt2img_gallery img").last.get_attribute("src")
                fetched = page.evaluate(
                    """async (address) => {
                        const bytes = new Uint8Array(await (await fetch(address)).arrayBuffer());
                        return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ""));
                    }""",
                    sheet,
                )
                save(base64.b64decode(fetched), f"sheet-{name.lower()}.png")
            if what == "light":
                tab.set("preset", "Paper")
                page.wait_for_timeout(1500)
                save(tab.part("formulas").screenshot(), f"panel-{name.lower()}-formulas.png")
            page.close()
    finally:
        server.stop()


def shoot_report(browser, path: Path) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 1750})
    page.goto(path.resolve().as_uri())
    save(page.screenshot(), "compare-report.png")
    page.close()


def main() -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
        for name in sys.argv[1:] or [name for name in HOSTS if folder(name)]:
            if name.endswith(".html"):
                shoot_report(browser, Path(name))
            else:
                shoot(browser, name)


if __name__ == "__main__":
    main()
