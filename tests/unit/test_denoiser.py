"""Every parameterisation converts to the one convention, and to the clean latent."""

import pytest
import torch

from lib_noiseorder import NoiseLevel, along_noise, clean

X0, EPS = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LEVELS = [
    NoiseLevel.variance_preserving(0.3),
    NoiseLevel.variance_preserving(0.0047),
    NoiseLevel(1.0, 14.6),
    NoiseLevel.flow(0.7),
    NoiseLevel.flow(1.0),
]


def outputs(level):
    """What a perfect model of each parameterisation puts out."""
    spread = (level.alpha**2 + level.sigma**2) ** 0.5
    return {
        "eps": EPS,
        "x0": X0,
        "flow": EPS - X0,
        "v": (level.alpha * EPS - level.sigma * X0) if abs(spread - 1) < 1e-9 else None,
    }


@pytest.mark.parametrize("level", LEVELS)
def test_every_parameterisation_gives_x0_eps_and_velocity(level):
    x = level.alpha * X0 + level.sigma * EPS
    for kind, output in outputs(level).items():
        if output is None or (kind == "eps" and level.alpha == 0):
            continue
        assert torch.allclose(clean(output, x, level, kind), X0, atol=1e-9)
        along = along_noise(output, x, level, kind)
        assert torch.allclose(along, EPS - X0 if kind == "flow" else EPS, atol=1e-9)
        if kind != "flow":
            assert torch.allclose(along_noise(output, x, level, kind, flow=True), EPS - X0, atol=1e-9)


def test_k_diffusion_v_prediction_is_the_variance_preserving_one_rescaled():
    sigma = 3.0
    vp = NoiseLevel.variance_preserving(1 / (1 + sigma**2))
    x = X0 + sigma * EPS
    v = vp.alpha * EPS - vp.sigma * X0
    assert torch.allclose(clean(v, x * vp.alpha, vp, "v"), X0)


def test_unknown_parameterisation():
    with pytest.raises(ValueError, match="one of eps, v, flow, x0, got 'score'"):
        clean(EPS, EPS, LEVELS[0], "score")
