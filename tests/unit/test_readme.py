"""README's promises that a machine can check: the examples run, the commands stand where CI looks for them."""

import re
from pathlib import Path

import pytest
import torch

from lib_noiseorder import order_noise
from tests.hosts.double.host import DoubleHost

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def example(name: str, page: str = README) -> str:
    (code,) = re.findall(rf"```python\n# example: {name}\n(.*?)```", page, re.DOTALL)
    return code


def test_the_api_example_makes_ordered_pictures():
    names = {}
    exec(example("api", (ROOT / "docs/settings.md").read_text(encoding="utf-8")), names)
    result = DoubleHost("eps").txt2img(**names["payload"])
    assert result["Noise Order"] == "Automatic" and result["Noise Order evaluations"] == "16"


def test_the_core_example_runs(capsys):
    exec(example("core"), {})
    assert "evaluations=3" in capsys.readouterr().out


def test_a_model_of_ones_own_is_written_in_thirty_lines_chosen_for_and_injected_into(capsys):
    code = example("a model of one's own", (ROOT / "docs/your-own-model.md").read_text(encoding="utf-8"))
    names = {}
    exec(code, names)
    ordered, model, draw = names["ordered"], names["model"], names["draw"]
    assert f"chosen {ordered.report.chosen}" in capsys.readouterr().out and not ordered.report.skipped
    assert ordered.report.correlation is not None and torch.isfinite(names["pictures"]).all()
    again = order_noise(names["settings"].changed(chosen=" ".join(map(str, ordered.report.chosen))), draw, model)
    assert torch.equal(again.noise, ordered.noise) and again.report.evaluations == 3
    plain_model = code[: code.index("    def sample(")].split("class Toy:")[1]
    assert sum(bool(line.strip()) for line in plain_model.splitlines()) <= 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_documents_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("command", ["run", "test"])
def test_marked_commands_are_one_line_in_a_block_of_their_own(command):
    (block,) = re.findall(rf"<!-- command: {command} -->\n```\n(.*?)```", README, re.DOTALL)
    assert block.count("\n") == 1 and block.startswith("python .ci/python.py -m ")
