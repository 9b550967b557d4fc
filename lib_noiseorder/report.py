"""What happened to the noise of one batch. The core fills it in; a host adds by its methods alone: what its sampler did not ask
again, and what of its own was left out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite

from torch import Tensor

from .tensors import mean_and_std


@dataclass
class Report:
    """What happened to the noise of one batch."""

    evaluations: int = 0
    """Model evaluations per picture that selection and injection made."""
    reusable_evaluations: int = 0
    """How many of them the sampler's first calls are going to ask again."""
    saved_evaluations: int = 0
    """How many the sampler was spared, as the host says by `reused`."""
    seconds: float = 0.0
    """Wall-clock time of drawing, asking and injecting."""
    mean_before: float = 0.0
    std_before: float = 0.0
    mean_after: float = 0.0
    std_after: float = 0.0
    """Mean and standard deviation over the batch, before (first draw) and after."""
    correlation: float | None = None
    """Mean correlation of the semantics with the noise; None where nothing was injected."""
    chosen: list[int] = field(default_factory=list)
    """Which draw every picture got, counted from 1, or 0 where it kept its own uncompared; empty where all did."""
    scores: list[list[float]] = field(default_factory=list)
    """Per picture the score of every draw that was compared, none where its draw was named; higher is better."""
    judge: str = ""
    """The digest of the judge that gave the scores; empty where the model's own pictures did."""
    skipped: list[str] = field(default_factory=list)
    """What was left out, and why."""

    @classmethod
    def before(cls, noise: Tensor) -> Report:
        """A report that knows the noise as the host drew it."""
        mean, std = mean_and_std(noise)
        return cls(mean_before=mean, std_before=std)

    @property
    def extra_evaluations(self) -> int:
        """Model evaluations per picture that the ordering added to the sampler's own."""
        return self.evaluations - self.saved_evaluations

    @property
    def kept_scores(self) -> list[float | None]:
        """Per picture what its judge gave the draw that was kept; None where it gave nothing."""
        if not self.judge:
            return [None] * len(self.chosen)
        pairs = [scores[draw - 1] if draw and scores else None for draw, scores in zip(self.chosen, self.scores)]
        return [score if score is not None and isfinite(score) else None for score in pairs]

    def followed_by(self, later: Report) -> Report:
        """This report with a further pass of the sampler counted in; figures of the noise and `chosen` are the first's."""
        return replace(
            self,
            evaluations=self.evaluations + later.evaluations,
            saved_evaluations=self.saved_evaluations + later.saved_evaluations,
            seconds=self.seconds + later.seconds,
        )

    def skip(self, what: str, reason: str) -> None:
        """Note that `what` was left out."""
        self.skipped.append(f"{what}: {reason}")

    def took(self, seconds: float) -> None:
        """The host's word on the time, where asking takes place around the core."""
        self.seconds = seconds

    def reused(self, evaluations: int) -> None:
        """The host's word on how many evaluations per picture its sampler did not pay again."""
        self.saved_evaluations = evaluations


def in_one_line(error: Exception) -> str:
    """An exception for a report and an infotext."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]


@dataclass(frozen=True)
class OrderedNoise:
    noise: Tensor
    """What the sampler starts from: shape, dtype and device of the draws."""
    report: Report
