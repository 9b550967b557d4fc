"""img2img in the core: what is asked and how much is injected where a sampler starts from a picture."""

import pytest

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.ordering import starting_from_a_picture


def test_the_strength_fades_with_the_denoising_strength():
    for preset in ("Paper", "Custom"):
        settings = NoiseOrderSettings(enabled=True, preset=preset, **({} if preset == "Paper" else {"strength": 0.2}))
        assert starting_from_a_picture(settings, 0.5, 1.0).strength == pytest.approx(settings.strength / 2)
        assert starting_from_a_picture(settings, 0.0, 1.0).strength == 0
        assert starting_from_a_picture(settings, 1.0, 1.0).strength == settings.strength


def test_no_key_timestep_is_noisier_than_the_start():
    settings = NoiseOrderSettings(enabled=True, layout_timestep=1.0, detail_timestep=0.01)
    asked = starting_from_a_picture(settings, 0.5, 0.4)
    assert (asked.layout_timestep, asked.structure_timestep) == (0.4, 0.2)
    assert asked.detail_timestep == 0.01, "the lowest timestep there is"
    assert starting_from_a_picture(settings, 0.5, 0.0).layout_timestep == 0.01
    whole = starting_from_a_picture(settings, 1.0, 1.0)
    assert (whole.layout_timestep, whole.structure_timestep, whole.detail_timestep) == (1.0, 0.5, 0.01)
