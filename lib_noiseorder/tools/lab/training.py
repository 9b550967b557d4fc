"""Training of the lab's networks: either world's eps and flow model; of shapes `distilled`, `v` and the oracle's detector.

Forty minutes on one CPU core give a model like the embedded ones; a GPU is used when there is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..store import whole_file
from .model import LabModel, alpha_bar
from .optimiser import Log, clock, require_time
from .oracle import Detector
from .packaged import in_8_bits, tensors, unpacked
from .world import COLOURS, NO_PROMPT, SHAPES, SIZE, Thing, render, to_latent
from .worlds import World
from .worlds.shapes import WORLD

_PICTURES = 50_000
_BATCH = 64
_PROMPT_DROPOUT = 0.1
_LEARNING_RATE = 2e-3
_WARM_UP = 60
_DECAY_FROM = 0.55
"""Share of the time after which the learning rate falls."""
_EMA = 0.998
_SAVE_SECONDS = 90
_MAX_LAYOUT_WEIGHT = 30.0
_BEGINS_AS = {"distilled": "flow", "v": "eps"}
_IN_HALF = ("eps", "flow", "distilled")
"""The shapes' models that are packaged in half precision, and not in 8 bits."""


def train(family: str, minutes: float, seed: int, out: Path, start: Path | None, log: Log, world: World = WORLD) -> None:
    """Train one of the lab's models; the averaged weights are saved every 90 seconds, as small as the packaged ones.

    Args:
        family: "eps", "flow", or "distilled": the packaged flow model's guided prediction learnt by one network that
            needs no guidance, as in FLUX.1; it starts from the flow model's weights unless `start` says otherwise.
            "v": eps's network further trained for v and zero terminal SNR; it starts from the eps model's weights.
        minutes: wall-clock time.
        start: weights to go on from; an interrupted training goes on from its own `out`.
        world: whose model.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: minutes not positive, weights of another network, or a model that the world has not.
    """
    require_time(minutes)
    trained = world.model(family)
    torch.manual_seed(seed)
    device = _device()
    data, tokens = (tensor.to(device) for tensor in _pictures(world))
    net, average = world.network().to(device), world.network().to(device).requires_grad_(False)
    if start is not None:
        try:
            net.load_state_dict(unpacked(tensors(start)))
        except RuntimeError:
            raise ValueError(f"{start} does not hold the weights of this network") from None
    elif family in _BEGINS_AS:
        net.load_state_dict(LabModel(_BEGINS_AS[family]).net.state_dict())
    average.load_state_dict(net.state_dict())
    optimizers = _optimizers(net)
    if family == "distilled":
        loss_of = _distillation_loss(LabModel("flow", device))
    else:
        loss_of = {"eps": _eps_loss, "v": _v_loss, "flow": _flow_loss}[trained.parameterisation]
    in_half = world is WORLD and family in _IN_HALF
    schedule = alpha_bar(trained.zero_terminal_snr).to(device)
    saved = time.monotonic()
    losses: list[Tensor] = []
    for step, share in clock(minutes):
        fall = 1.0 if share < _DECAY_FROM else max(0.02, (1 - share) / (1 - _DECAY_FROM))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = _LEARNING_RATE * min(1, (step + 1) / _WARM_UP) * fall
            optimizer.zero_grad(set_to_none=True)
        chosen = torch.randint(0, len(data), (_BATCH,), device=device)
        dropped = torch.rand(_BATCH, 1, device=device) < _PROMPT_DROPOUT
        loss = loss_of(net, data[chosen], tokens[chosen].masked_fill(dropped, world.no_prompt), schedule)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - min(_EMA, (step + 1) / (step + 12)))
        losses.append(loss.detach())
        if len(losses) == 200:
            log(f"{family} step {step + 1}: loss {torch.stack(losses).mean().item():.4f}, {share:.0%} of the time")
            losses.clear()
        if time.monotonic() - saved > _SAVE_SECONDS:
            _save(average, out, in_half)
            saved = time.monotonic()
    _save(average, out, in_half)
    log(f"{family}: {step + 1} steps, written {out}")


