"""Runs Python in an environment of the repository's own (.venv), made and filled from pinned packages on first use.

    python .ci/python.py -m pytest

Needs Python 3.10 or newer with pip, and a package index that pip can reach. Works from any folder, on every system.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / ".ci" / "requirements.txt"
FOLDER = ROOT / ".venv"
PYTHON = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = FOLDER / "noise-order-pins"


def prepare() -> None:
    """Make the environment, or bring it up to date with the pins."""
    wanted = f"{sys.version_info[:2]} {hashlib.sha256(PINS.read_bytes()).hexdigest()}"
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return
    print("setting up .venv: once, a few minutes", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    try:
        venv.create(FOLDER, clear=True, symlinks=os.name != "nt", with_pip=True)
        pip = [str(PYTHON), "-m", "pip"]
    except (subprocess.CalledProcessError, ImportError):  # some systems ship venv without ensurepip
        venv.create(FOLDER, clear=True, symlinks=os.name != "nt")
    install = ["install", "--quiet", "--disable-pip-version-check", "--requirement", str(PINS)]
    subprocess.run([*pip, *install], check=True)
    STAMP.write_text(wanted)


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 - this file runs before anything has checked
        sys.exit("Noise Order needs Python 3.10 or newer, this is " + sys.version.split()[0])
    try:
        prepare()
    except subprocess.CalledProcessError as error:
        sys.exit(f"the packages of {PINS.name} could not be installed (pip ended with {error.returncode})")
    sys.exit(subprocess.run([str(PYTHON), *sys.argv[1:]], cwd=ROOT).returncode)
