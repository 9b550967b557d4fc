"""The client of a WebUI's API: what it gives, and which failures may pass."""

import pytest

from lib_noiseorder.tools.failures import Refused, Unavailable
from lib_noiseorder.tools.webui_client import WebUIClient
from tests.hosts.small_webui import SmallWebUI

PAYLOAD = {
    "prompt": "red circle", "seed": 1, "steps": 4, "alwayson_scripts": {"Noise Order": {"args": [{"enabled": True}]}}
}  # fmt: skip


def test_a_picture_comes_with_its_infotext():
    with SmallWebUI() as webui:
        answer = WebUIClient(f"{webui.url}/").txt2img(PAYLOAD)
        assert answer.png.startswith(b"\x89PNG") and answer.infotext.startswith("red circle\nSteps: 4")
        assert answer.info["sd_model_name"] == "small"


@pytest.mark.parametrize(
    ("trouble", "error", "says"),
    [
        ((500, b"memory"), Unavailable, "answered 500: memory"),
        ((429, b""), Unavailable, "answered 429"),
        ((422, b"no"), Refused, "answered 422: no"),
        ((404, b""), Refused, "has no API"),
        ((200, b"{"), Unavailable, "broke off"),
        ((200, b"[]"), Unavailable, "without a picture"),
        ((200, {"images": ["\u00e4"], "info": '{"infotexts": ["x"]}'}), Unavailable, "without a picture"),
        ((200, {"images": [], "info": "[]"}), Unavailable, "without a picture"),
        ((200, {"images": [""], "info": '{"infotexts": [5]}'}), Unavailable, "without a picture"),
        ((200, b"[" * 100_000), Unavailable, "broke off"),
        ((502, b"<html>\n<body>\n Bad gateway"), Unavailable, "answered 502: <html> <body> Bad gateway"),
    ],
)
def test_failures(trouble, error, says):
    with SmallWebUI(trouble=lambda number: trouble) as webui, pytest.raises(error, match=says):
        WebUIClient(webui.url).txt2img(PAYLOAD)


def test_the_password_is_the_variable_s_unless_one_is_given(monkeypatch):
    monkeypatch.setenv("NOISEORDER_AUTH", "ada:love")
    with SmallWebUI(auth="ada:love") as webui:
        assert WebUIClient(webui.url).ask("sd-models")
        with pytest.raises(Refused, match="401"):
            WebUIClient(webui.url, "ada:hate").ask("sd-models")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_no_time_to_wait_is_refused(seconds):
    with pytest.raises(ValueError, match="--timeout = "):
        WebUIClient("http://127.0.0.1:9", seconds=seconds)
