"""Training of the few-step models: a flow model's guidance and every quarter of its sampler's way, learnt by one evaluation.

As with SDXL-Lightning, FLUX.1-schnell and their like, the student is what the pictures are drawn with in 4 to 8 steps without
guidance, and as with Lightning's LoRAs only a low-rank difference to the weights that it begins with is trained and kept.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from ..store import whole_file
from .model import LabModel
from .optimiser import Averaged, Log, LossLog, Optimiser, clock, require_time
from .packaged import adapted, adapter, in_8_bits, packaged_weights, tensors, unpacked
from .worlds import World

_TEACHER_STEPS = 16
_REACH = 1 / 4
"""How much of the schedule one evaluation of the student covers."""
_LOOKED_UP = (1.0, 1.0, 0.75, 0.5, 0.25)
"""The times of 4 steps, which half of the training is about, the first twice as much: the errors are largest there.

The other half is about all times from _CLEANEST on, for 6 and 8 steps.
"""
_CLEANEST = 1 / 8
_WATCHING = 0.4
"""Share of the time in which the teacher draws; the rest is for learning."""
_RANK = 16
_BATCH = 32
_PEAK = 2e-3
_EMA = 0.998
_INNER = re.compile(r"^(blocks|attentions)\.(?!.*(film|modulation)).*\.(up|down)$")


def train_few_steps(minutes: float, seed: int, out: Path, start: Path | None, log: Log, world: World) -> None:
    """Train a world's model `few-steps`; what is written is a difference to its base, as small as the packaged one.

    Args:
        minutes: wall-clock time, in the first part of which the teacher, `flow` at its best guidance, draws.
        seed: decides the teacher's prompts and noises.
        start: a difference to go on from.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: minutes not positive, or a difference to other weights.
    """
    require_time(minutes)
    torch.manual_seed(seed)
    teacher, trained = LabModel("flow", world=world), world.model("few-steps")
    assert trained.base is not None
    base = packaged_weights(trained.base)
    fresh = adapter(base, _RANK)
    if start is not None:
        begun = unpacked(tensors(start))
        if {name: tensor.shape for name, tensor in begun.items()} != {name: tensor.shape for name, tensor in fresh.items()}:
            raise ValueError(f"{start} does not hold a difference to the weights of this network")
        fresh = begun
    student = {name: nn.Parameter(tensor) for name, tensor in fresh.items()}
    average = {name: nn.Parameter(tensor.clone(), requires_grad=False) for name, tensor in fresh.items()}
    optimiser = Optimiser(student.items(), _INNER, _PEAK)
    averaged = Averaged(student.values(), average.values(), _EMA)
    network, losses = world.network(), LossLog(log, "few-steps")
    ways, tokens = _watch(teacher, minutes * _WATCHING, np.random.default_rng(seed), world.chunk)
    log(f"few-steps: {len(tokens)} ways of the teacher")
    for step, progress in clock(minutes * (1 - _WATCHING)):
        chosen = torch.randint(0, len(tokens), (_BATCH,))
        x, time, target = _lesson(ways[:, chosen].float())
        prediction = functional_call(network, adapted(base, student), (x, time, tokens[chosen]))
        loss = (prediction - target).square().mean()
        loss.backward()
        optimiser.step(step, progress)
        averaged.update(step)
        losses.add(step, progress, loss.item())
    with whole_file(out) as part:
        save_file({name: tensor.contiguous() for name, tensor in in_8_bits(average).items()}, part)
    log(f"few-steps: {step + 1} steps, written {out}")


def _watch(teacher: LabModel, minutes: float, rng: np.random.Generator, chunk: int) -> tuple[Tensor, Tensor]:
    """The teacher's ways from noise to picture, fp16 [_TEACHER_STEPS + 1, N, 3, H, W], and their prompts' tokens [N, T]."""
    ways, tokens = [], []
    for _ in clock(minutes):
        said = teacher.tokens([teacher.world.random_prompt(rng) for _ in range(chunk)])
        x = torch.randn(chunk, 3, teacher.world.size, teacher.world.size)
        way = [x]
        for time in teacher.timesteps(_TEACHER_STEPS):
            x = x - teacher.guided(x, time, said) / _TEACHER_STEPS
            way.append(x)
        ways.append(torch.stack(way).half())
        tokens.append(said)
    return torch.cat(ways, 1), torch.cat(tokens)


def _lesson(ways: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy pictures [B, 3, H, W] on ways, their times [B], and the mean velocity from there over the next _REACH."""
    count = ways.shape[1]
    anywhere = 1 - torch.rand(count) * (1 - _CLEANEST)
    looked_up = torch.tensor(_LOOKED_UP)[torch.randint(0, len(_LOOKED_UP), (count,))]
    time = torch.where(torch.rand(count) < 0.5, looked_up, anywhere)
    after = (time - _REACH).clamp(min=0)
    x = _on_the_way(ways, time)
    return x, time, (x - _on_the_way(ways, after)) / (time - after).view(-1, 1, 1, 1)


def _on_the_way(ways: Tensor, time: Tensor) -> Tensor:
    """Where each way is at a time; between two of the teacher's steps it is straight."""
    place = (1 - time) * (len(ways) - 1)
    before = place.long().clamp(max=len(ways) - 2)
    each = torch.arange(ways.shape[1])
    return torch.lerp(ways[before, each], ways[before + 1, each], (place - before).view(-1, 1, 1, 1))
