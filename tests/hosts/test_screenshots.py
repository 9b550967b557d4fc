"""The pictures of the panel are of today's panel: python -m tests.browser.screenshots A1111 FORGE takes them anew."""

import hashlib
import json
import re

from .double.host import REPOSITORY
from .panel_state import panel_state

RECORD = json.loads((REPOSITORY / "docs/screenshots.json").read_text(encoding="utf-8"))


def test_the_panel_is_the_one_that_was_photographed():
    assert panel_state() == RECORD["panel"]


def test_every_picture_of_the_panel_was_taken_then():
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    shown = {name for page in pages for name in re.findall(r"((?:panel|sheet)-[\w-]+\.png)", page.read_text(encoding="utf-8"))}
    assert shown and shown <= RECORD["pictures"].keys()
    for name, digest in RECORD["pictures"].items():
        assert hashlib.sha256((REPOSITORY / "docs" / name).read_bytes()).hexdigest() == digest, name
