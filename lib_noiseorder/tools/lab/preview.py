"""The embedded models and their sampler as selection sees a host."""

from __future__ import annotations

import torch
from torch import Tensor

from ...model import NoiseLevel, clean
from ...selection import Glance, SelectedNoise
from .model import LabModel
from .world import NO_PROMPT, Prompt, to_tokens


class LabPreview:
    """`lib_noiseorder.selection.Preview` of an embedded model for these prompts."""

    def __init__(self, model: LabModel, prompts: list[Prompt]):
        self._model, self._tokens = model, to_tokens(prompts).to(model.device)
        self._timesteps = model.timesteps()
        self.family, self.guidance, self.follows = model.family, model.guidance, True
        self.room = model.room
        self.levels = [model.level(timestep) for timestep in self._timesteps]
        self._timestep_of = dict(zip(self.levels, self._timesteps))

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def level(self, noise_share: float) -> NoiseLevel:
        timestep = self._model.timestep_of(noise_share)
        level = self._model.level(timestep)
        self._timestep_of[level] = timestep
        return level

    def predict(self, x: Tensor, level: NoiseLevel) -> Tensor:
        tokens = self._tokens.repeat(len(x) // len(self._tokens), 1)
        prediction = self._model.predict(x, self._timestep_of[level], tokens)
        self._model.evaluations += len(x) // len(self._tokens) - 1
        return clean(prediction, x, level, self._model.family)

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        prompted, unprompted = self._model.predict_pair(x, self._timestep_of[level], self._tokens)
        return clean(prompted, x, level, self._model.family), clean(unprompted, x, level, self._model.family)

    def finish(self, selected: SelectedNoise) -> Tensor:
        """The finished pictures; the sampler's first calls are answered from the winners' glances, as far as they go."""
        x = self.start(selected.noise)
        for number, level in enumerate(self.levels, 1):
            x0 = self._guided(x, level, selected.glances[number - 1] if number <= len(selected.glances) else None)
            if number < len(self.levels):
                target = self.levels[number]
                x = target.alpha * x0 + target.sigma * (x - level.alpha * x0) / level.sigma
        return x0

    def _guided(self, x: Tensor, level: NoiseLevel, glance: Glance | None) -> Tensor:
        if self.guidance == 1:
            return self.predict(x, level) if glance is None else glance.prompted
        if glance is None:
            prompted, unprompted = self.predict_pair(x, level)
        else:
            prompted, unprompted = glance.prompted, glance.unprompted
            if unprompted is None:
                tokens = torch.full_like(self._tokens, NO_PROMPT)
                unprompted = clean(self._model.predict(x, self._timestep_of[level], tokens), x, level, self._model.family)
        return unprompted + self.guidance * (prompted - unprompted)
