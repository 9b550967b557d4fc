"""What is read in an infotext is what the hosts and our own pipelines write there."""

import pytest

from lib_noiseorder.infotexts import parameters
from lib_noiseorder.tools.compare.pipeline import Pipeline
from lib_noiseorder.tools.infotexts import Outcome, outcome

TEXT = (
    "a cat, Seed: 9, Noise Order evaluations: 99\nNegative prompt: b\nSteps: 20, Seed: 1, Model: x, "
    'Noise Order enabled: True, Noise Order evaluations: 13, Noise Order chosen: "3, 1", '
    'Noise Order skipped: "injection: \\"no\\", not so", Version: v1'
)


def test_results_are_read_in_the_last_line_only():
    assert outcome(TEXT) == Outcome(13, "3, 1", 'injection: "no", not so', "")
    said = parameters(TEXT)
    assert said["Seed"] == "1" and said["Version"] == "v1" and "Size" not in said


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", Outcome(None, "", "", "")),
        ("a cat\nSteps: 20, Noise Order error: strength = 9 is not", Outcome(None, "", "", "strength = 9 is not")),
        ("Noise Order evaluations: 0, Noise Order chosen: 2", Outcome(0, "2", "", "")),
        ("Noise Order evaluations: many", Outcome(None, "", "", "")),
    ],
)
def test_what_is_not_said_is_empty(text, found):
    assert outcome(text) == found


def test_a_quotation_that_is_none_is_left_as_it_stands():
    assert parameters('Steps: 1, Model: "x')["Model"] == '"x'


def test_what_our_pipeline_writes_is_read_again():
    from lib_noiseorder import NoiseOrderSettings
    from lib_noiseorder.tools.compare.generators import Request
    from lib_noiseorder.tools.compare.plan import Sampling

    made = Pipeline.__new__(Pipeline)
    made._model = {"scheduler": "Euler", "hash": "h", "name": "m"}
    settings = NoiseOrderSettings(enabled=True, strength=0.3)
    text = made._infotext(Request("a cat", 1, Sampling(20, 7.0, 64, 64), settings), 5, 'selection: "x", y')
    assert outcome(text) == Outcome(5, "", 'selection: "x", y', "") and parameters(text)["Model"] == "m"
    assert NoiseOrderSettings.from_infotext(text) == settings
