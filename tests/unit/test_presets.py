"""Saved presets: one file, nothing else is ever touched, and whatever is wrong with it is told."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.webui.panel.presets import PresetError, SavedPresets

CALM = NoiseOrderSettings(enabled=True, strength=0.05, noise_scale=0.85, compare_with_off=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "presets.json"


def test_a_preset_survives_and_holds_neither_the_switch_nor_the_ticks(path):
    SavedPresets(path).save(" calm ", CALM)
    assert SavedPresets(path).names() == ["calm"]
    loaded = SavedPresets(path).load("calm")
    assert (loaded.strength, loaded.noise_scale) == (0.05, 0.85)
    assert not loaded.compare_with_off


def test_saving_again_replaces_and_deleting_forgets(path):
    saved = SavedPresets(path)
    saved.save("calm", CALM)
    saved.save("calm", NoiseOrderSettings(strength=0.5))
    saved.save("Also", NoiseOrderSettings(preset="Paper"))
    assert saved.names() == ["Also", "calm"] and saved.load("calm").strength == 0.5
    assert saved.load("Also").injection == "literal"
    saved.delete("calm")
    assert saved.names() == ["Also"] and os.listdir(path.parent) == ["presets.json"]


@pytest.mark.parametrize("name", ["", "  ", None, 3, "x" * 41, "two\nlines", "nul\0", "Paper", "automatic", "CUSTOM"])
def test_names_that_cannot_be_used_are_refused(path, name):
    with pytest.raises(PresetError):
        SavedPresets(path).save(name, CALM)
    assert not path.exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "C:\\x", "a/b", "<b>&\"'", "__proto__", "émigré 漢字", "presets.json"])
def test_a_name_is_a_key_and_never_a_path(path, name):
    saved = SavedPresets(path)
    saved.save(name, CALM)
    assert saved.names() == [name] and saved.load(name).strength == 0.05
    assert os.listdir(path.parent) == ["presets.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"presets": []}', b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_broken_file_is_set_aside_with_a_message(path, content, capsys):
    path.write_bytes(content)
    saved = SavedPresets(path)
    assert saved.names() == []
    assert "presets.broken-1.json" in saved.notice and saved.notice in capsys.readouterr().out
    assert (path.parent / "presets.broken-1.json").read_bytes() == content
    saved.save("calm", CALM)
    path.write_bytes(b"broken again")
    assert saved.names() == [] and (path.parent / "presets.broken-2.json").exists()


def test_an_entry_that_this_version_cannot_use_is_kept_but_not_offered(path):
    path.write_text(json.dumps({"presets": {"future": {"sparkle": 1}, "bad": {"strength": 9}, "worse": 3, "good": {}}}))
    saved = SavedPresets(path)
    assert saved.names() == ["good"]
    with pytest.raises(PresetError, match=r"cannot be used: .*sparkle"):
        saved.load("future")
    saved.save("calm", CALM)
    assert set(json.loads(path.read_text())["presets"]) == {"future", "bad", "worse", "good", "calm"}


def test_what_is_not_there_is_told(path):
    saved = SavedPresets(path)
    for ask in (saved.load, saved.delete):
        with pytest.raises(PresetError, match="there is no preset 'x'"):
            ask("x")
    with pytest.raises(PresetError, match="built in"):
        saved.delete("Paper")


def test_a_folder_that_cannot_be_written_costs_nothing_but_a_message(tmp_path):
    with pytest.raises(PresetError, match="cannot be written"):
        SavedPresets(tmp_path / "missing" / "presets.json").save("calm", CALM)


def test_a_crash_while_writing_leaves_the_file_as_it_was(path, monkeypatch):
    saved = SavedPresets(path)
    saved.save("calm", CALM)
    before = path.read_bytes()

    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(PresetError, match="No space left"):
        saved.save("more", CALM)
    assert path.read_bytes() == before and os.listdir(path.parent) == ["presets.json"]


def test_many_pages_may_save_at_once(path):
    saved = SavedPresets(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: saved.save(f"preset {number}", CALM), range(40)))
    assert len(saved.names()) == 40


def test_there_is_an_end_to_it(path):
    saved = SavedPresets(path)
    path.write_text(json.dumps({"presets": {str(number): {} for number in range(100)}}))
    with pytest.raises(PresetError, match="100 presets"):
        saved.save("one more", CALM)
    saved.save("7", CALM)
