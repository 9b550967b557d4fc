"""A comparison that cannot be made, or breaks off: what is told, and what is kept."""

import errno

import pytest

from lib_noiseorder.tools import store
from lib_noiseorder.tools.compare import folder, run
from lib_noiseorder.tools.webui_client import WebUIClient
from tests.hosts.small_webui import SmallWebUI
from tests.unit.comparisons import compare, lines, results


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(run, "BACK_OFF", (0.01, 0.01))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def webui():
    with SmallWebUI() as started:
        yield started


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--prompts", "no/such/file.txt"), "--prompts 'no/such/file.txt' is neither a file nor"),
        (("--arm", "a:strength=9"), "strength = 9.0 is not a number from -2 to 2"),
        (("--scores", "beauty"), "'beauty' is not one of oracle, clipscore"),
        (("--size", "big"), "--size = 'big' is not WIDTHxHEIGHT"),
        (("--steps", "0"), "--steps: '0' is not an integer from 1 to 1000"),
        (("--diffusers", "x"), "give either --webui URL or --diffusers MODEL"),
        (("--auth", "nobody"), "--auth is not USER:PASSWORD"),
        (("--timeout", "nan"), "--timeout: 'nan' is not a number from 1 to 1e+06"),
        (("--size", "²"), "--size = '²' is not WIDTHxHEIGHT"),
    ],
)
def test_bad_usage_makes_nothing(webui, tmp_path, capsys, more, says):
    assert compare(webui, out=tmp_path / "run", more=more) == 2
    assert says in capsys.readouterr().err and not webui.asked


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.jsonl", '{"prompt": "a cat"}\n{"prompt"', "p.jsonl, line 2: not JSON"),
        ("p.csv", "prompt,id\na cat,1\n ,2\n", "p.csv, line 3: the prompt is empty"),
    ],
)
def test_a_bad_prompts_file(webui, tmp_path, capsys, name, content, says):
    (tmp_path / name).write_text(content)
    assert compare(webui, out=tmp_path / "run", more=("--prompts", str(tmp_path / name))) == 2
    assert says in capsys.readouterr().err and not webui.asked


@pytest.mark.parametrize(
    "url", ["127.0.0.1:7860", "ftp://host", "http://", "http://[::1", "http://a:b", "http://a:secret@b", "http://a:secret@b:c"]
)
def test_addresses_that_are_none(tmp_path, capsys, url):
    assert compare(url, out=tmp_path) == 2
    told = capsys.readouterr().err
    assert "--webui" in told and "secret" not in told


@pytest.mark.parametrize("answer", [[], {"txt2img": 5}, {"txt2img": ["noise order"]}])
def test_an_address_of_something_else(tmp_path, capsys, monkeypatch, answer):
    monkeypatch.setattr(WebUIClient, "ask", lambda *_: answer)
    assert compare("http://127.0.0.1:9", out=tmp_path, more=("--checkpoint", "a")) == 1
    assert "http://127.0.0.1:9 is no WebUI: its list of " in capsys.readouterr().err


def test_a_folder_without_pictures_takes_another_comparison(webui, tmp_path):
    assert compare("http://127.0.0.1:9", out=tmp_path, pairs=8) == 1
    assert compare(webui, out=tmp_path, pairs=4) == 0


def test_an_unreachable_webui(tmp_path, capsys):
    assert compare("http://127.0.0.1:9", out=tmp_path) == 1
    assert "http://127.0.0.1:9 cannot be reached: " in capsys.readouterr().err


def test_a_wrong_password(tmp_path, capsys):
    with SmallWebUI(auth="ada:love") as webui:
        assert compare(webui, out=tmp_path / "no") == 1
        assert compare(webui, out=tmp_path / "wrong", more=("--auth", "ada:hate")) == 1
        assert capsys.readouterr().err.count("does not accept the user and password (401)") == 2
        assert compare(webui, out=tmp_path / "right", more=("--auth", "ada:love")) == 0
    for path in (tmp_path / "right").rglob("*"):
        assert path.is_dir() or (b"love" not in path.read_bytes() and b"YWRhOmxvdmU=" not in path.read_bytes()), path


def test_the_password_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISEORDER_AUTH", "ada:love")
    with SmallWebUI(auth="ada:love") as webui:
        assert compare(webui, out=tmp_path) == 0


def test_a_webui_without_the_extension_or_the_checkpoint(webui, tmp_path, capsys):
    with SmallWebUI(extension=False) as bare:
        assert compare(bare, out=tmp_path / "a") == 1
    assert compare(webui, out=tmp_path / "b", more=("--checkpoint", "large")) == 1
    told = capsys.readouterr().err
    assert "does not have the extension Noise Order" in told and "has no checkpoint 'large'; it has small" in told


def test_settings_that_the_webui_refuses_end_the_run_at_once(tmp_path, capsys):
    with SmallWebUI(trouble=lambda number: (422, {"detail": "sampler not found"}) if number == 5 else None) as webui:
        assert compare(webui, out=tmp_path) == 1
        assert "answered 422" in capsys.readouterr().err and len(webui.asked) == 5
    assert len(lines(tmp_path)) == 4


def test_a_model_that_changes_in_mid_run(tmp_path, capsys):
    with SmallWebUI() as webui:

        def swap(number):
            webui.model = "small" if number <= 10 else "other"

        webui.trouble = swap
        assert compare(webui, out=tmp_path) == 1
        told = capsys.readouterr().err
        assert "the model changed" in told and "name other" in told and "this comparison has name small" in told
        assert len(lines(tmp_path)) == 10
        webui.trouble, webui.model = lambda number: None, "small"
        assert compare(webui, out=tmp_path) == 0
    with SmallWebUI() as other:
        assert compare(other, out=tmp_path / "whole") == 0
    assert results(tmp_path) == results(tmp_path / "whole")


@pytest.mark.parametrize("fails_at", ["picture", "line"])
def test_a_full_disk(webui, tmp_path, capsys, monkeypatch, fails_at):
    kept = {"picture": folder.RunFolder._write_picture, "line": store.append}
    calls = []

    def full(name):
        def write(*args, **kwargs):
            calls.append(1)
            if len(calls) > 7:
                raise OSError(errno.ENOSPC, "No space left on device")
            return kept[name](*args, **kwargs)

        return write

    with monkeypatch.context() as patched:
        if fails_at == "picture":
            patched.setattr(folder.RunFolder, "_write_picture", full("picture"))
        else:
            patched.setattr(store, "append", full("line"))
        assert compare(webui, out=tmp_path) == 1
    told = capsys.readouterr().err
    assert "the disk is full" in told and "Finished pictures are kept" in told and len(lines(tmp_path)) == 7
    assert compare(webui, out=tmp_path) == 0
    with SmallWebUI() as other:
        assert compare(other, out=tmp_path / "whole") == 0
    assert results(tmp_path) == results(tmp_path / "whole")


def test_a_folder_of_another_comparison(webui, tmp_path, capsys):
    assert compare(webui, out=tmp_path) == 0
    asked = len(webui.asked)
    assert compare(webui, out=tmp_path, more=("--steps", "30")) == 2
    assert "sampling.steps = 20, not 30; take another --out" in capsys.readouterr().err and len(webui.asked) == asked
    assert compare(webui, out=tmp_path) == 0  # the refusal has let go of the folder
