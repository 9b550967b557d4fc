"""A comparison from beginning to end, on a small WebUI: shared out, interrupted, repeated."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from lib_noiseorder.tools.cli import main
from lib_noiseorder.tools.compare import folder, run
from lib_noiseorder.tools.compare.folder import pixels_hash
from tests.hosts.small_webui import EXTRA, SmallWebUI
from tests.lengths import at_length
from tests.unit.comparisons import COUNT, arguments, compare, lines, results

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(run, "BACK_OFF", (0.01, 0.01))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def webui():
    with SmallWebUI() as started:
        yield started


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_from_prompts_to_report(webui, tmp_path, capsys):
    assert compare(webui, out=tmp_path) == 0
    found = results(tmp_path)
    assert list(found["arms"]) == ["plain", "automatic", "equal-cost-automatic"]
    assert found["pairs"] == {"planned": COUNT, "complete": COUNT}
    plain, ordered, equal = found["arms"].values()
    assert (plain["steps per picture"], plain["evaluations"]) == (20, 40)
    assert (ordered["steps per picture"], ordered["evaluations"]) == (20, 40 + EXTRA)
    assert (equal["steps per picture"], equal["evaluations"]) == (27, 54)  # 13 evaluations are 6.5 steps
    assert found["run"]["model"] == {"name": "small", "hash": "abc"} and found["run"]["versions"]["noiseorder"]
    for picture in found["pictures"]:
        with Image.open(tmp_path / picture["file"]) as opened:
            assert "Seed: " in opened.info["parameters"] and pixels_hash(opened.convert("RGB")) == picture["sha256"]
    assert {"report.html", "results.csv", "results.json", "tables.md"} <= {path.name for path in tmp_path.iterdir()}
    assert "against equal cost" in capsys.readouterr().out


def test_all_arms_get_the_same_prompts_and_seeds(webui, tmp_path):
    assert compare(webui, out=tmp_path) == 0
    asked = [(asked["prompt"], asked["seed"]) for asked in webui.asked]
    assert asked == [pair for pair in asked[::3] for _ in range(3)] and len(set(asked)) == COUNT
    said = [asked["alwayson_scripts"]["Noise Order"]["args"][0]["enabled"] for asked in webui.asked]
    assert said == [False, True, False] * COUNT


def test_the_figures_are_the_oracle_s(webui, tmp_path):
    assert compare(webui, out=tmp_path, pairs=40) == 0
    right = results(tmp_path)["metrics"]["all right"]
    seeds = [pair["seed"] for pair in results(tmp_path)["run"]["pairs"]]
    for arm, of_four in (("plain", 2), ("automatic", 3)):  # what the small WebUI draws right, it draws right
        assert right[arm]["mean"] >= sum(seed % 4 < of_four for seed in seeds) / 40
    difference = right["automatic"]["difference"]
    assert difference["mean"] == pytest.approx(right["automatic"]["mean"] - right["plain"]["mean"])
    assert difference["low"] <= difference["mean"] <= difference["high"] and difference["p corrected"] >= difference["p"]
    assert difference["wins"] + difference["losses"] + difference["ties"] == 40
    assert set(right["automatic"]["categories"]) == {"common", "rare"}


def test_csv_has_a_row_for_every_picture(webui, tmp_path):
    import csv

    assert compare(webui, out=tmp_path) == 0
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * COUNT and {row["arm"] for row in rows} == {"plain", "automatic", "equal-cost-automatic"}
    assert all(row["prompt"] and row["seed"] and row["all right"] in ("0.0", "1.0") for row in rows)


def test_what_the_ordering_left_out_is_told(webui, tmp_path, capsys):
    webui.skipped = "selection: too few steps"
    assert compare(webui, out=tmp_path) == 0
    assert f"in {COUNT} of {COUNT} pictures the ordering left out selection: too few steps" in capsys.readouterr().out
    assert "selection: too few steps" in (tmp_path / "report.html").read_text(encoding="utf-8")


# -- several WebUIs ----------------------------------------------------------------------------------------------------


def test_two_webuis_make_the_pictures_of_one(webui, tmp_path):
    with SmallWebUI(seconds=0.02) as first, SmallWebUI(seconds=0.02) as second:
        assert compare(first, second, out=tmp_path / "two") == 0
        assert len(first.asked) + len(second.asked) == 3 * COUNT and min(len(first.asked), len(second.asked)) >= 3
    assert compare(webui, out=tmp_path / "one") == 0
    assert results(tmp_path / "two") == results(tmp_path / "one")


def test_a_webui_that_dies_leaves_its_work_to_the_others(webui, tmp_path, capsys):
    with SmallWebUI(trouble=lambda number: (503, b"restarting") if number > 7 else None) as dying:
        assert compare(dying, webui, out=tmp_path / "two") == 0
    assert "given up after 3 attempts" in capsys.readouterr().err
    with SmallWebUI() as other:
        assert compare(other, out=tmp_path / "one") == 0
    assert results(tmp_path / "two") == results(tmp_path / "one")


def test_a_webui_that_is_down_from_the_start_is_done_without(webui, tmp_path, capsys):
    assert compare("http://127.0.0.1:9", webui, out=tmp_path) == 0
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err


def test_hiccups_are_tried_again(tmp_path):
    hiccups = {2: (500, b"out of memory"), 5: (502, b""), 9: (200, b"{"), 10: (200, {"images": [], "info": "{}"})}
    with SmallWebUI(trouble=hiccups.get) as webui:
        assert compare(webui, out=tmp_path) == 0
        assert len(webui.asked) == 3 * COUNT + len(hiccups)


# -- interrupted -------------------------------------------------------------------------------------------------------


def test_killed_at_random_moments_and_resumed_nothing_is_lost_or_done_twice(webui, tmp_path):
    with SmallWebUI(seconds=0.03) as slow:
        command = [sys.executable, "-m", "lib_noiseorder", *arguments(slow, out=tmp_path / "killed")]
        kills, chance = 0, random.Random(os.getpid())
        while kills < at_length(1, 3):
            before = len(slow.asked)
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
            while len(slow.asked) == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        assert kills, "the run was over before it could be killed"
        assert compare(slow, out=tmp_path / "killed") == 0
        asked = len(slow.asked)
    assert 3 * COUNT <= asked <= 3 * COUNT + kills  # only the picture in the making is asked for again
    made = [(line["pair"], line["arm"]) for line in lines(tmp_path / "killed")]
    assert len(made) == len(set(made)) == 3 * COUNT
    assert compare(webui, out=tmp_path / "whole") == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def test_a_line_cut_short_and_a_picture_lost_are_made_again(webui, tmp_path):
    assert compare(webui, out=tmp_path) == 0
    whole, asked = results(tmp_path), len(webui.asked)
    text = (tmp_path / "results.jsonl").read_text(encoding="utf-8")
    (tmp_path / "results.jsonl").write_text(text[:-40], encoding="utf-8")
    (tmp_path / whole["pictures"][4]["file"]).unlink()
    assert compare(webui, out=tmp_path) == 0
    assert len(webui.asked) == asked + 2 and results(tmp_path) == whole


def test_a_finished_run_asks_nothing_again(webui, tmp_path):
    assert compare(webui, out=tmp_path) == 0
    asked, before = len(webui.asked), results(tmp_path)
    webui.stop()
    assert compare(webui, out=tmp_path) == 0
    assert main(["compare", "--report-only", "--out", str(tmp_path)]) == 0
    assert len(webui.asked) == asked and results(tmp_path) == before


def test_two_at_once_in_a_folder_are_refused(webui, tmp_path, capsys):
    assert compare(webui, out=tmp_path) == 0
    plan = folder.read(tmp_path)[0]
    held = folder.RunFolder(tmp_path, plan)
    assert compare(webui, out=tmp_path) == 1
    assert "another comparison is at work" in capsys.readouterr().err
    held.close()
    assert compare(webui, out=tmp_path) == 0


# -- repeated ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["results.json", "run.json", ""])
def test_a_repetition_gives_the_same_pictures(webui, tmp_path, capsys, name):
    assert compare(webui, out=tmp_path / "first") == 0
    repeat = ["compare", "--repeat", str(tmp_path / "first" / name), "--webui", webui.url, "--out", str(tmp_path / "again")]
    assert main([*repeat, "--quiet"]) == 0
    again, first = results(tmp_path / "again"), results(tmp_path / "first")
    compared = 3 * COUNT if name == "results.json" else 0
    assert again.pop("repetition") == {"compared": compared, "same": compared}
    assert again == first


def test_a_repetition_with_another_model_is_refused(webui, tmp_path, capsys):
    assert compare(webui, out=tmp_path / "first") == 0
    with SmallWebUI(model="other") as other:
        repeat = ["compare", "--repeat", str(tmp_path / "first"), "--webui", other.url, "--out", str(tmp_path / "again")]
        assert main([*repeat, "--quiet"]) == 1
    assert "answered with name other" in capsys.readouterr().err


PLAN = '{"format": 1, "generator": %s, "sampling": {}, "arms": [], "pairs": [], "prompts": "", "seed": 1}'


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"format": 99}', '{"run": 5}', PLAN % '{"kind": "x"}', PLAN % "5"])
def test_a_file_that_cannot_be_repeated(tmp_path, capsys, content):
    (tmp_path / "x.json").write_text(content)
    assert main(["compare", "--repeat", str(tmp_path / "x.json"), "--webui", "http://127.0.0.1:9"]) == 2
    assert "x.json" in capsys.readouterr().err
