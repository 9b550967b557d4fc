"""What all tests share: one thread a process, two lengths, a worker per core, and one line for each thing that is not here."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the models are tiny, more threads only wait for one another

from pathlib import Path

import pytest

from .hosts.real import HOSTS
from .lengths import VARIABLE
from .optional import hosts_not_named, missing


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="every test at full length: all of the fuzzing, the soaks, the sweeps")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: runs with --long only, and on real hosts")
    config.addinivalue_line("markers", "real_host: for real WebUIs only, not for the double")
    config.addinivalue_line("markers", "needs(name, fixture=None): of tests/optional.py; with a fixture, only its users do")
    config.addinivalue_line("markers", "path(name, host=None, checkpoint=None): its line of docs/compatibility.md")
    if config.option.long:
        os.environ[VARIABLE] = "1"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Folders are shared out to a worker per core; single files stay in one process, and so do the tests of real hosts."""
    if hasattr(config, "workerinput") or not config.pluginmanager.hasplugin("xdist"):
        return  # a worker has no workers
    option, real = config.option, len(hosts_not_named()) < len(HOSTS) or "ComfyUI" not in missing()
    if real and option.numprocesses:
        raise pytest.UsageError("real hosts are tested in one process, without -n")
    few = option.keyword or option.markexpr or not all(Path(arg).is_dir() for arg in config.args)
    if option.numprocesses is None and not (real or few or option.usepdb or option.collectonly):
        option.numprocesses, option.dist = "auto", "worksteal"
        option.maxprocesses = option.maxprocesses or 8


def _passed_over(item, absent):
    """Whether a test is for --long, or for something that is not here."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    real = any(str(value).startswith(HOSTS) for value in parameters)
    if not real and (item.get_closest_marker("real_host") or (item.get_closest_marker("long") and not item.config.option.long)):
        return True
    needs = [need for need in item.iter_markers("needs") if need.kwargs.get("fixture") in (None, *item.fixturenames)]
    return any(need.args[0] in absent for need in needs)


def pytest_collection_modifyitems(items):
    absent = missing()
    items[:] = [item for item in items if not _passed_over(item, absent)]


def pytest_terminal_summary(terminalreporter, config):
    for name, how in missing().items():
        terminalreporter.write_line(f"not tried: {name} ({how})")
    if hosts := hosts_not_named():
        variables = f"NOISEORDER_{hosts[0]}" + (" and so on" if len(hosts) > 1 else "")
        terminalreporter.write_line(f"not tried: {', '.join(hosts)} (set {variables} to the WebUI's folder)")
    if not config.option.long:
        terminalreporter.write_line("not tried: full lengths of fuzzing, soaks and sweeps (--long)")
