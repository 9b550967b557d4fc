"""order_noise: the one way through, counted and reported."""

import pytest
import torch

from lib_noiseorder import NoiseOrderSettings, aggregate, erase, inject, inject_calibrated, order_noise
from lib_noiseorder.formulas import key_timesteps

SHAPE = (3, 4, 16, 16)


def draw(k):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(k))


class Model:
    """Predicts something that depends on noise and timestep, and counts."""

    def __init__(self, spoil=None):
        self.asked = []
        self._spoil = spoil

    def __call__(self, noise, timestep):
        self.asked.append(timestep)
        prediction = noise.roll(1, -1) * timestep + noise
        if self._spoil is not None:
            prediction[self._spoil] = float("nan")
        return prediction


def settings(**values):
    return NoiseOrderSettings(**{"preset": "Custom", **values})


def test_switched_off_returns_the_first_draw():
    ordered = order_noise(NoiseOrderSettings(), draw, Model())
    assert torch.equal(ordered.noise, draw(1)) and ordered.report.evaluations == 0


def test_one_draw_and_strength_0_is_the_first_draw_and_asks_nothing():
    model = Model()
    ordered = order_noise(settings(erasure_samples=1, strength=0), draw, model)
    assert torch.equal(ordered.noise, draw(1)) and model.asked == [] and ordered.report.skipped == []


@pytest.mark.parametrize("rule, function", [("calibrated", inject_calibrated), ("literal", inject)])
def test_it_is_the_three_formulas_in_a_row(rule, function):
    model = Model()
    ordered = order_noise(settings(erasure_samples=3, strength=0.2, injection=rule, detail_weight=0.5), draw, model)
    erased = erase([draw(1), draw(2), draw(3)])
    predictions = [Model()(erased, timestep) for timestep in (0.9, 0.5, 0.1)]
    assert torch.equal(ordered.noise, function(erased, aggregate(predictions, [1, 1, 0.5]), 0.2))
    assert model.asked == [0.9, 0.5, 0.1]
    report = ordered.report
    assert report.evaluations == 3 and report.seconds > 0 and 0.5 < report.correlation <= 1
    assert report.mean_before == pytest.approx(draw(1).mean().item())
    assert report.std_after == pytest.approx(ordered.noise.std().item())


def test_a_weight_of_0_saves_its_evaluation():
    model = Model()
    order_noise(settings(structure_weight=0), draw, model)
    assert model.asked == [0.9, 0.1]


def test_decaying_strength():
    weights = {step.name: step.weight for step in key_timesteps(settings(strength_schedule="linear"))}
    assert weights == pytest.approx({"layout": 0.9, "structure": 0.5, "detail": 0.1})
    weights = {step.name: step.weight for step in key_timesteps(settings(strength_schedule="cosine"))}
    assert weights["layout"] > 0.97 and weights["structure"] == pytest.approx(0.5) and weights["detail"] < 0.03


def test_noise_scale_without_injection():
    ordered = order_noise(settings(erasure_samples=1, strength=0, noise_scale=0.8), draw, None)
    assert torch.allclose(ordered.noise, draw(1) * 0.8)


def test_pictures_do_not_depend_on_their_batch():
    alone = order_noise(settings(), lambda k: draw(k)[1:2], Model()).noise
    assert torch.allclose(order_noise(settings(), draw, Model()).noise[1:2], alone, atol=1e-6)


def test_a_picture_with_nan_predictions_keeps_its_erased_noise_and_the_report_says_so():
    ordered = order_noise(settings(erasure_samples=2), draw, Model(spoil=1))
    clean = order_noise(settings(erasure_samples=2), draw, Model()).noise
    assert torch.equal(ordered.noise[1], erase([draw(1), draw(2)])[1])
    assert torch.equal(ordered.noise[[0, 2]], clean[[0, 2]])
    assert ordered.report.skipped == ["injection: the model's predictions are not finite for 1 of 3 pictures"]


def test_no_model_costs_the_injection_only():
    ordered = order_noise(settings(erasure_samples=2), draw, None)
    assert torch.equal(ordered.noise, erase([draw(1), draw(2)]))
    assert ordered.report.skipped == ["injection: no model to ask"]


def test_half_precision_and_video_shapes():
    def video(k):
        return torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(k)).half()

    ordered = order_noise(settings(), video, Model())
    assert ordered.noise.dtype == torch.float16 and ordered.noise.shape == (1, 4, 3, 8, 8)
    assert ordered.report.std_after == pytest.approx(ordered.report.std_before, abs=0.2)


def test_what_the_model_raises_passes_through():
    def broken(noise, timestep):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        order_noise(settings(), draw, broken)
