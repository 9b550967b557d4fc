"""The house's own rules: who may import what, versions, and the documents that are made from the code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lib_noiseorder
from lib_noiseorder.tools.cli import controls_table
from lib_noiseorder.tools.few_steps import few_steps_table

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lib_noiseorder"
HOSTS = {"modules", "backend", "gradio", "diffusers", "comfy", "trellis", "fastapi", "transformers"}
ROOMS_WITH_HOSTS = {
    "webui": {"modules", "backend", "gradio", "fastapi"},
    "adapters": {"diffusers", "comfy", "trellis"},
    "tools": {"diffusers", "transformers", "accelerate"},
}


def imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports, anywhere in it; relative imports as they are written."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name for alias in node.names for name in (alias.name, alias.name.split(".")[0])}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module, node.module.split(".")[0]}
        elif isinstance(node, ast.ImportFrom):
            named = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {"." * node.level + name for name in named}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_hosts_are_imported_in_their_rooms_only(path):
    room = path.relative_to(PACKAGE).parts[0]
    assert imports(path) & HOSTS <= ROOMS_WITH_HOSTS.get(room, set())
    if room in ("tools", "__main__.py"):
        return
    forbidden = r"\btools\b" if room in ("webui", "adapters") else r"\b(webui|adapters|tools)\b"
    reached = {name for name in imports(path) if name.startswith((".", "lib_noiseorder"))}
    assert not any(re.search(forbidden, name.removeprefix(f"..{room}")) for name in reached), "a room that it must not know"


def test_importing_the_package_costs_torch_and_nothing_else():
    code = (
        "import sys, torch; before = set(sys.modules); import lib_noiseorder; "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.strip() == "['lib_noiseorder']"


def test_public_names_exist():
    assert all(hasattr(lib_noiseorder, name) for name in lib_noiseorder.__all__)


def test_the_table_of_settings_is_made_from_the_knobs():
    assert controls_table() in (ROOT / "docs/settings.md").read_text(encoding="utf-8")


def test_the_tables_of_few_steps_are_the_plans():
    assert few_steps_table() in (ROOT / "docs/how-it-works.md").read_text(encoding="utf-8")


def test_changelog_knows_the_version():
    assert f"## {lib_noiseorder.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_machine_path_and_no_lock_file_is_tracked():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    if not any(tracked):
        pytest.skip("not a git checkout")
    assert not {"uv.lock", "poetry.lock", "package-lock.json"} & {Path(name).name for name in tracked}
