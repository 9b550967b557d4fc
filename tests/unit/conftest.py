"""What the tests of `noiseorder compare` share."""

from functools import partial

import pytest

from lib_noiseorder.tools.compare import figures
from tests.lengths import at_length


@pytest.fixture(autouse=True)
def few_resamples(request, monkeypatch):
    """A comparison's intervals from 200 resamples: the usual 4000 take nine tenths of its time and are tested by themselves."""
    if request.node.path.name.startswith("test_compare_") and at_length(True, False):
        monkeypatch.setattr(figures, "bootstrap", partial(figures.bootstrap, resamples=200))
