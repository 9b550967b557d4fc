"""Two lengths of a test: the short one that everybody waits for, and the long one of pytest's option --long."""

import os
from typing import TypeVar

VARIABLE = "NOISEORDER_LONG"
"""Set where the option is given, for the workers and for what is read while test files are imported."""

_Any = TypeVar("_Any")


def at_length(short: _Any, long: _Any) -> _Any:
    """`long` in a long run, else `short`."""
    return long if os.environ.get(VARIABLE) else short
