"""What the script's hooks do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException

from ..settings import INFOTEXT_PREFIX, NoiseOrderSettings, SettingsError
from .session import Session, forget


def refuse_bad_settings(p: Any, args: Sequence[Any]) -> None:
    """`process`: let an API request with bad settings fail with status 422 and their message.

    The hosts log and swallow what a hook raises, so the job's own `init`, which runs next, raises it.
    """
    try:
        NoiseOrderSettings.from_args(args)
    except SettingsError as error:
        refusal = HTTPException(status_code=422, detail=str(error))
        if getattr(p, "is_api", False):

            def init(*_: Any, **__: Any) -> None:
                raise refusal

            p.init = init


def start_batch(p: Any, args: Sequence[Any]) -> None:
    """`process_batch`: arm the noise source, or leave without a trace."""
    previous = Session.of(p)
    if previous is not None:
        previous.close(p)
    forget(p)
    try:
        settings = NoiseOrderSettings.from_args(args)
    except SettingsError as error:
        message = str(error).removeprefix(f"{INFOTEXT_PREFIX}: ")
        print(f"{INFOTEXT_PREFIX}: switched off for this picture: {message}")
        p.extra_generation_params[f"{INFOTEXT_PREFIX} error"] = message
        p.comment(f"{INFOTEXT_PREFIX}: {message}")
        return
    if settings.enabled:
        Session(settings).arm(p)


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
