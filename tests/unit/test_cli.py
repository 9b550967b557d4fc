"""The demo and the doctor, as a user runs them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lib_noiseorder.tools.cli import main
from lib_noiseorder.tools.lab import packaged, training
from lib_noiseorder.tools.lab.model import LabModel

ROOT = Path(__file__).resolve().parents[2]


def demo(capsys, *arguments):
    """What the demo prints on a handful of pictures."""
    assert main(["demo", *arguments]) == 0
    return capsys.readouterr().out


def test_demo_counts_what_is_right_and_says_what_it_cost(tmp_path, capsys):
    printed = demo(capsys, "--pairs", "8", "--out", str(tmp_path / "demo.png"))
    difference = r"[+-][\d.]+ points, 95 % interval \[[+-][\d.]+, [+-][\d.]+\]"
    assert re.search(rf"plain noise \d of 8, Automatic \d of 8: {difference}", printed)
    assert "plain noise 40 model evaluations per picture, Automatic 56: as much as 28 instead of 20 plain steps" in printed
    assert "8 prompts drawn by seed 1, 4 of them rare" in printed and str(tmp_path / "demo.png") in printed
    assert Image.open(tmp_path / "demo.png").size[0] > 8 * 192
    assert [path.name for path in tmp_path.iterdir()] == ["demo.png"]


def test_demo_draws_a_given_prompt_with_the_flow_model_into_a_file_named_after_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = demo(capsys, "Two red circles", "--pairs", "8", "--model", "flow")
    assert "“two red circles” 8 times" in printed and "Automatic 56" in printed
    assert (tmp_path / "noiseorder-two-red-circles.png").is_file()


def test_demo_without_any_effect_finds_no_difference(tmp_path, capsys):
    nothing = ["--set", "strength=0", "--set", "erasure_samples=1"]
    printed = demo(capsys, "red circle", "--pairs", "8", *nothing, "--out", str(tmp_path / "a.png"))
    assert "+0.0 points, 95 % interval [+0.0, +0.0]" in printed and "No pair differs" in printed
    assert "ordered noise 40" in printed and "plain steps" not in printed


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["a cat"], "cannot draw 'a cat'. It knows"),
        ([""], "colours red, green, blue, yellow; shapes circle, square, triangle; relations left of, right of, above, below"),
        (["red circle", "--pairs", "7"], "--pairs: '7' is not an integer from 8 to 4096"),
        (["--pairs", "many"], "--pairs: 'many' is not an integer from 8 to 4096"),
        (["--seed", "-1"], "--seed: '-1' is not an integer from 0 to 2147483647"),
        (["--model", "sdxl"], "--model: invalid choice: 'sdxl'"),
        (["--set", "strength=9"], "strength = 9.0 is not a number from -2 to 2"),
        (["--set", "strenght=1"], "did you mean 'strength'?"),
        (["--set", "strength"], "is not KNOB=VALUE"),
        (["--set", "chosen=5:3"], "chosen"),
        (["--out", "no/such/folder/demo.png"], "--out = no/such/folder/demo.png cannot be written: No such file or directory"),
        (["--out", f"{__file__}/demo.png"], "Not a directory"),
        (["--out", f"{'long' * 99}.png"], "File name too long"),
        (["--out", "demo.jpg"], "--out = demo.jpg is no file that ends in .png"),
        (["--out", str(ROOT)], "is no file that ends in .png"),
    ],
)
def test_misuse_of_the_demo_gets_a_message_before_anything_is_drawn(arguments, says, capsys, monkeypatch):
    monkeypatch.setattr(LabModel, "sample", lambda *_: pytest.fail("it draws"))
    status, printed = main(["demo", *arguments]), capsys.readouterr()
    assert status == 2 and says in printed.err and not printed.out
    assert len(printed.err.splitlines()) == 1


EVALUATE = ["lab", "evaluate", "--model", "eps"]
TRAIN = ["lab", "train", "--model", "eps", "--out", "x"]
COMPARE = ["compare", "--webui", "http://127.0.0.1:9"]


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "the following arguments are required: COMMAND"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["controls", "nonsense"], "unrecognized arguments: nonsense"),
        (["demo", "--pairs", "9" * 5000], "is not an integer from 8 to 4096"),
        (["demo", "--out", "a\0.png"], "--out: 'a\\x00.png' is no file or folder"),
        ([*EVALUATE, "--guidance", "nan"], "--guidance: 'nan' is not a number from 0 to 30"),
        ([*EVALUATE, "--pairs", "-5"], "--pairs: '-5' is not an integer from 4 to 100000"),
        ([*EVALUATE, "--steps", "0"], "--steps: '0' is not an integer from 1 to 500"),
        (
            [*EVALUATE, "--world", "pictograms", "--model", "v"],
            "the model of pictograms must be one of eps, flow, few-steps, got 'v'",
        ),
        ([*EVALUATE, "--model", "turbo"], "invalid choice: 'turbo'"),
        ([*EVALUATE, "--seed", "-1"], "--seed: '-1' is not an integer from 0 to 2147483647"),
        ([*EVALUATE, "--arms", "nonsense"], "unknown arm 'nonsense'"),
        ([*EVALUATE, "--arms", ","], "--arms = ',' names no arm"),
        ([*EVALUATE, "--arms", "steps:inf"], "arm 'steps:inf': NUMBER = 'inf' is not finite"),
        ([*EVALUATE, "--arms", "select:draws=none;steps=1"], "draws = 'none' is not an integer"),
        ([*EVALUATE, "--arms", "select:noise_scale=none"], "noise_scale = 'none' is not a number"),
        ([*EVALUATE, "--arms", "random-direction:3"], "the strength must be from -2 to 2, got 3"),
        ([*EVALUATE, "--resume", str(ROOT)], "is no file"),
        ([*EVALUATE, "--resume", f"{__file__}/x"], "cannot be written: "),
        (["lab", "table", "--plot", f"{__file__}/x.svg"], "cannot be written: "),
        ([*TRAIN, "--world", "pictograms", "--model", "v"], "only eps, flow, few-steps can be trained, not v"),
        ([*TRAIN, "--minutes", "0"], "--minutes: '0' is not a number from 0.001 to 100000"),
        ([*TRAIN, "--start", "no/such/file"], "--start: 'no/such/file' is not an existing file"),
        ([*TRAIN, "--start", str(ROOT / "README.md")], "README.md holds no weights"),
        ([*TRAIN, "--out", str(ROOT)], "is no file"),
        ([*TRAIN, "--model", "oracle", "--start", __file__], "oracle is always trained from nothing"),
        (["lab", "webui", ""], "folder: '' is no file or folder"),
        (["compare"], "give either --webui URL or --diffusers MODEL"),
        (["compare", "--webui", "http://127.0.0.1:99999"], "--webui: 'http://127.0.0.1:99999' is not an address"),
        (["compare", "--webui", "http://a b"], "is not an address"),
        (["compare", "--webui", "http://a..b"], "is not an address"),
        ([*COMPARE, "--pairs", "9" * 30], "is not an integer from 1 to 100000"),
        ([*COMPARE, "--per-prompt", "0"], "--per-prompt: '0' is not an integer from 1 to 1000"),
        ([*COMPARE, "--prompts", ""], "--prompts '' is neither a file nor one of"),
        ([*COMPARE, "--prompts", str(ROOT)], "is neither a file nor one of"),
        ([*COMPARE, "--prompts", "x" * 5000], "is neither a file nor one of"),
        ([*COMPARE, "--negative-prompt", "\udcff"], "--negative-prompt: '\\udcff' is no text"),
        ([*COMPARE, "--size", "9" * 5000], "is not WIDTHxHEIGHT"),
        ([*COMPARE, "--scores", ","], "--scores = ',' names no score"),
        ([*COMPARE, "--device", "nonsense"], "--device: 'nonsense' is not a device"),
        ([*COMPARE, "--out", __file__], "is not a folder"),
        (["compare", "--report-only", "--out", "no/such/folder"], "--out = no/such/folder is not the folder of a comparison"),
        (["bench", "--webui", "nonsense"], "--webui: 'nonsense' is not an address"),
        (["bench", "--webui", ""], "--webui: '' is not an address"),
        (["bench", "--steps", "1"], "--steps: '1' is not an integer from 2 to 1000"),
        (["bench", "--runs", "0"], "--runs: '0' is not an integer from 1 to 10000"),
        (["bench", "--processor-of", "1"], "--processor-of needs --webui URL"),
        (["bench", "--judge", "clip-x"], "--judge: 'clip-x' is none of clip-l, clip-h, and as a folder it is no folder"),
    ],
)
def test_misuse_is_told_in_one_line(arguments, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "_PICTURES", 8)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert says in printed.err and len(printed.err.splitlines()) == 1 and not printed.out


PLAN = {
    "format": 1,
    "generator": {"kind": "webui", "checkpoint": ""},
    "sampling": {"steps": 20, "cfg": 7.0, "width": 512, "height": 512},
    "arms": [{"name": "plain"}],
    "prompts": "a.txt",
    "seed": 1,
    "pairs": [{"number": 0, "prompt": "a cat", "category": "", "seed": 1, "group": 0}],
}
CHANGED = [
    {"format": 9},
    {"generator": []},
    {"generator": {"kind": "nonsense"}},
    {"sampling": {**PLAN["sampling"], "steps": "20"}},
    {"arms": [1]},
    {"arms": []},
    {"arms": [{"name": "plain"}, {"name": "../../outside", "settings": {"preset": "Light"}}]},
    {"arms": [{"name": "plain"}, {"name": "a", "settings": 5}]},
    {"arms": [{"name": "plain"}, {"name": "dear", "costs_as": "nothing"}]},
    {"pairs": {}},
    {"pairs": [{**PLAN["pairs"][0], "prompt": 3}]},
    {"seed": "one"},
    {"model": 5},
    {"run": PLAN, "pictures": [{"pair": 0}]},
]


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, "\ufeff{}", *(json.dumps({**PLAN, **more}) for more in CHANGED)])
def test_a_file_that_cannot_be_repeated_is_told(content, tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(content, encoding="utf-8")
    assert main([*COMPARE, "--out", str(tmp_path / "out"), "--repeat", str(path)]) == 2
    printed = capsys.readouterr().err
    assert str(path) in printed and "is not " in printed and len(printed.splitlines()) == 1


def test_a_damaged_folder_is_told(tmp_path, capsys):
    (tmp_path / "run.json").write_text(json.dumps(PLAN))
    (tmp_path / "a.png").write_text("no picture")
    said = {"sha256": "", "steps": 20, "evaluations_per_step": 2, "extra_evaluations": 0, "seconds": 1, "skipped": ""}
    lines = [
        {"pair": pair, "arm": arm, "file": "a.png", "infotext": "", "host": "", **said}
        for pair, arm in ((0, "plain"), ("a", []))
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["compare", "--report-only", "--quiet", "--out", str(tmp_path), "--scores", "none"]) == 1
    assert "cannot identify image file" in capsys.readouterr().err


def test_an_interrupt_ends_with_a_line(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LabModel, "__init__", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "noiseorder: interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_nobody_takes_ends_quietly():
    command = [sys.executable, "-m", "lib_noiseorder", "controls"]
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1 and ended.stderr == "noiseorder: [Errno 28] No space left on device\n"


def test_a_missing_library_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["bench", "--diffusers"]) == 1
    assert "diffusers" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "lab", "compare", "bench", "controls", "doctor"])
def test_every_command_says_what_it_takes(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"noiseorder {command}" in capsys.readouterr().out


def test_damaged_weights_are_told(capsys, monkeypatch):
    monkeypatch.setattr(packaged, "packaged", lambda _: b"version https://git-lfs.github.com/spec/v1")
    assert main(["doctor"]) == 1
    assert "the packaged weights eps.safetensors are damaged" in capsys.readouterr().err


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    assert "embedded flow model loads" in capsys.readouterr().out
