"""The hosts the contract is held against: the double always, the real ones where an environment variable names them."""

import pytest

from .compatibility import CompatibilityPlugin
from .double.host import DoubleHost
from .real import HOSTS, RealHost, Server, checkpoints

PARAMETERS = ["double-eps", "double-flow"]
for _name in HOSTS:
    PARAMETERS += [f"{_name}:{checkpoint}" for checkpoint in checkpoints(_name)]


def pytest_configure(config):
    config.pluginmanager.register(CompatibilityPlugin(config))


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    """Starts a server when it is first asked for; stops all at the end."""
    running = {}

    def server(name, with_extension):
        key = name, with_extension
        if key not in running:
            running[key] = Server(name, tmp_path_factory.mktemp(name.lower()) / "data", with_extension)
        return running[key]

    yield server
    for started in running.values():
        started.stop()


def _host(parameter, with_extension, servers):
    if parameter.startswith("double"):
        return DoubleHost(parameter.removeprefix("double-"), with_extension)
    name, _, checkpoint = parameter.partition(":")
    return RealHost(servers(name, with_extension), checkpoint)


@pytest.fixture(scope="module", params=PARAMETERS)
def hosts(request, servers):
    """A function that gives the host, with the extension or without."""
    return lambda with_extension: _host(request.param, with_extension, servers)


@pytest.fixture(scope="module")
def host(hosts):
    """The host with the extension."""
    return hosts(True)


@pytest.fixture(scope="module")
def bare_host(hosts):
    """The same host without the extension."""
    return hosts(False)
