"""The demo and the doctor, as a user runs them."""

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from lib_noiseorder.tools.cli import main
from lib_noiseorder.tools.lab import training
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
    assert "plain noise 32 model evaluations per picture, Automatic 44: as much as 22 instead of 16 plain steps" in printed
    assert "8 prompts drawn by seed 1, 4 of them rare" in printed and str(tmp_path / "demo.png") in printed
    assert Image.open(tmp_path / "demo.png").size[0] > 8 * 192
    assert [path.name for path in tmp_path.iterdir()] == ["demo.png"]


def test_demo_draws_a_given_prompt_with_the_flow_model_into_a_file_named_after_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = demo(capsys, "Two red circles", "--pairs", "8", "--model", "flow")
    assert "“two red circles” 8 times" in printed and "Automatic 43" in printed
    assert (tmp_path / "noiseorder-two-red-circles.png").is_file()


def test_demo_without_any_effect_finds_no_difference(tmp_path, capsys):
    nothing = ["--set", "strength=0", "--set", "erasure_samples=1"]
    printed = demo(capsys, "red circle", "--pairs", "8", *nothing, "--out", str(tmp_path / "a.png"))
    assert "+0.0 points, 95 % interval [+0.0, +0.0]" in printed and "No pair differs" in printed
    assert "ordered noise 32" in printed and "plain steps" not in printed


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["a cat"], "cannot draw 'a cat'. It knows"),
        ([""], "colours red, green, blue, yellow; shapes circle, square, triangle; relations left of, right of, above, below"),
        (["red circle", "--pairs", "7"], "--pairs: 7 is not an integer from 8 to 4096"),
        (["--pairs", "many"], "--pairs: many is not an integer from 8 to 4096"),
        (["--seed", "-1"], "--seed: -1 is not an integer from 0 to 2147483647"),
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
    try:
        status = main(["demo", *arguments])
    except SystemExit as refused:  # the parser's way
        status = refused.code
    printed = capsys.readouterr()
    assert status == 2 and says in printed.err and not printed.out


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["lab", "evaluate", "--model", "eps", "--guidance", "nan"], "--guidance = nan is not a number"),
        (["lab", "evaluate", "--model", "eps", "--arms", "nonsense"], "unknown arm 'nonsense'"),
        (["lab", "train", "--model", "eps", "--start", str(ROOT / "README.md"), "--out", "x"], "README.md holds no weights"),
        (["bench", "--webui", "nonsense"], "--webui 'nonsense' is not an address"),
        (["bench", "--steps", "1"], "--steps = 1 is not an integer from 2 on"),
    ],
)
def test_no_misuse_ends_in_a_traceback(arguments, says, capsys, monkeypatch):
    monkeypatch.setattr(training, "_PICTURES", 8)
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


def test_a_missing_library_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["bench", "--diffusers"]) == 1
    assert "diffusers" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "lab", "compare", "bench", "controls", "doctor"])
def test_every_command_says_what_it_takes(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and f"noiseorder {command}" in capsys.readouterr().out


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    assert "embedded flow model loads" in capsys.readouterr().out