def _pictures(world: World) -> tuple[Tensor, Tensor]:
    """Renderings of the training distribution, normalised pixels [N, 3, size, size], and their prompts' tokens [N, T]."""
    rng = np.random.default_rng(7)
    prompts = [world.random_prompt(rng) for _ in range(_PICTURES)]
    pictures = np.stack([np.round(world.picture(prompt, rng) * 255).astype(np.uint8) for prompt in prompts])
    return world.to_latent(pictures), torch.tensor([prompt.tokens for prompt in prompts])


def _eps_loss(net: nn.Module, x0: Tensor, tokens: Tensor, schedule: Tensor) -> Tensor:
    """Squared error of eps. Weighted 1/ᾱ up to a limit, or a short training would learn texture and no layout."""
    timestep = torch.randint(0, len(schedule), (len(x0),), device=x0.device)
    early = torch.randint(400, len(schedule), (len(x0),), device=x0.device)
    timestep = torch.where(torch.rand(len(x0), device=x0.device) < 0.5, early, timestep)
    signal = schedule[timestep].view(-1, 1, 1, 1)
    eps = torch.randn_like(x0)
    prediction = net(signal.sqrt() * x0 + (1 - signal).sqrt() * eps, timestep / 999, tokens)
    error = (prediction - eps).square().mean((1, 2, 3))
    return (error * (1 / schedule[timestep]).clamp(max=_MAX_LAYOUT_WEIGHT) / 4).mean()


def _v_loss(net: nn.Module, x0: Tensor, tokens: Tensor, schedule: Tensor) -> Tensor:
    """Squared error of v = √ᾱ·eps − √(1 − ᾱ)·x0, even over the schedule: that of eps weighted 1/ᾱ."""
    timestep = torch.randint(0, len(schedule), (len(x0),), device=x0.device)
    alpha, sigma = (share.sqrt().view(-1, 1, 1, 1) for share in (schedule[timestep], 1 - schedule[timestep]))
    eps = torch.randn_like(x0)
    prediction = net(alpha * x0 + sigma * eps, timestep / 999, tokens)
    return (prediction - (alpha * eps - sigma * x0)).square().mean()


def _flow_loss(net: nn.Module, x0: Tensor, tokens: Tensor, schedule: Tensor) -> Tensor:
    """Squared error of the velocity eps − x0."""
    t = _flow_times(x0)
    eps, share = torch.randn_like(x0), t.view(-1, 1, 1, 1)
    prediction = net((1 - share) * x0 + share * eps, t, tokens)
    return (prediction - (eps - x0)).square().mean()


