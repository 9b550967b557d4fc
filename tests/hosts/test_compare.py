"""`noiseorder compare` on a real WebUI: its pictures are the API's own, and an interruption changes nothing."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_noiseorder.tools.cli import main

from .client import noise_order

ROOT = Path(__file__).resolve().parents[2]
STEPS, CFG, SIZE, PAIRS = 20, 3.0, 64, 3
pytestmark = pytest.mark.real_host  # compare speaks HTTP; the double answers in process


@pytest.fixture(scope="module")
def webui(host):
    if "flux" in host.checkpoint:
        pytest.skip("this checkpoint's text encoders are chosen on the page")
    return host


@pytest.fixture(scope="module")
def whole(webui, tmp_path_factory):
    """The folder of an uninterrupted comparison."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(arguments(webui, out)) == 0
    return out


def arguments(webui, out):
    sampling = ["--steps", str(STEPS), "--cfg", str(CFG), "--size", str(SIZE)]
    where = ["--webui", webui.server.url, "--checkpoint", webui.checkpoint, "--out", str(out), "--quiet", "--scores", "none"]
    return ["compare", *where, *sampling, "--prompts", "paper", "--pairs", str(PAIRS)]


def results(folder):
    """results.json without the seconds, and without the hashes: a WebUI repeats itself to ±1/255 only."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for part in [*found["pictures"], *found["arms"].values()]:
        part.pop("seconds"), part.pop("sha256", None)
    return found


def picture(folder, record):
    with Image.open(folder / record["file"]) as opened:
        return np.asarray(opened.convert("RGB"), dtype=int)


def records(folder):
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").split("\n")
    return {(line["pair"], line["arm"]): line for line in map(json.loads, filter(None, lines))}


def test_the_pictures_are_the_api_s_own(webui, whole):
    run, made = results(whole)["run"], records(whole)
    assert run["model"]["name"] == webui.checkpoint and len(made) == 3 * PAIRS
    for pair in run["pairs"]:
        wish = {"prompt": pair["prompt"], "seed": pair["seed"], "cfg_scale": CFG, "width": SIZE, "height": SIZE}
        steps = made[pair["number"], "equal-cost-automatic"]["steps"]
        arms = {
            "plain": webui.txt2img(**wish, steps=STEPS),
            "automatic": webui.txt2img(**wish, steps=STEPS, **noise_order(preset="Automatic")),
            "equal-cost-automatic": webui.txt2img(**wish, steps=steps),
        }
        for arm, alone in arms.items():
            assert abs(picture(whole, made[pair["number"], arm]) - alone.pictures[0]).max() <= 1, (pair, arm)


def test_the_costs_are_those_counted_in_the_host(webui, whole):
    counted = {
        where: float(re.search(r"Counted evaluations: ([\d.]+)", record["infotext"])[1])
        for where, record in records(whole).items()
    }
    for (pair, arm), record in records(whole).items():
        announced = record["steps"] * record["evaluations_per_step"] + record["extra_evaluations"]
        assert counted[pair, arm] == announced, (pair, arm)
    assert all(
        counted[pair, "equal-cost-automatic"] >= counted[pair, "automatic"] > counted[pair, "plain"] for pair in range(PAIRS)
    )


def test_killed_and_resumed_it_is_the_same(webui, whole, tmp_path):
    command = [sys.executable, "-m", "lib_noiseorder", *arguments(webui, tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT)
    log = tmp_path / "results.jsonl"
    while not log.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(random.uniform(0, 1))
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(log.read_text(encoding="utf-8").split("\n")) - 1
    assert main(arguments(webui, tmp_path)) == 0
    assert 1 <= kept <= 3 * PAIRS and len(records(tmp_path)) == 3 * PAIRS
    assert results(tmp_path) == results(whole)
    for where, record in records(whole).items():
        assert abs(picture(tmp_path, records(tmp_path)[where]) - picture(whole, record)).max() <= 1, where


def test_a_checkpoint_that_the_webui_does_not_have(webui, tmp_path, capsys):
    wish = arguments(webui, tmp_path / "run")
    wish[wish.index("--checkpoint") + 1] = "no-such-checkpoint"
    assert main(wish) == 1
    assert "has no checkpoint 'no-such-checkpoint'; it has " in capsys.readouterr().err
