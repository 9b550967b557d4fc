"""How whatever makes pictures fails."""

from __future__ import annotations

INTERRUPTED = 130
"""Exit status where the user interrupted (Ctrl-C), as shells have it."""


class Unavailable(OSError):
    """It does not answer, or failed; asking again may help."""


class Refused(OSError):
    """It will not do it, however often it is asked."""
