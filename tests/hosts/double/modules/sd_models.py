from types import SimpleNamespace

import torch
from modules import shared

from lib_noiseorder.tools.lab.model import LabModel, alpha_bar
from lib_noiseorder.tools.lab.world import NO_PROMPT, Prompt, to_tokens


class Checkpoint:
    """An embedded model as a WebUI checkpoint; `spoil` is called with every answer and may replace it or raise."""

    def __init__(self, family):
        self.lab = LabModel(family)
        self.model = SimpleNamespace(diffusion_model=self.lab.net)
        self.spoil = lambda answer: answer

    def condition(self, prompts):
        return torch.cat(
            [to_tokens([Prompt.parse(text)]) if text.strip() else torch.full((1, 6), NO_PROMPT) for text in prompts]
        )

    def answer(self, x, timestep, tokens):
        return self.spoil(self.lab.predict(x, timestep, tokens))


class Denoiser(torch.nn.Module):
    """x0 by sigma, as k-diffusion wraps a model."""

    def __init__(self, checkpoint):
        super().__init__()
        self.sigmas, self._denoised = checkpoint.sigmas, checkpoint.denoised

    def forward(self, x, sigma, cond):
        return self._denoised(x, sigma, cond)


class EpsCheckpoint(Checkpoint):
    parameterization = "eps"
    is_sdxl = False

    def __init__(self):
        super().__init__("eps")
        cumulative = alpha_bar()
        self.sigmas = ((1 - cumulative) / cumulative).sqrt()

    def start(self, sigma, noise, latent):
        return latent + noise * sigma

    def denoised(self, x, sigma, tokens):
        timestep = (self.sigmas - sigma[:, None]).abs().argmin(1) / 999
        sigma = sigma.view(-1, 1, 1, 1)
        return x - sigma * self.answer(x / (sigma**2 + 1).sqrt(), timestep, tokens)


class FlowCheckpoint(Checkpoint):
    def __init__(self):
        super().__init__("flow")
        self.sigmas = torch.linspace(0.0001, 1.0, 10000)
        self.resident = False
        self.forge_objects = SimpleNamespace(unet=SimpleNamespace(model=KModel(self), model_options={}))

    def start(self, sigma, noise, latent):
        return latent * (1 - sigma) + noise * sigma

    def denoised(self, x, sigma, c_crossattn, transformer_options):
        transformer_options["block"] = "written by the model, as in Forge"
        for patch in transformer_options.get("patches", {}).get("input_block_patch", []):
            x = patch(x, transformer_options)
        assert self.resident, "the model was asked outside sampling_prepare"
        return x - sigma.view(-1, 1, 1, 1) * self.answer(x, sigma, c_crossattn)


class KModel(torch.nn.Module):
    """Forge's module around the network."""

    def __init__(self, checkpoint):
        super().__init__()
        self.diffusion_model, self.predictor = checkpoint.lab.net, SimpleNamespace(prediction_type="const")
        self._denoised = lambda *asked, **how: checkpoint.denoised(*asked, **how)

    def apply_model(self, x, sigma, c_crossattn, transformer_options):
        return self._denoised(x, sigma, c_crossattn, transformer_options)


class ModelData:
    @property
    def sd_model(self):
        return shared.sd_model


model_data = ModelData()