def _distillation_loss(teacher: LabModel) -> Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]:
    """Squared error against the teacher's velocity under its best guidance."""

    def loss(net: nn.Module, x0: Tensor, tokens: Tensor, schedule: Tensor) -> Tensor:
        t = _flow_times(x0)
        share = t.view(-1, 1, 1, 1)
        x = (1 - share) * x0 + share * torch.randn_like(x0)
        with torch.no_grad():
            both = torch.cat([tokens, torch.full_like(tokens, NO_PROMPT)])
            cond, uncond = teacher.net(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
            target = uncond + teacher.guidance * (cond - uncond)
        return (net(x, t, tokens) - target).square().mean()

    return loss


def _flow_times(x0: Tensor) -> Tensor:
    """A time per picture: half of them uniform, half logit-normal towards the noisy end."""
    uniform, normal = torch.rand(len(x0), device=x0.device), torch.randn(len(x0), device=x0.device)
    return torch.where(torch.rand(len(x0), device=x0.device) < 0.5, uniform, torch.sigmoid(normal + 0.3))


def _optimizers(net: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices where torch has it, AdamW for the rest."""
    muon = getattr(torch.optim, "Muon", None)
    matrices = [
        parameter
        for name, parameter in net.named_parameters()
        if muon
        and parameter.ndim == 2
        and name.startswith(("blocks", "attentions"))
        and "film" not in name
        and "modulation" not in name
    ]
    taken = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in net.parameters() if id(parameter) not in taken]
    optimizers = [torch.optim.AdamW(rest, lr=_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)]
    if matrices:
        optimizers.append(muon(matrices, lr=_LEARNING_RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def train_oracle(minutes: float, seed: int, out: Path, log: Log) -> None:
    """Train the oracle's detector on scenes with all combinations equally likely.

    Raises:
        OSError: the file cannot be written.
        ValueError: minutes not positive.
    """
    require_time(minutes)
    torch.manual_seed(seed)
    device, rng = _device(), np.random.default_rng(seed)
    net = Detector().to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=6e-3)
    nothing = len(COLOURS) * len(SHAPES)
    weight = torch.ones(nothing + 1, device=device)
    weight[nothing] = 0.3  # nearly every cell is empty
    for step, share in clock(minutes):
        optimizer.param_groups[0]["lr"] = 6e-3 * min(1, share / 0.2) * max(0.01, 1 - share) + 1e-5
        pictures, cells = zip(*(_scene(rng) for _ in range(2 * _BATCH)))
        x = to_latent(np.round(np.stack(pictures).clip(0, 1) * 255).astype(np.uint8)).to(device)
        loss = F.cross_entropy(net(_blemished(x))[0], torch.from_numpy(np.stack(cells)).to(device), weight=weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            log(f"oracle step {step + 1}: loss {loss.item():.4f}, {share:.0%} of the time")
    net.eval()
    with whole_file(out) as part:
        save_file({name: tensor.cpu() for name, tensor in net.state_dict().items()}, part)
    log(f"oracle: {step + 1} steps, written {out}")


def _scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture [SIZE, SIZE, 3] of 0 to 4 things, and the class of each detection cell [12, 12]."""
    wanted = rng.choice(5, p=[0.05, 0.25, 0.4, 0.22, 0.08])
    centres: list[np.ndarray] = []
    for _ in range(40):
        centre = rng.integers(4, SIZE - 4, 2)
        if len(centres) < wanted and all(abs(centre - other).max() >= 8 for other in centres):
            centres.append(centre)
    kinds = [(int(rng.integers(len(COLOURS))), int(rng.integers(len(SHAPES)))) for _ in centres]
    if kinds and rng.random() < 0.25:
        kinds = [kinds[0]] * len(kinds)
    cells = np.full((SIZE // 2, SIZE // 2), len(COLOURS) * len(SHAPES))
    things = []
    for (colour, shape), (x, y) in zip(kinds, centres):
        cells[y // 2, x // 2] = colour * len(SHAPES) + shape
        things.append(Thing(COLOURS[colour], SHAPES[shape], int(x), int(y)))
    return render(things, rng), cells


def _blemished(x: Tensor) -> Tensor:
    """Contrast, blur and noise, as a model's pictures have them."""
    x = x * (1 + 0.1 * torch.randn(len(x), 1, 1, 1, device=x.device))
    blur = torch.rand(len(x), 1, 1, 1, device=x.device) * 0.5 * (torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5)
    x = x * (1 - blur) + blur * F.avg_pool2d(F.pad(x, (1,) * 4, mode="replicate"), 3, 1)
    return x + torch.randn_like(x) * torch.rand(len(x), 1, 1, 1, device=x.device) * 0.25


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _save(net: nn.Module, out: Path, in_half: bool) -> None:
    weights = {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
    kept = {name: tensor.half() for name, tensor in weights.items()} if in_half else in_8_bits(weights)
    with whole_file(out) as part:
        save_file(kept, part)
