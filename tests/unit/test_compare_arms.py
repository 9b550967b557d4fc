"""Arms as they are written."""

import pytest

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.tools.compare.arms import Arm, parse


def ordering(**values):
    return NoiseOrderSettings(enabled=True, **values)


def test_arms_as_they_are_written():
    arms = parse(["plain", "automatic", "mine:strength=0.3, erasure_samples=2,steps=30", "equal-cost:mine", "calm:cfg=3.5"])
    assert arms == [
        Arm("plain"),
        Arm("automatic", ordering(preset="Automatic")),
        Arm("mine", ordering(strength=0.3, erasure_samples=2), steps=30),
        Arm("equal-cost-mine", costs_as="mine"),
        Arm("calm", cfg=3.5),
    ]
    assert [Arm.from_dict(arm.to_dict()) for arm in arms] == arms
    assert [arm.ordered for arm in arms] == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["nonsense"], "is not plain, automatic, light, paper"),
        (["custom"], "is not plain, automatic, light, paper"),
        (["a:strength=9"], "strength = 9.0 is not a number from -2 to 2"),
        (["a:strenght=1"], "did you mean 'strength'?"),
        (["a:strength"], "is not KNOB=VALUE"),
        (["a:preset=Automatic,strength=1"], "contradicts preset"),
        (["a:compare_with_off=true"], "adds pictures of its own"),
        (["a:enabled=false"], "is the arm plain"),
        (["a:"], "says nothing"),
        (["a:steps=0"], "steps = '0' is not a number above 0"),
        (["a:cfg=nan"], "cfg = 'nan' is not a number above 0"),
        (["a:steps=2.5"], "is not a number above 0"),
        (["../up:strength=0"], "is no name"),
        (["equal-cost"], "say equal-cost:NAME"),
        (["equal-cost:automatic"], "no ordered arm 'automatic' stands before it"),
        (["light", "light:strength=0.1"], "two arms named 'light'"),
    ],
)
def test_arms_that_cannot_be_made(texts, says):
    with pytest.raises(ValueError) as told:
        parse(texts)
    assert says in str(told.value)
