"""Training of the lab's own networks: short runs that go through every loss, and what they write."""

import argparse
from importlib.resources import files

import pytest
import torch
from safetensors.torch import load, load_file

from lib_noiseorder.tools.cli import main
from lib_noiseorder.tools.lab import distillation, training, worlds
from lib_noiseorder.tools.lab.commands import add_commands
from lib_noiseorder.tools.lab.packaged import adapted, adapter, packaged_weights, unpacked
from tests.lengths import at_length

WEIGHTS = files("lib_noiseorder.tools.lab") / "weights"
SECONDS = at_length(0.25, 1) / 60


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    monkeypatch.setattr(training, "_PICTURES", 128)


def trained(model, path, *more, packaged=None):
    """What `lab train` wrote, and the packaged weights of the same name."""
    assert main(["lab", "train", "--model", model, "--minutes", str(2 * SECONDS), "--out", str(path), *more]) == 0
    written = load_file(path)
    assert all(torch.isfinite(tensor).all() for tensor in written.values())
    packaged = load(WEIGHTS.joinpath(packaged or f"{model}.safetensors").read_bytes())
    assert {name: tensor.shape for name, tensor in written.items()} == {name: tensor.shape for name, tensor in packaged.items()}
    return written, packaged


def lab(*arguments):
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    options = parser.parse_args(arguments)
    return options.run(options)


def change(written, start):
    return max((tensor.float() - start[name].float()).abs().max().item() for name, tensor in written.items())


@pytest.mark.parametrize("model", ["eps", "flow", "oracle"])
def test_a_training_from_nothing_writes_a_network_of_the_packaged_kind(model, tmp_path):
    trained(model, tmp_path / "a.safetensors")


@pytest.mark.parametrize("model", ["eps", "flow"])
def test_the_second_worlds_models_go_on_from_given_weights(model, tmp_path):
    start = tmp_path / "start.safetensors"
    start.write_bytes(WEIGHTS.joinpath("pictograms-eps.safetensors").read_bytes())
    command = ["lab", "train", "--world", "pictograms", "--model", model, "--minutes", str(2 * SECONDS), "--start", str(start)]
    assert main([*command, "--out", str(tmp_path / "a.safetensors")]) == 0
    written, begun = (unpacked(load_file(path)) for path in (tmp_path / "a.safetensors", start))
    assert 0 < change(written, begun) < 0.2
    with pytest.raises(ValueError, match="--world = pictograms: only eps, flow, few-steps can be trained, not oracle"):
        command = ["--world", "pictograms", "--model", "oracle", "--out", str(tmp_path / "b.safetensors")]
        lab("train", *command)


def test_a_training_goes_on_from_given_weights(tmp_path):
    (tmp_path / "start.safetensors").write_bytes(WEIGHTS.joinpath("eps.safetensors").read_bytes())
    written, packaged = trained("eps", tmp_path / "a.safetensors", "--start", str(tmp_path / "start.safetensors"))
    assert 0 < change(written, packaged) < 0.2


def test_the_student_begins_as_its_teacher(tmp_path):
    written, _ = trained("distilled", tmp_path / "a.safetensors")
    assert 0 < change(written, load(WEIGHTS.joinpath("flow.safetensors").read_bytes())) < 0.2


def test_v_begins_as_eps_and_is_kept_in_8_bits(tmp_path):
    written, _ = trained("v", tmp_path / "a.safetensors")
    assert 0 < change(unpacked(written), load(WEIGHTS.joinpath("eps.safetensors").read_bytes())) < 0.2


@pytest.fixture
def few_lessons(monkeypatch):
    monkeypatch.setattr(distillation, "_TEACHER_STEPS", 4)
    monkeypatch.setattr(distillation, "_BATCH", 8)


@pytest.mark.parametrize(("world", "packaged"), [("shapes", "few-steps"), ("pictograms", "pictograms-few-steps")])
def test_a_few_step_student_is_a_small_difference_to_its_base_and_goes_on_from_one(world, packaged, tmp_path, few_lessons):
    more = ["--world", world]
    first, _ = trained("few-steps", tmp_path / "a.safetensors", *more, packaged=f"{packaged}.safetensors")
    first = unpacked(first)
    base = packaged_weights(worlds.named(world).models["few-steps"].base)
    assert 0 < change(adapted(base, first), base) < 0.2
    start = ["--start", str(tmp_path / "a.safetensors")]
    second, _ = trained("few-steps", tmp_path / "b.safetensors", *more, *start, packaged=f"{packaged}.safetensors")
    assert 0 < change(unpacked(second), first) < 0.2


def test_a_student_of_another_network_is_refused(tmp_path, few_lessons):
    start = tmp_path / "start.safetensors"
    start.write_bytes(WEIGHTS.joinpath("flow.safetensors").read_bytes())
    with pytest.raises(ValueError, match="does not hold a difference to the weights of this network"):
        lab("train", "--model", "few-steps", "--start", str(start), "--out", str(tmp_path / "a.safetensors"))


def test_a_lesson_is_the_mean_velocity_of_the_next_quarter():
    times = torch.linspace(1, 0, 17).view(-1, 1, 1, 1, 1)
    ways = 3 + 2 * times * torch.ones(1, 256, 3, 2, 2)  # straight, at velocity 2
    x, time, target = distillation._lesson(ways)
    torch.testing.assert_close(x, 3 + 2 * time.view(-1, 1, 1, 1).expand_as(x))
    torch.testing.assert_close(target, torch.full_like(target, 2))
    assert 1 / 8 <= time.min() < 1 / 4 and time.max() == 1 and (time == 0.75).sum() > 10


def test_a_new_adapter_changes_nothing():
    base = {"matrix": torch.randn(64, 128), "bias": torch.randn(64), "small": torch.randn(4, 4)}
    difference = adapter(base, 8)
    assert {name: tuple(tensor.shape) for name, tensor in difference.items()} == {
        "matrix.up": (64, 8), "matrix.down": (8, 128), "bias": (64,), "small": (4, 4)
    }  # fmt: skip
    assert all(torch.equal(tensor, base[name]) for name, tensor in adapted(base, difference).items())


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon"])
def test_no_time_is_refused_before_anything_is_done(minutes, tmp_path, capsys):
    try:
        status = main(["lab", "train", "--model", "eps", "--minutes", minutes, "--out", str(tmp_path / "a.safetensors")])
    except SystemExit as refused:  # what is no number at all, the parser refuses
        status = refused.code
    assert status == 2 and minutes in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
