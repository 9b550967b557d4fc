"""How much memory ordering the noise needs at once: the model's own activations, and one latent per prediction besides."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib_noiseorder import NoiseOrderSettings, order_noise
from lib_noiseorder.plans import SamplerRun, plan_for
from lib_noiseorder.tools.lab.model import LabModel
from lib_noiseorder.tools.lab.prompted import PromptedModel
from lib_noiseorder.tools.lab.world import Prompt, to_tokens


class Peak(TorchDispatchMode):
    """The largest number of bytes that tensors made inside held at any one time."""

    def __init__(self, besides=()):
        super().__init__()
        self.bytes = self._now = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in besides)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage):
        if storage not in self._known:
            self._known.add(storage)
            size = storage.nbytes()
            self._now += size
            self.bytes = max(self.bytes, self._now)
            weakref.finalize(storage, self._gone, size)

    def _gone(self, size):
        self._now -= size


def peak(work, besides=()):
    """The peak of `work`; tensors that were there before, such as a network's weights, do not count."""
    with Peak(besides) as seen:
        kept = work()
    del kept
    return seen.bytes


LATENT = torch.zeros(2, 4, 32, 32)
BYTES = LATENT.numel() * 4


def test_the_meter_counts_what_lives_at_once():
    assert peak(lambda: torch.ones(1000)) == 4000
    assert peak(lambda: [torch.ones(1000) for _ in range(3)]) == 12000
    assert peak(lambda: [torch.ones(1000).sum() for _ in range(3)]) < 4100
    assert peak(lambda: torch.ones(1000).view(10, 100)[0]) == 4000


def draw(k):
    return torch.randn(LATENT.shape, generator=torch.Generator().manual_seed(k))


def a_model(activations):
    """Answers with one latent, and holds `activations` latents while it thinks."""

    def denoiser(noise, timestep):
        held = [torch.empty_like(noise) for _ in range(activations)]
        return noise * timestep + 0 * held[0].nan_to_num()

    return denoiser


def injection_beside_the_model(weights, activations=40):
    """Latents at the peak of an ordering, less those of the model's activations and of the noise that it is about."""
    settings = NoiseOrderSettings(enabled=True, erasure_samples=1, **weights)
    whole = peak(lambda: order_noise(settings, draw, a_model(activations)))
    return whole / BYTES - activations - 1


@pytest.mark.parametrize("erasure", [1, 4, 64])
def test_erasure_holds_no_more_than_a_few_draws_at_once(erasure):
    settings = NoiseOrderSettings(enabled=True, erasure_samples=erasure, strength=0)
    assert peak(lambda: order_noise(settings, draw, None)) <= 5 * BYTES


def test_every_prediction_costs_one_latent_besides_the_models_own_activations():
    one = injection_beside_the_model({"structure_weight": 0, "detail_weight": 0})
    three = injection_beside_the_model({})
    assert three - one <= 2.01, "more than one latent for a further prediction"
    assert three <= 3 + 4, "more than a prediction each, the noise as it was, and what the answer is computed with"


def test_a_real_network_is_the_peak_and_not_what_ordering_adds():
    model, prompts = LabModel("eps"), [Prompt.parse("red circle")] * 2
    noise = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    latent = noise.numel() * 4
    asked = PromptedModel(model, prompts)
    settings = NoiseOrderSettings(enabled=True, erasure_samples=1)
    there = [*model.net.parameters(), *model.net.buffers(), noise]
    tokens = to_tokens(prompts)
    step = peak(lambda: model.predict_pair(noise, 0.9, tokens), [*there, tokens])
    ordering = peak(lambda: order_noise(settings, lambda k: noise, asked), there)
    print(f"injection {(ordering - step) / latent:.1f} latents beside a step's {step / latent:.0f}")
    assert ordering <= step + 4 * latent, (step, ordering, latent)
    assert step > 20 * latent, "the network is too small to prove anything"


def test_a_selection_keeps_its_noises_and_answers_and_no_more():
    model, prompts = LabModel("flow"), [Prompt.parse("red circle")] * 2
    noise = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    latent = noise.numel() * 4
    asked = PromptedModel(model, prompts)
    x = asked.start(noise)
    there = [*model.net.parameters(), *model.net.buffers(), noise, x]
    pair = peak(lambda: asked.predict_pair(x, asked.sampler_levels[0]), there)
    settings = NoiseOrderSettings(enabled=True, preset="Automatic")
    whole = peak(lambda: order_noise(settings, lambda k: noise * k / k, asked), there)
    plan = plan_for(SamplerRun.of(asked))
    assert plan.drops_draws
    kept = 4 * plan.draws + plan.finalists * (3 * (plan.steps - 1) + 2)  # every call's latent with its two answers, the noises
    print(f"selection {(whole - pair) / latent:.1f} latents beside a pair's {pair / latent:.0f}")
    assert whole <= pair + (kept + 4) * latent
