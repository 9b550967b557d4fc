"""README's promises that a machine can check: the examples run, the commands stand where CI looks for them."""

import re
from pathlib import Path

import pytest

from tests.hosts.double.host import DoubleHost

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def example(name: str) -> str:
    (code,) = re.findall(rf"```python\n# example: {name}\n(.*?)```", README, re.DOTALL)
    return code


def test_the_api_example_makes_ordered_pictures():
    names = {}
    exec(example("api"), names)
    result = DoubleHost("flow").txt2img(**{**names["payload"], "steps": 4})
    assert result["Noise Order strength"] == "0.1" and result["Noise Order evaluations"] == "3"


def test_the_core_example_runs(capsys):
    exec(example("core"), {})
    assert "evaluations=3" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "test"])
def test_marked_commands_are_one_line_in_a_block_of_their_own(command):
    (block,) = re.findall(rf"<!-- command: {command} -->\n```\n(.*?)```", README, re.DOTALL)
    assert block.count("\n") == 1 and block.startswith("python .ci/python.py -m ")
