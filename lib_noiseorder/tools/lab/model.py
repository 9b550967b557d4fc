"""The worlds' trained models and their sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...model import NoiseLevel, clean
from . import worlds
from .packaged import packaged_weights
from .worlds import World, WorldPrompt
from .worlds.shapes import WORLD as SHAPES

STEPS = SHAPES.steps
GUIDANCE = {name: model.guidance for name, model in SHAPES.models.items()}
"""The shapes world's models by name, each with its best classifier-free guidance scale."""


class LabModel:
    """A trained model of one of the worlds with its noise schedule.

    Args:
        name: one of the world's.
        guidance: another scale than the model's best one.
        world: the world's name.
        steps: another number of sampler steps than the model's own.

    Attributes:
        name: as given.
        world: its world.
        trained: what the world says of it.
        parameterisation: what the network puts out; see `lib_noiseorder.model`.
        family: "eps" (Stable Diffusion's schedule) or "flow" (rectified flow).
        steps: of the sampler.
        evaluations: network evaluations per picture so far; reset it at will.
        net: the network.
    """

    def __init__(
        self,
        name: str,
        device: str | torch.device = "cpu",
        guidance: float | None = None,
        world: str | World = SHAPES,
        steps: int | None = None,
    ):
        self.world = world if isinstance(world, World) else worlds.named(world)
        trained = self.world.model(name)
        self.name, self.trained = name, trained
        self.parameterisation = trained.parameterisation
        self.family = "flow" if trained.parameterisation == "flow" else "eps"
        self.guidance = trained.guidance if guidance is None else guidance
        self.steps = steps or trained.steps or self.world.steps
        self.device = torch.device(device)
        self.evaluations = 0
        self.net = self.world.network()
        self.net.load_state_dict(packaged_weights(trained.weights, trained.base))
        self.net.eval().requires_grad_(False).to(self.device)
        self._alpha_bar = alpha_bar(trained.zero_terminal_snr)

    def level(self, timestep: float) -> NoiseLevel:
        """The noise level at a fraction of the schedule: 1 is the noisiest, 0 the cleanest."""
        if self.family == "flow":
            return NoiseLevel.flow(timestep)
        return NoiseLevel.variance_preserving(self._alpha_bar[round(timestep * 999)].item())

    @torch.no_grad()
    def predict(self, x: Tensor, timestep: float | Tensor, tokens: Tensor) -> Tensor:
        """One evaluation: what the network says of noisy pixels [B, 3, H, W] at a fraction of the schedule, or one each [B]."""
        self.evaluations += 1
        time = torch.as_tensor(timestep, dtype=torch.float32, device=x.device).expand(len(x))
        if self.family == "eps":
            time = (time * 999).round() / 999
        return self.net(x, time, tokens)

    @torch.no_grad()
    def predict_pair(self, x: Tensor, timestep: float, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Two evaluations, as one batch: with the prompt, and without."""
        both = torch.cat([tokens, torch.full_like(tokens, self.world.no_prompt)])
        conditional, unconditional = self.predict(torch.cat([x, x]), timestep, both).chunk(2)
        self.evaluations += 1
        return conditional, unconditional

    def guided(self, x: Tensor, timestep: float, tokens: Tensor) -> Tensor:
        """The prediction under classifier-free guidance."""
        if self.guidance == 1:
            return self.predict(x, timestep, tokens)
        conditional, unconditional = self.predict_pair(x, timestep, tokens)
        return unconditional + self.guidance * (conditional - unconditional)

    def timesteps(self, steps: int | None = None) -> list[float]:
        """The sampler's fractions of the schedule, noisiest first ("trailing" spacing); without `steps` the model's."""
        steps = self.steps if steps is None else steps
        if self.family == "flow":
            return [1 - step / steps for step in range(steps)]
        return [(round(1000 - step * 1000 / steps) - 1) / 999 for step in range(steps)]

    def tokens(self, prompts: Sequence[WorldPrompt]) -> Tensor:
        """What the network is given for the prompts [B, T]."""
        return torch.tensor([prompt.tokens for prompt in prompts], device=self.device)

    def sample(self, noise: Tensor, prompts: Sequence[WorldPrompt], steps: int | None = None) -> Tensor:
        """Deterministic sampling (DDIM, or Euler for flow) from noise [B, 3, H, W] to normalised pixels."""
        x, tokens = noise, self.tokens(prompts)
        schedule = self.timesteps(steps)
        for timestep, following in zip(schedule, [*schedule[1:], None]):
            prediction = self.guided(x, timestep, tokens)
            level = self.level(timestep)
            x0 = clean(prediction, x, level, self.parameterisation)
            if following is None:
                return x0
            target = self.level(following)
            x = target.alpha * x0 + target.sigma * (x - level.alpha * x0) / level.sigma
        raise ValueError(f"steps must be at least 1, got {steps}")


def alpha_bar(zero_terminal_snr: bool = False) -> Tensor:
    """ᾱ of Stable Diffusion 1's scaled-linear schedule, 1000 steps; ᾱ_T = 0.0047, so pure noise is never reached.

    With `zero_terminal_snr` √ᾱ is shifted and stretched so that it is, and the cleanest level stays (arXiv 2305.08891).
    """
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    schedule = torch.cumprod(1 - beta, 0)
    if zero_terminal_snr:
        alpha = schedule.sqrt()
        schedule = ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2
    return schedule.float()
