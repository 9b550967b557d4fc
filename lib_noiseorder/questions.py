"""The questions of one ordering: asked of the host's model, counted, checked and told to whoever watches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .formulas import KeyTimestep
from .model import Model, NoiseLevel
from .report import Report
from .tensors import require_floating, require_same_shape


class Observer:
    """Told what goes on while noise is put in order. The methods do nothing until somebody overrides them."""

    def asking(self, what: str, number: int, total: int) -> None:
        """The model is about to be asked about candidate `number` of `total` ("selection") or key timestep ("injection"), or
        the sampler to finish a picture of it ("finishing")."""

    def candidate(self, number: int, picture: Tensor) -> None:
        """The clean latent x0 [B, …] that the model predicts, with the prompt, for the draw of this number, from 1; or the
        finished one that was made of it."""

    def key_timestep(self, step: KeyTimestep, picture: Tensor) -> None:
        """The clean latent x0 [B, …] that the model predicts for the noise at a key timestep."""


SILENT = Observer()


class Questions:
    """A model whose evaluations are counted in a report.

    Raises:
        ValueError: another number of predictions than of latents, or one of another shape. What the host raises passes through.
    """

    def __init__(self, model: Model, report: Report, observer: Observer, what: str, total: int):
        """
        Args:
            what: "selection" or "injection".
            total: how many candidates or key timesteps there are, all of which are asked about in turn, once or more often.
        """
        self.model, self.observer = model, observer
        self._report, self._what, self._total, self._asked = report, what, total, 0

    def predict(self, latents: Sequence[Tensor], levels: Sequence[NoiseLevel]) -> list[Tensor]:
        """x0 with the prompt for every latent [B, …] at its level, as many in one call as the model takes."""
        answers: list[Tensor] = []
        while len(answers) < len(latents):
            at_once = self.model.latents_per_call  # fewer from where a model runs out of memory
            if at_once < 1:
                raise ValueError(f"latents_per_call must be at least 1, got {at_once}")
            part = slice(len(answers), len(answers) + at_once)
            self._announce(len(latents[part]))
            predictions = _checked("predict", self.model.predict(latents[part], levels[part]), latents[part])
            self._report.evaluations += len(predictions) * self.model.cond_evaluations
            answers += predictions
        return answers

    def predict_pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """x0 with the prompt and without."""
        self._announce(1)
        cond, uncond = _checked("predict_pair", self.model.predict_pair(x, level), [x, x])
        self._report.evaluations += self.model.pair_evaluations
        return cond, uncond

    def _announce(self, questions: int) -> None:
        self._asked += questions
        self.observer.asking(self._what, (self._asked - 1) % self._total + 1, self._total)


def _checked(question: str, predictions: Sequence[Tensor], latents: Sequence[Tensor]) -> list[Tensor]:
    """One prediction per latent, of its shape."""
    if not isinstance(predictions, (list, tuple)):
        raise ValueError(f"{question} must give a list of {len(latents)} predictions, not {type(predictions).__name__}")
    if len(predictions) != len(latents):
        raise ValueError(f"{question} gave {len(predictions)} predictions for {len(latents)} latents")
    for prediction, x in zip(predictions, latents):
        require_floating("prediction", prediction)
        require_same_shape("prediction", prediction, "noise", x)
    return list(predictions)
