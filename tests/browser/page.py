"""The WebUI's page as its user meets it: one tab with the panel in it, on gradio 3 and 4 alike."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from pathlib import Path

from lib_noiseorder.settings import KNOB
from tests.hosts.real import FLAGS as HOST_FLAGS
from tests.hosts.real import REPOSITORY, Server, checkpoints, folder

SEEDS = itertools.count(1000)
PATIENCE_MS = 240_000
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"
]  # fmt: skip


def chromium() -> str | None:
    """The browser: NOISEORDER_CHROMIUM, or `chromium` on the path."""
    return os.environ.get("NOISEORDER_CHROMIUM") or shutil.which("chromium")


def started(name: str, data: Path, with_extension: bool) -> Server:
    """A running WebUI with a data folder of its own and its first checkpoint loaded."""
    variable = f"NOISEORDER_{name}_FLAGS"
    before = os.environ.get(variable)
    # Forge serves its scripts from its data folder only; with a data folder elsewhere, its program's must be allowed
    allowed = f"--gradio-allowed-path={folder(name)} --gradio-allowed-path={REPOSITORY}"
    os.environ[variable] = f"{before or HOST_FLAGS[name]} {allowed}"
    try:
        server = Server(name, data, with_extension)
    finally:
        os.environ.pop(variable) if before is None else os.environ.update({variable: before})
    server.post("/sdapi/v1/options", {"sd_model_checkpoint": checkpoints(name)[0]})
    server.post("/sdapi/v1/txt2img", {"steps": 1, "width": 64, "height": 64})  # Forge and Neo load it with the first picture
    return server


class Tab:
    """The txt2img or img2img tab of an opened page."""

    def __init__(self, page, name: str):
        self.page, self.name = page, name
        page.locator("#tabs > .tab-nav > button", has_text=name).first.click()
        self.panel = self.part("accordion")
        self.host("generate").wait_for()

    def part(self, name: str):
        return self.page.locator(f"#{self.name}_noise_order_{name}")

    def host(self, name: str):
        return self.page.locator(f"#{self.name}_{name}").first

    # -- the panel -------------------------------------------------------------------------------------------------

    def open(self):
        """Open the panel with its folds; opening the accordion ticks it."""
        if not self.part("menu").is_visible():
            self.panel.locator(".label-wrap").first.click()
        self.says("cost", re.compile("."))
        for fold, control in (("formulas", "strength"), ("judges", "judge"), ("more", "inner_passes")):
            if not self.part(control).is_visible():
                self.part(fold).locator(".label-wrap").first.click()
            self.part(control).wait_for()
        self.page.wait_for_timeout(800)
        return self

    def switched_on(self) -> bool:
        return self.page.locator(f"#{self.name}_noise_order_accordion-visible-checkbox").is_checked()

    def read(self, name: str):
        knob = KNOB[name]
        if knob.kind is bool:
            return self.switched_on() if name == "enabled" else self.part(name).locator("input").is_checked()
        if knob.choices:
            return (self.part("menu") if name == "preset" else self.part(name)).locator("input").first.input_value()
        if knob.check:
            return self.part(name).locator("textarea, input").first.input_value()
        return knob.kind(float(self.part(name).locator("input[type=number]").input_value()))

    def read_all(self) -> dict:
        return {name: self.read(name) for name in KNOB}

    def set(self, name: str, value):
        knob = KNOB[name]
        if knob.kind is bool:
            self.part(name).locator("input").set_checked(value)
        elif knob.choices:
            self.choose(self.part("menu") if name == "preset" else self.part(name), value)
        elif knob.check:
            self.part(name).locator("textarea, input").first.fill(value)
            self.part(name).locator("textarea, input").first.press("Tab")
        else:
            self.type(self.part(name), value)

    def type(self, holder, value):
        holder.locator("input[type=number]").first.fill(f"{value:g}" if isinstance(value, float) else str(value))
        holder.locator("input[type=number]").first.press("Tab")

    def choose(self, holder, value: str):
        holder.locator("input").first.click()
        self.page.locator(f'ul.options li[aria-label="{value}" i], ul.options [data-value="{value}" i]').first.click()
        self.page.wait_for_timeout(400)

    def says(self, line: str, pattern) -> str:
        """The text of one of the panel's lines, once it matches."""
        from playwright.sync_api import expect

        expect(self.part(line)).to_have_text(pattern, timeout=20_000)
        return self.part(line).inner_text()

    # -- the host --------------------------------------------------------------------------------------------------

    def prepare(self, steps=8, cfg=3, sampler="Euler", size=64, picture=None):
        self.host("prompt").locator("textarea").first.fill("red circle left of blue square")
        self.type(self.host("steps"), steps)
        self.type(self.host("cfg_scale"), cfg)
        for side in ("width", "height"):
            self.type(self.host(side), size)
        if self.host("sampling").locator("input").first.input_value() != sampler:
            self.choose(self.host("sampling"), sampler)
        if picture is not None:
            self.page.locator("#img2img_image input[type=file]").first.set_input_files(picture)
            self.page.wait_for_timeout(1500)
        return self

    def generate(self, seed: int | None = None) -> list[str]:
        """Make a picture, of a new seed unless one is given; the infotexts of everything in the gallery."""
        seed = next(SEEDS) if seed is None else seed
        self.host("seed").locator("input").first.fill(str(seed))
        self.host("seed").locator("input").first.press("Tab")
        self.host("generate").click()
        self.page.locator(f"#html_info_{self.name}", has_text=f"Seed: {seed}").first.wait_for(timeout=PATIENCE_MS)
        self.page.wait_for_timeout(800)
        box = self.page.locator(f"#generation_info_{self.name} textarea").first
        return json.loads(box.input_value())["infotexts"]

    def gallery_size(self) -> int:
        return self.page.locator(f"#{self.name}_gallery .thumbnails button, #{self.name}_gallery .grid-wrap button").count()

    def paste(self, infotext: str):
        self.host("prompt").locator("textarea").first.fill(infotext)
        self.page.locator(f"#{self.name}_tools #paste").first.click()
        self.page.wait_for_timeout(2500)
