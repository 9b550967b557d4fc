"""The example for several processes: two make the pictures that one makes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

for _needed in ("diffusers", "transformers", "accelerate"):
    pytest.importorskip(_needed, reason=f"{_needed} is not installed")

from . import pipelines  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/accelerate_prompts.py"
PROMPTS = ["a red circle", "two blue square", "", "a pizza on a boat", "a bicycle"]


def test_two_processes_make_the_pictures_of_one(tmp_path):
    pipelines.stable_diffusion().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(processes):
        out = tmp_path / f"by {processes}"
        launcher = ["accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1", "--mixed_precision=no"]
        if processes > 1:  # on the CPU accelerate's own launcher wants MPI; on GPUs it does what torchrun does
            launcher = ["torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
        command = [sys.executable, "-m", *launcher, str(EXAMPLE), "--cpu", f"--model={tmp_path / 'model'}", f"--out={out}"]
        command += [f"--prompts={tmp_path / 'prompts.txt'}", "--steps=3", "--size=32", "--preset=Light", "--batch=2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return {path.name: np.asarray(Image.open(path), dtype=int) for path in sorted(out.iterdir())}

    one, two = run(1), run(2)
    assert list(one) == list(two) == ["00000.png", "00001.png", "00003.png", "00004.png"], "a blank line is no picture"
    for name, picture in one.items():
        assert np.abs(picture - two[name]).max() <= 1
