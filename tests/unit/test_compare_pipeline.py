"""Comparisons of a diffusers pipeline: alone, interrupted, and shared out by accelerate."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from lib_noiseorder.tools.cli import main
from lib_noiseorder.tools.compare import pipeline, run
from tests.adapters import pipelines

ROOT = Path(__file__).resolve().parents[2]
PAIRS, ARMS = 3, 3


@pytest.fixture(scope="module", params=["stable_diffusion", "flux"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / request.param
    getattr(pipelines, request.param)().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def offline():
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The folder of an uninterrupted comparison."""
    out = tmp_path_factory.mktemp("whole")
    assert main(arguments(model, out)) == 0
    return out


def arguments(model, out, *more):
    how = ["--device", "cpu", "--size", "16", "--steps", "8", "--cfg", "3", "--scores", "none", "--quiet"]
    what = ["--prompts", "paper", "--pairs", str(PAIRS), "--arm", "automatic", "--arm", "equal-cost:automatic"]
    return ["compare", "--diffusers", str(model), *how, *what, "--out", str(out), *more]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def results(folder):
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for part in [*found["pictures"], *found["arms"].values()]:
        del part["seconds"]
    return found


def test_from_a_folder_to_the_report(model, whole):
    found = results(whole)
    assert found["pairs"]["complete"] == PAIRS and (whole / "report.html").exists()
    plain, ordered, equal = (found["arms"][name] for name in ("plain", "automatic", "equal-cost-automatic"))
    per_step = 2 if model.name == "stable_diffusion" else 1  # Flux' guidance is distilled: one evaluation
    assert plain["evaluations"] == 8 * per_step
    assert plain["evaluations"] < ordered["evaluations"] <= equal["evaluations"] < ordered["evaluations"] + per_step
    assert len(found["run"]["model"]["hash"]) == 10 and found["run"]["host versions"]["diffusers"]
    line = json.loads((whole / "results.jsonl").read_text(encoding="utf-8").split("\n")[2])
    assert "Noise Order: Automatic" in line["infotext"] and f"Model: {model.name}" in line["infotext"]


def test_an_interrupted_run_goes_on_and_gives_the_same(model, whole, tmp_path, monkeypatch):
    made = []
    make = pipeline.Pipeline.make

    def stopping(self, request):
        made.append(request)
        if len(made) == 5:
            raise KeyboardInterrupt
        return make(self, request)

    monkeypatch.setattr(pipeline.Pipeline, "make", stopping)
    assert main(arguments(model, tmp_path / "stopped")) == 130
    assert main(arguments(model, tmp_path / "stopped")) == 0
    assert len(made) == PAIRS * ARMS + 1 and results(tmp_path / "stopped") == results(whole)


@pytest.mark.parametrize("model", ["stable_diffusion", pytest.param("flux", marks=pytest.mark.long)], indirect=True)
def test_two_processes_make_the_pictures_of_one(model, whole, tmp_path):
    pytest.importorskip("accelerate")
    # on the CPU accelerate's own launcher wants MPI; on GPUs it does what torchrun does
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        f"--master-port={free_port()}",
        "-m",
        "lib_noiseorder",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *arguments(model, tmp_path / "two")], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (tmp_path / "two").glob("results*.jsonl")} == {"results.jsonl", "results-1.jsonl"}
    assert results(tmp_path / "two") == results(whole)


def test_another_model_in_the_folder_s_place_is_noticed(model, whole, tmp_path, capsys):
    other = pipelines.stable_diffusion() if model.name == "stable_diffusion" else pipelines.flux()
    denoiser = other.unet if model.name == "stable_diffusion" else other.transformer
    next(denoiser.parameters()).data.add_(1)
    other.save_pretrained(tmp_path / model.name)
    repeat = ["compare", "--repeat", str(whole), "--diffusers", str(tmp_path / model.name), "--device", "cpu"]
    assert main([*repeat, "--out", str(tmp_path / "again"), "--quiet", "--scores", "none"]) == 1
    assert "the model changed" in capsys.readouterr().err


def test_what_the_pipeline_refuses_ends_the_run(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pipeline.Pipeline, "_call", lambda self, request: {"prompt": 5})
    assert main(arguments(model, tmp_path)) == 1
    assert "diffusers on cpu: " in capsys.readouterr().err and not (tmp_path / "results.jsonl").exists()


def test_a_negative_prompt_reaches_the_pipeline(model, whole, tmp_path):
    assert main(arguments(model, tmp_path / "with", "--negative-prompt", "blue pizza")) == 0
    changed = [
        one["sha256"] != other["sha256"]
        for one, other in zip(results(whole)["pictures"], results(tmp_path / "with")["pictures"])
    ]
    assert all(changed) if model.name == "stable_diffusion" else not any(changed)  # Flux has no use for one


def test_a_model_that_is_not_there(tmp_path, capsys):
    assert main(arguments("no/such-model", tmp_path)) == 1
    assert "--diffusers no/such-model: the weights" in capsys.readouterr().err


def test_a_gpu_out_of_memory_is_tried_again(model, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(run, "BACK_OFF", (0.0,))
    picture, failed = pipeline.Pipeline._picture, []

    def once(self, request):
        if not failed:
            failed.append(1)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return picture(self, request)

    monkeypatch.setattr(pipeline.Pipeline, "_picture", once)
    assert main(arguments(model, tmp_path)) == 0
