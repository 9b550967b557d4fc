"""install.py says in one line what is wrong, and installs nothing."""

import importlib.util
from importlib import metadata
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("noise_order_install", Path(__file__).resolve().parents[2] / "install.py")
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)


@pytest.fixture
def webui(tmp_path):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/scripts.py").write_text("def process_before_every_sampling(self, p): ...")
    return tmp_path


def test_a_fitting_webui(webui):
    assert install.problem(webui) is None


def test_an_old_webui(webui):
    (webui / "modules/scripts.py").write_text("def process_batch(self, p): ...")
    assert "AUTOMATIC1111 1.10" in install.problem(webui)


def test_an_old_python(webui, monkeypatch):
    monkeypatch.setattr(install, "MINIMUM_PYTHON", (99, 0))
    assert "it needs Python" in install.problem(webui)


@pytest.mark.parametrize("version, fits", [("2.0.1+cu118", False), ("2.1.0", True), ("2.13.0a0+git1", True), ("3.0", True)])
def test_torch_versions(webui, monkeypatch, version, fits):
    monkeypatch.setattr(install.metadata, "version", lambda name: version)
    assert (install.problem(webui) is None) == fits


def test_torch_not_there_yet(webui, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(install.metadata, "version", missing)
    assert install.problem(webui) is None
