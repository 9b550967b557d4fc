"""The demo and the doctor, as a user runs them."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from lib_noiseorder.tools.cli import main
from lib_noiseorder.tools.lab import training

ROOT = Path(__file__).resolve().parents[2]


def test_demo_draws_plain_and_ordered_side_by_side(tmp_path, capsys):
    path = tmp_path / "demo.png"
    assert main(["demo", "red circle left of blue square", "--pictures", "2", "--out", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "plain" in printed and "ordered" in printed and "43 model evaluations" in printed and str(path) in printed
    assert Image.open(path).size[0] > 400


def test_demo_with_the_eps_model_and_a_setting(tmp_path, capsys):
    path = tmp_path / "demo.png"
    arguments = ["--pictures", "1", "--model", "eps", "--set", "strength=0", "--out", str(path)]
    assert main(["demo", "two red circles", *arguments]) == 0
    assert capsys.readouterr().out.count("32 model evaluations") == 2


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["demo", "a cat"], "cannot draw 'a cat'"),
        (["demo", "red circle", "--pictures", "0"], "--pictures = 0 is not an integer from 1 to 12"),
        (["demo", "red circle", "--set", "strength=9"], "strength = 9.0 is not a number from -2 to 2"),
        (["demo", "red circle", "--set", "strenght=1"], "did you mean 'strength'?"),
        (["demo", "red circle", "--set", "strength"], "is not KNOB=VALUE"),
    ],
)
def test_bad_input_gets_one_line(arguments, says, capsys):
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


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


def test_an_unwritable_path(capsys):
    assert main(["demo", "red circle", "--pictures", "1", "--out", "no/such/folder/demo.png"]) == 1
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "lab", "compare", "bench", "controls", "doctor"])
def test_every_command_says_what_it_takes(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and f"noiseorder {command}" in capsys.readouterr().out


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    assert "embedded flow model loads" in capsys.readouterr().out
