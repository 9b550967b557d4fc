"""A pipeline that is being asked, as the core sees it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...model import NoiseLevel, clean
from .probe import Answer, PipelineProbe, Question
from .rehearsal import Rehearsal
from .schedule import Schedule


class PipelineModel:
    """A pipeline that is being asked; a `lib_noiseorder.model.Model`.

    Noisy latents are variance preserving for eps-, v- and x0-models, x = (1 − sigma)·x0 + sigma·eps for flow models.
    """

    latents_per_call = 1

    def __init__(self, probe: PipelineProbe, rehearsal: Rehearsal, takes_euler_steps: bool, reuses_answers: bool):
        """
        Args:
            takes_euler_steps: whether the pipeline does, as far as it is followed; guidance that bends spoils it.
            reuses_answers: whether the call that follows is answered from memory where it can be.
        """
        guidance, slots = probe.guidance, rehearsal.slots[0]
        self._probe = probe
        self._schedule = Schedule(rehearsal.scheduler, rehearsal.timesteps)
        self.guidance = guidance.scale if slots > 1 else 1.0
        self.takes_euler_steps = takes_euler_steps and guidance.linear
        self.reuses_answers = reuses_answers and not probe.ambiguous
        self.cond_evaluations = slots if probe.whole else 1
        self.pair_evaluations = slots if slots > 1 else 2
        self.sampler_evaluations = rehearsal.evaluations
        self.family = "flow" if self._schedule.parameterisation == "flow" else "eps"
        self.sampler_levels = self._schedule.sampler_levels

    def start(self, noise: Tensor) -> Tensor:
        return self._schedule.start(noise.float())

    def noisy(self, noise: Tensor, level: NoiseLevel) -> Tensor:
        return noise.float()

    def level_at(self, timestep: float) -> NoiseLevel:
        return self._schedule.level_at(timestep)

    def predict(self, latents: Sequence[Tensor], levels: Sequence[NoiseLevel]) -> list[Tensor]:
        return [self._clean(self._ask(x, level, False).cond, x, level) for x, level in zip(latents, levels)]

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        answer = self._ask(x, level, True)
        return self._clean(answer.cond, x, level), self._clean(answer.uncond, x, level)

    def _ask(self, x: Tensor, level: NoiseLevel, pair: bool) -> Answer:
        sigma = level.sigma if self.family == "flow" else level.sigma / max(level.alpha, 1e-8)
        return self._probe.ask(Question(x, self._schedule.timestep(level), sigma, pair))

    def _clean(self, output: Tensor, x: Tensor, level: NoiseLevel) -> Tensor:
        return clean(output.float(), x, level, self._schedule.parameterisation)
