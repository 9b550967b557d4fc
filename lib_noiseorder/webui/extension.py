"""What the script's hooks do."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from modules import errors

from ..chosen import check_with_seeds
from ..report import Report
from ..settings import ERROR, INFOTEXT_PREFIX, KNOB, NoiseOrderSettings, SettingsError
from .job import outcome, plain_copies, sheets
from .job.asker import Asker, asker_of, running_script
from .job.picture_texts import PictureTexts
from .job.session import Session, forget
from .panel import grid_axes


def refuse_bad_settings(p: Any, args: Sequence[Any]) -> None:
    """`process`: let an API request with bad settings fail with status 422 and their message.

    The hosts log and swallow what a hook raises, so the job's own `init`, which runs next, raises it. The grid script would
    swallow that, too, and leave the cell black.
    """
    outcome.forget(p)
    PictureTexts.forget(p)
    sheets.taken(p)
    try:
        _settings(p, args)
    except SettingsError as error:
        refusal = HTTPException(status_code=422, detail=str(error))
        if getattr(p, "is_api", False) and not grid_axes.is_grid(running_script()):

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
        settings = _settings(p, args)
    except SettingsError as error:
        message = str(error).removeprefix(f"{INFOTEXT_PREFIX}: ")
        print(f"{INFOTEXT_PREFIX}: switched off for this picture: {message}")
        p.extra_generation_params[ERROR] = message
        p.comment(outcome.complaint(message))
        return
    asker = asker_of(p)
    if settings.enabled and (settings.inner_passes or asker is not Asker.JOB):
        if asker is Asker.JOB:  # it has its picture's seed, and chooses for itself
            settings = dataclasses.replace(settings, chosen="")
        Session(
            settings,
            names_choice=asker is Asker.HOST or (asker is Asker.SCRIPT and not _may_be_a_part(p)),
            shows_sheets=asker is Asker.HOST,
            left_out=_extras(settings) if asker is Asker.SCRIPT else (),
        ).arm(p)


def before_sampling(p: Any) -> None:
    """`process_before_every_sampling`: have the sampler start from the ordered noise."""
    session = Session.of(p)
    if session is not None:
        session.wrap_sampler(p)


def end_batch(p: Any) -> Report | None:
    """`postprocess_batch`: take everything off; what was done to the batch, None if nothing."""
    session = Session.of(p)
    if session is None:
        return None
    session.close(p)
    return session.report


def end_job(p: Any, processed: Any, args: Sequence[Any], switch: int) -> None:
    """`postprocess`: add the plain copies and the sheets that were asked for to the gallery.

    Args:
        processed: what the host is about to show.
        switch: where in the job's script arguments our first one stands.
    """
    outcome.forget(p)
    PictureTexts.forget(p)
    shown = sheets.taken(p)
    try:
        settings = _settings(p, args)
    except SettingsError:
        return
    if not settings.enabled or asker_of(p) is not Asker.HOST:
        return
    extras = []
    if settings.compare_with_off:
        extras.append(("the plain copies", lambda: plain_copies.add_plain_copies(p, processed, switch)))
    if shown:
        extras.append(("the sheets", lambda: sheets.add_sheets(shown, processed)))
    for what, add in extras:
        try:
            add()
        except Exception as error:
            errors.report(f"{INFOTEXT_PREFIX}: {what} failed", exc_info=True)
            processed.comments += outcome.complaint(f"{what} failed, {type(error).__name__}: {error}") + "\n"


def _settings(p: Any, args: Sequence[Any]) -> NoiseOrderSettings:
    settings = grid_axes.in_cell(p, NoiseOrderSettings.from_args(args))
    check_with_seeds(settings.chosen)
    return settings


def _extras(settings: NoiseOrderSettings) -> list[str]:
    """The pictures that were asked for besides the job's own, as the panel calls them."""
    wanted = {"compare_with_off": settings.compare_with_off, "show_injected": settings.show_injected}
    return [KNOB[name].label.lower() for name, ticked in wanted.items() if ticked]


def _may_be_a_part(p: Any) -> bool:
    """Whether a script may put one picture together from this job and others with one seed, as SD upscale does from its tiles.

    Every tile chooses for itself, so no single draw would make that picture again.
    """
    return hasattr(p, "init_images")
