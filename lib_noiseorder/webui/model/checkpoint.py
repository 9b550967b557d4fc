"""The loaded checkpoint, whichever host loaded it: its kind, and whether its answers depend on the question alone."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from ...answers import foreign_say, hooked, is_plain, is_replaced
from .a1111 import A1111, RecordPair
from .company import AFTER_THE_CALL, BEFORE_THE_CALL, CannotAsk, calls_otherwise, is_the_hosts, listening
from .forge import Forge

_KINDS = {
    "flow": ("const", "sd3", "flow", "flux"),
    "eps": ("epsilon", "eps", "v_prediction", "v", "edm", "v_prediction_edm"),
}
"""What the hosts call the kinds of predictions."""


class Checkpoint(Protocol):
    """What differs between the hosts; `A1111` and `Forge` say what each of these is."""

    @property
    def prediction(self) -> str: ...
    @property
    def network(self) -> Any: ...
    @property
    def around(self) -> Any: ...
    @property
    def options(self) -> dict[str, Any]: ...
    @property
    def written_by_samplers(self) -> dict[str, Any]: ...
    @property
    def shown_pictures(self) -> str | None: ...
    @property
    def foreign_part(self) -> str | None: ...
    @property
    def asks_both_halves_at_guidance_1(self) -> bool: ...
    @property
    def conditioned_on_a_picture(self) -> bool: ...
    def bring_back(self) -> None: ...
    def needs_both_halves(self, image_conditioning: Tensor | None) -> bool: ...
    def model_function(self, guided_denoiser: Any) -> tuple[Any, str]: ...
    def before_guidance(
        self, guided_denoiser: Any, record: RecordPair, sigma: float | None, pair: bool
    ) -> AbstractContextManager[None]: ...


def checkpoint_of(sd_model: Any) -> Checkpoint:
    """The seam to the host that loaded a checkpoint."""
    return Forge(sd_model) if Forge.loaded(sd_model) else A1111(sd_model)


class UnknownModel(CannotAsk):
    """A checkpoint whose predictions we cannot read."""


def family_of(checkpoint: Checkpoint) -> str:
    """The kind of checkpoint: "flow" (Flux, SD3, Wan …), or "eps" for one that predicts the noise or v.

    Raises:
        UnknownModel: any other kind of prediction.
    """
    for family, kinds in _KINDS.items():
        if checkpoint.prediction in kinds:
            return family
    raise UnknownModel(f"this checkpoint predicts {checkpoint.prediction!r}, which Noise Order cannot read")


def foreign_say_in(checkpoint: Checkpoint, guided_denoiser: Any) -> str | None:
    """What else takes part in the model's answers, in words; None if nothing: then they may be remembered.

    Replaced functions, ControlNets, hypernetworks and patches that are functions; LoRAs, embeddings and patches that are
    plain values are part of the question.
    """
    return (
        foreign_say(module_of(checkpoint))
        or checkpoint.foreign_part
        or next((f"the patch {name}" for name, value in checkpoint.options.items() if not is_plain(value)), None)
        or ("a replaced forward of the denoiser" if is_replaced(guided_denoiser.inner_model, "forward") else None)
        or ("a replaced apply_model" if calls_otherwise(checkpoint.around) else None)
    )


def asks_the_same(checkpoint: Checkpoint, probe: Any, sampler: Any) -> bool:
    """Whether a sampler's calls are the very questions that a probe asks, and their answers may be remembered.

    A1111's DDIM and LCM, for example, ask another kind of function; a callback before every call may change it, or the weights;
    a hook on the network may count its calls.

    Args:
        probe, sampler: guided denoisers of the host's.
    """
    asked, asking = (checkpoint.model_function(one)[0] for one in (probe, sampler))
    alone = foreign_say_in(checkpoint, probe) is None and hooked(module_of(checkpoint), is_the_hosts) is None
    return type(asked) is type(asking) and alone and not listening(BEFORE_THE_CALL)


def follows_freely() -> bool:
    """Whether nothing else acts between the sampler's calls: a callback after one may move the latent, or the weights."""
    return not listening(AFTER_THE_CALL)


def why_one_by_one(checkpoint: Checkpoint, guided_denoiser: Any) -> str | None:
    """What may answer several latents in one call otherwise than one by one, in words; None if nothing."""
    return (
        foreign_say_in(checkpoint, guided_denoiser)
        or checkpoint.shown_pictures
        or hooked(module_of(checkpoint), is_the_hosts)
        or ("a callback on every evaluation" if listening(BEFORE_THE_CALL + AFTER_THE_CALL) else None)
    )


def module_of(checkpoint: Checkpoint) -> nn.Module:
    """The network as a module, with whatever the host puts around it."""
    return checkpoint.network if isinstance(checkpoint.network, nn.Module) else checkpoint.network.diffusion_model
