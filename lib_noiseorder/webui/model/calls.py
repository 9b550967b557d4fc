"""The sampler's own calls of the network: what they cost, and which of them ask what a question asked before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from modules import sd_samplers
from modules.shared import opts

from ...ordering import furthest_followed, run_under
from ...plans import SamplerRun
from ...settings import NoiseOrderSettings


@dataclass(frozen=True)
class Calls:
    """The calls of one run of a host's sampler, and so what it and the questions before it cost."""

    sigmas: Sequence[float]
    """Of the calls, noisiest first; infinite where they cannot be known."""
    guidance: float
    prompts: int = 1
    """How many are joined by `AND`, in the picture that has most."""
    asks_without_the_prompt_at_1: bool = False
    """Whether the host does so at guidance 1, too."""
    both_halves: bool = False
    """Whether a question with the prompt alone costs one without it, too."""
    least_sigma: float = 0.0
    """The hosts' "negative guidance minimum sigma"."""
    euler: bool = True
    """Whether the sampler goes straight from one level to the next."""
    asks_the_same: bool = True
    """Whether the sampler's calls are the very questions that are asked before it, and nobody else has a say in them."""

    @property
    def pair_evaluations(self) -> int:
        return self.prompts + 1

    @property
    def cond_evaluations(self) -> int:
        return self.prompts + self.both_halves

    @property
    def sampler_evaluations(self) -> int:
        """At least as many as the sampler makes by itself; samplers of second order, say, make more."""
        return sum(self.prompts + self._without_the_prompt(step) for step in range(len(self.sigmas)))

    @property
    def reuses_answers(self) -> bool:
        return self.asks_the_same and self._as_questions > 0

    def takes_euler_steps(self, settings: NoiseOrderSettings) -> bool:
        """Whether steps taken beforehand meet the sampler's latents, as far as a comparison under these settings follows it."""
        joined_otherwise = self.guidance == 1 and self.prompts > 1  # than a question with the prompts alone joins them
        return self.euler and not joined_otherwise and self._as_questions >= furthest_followed(settings, len(self.sigmas))

    def run(self, settings: NoiseOrderSettings) -> SamplerRun:
        """In the plans' terms, for a comparison under these settings."""
        run = SamplerRun(
            self.guidance,
            steps=len(self.sigmas),
            takes_euler_steps=self.takes_euler_steps(settings),
            reuses_answers=self.reuses_answers,
            cond_evaluations=self.cond_evaluations,
            pair_evaluations=self.pair_evaluations,
            sampler_evaluations=self.sampler_evaluations,
        )
        return run_under(settings, run)

    @property
    def _as_questions(self) -> int:
        """How many calls from the first on ask without the prompt where questions do, and only there."""
        return len(
            list(takewhile(lambda step: self._without_the_prompt(step) == (self.guidance != 1), range(len(self.sigmas))))
        )

    def _without_the_prompt(self, step: int) -> bool:
        """Whether the sampler's call of this number, from 0, asks without the prompt, too."""
        early = getattr(opts, "skip_early_cond", 0.0)
        if early > 0 and step / len(self.sigmas) <= early:
            return False
        if (step % 2 or opts.s_min_uncond_all) and self.sigmas[step] < self.least_sigma:
            return False
        return self.guidance != 1 or self.asks_without_the_prompt_at_1


def makes_two_calls_a_step(sampler: str) -> bool:
    config: Any = sd_samplers.find_sampler_config(sampler)
    return config is not None and bool(config.options.get("second_order"))
