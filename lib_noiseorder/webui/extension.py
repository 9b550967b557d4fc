"""What the script's hooks do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from modules import errors

from ..settings import INFOTEXT_PREFIX, NoiseOrderSettings, SettingsError
from .job import outcome
from .job import plain_copies as twin
from .job import sheets as showing
from .job.inner_passes import is_inner_pass
from .job.session import Session, forget
from .model.remembered import RememberedNoise
from .panel import grid_axes as grid


def refuse_bad_settings(p: Any, args: Sequence[Any]) -> None:
    """`process`: let an API request with bad settings fail with status 422 and their message.

    The hosts log and swallow what a hook raises, so the job's own `init`, which runs next, raises it.
    """
    outcome.forget(p)
    showing.taken(p)
    try:
        _settings(p, args)
    except SettingsError as error:
        refusal = HTTPException(status_code=422, detail=str(error))
        if getattr(p, "is_api", False):

            def init(*_: Any, **__: Any) -> None:
                raise refusal

            p.init = init


def start_batch(p: Any, args: Sequence[Any], remembered: RememberedNoise | None = None) -> None:
    """`process_batch`: arm the noise source, or leave without a trace.

    Args:
        remembered: the ordered noise of earlier jobs; None remembers nothing.
    """
    previous = Session.of(p)
    if previous is not None:
        previous.close(p)
    forget(p)
    try:
        settings = _settings(p, args)
    except SettingsError as error:
        message = str(error).removeprefix(f"{INFOTEXT_PREFIX}: ")
        print(f"{INFOTEXT_PREFIX}: switched off for this picture: {message}")
        p.extra_generation_params[f"{INFOTEXT_PREFIX} error"] = message
        p.comment(f"{INFOTEXT_PREFIX}: {message}")
        return
    if settings.enabled and (settings.inner_passes or not is_inner_pass(p)):
        Session(settings, remembered).arm(p)


def before_sampling(p: Any) -> None:
    """`process_before_every_sampling`: have the sampler start from the ordered noise."""
    session = Session.of(p)
    if session is not None:
        session.wrap_sampler(p)


def end_batch(p: Any) -> None:
    """`postprocess_batch`: take everything off."""
    session = Session.of(p)
    if session is not None:
        session.close(p)


def end_job(p: Any, processed: Any, args: Sequence[Any], switch: int) -> None:
    """`postprocess`: add the plain twins and the sheets that were asked for to the gallery.

    Args:
        processed: what the host is about to show.
        switch: where in the job's script arguments our first one stands.
    """
    outcome.forget(p)
    shown = showing.taken(p)
    try:
        settings = _settings(p, args)
    except SettingsError:
        return
    if not settings.enabled or is_inner_pass(p):  # ADetailer ends a copy of the job in the middle of it
        return
    extras = []
    if settings.compare_with_off:
        extras.append(("the plain twins", lambda: twin.add_plain_twins(p, processed, switch)))
    if shown:
        extras.append(("the sheets of what was injected", lambda: showing.add_sheets(shown, processed)))
    for what, add in extras:
        try:
            add()
        except Exception as error:
            errors.report(f"{INFOTEXT_PREFIX}: {what} failed", exc_info=True)
            processed.comments += f"{INFOTEXT_PREFIX}: {what} failed, {type(error).__name__}: {error}\n"


def _settings(p: Any, args: Sequence[Any]) -> NoiseOrderSettings:
    return grid.in_cell(p, NoiseOrderSettings.from_args(args))
