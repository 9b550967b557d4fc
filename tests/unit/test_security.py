"""No network, no pickle, no eval, no path from a request, nothing done at import: read in the code, and watched at work."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.webui.panel.presets import PresetError, SavedPresets

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lib_noiseorder"
DOOR = ROOT / "scripts/noise_order.py"
CODE = sorted(PACKAGE.rglob("*.py"))

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "marshal", "shelve", "joblib", "ctypes", "code", "runpy"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "np.load", "yaml.load", "input"}
NETWORK = {
    "socket",
    "ssl",
    "http",
    "urllib",
    "requests",
    "httpx",
    "aiohttp",
    "ftplib",
    "smtplib",
    "websockets",
    "huggingface_hub",
}
PROGRAMS = {"subprocess", "multiprocessing", "pty"}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def calls(tree):
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def top(names):
    return {name.split(".")[0] for name in names}


def reached(start):
    """The files that a file's imports lead to inside the repository, itself included."""
    seen, waiting = set(), [start]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            if node.level:
                folder = path.parents[node.level - 1]
            elif node.module.split(".")[0] == "lib_noiseorder":
                folder = ROOT
            else:
                continue
            module = folder.joinpath(*(node.module or "").split("."))
            found = [module / f"{alias.name}.py" for alias in node.names] + [module.with_suffix(".py"), module / "__init__.py"]
            waiting += [candidate for candidate in found if candidate.is_file()]
    return seen


IN_THE_WEBUI = sorted(reached(DOOR))


def test_the_walk_reaches_what_a_webui_loads():
    names = {path.stem for path in IN_THE_WEBUI}
    assert {"noise_order", "extension", "session", "panel", "presets", "settings", "selection", "formulas"} <= names
    assert not {"cli", "bench"} & names and not any({"tools", "adapters"} & set(path.parts) for path in IN_THE_WEBUI)


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unpickles_or_runs_text(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not top(imported(tree)) & UNSAFE_MODULES
    assert not calls(tree) & UNSAFE_CALLS


@pytest.mark.parametrize("path", IN_THE_WEBUI, ids=lambda path: path.stem)
def test_what_a_webui_loads_knows_no_network_and_starts_no_program(path):
    assert not top(imported(ast.parse(path.read_text(encoding="utf-8")))) & (NETWORK | PROGRAMS)


@pytest.mark.parametrize("path", IN_THE_WEBUI, ids=lambda path: path.stem)
def test_only_the_presets_are_written(path):
    found = calls(ast.parse(path.read_text(encoding="utf-8")))
    writing = {
        call for call in found if call.split(".")[-1] in ("open", "write_text", "write_bytes", "mkdir", "NamedTemporaryFile")
    }
    opened = re.findall(r"open\(([^)]*)\)", path.read_text(encoding="utf-8"))
    only_reads = all('"rb"' in how for how in opened) and {call.split(".")[-1] for call in writing} == {"open"}
    assert not writing or path.stem == "presets" or only_reads, writing


WATCHED = """
import os, sys
sys.dont_write_bytecode = True
{before}
done = []
def watch(event, arguments):
    if event == "open":
        mode, flags = str(arguments[1] or ""), arguments[2] or 0
        if set("wax+") & set(mode) or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            done.append((event, str(arguments[0])))
    elif event.split(".")[0] in ("socket", "subprocess", "urllib", "ftplib", "smtplib") or event in (
        "os.system", "os.exec", "os.fork", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree",
    ):
        done.append((event, str(arguments)[:200]))
sys.addaudithook(watch)
{work}
print(done)
"""


def watched(before, work):
    """What a fresh Python writes, opens or starts during `work`."""
    run = subprocess.run(
        [sys.executable, "-c", WATCHED.format(before=before, work=work)], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip().split("\n")[-1]


LIBRARIES = "import torch, numpy, safetensors.torch, gradio, fastapi, PIL.Image, PIL.ImageDraw, PIL.ImageFont"
DOUBLE = "from tests.hosts.double.host import DoubleHost, _load, HERE, REPOSITORY; sys.path.insert(0, str(HERE))"


def test_the_watch_sees_what_it_should(tmp_path):
    assert watched("", f"open({str(tmp_path / 'x')!r}, 'w')") != "[]"
    assert watched("import subprocess", "subprocess.run(['true'])") != "[]"
    assert "socket" in watched("import socket", "socket.socket().connect_ex(('127.0.0.1', 9))")


def test_importing_the_core_does_nothing():
    assert watched("import torch, numpy", "import lib_noiseorder, lib_noiseorder.answers, lib_noiseorder.selection") == "[]"


def test_loading_the_extension_does_nothing_but_read_and_an_ordered_job_does_not_even_that():
    before = f"{LIBRARIES}\n{DOUBLE}\nimport modules.scripts, modules.processing, modules.sd_models, modules.sd_samplers"
    work = (
        "_load(REPOSITORY / 'scripts/noise_order.py').NoiseOrder; loading = [*done]\n"
        "host = DoubleHost('eps'); host.txt2img(); done[:] = loading\n"  # what the double does counts for nothing
        "order = lambda **k: {'alwayson_scripts': {'Noise Order': {'args': [{'enabled': True, **k}]}}}\n"
        "host.txt2img(**order()); host.txt2img(steps=20, **order(preset='Automatic'))\n"
        "try: host.txt2img(**order(preset='../../etc/passwd'))\n"
        "except Exception as error: assert '422' in str(error), error"
    )
    assert watched(before, work) == "[]"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(max_size=50)
    | st.sampled_from(["../x", "..\\x", "/etc/passwd", "~/x", "a/../../x", "presets.json", "CON", "x\0y"])
)
def test_whatever_a_preset_is_called_one_file_is_written(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("presets") / "extension"
    folder.mkdir()
    saved = SavedPresets(folder / "presets.json")
    try:
        kept = saved.save(name, NoiseOrderSettings(strength=0.25))
    except PresetError:
        assert os.listdir(folder) == []
    else:
        assert os.listdir(folder) == ["presets.json"] and saved.load(kept).strength == 0.25
    assert os.listdir(folder.parent) == ["extension"]


@pytest.mark.parametrize("number, says", [(28, "No space left"), (30, "Read-only file system"), (13, "Permission denied")])
@pytest.mark.parametrize("place", ["tempfile.NamedTemporaryFile", "os.fsync", "os.replace"])
def test_a_full_disk_or_a_read_only_folder_costs_the_preset_and_says_so(tmp_path, monkeypatch, place, number, says):
    import tempfile

    saved = SavedPresets(tmp_path / "presets.json")
    saved.save("calm", NoiseOrderSettings(strength=0.05))
    before = (tmp_path / "presets.json").read_bytes()

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    owner, name = place.split(".")
    monkeypatch.setattr({"os": os, "tempfile": tempfile}[owner], name, fail)
    with pytest.raises(PresetError, match=says):
        saved.save("more", NoiseOrderSettings(strength=0.5))
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["presets.json"] and (tmp_path / "presets.json").read_bytes() == before
    assert saved.load("calm").strength == 0.05
