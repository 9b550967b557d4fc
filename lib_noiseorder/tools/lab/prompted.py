"""The embedded models with their prompts and sampler, as the core sees a host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...answers import Answers
from ...model import NoiseLevel, clean
from .model import LabModel
from .worlds import WorldPrompt


class PromptedModel:
    """A `lib_noiseorder.model.Model`: an embedded model for these prompts. Pictures are [B, 3, H, W], normalised pixels."""

    takes_euler_steps = True
    reuses_answers = True
    sampler_evaluations = None
    cond_evaluations = 1
    pair_evaluations = 2

    def __init__(self, model: LabModel, prompts: Sequence[WorldPrompt]):
        self._model, self._tokens = model, model.tokens(prompts)
        self._timestep_of: dict[NoiseLevel, float] = {}
        self._answers = Answers(rounding=1e-5)
        self.family, self.guidance = model.family, model.guidance
        self.latents_per_call = 1 if model.guidance == 1 else 2  # as many as one call of the sampler holds
        self.sampler_levels = [self.level_at(timestep) for timestep in model.timesteps()]

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def noisy(self, noise: Tensor, level: NoiseLevel) -> Tensor:
        return noise

    def level_at(self, timestep: float) -> NoiseLevel:
        level = self._model.level(timestep)
        self._timestep_of.setdefault(level, timestep)
        return level

    def predict(self, latents: Sequence[Tensor], levels: Sequence[NoiseLevel]) -> list[Tensor]:
        times = [self._timestep_of[level] for level in levels]
        each = torch.tensor(times, device=latents[0].device).repeat_interleave(len(latents[0]))
        predictions = self._model.predict(torch.cat(list(latents)), each, self._tokens.repeat(len(latents), 1))
        self._model.evaluations += len(latents) - 1
        answers = []
        for prediction, x, level in zip(predictions.chunk(len(latents)), latents, levels):
            answers.append(clean(prediction, x, level, self._model.parameterisation))
            self._note("cond", x, level, answers[-1])
        return answers

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        pair = self._model.predict_pair(x, self._timestep_of[level], self._tokens)
        cond, uncond = (clean(prediction, x, level, self._model.parameterisation) for prediction in pair)
        self._note("cond", x, level, cond)
        self._note("uncond", x, level, uncond)
        return cond, uncond

    def _note(self, prompt: str, x: Tensor, level: NoiseLevel, answer: Tensor) -> None:
        if level in self.sampler_levels:  # the sampler asks nothing else
            self._answers.note((prompt, level.sigma), x, answer)

    def finish(self, noise: Tensor) -> Tensor:
        """The finished pictures for unit-variance noise; what was asked already is not asked again."""
        x = self.start(noise)
        for level, target in zip(self.sampler_levels, [*self.sampler_levels[1:], None]):
            x0 = self._guided(x, level)
            if target is not None:
                x = target.alpha * x0 + target.sigma * (x - level.alpha * x0) / level.sigma
        return x0

    def _guided(self, x: Tensor, level: NoiseLevel) -> Tensor:
        cond = self._answers.recall(("cond", level.sigma), x)
        if self.guidance == 1:
            return self.predict([x], [level])[0] if cond is None else cond
        if cond is None:
            self._answers.forget()
            cond, uncond = self.predict_pair(x, level)
        else:
            uncond = self._answers.recall(("uncond", level.sigma), x)
            assert uncond is not None  # both were asked in one call
        return uncond + self.guidance * (cond - uncond)
