import inspect
from itertools import pairwise
from types import SimpleNamespace

import torch
from modules import prompt_parser, script_callbacks, sd_models, sd_samplers_common, shared


class InterruptedException(BaseException):
    pass


class CFGDenoiser:
    def __init__(self, sampler, sd_model):
        self.sampler, self.sd_model, self.inner_model = sampler, sd_model, sd_models.Denoiser(sd_model)
        self.p = self.mask = self.nmask = self.init_latent = self.steps = self.total_steps = None
        self.step = 0

    def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
        base = x_out[-uncond.shape[0] :]
        denoised = base.clone()
        for picture, conds in enumerate(conds_list):
            for index, weight in conds:
                denoised[picture] += (x_out[index] - base[picture]) * (weight * cond_scale)
        return denoised

    def __call__(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        if shared.state.interrupted or shared.state.skipped:
            raise InterruptedException
        early = shared.opts.skip_early_cond
        skip_uncond = (early > 0 and self.step / shared.state.sampling_steps <= early) or (
            (self.step % 2 or shared.opts.s_min_uncond_all) and s_min_uncond > 0 and sigma[0] < s_min_uncond
        )
        if skip_uncond:
            self.p.extra_generation_params["NGMS"] = s_min_uncond
        cond = prompt_parser.reconstruct_multicond(cond, self.step)
        uncond = None if uncond is None else prompt_parser.reconstruct(uncond, self.step)
        x = script_callbacks.called("cfg_denoiser", x)
        guide = self._forge if hasattr(self.sd_model, "forge_objects") else self._a1111
        denoised = guide(x, sigma, uncond, cond, cond_scale, skip_uncond)
        if self.mask is not None:
            denoised = denoised * self.nmask + self.init_latent * self.mask
        denoised = script_callbacks.called("cfg_after_cfg", denoised)
        self.sampler.last_latent = shared.state.current_latent = denoised
        self.step += 1
        return denoised

    def _a1111(self, x, sigma, uncond, cond, cond_scale, skip_uncond):
        parts = 1 if skip_uncond else 2
        out = self.inner_model(x.repeat(parts, 1, 1, 1), sigma.repeat(parts), cond=torch.cat([cond, uncond][:parts]))
        out = script_callbacks.called("cfg_denoised", out)
        out, scale = (torch.cat([out, out]), 1.0) if skip_uncond else (out, cond_scale)
        return self.combine_denoised(out, [[(i, 1.0)] for i in range(len(x))], uncond, scale)

    def _forge(self, x, sigma, uncond, cond, cond_scale, skip_uncond):
        unet = self.sd_model.forge_objects.unet
        guides = uncond is not None and not skip_uncond and cond_scale != 1
        model, options = unet.model, unet.model_options
        for modifier in options.get("conditioning_modifiers", []):
            model, x, sigma, uncond, cond, cond_scale, options, _ = modifier(
                model, x, sigma, uncond, cond, cond_scale, options, self.p.seeds[0]
            )
        for function in options.get("sampler_pre_cfg_function", []):
            model, cond, uncond, x, sigma, options = function(model, cond, uncond, x, sigma, options)
        parts, tokens = (2, torch.cat([cond, uncond])) if guides else (1, cond)
        told = {**options.get("transformer_options", {}), "cond_or_uncond": list(range(parts)), "sigmas": sigma}
        x, sigma = x.repeat(parts, 1, 1, 1), sigma.repeat(parts)
        out = model.apply_model(x, sigma, c_crossattn=tokens, transformer_options=told).chunk(parts)
        with_prompt, without = out[0], out[-1]
        denoised = without + (with_prompt - without) * cond_scale
        for function in options.get("sampler_post_cfg_function", []):
            denoised = function({"denoised": denoised, "cond": [{}], "cond_denoised": with_prompt, "uncond_denoised": without})
        return denoised


class Sampler:
    def __init__(self, func, sd_model):
        self.func = func
        self.model_wrap = sd_model
        self.model_wrap_cfg = CFGDenoiser(self, sd_model)
        self.last_latent = None
        self.config = SimpleNamespace(options={})

    def get_sigmas(self, p, steps):
        indices = torch.linspace(len(self.model_wrap.sigmas) - 1, 0, steps).round().long()
        return torch.cat([self.model_wrap.sigmas[indices], torch.zeros(1)])

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        sigmas = self.get_sigmas(p, steps or p.steps)
        x = self.model_wrap.start(sigmas[0], x, torch.zeros_like(x))
        return self._run(p, x, sigmas, conditioning, unconditional_conditioning, image_conditioning)

    def sample_img2img(self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        steps, encoding_steps = sd_samplers_common.setup_img2img_steps(p, steps)
        sigmas = self.get_sigmas(p, steps)[steps - encoding_steps - 1 :]
        self.model_wrap_cfg.init_latent = x
        start = self.model_wrap.start(sigmas[0], noise, x)
        return self._run(p, start, sigmas, conditioning, unconditional_conditioning, image_conditioning)

    def _run(self, p, x, sigmas, cond, uncond, image_cond):
        wrap = self.model_wrap_cfg
        wrap.p, wrap.step, wrap.mask, wrap.nmask = p, 0, getattr(p, "mask", None), getattr(p, "nmask", None)
        self.last_latent = x
        arguments = {
            "cond": cond, "uncond": uncond, "image_cond": image_cond, "cond_scale": p.cfg_scale, "s_min_uncond": p.s_min_uncond
        }  # fmt: skip
        schedule = {"sigmas": sigmas} if "sigmas" in inspect.signature(self.func).parameters else {}
        shared.state.sampling_steps, shared.state.sampling_step = len(sigmas) - 1, 0
        wrap.steps = wrap.total_steps = len(sigmas) - 1
        forge = getattr(self.model_wrap, "forge_objects", None)
        if forge:  # the network is told the schedule, as by Forge Neo's samplers
            options = forge.unet.model_options
            as_it_was = options.get("transformer_options")
            options["transformer_options"] = {**(as_it_was or {}), "sampling_sigmas": sigmas}
        self.model_wrap.resident = True
        try:
            return self.func(wrap, x, extra_args=arguments, disable=False, callback=self._count, **schedule)
        except InterruptedException:
            return self.last_latent
        finally:
            self.model_wrap.resident = False
            if forge and as_it_was is None:
                del options["transformer_options"]
            elif forge:
                options["transformer_options"] = as_it_was

    def _count(self, step):
        shared.state.sampling_step = step


def euler(model, x, sigmas=None, extra_args=None, disable=None, callback=None, ancestral=0.0):
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma.expand(len(x)), **extra_args)
        callback(step)
        down = following * (1 - ancestral)
        x = x + (x - denoised) / sigma * (down - sigma)
        if ancestral and following > 0:
            x = x + model.p.rng.next() * (following**2 - down**2).sqrt()
    return x


def euler_ancestral(model, x, sigmas=None, extra_args=None, disable=None, callback=None):
    return euler(model, x, sigmas, extra_args, disable, callback, ancestral=0.3)


def heun(model, x, sigmas=None, extra_args=None, disable=None, callback=None):
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        slope = (x - model(x, sigma.expand(len(x)), **extra_args)) / sigma
        callback(step)
        there = x + slope * (following - sigma)
        if following > 0:
            slope = (slope + (there - model(there, following.expand(len(x)), **extra_args)) / following) / 2
        x = x + slope * (following - sigma)
    return x


_FUNCTIONS = {"Euler": euler, "Euler a": euler_ancestral, "Heun": heun}


def find_sampler_config(name):
    options = {"second_order": True} if name == "Heun" else {}
    return SimpleNamespace(name=name, options=options, constructor=lambda sd_model: Sampler(_FUNCTIONS[name], sd_model))


def create_sampler(name, sd_model):
    config = find_sampler_config(name)
    sampler = config.constructor(sd_model)
    sampler.config = config
    return sampler
