"""The settings that a caller of an adapter gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..settings import NoiseOrderSettings

Given = NoiseOrderSettings | Mapping[str, Any] | None
"""Settings as a caller may write them."""


def given_settings(settings: Given) -> NoiseOrderSettings:
    """Settings as they are; a mapping of API keys, switched on unless it says otherwise; the recommended preset for None.

    Raises:
        SettingsError: a mapping that cannot be used.
    """
    if isinstance(settings, NoiseOrderSettings):
        return settings
    if settings is None:
        return NoiseOrderSettings(enabled=True)
    return NoiseOrderSettings.from_dict({"enabled": True, **settings} if isinstance(settings, Mapping) else settings)
