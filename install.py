"""Run by the WebUI before it starts: checks what Noise Order needs, installs nothing."""

import sys
from importlib import metadata
from pathlib import Path

MINIMUM_PYTHON = (3, 10)
MINIMUM_TORCH = (2, 1)


def problem(webui: Path) -> "str | None":
    """What keeps Noise Order from working in the WebUI at this folder, in one line; None if nothing does."""
    if sys.version_info < MINIMUM_PYTHON:
        return "it needs Python 3.10 or newer, this is " + sys.version.split()[0]
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None  # the WebUI installs torch itself
    if tuple(int(part) for part in torch.split("+")[0].split(".")[:2]) < MINIMUM_TORCH:
        return "it needs torch 2.1 or newer, this is " + torch
    hooks = webui / "modules" / "scripts.py"
    if hooks.is_file() and "process_before_every_sampling" not in hooks.read_text(encoding="utf-8", errors="replace"):
        return "it needs AUTOMATIC1111 1.10 or newer, or Forge (process_before_every_sampling is missing)"
    return None


if __name__ == "__main__":
    found = problem(Path.cwd())
    if found:
        print("Noise Order will not load:", found)
