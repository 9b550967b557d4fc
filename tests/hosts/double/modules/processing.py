import json

import torch
from modules import errors, prompt_parser, rng, sd_samplers, shared


class Processing:
    def __init__(self, **fields):
        self.prompt = self.negative_prompt = ""
        self.seed, self.subseed, self.subseed_strength = 1, 1, 0.0
        self.batch_size, self.n_iter, self.steps, self.cfg_scale = 1, 1, 4, 3.0
        self.sampler_name, self.s_min_uncond = "Euler", shared.opts.s_min_uncond
        self.enable_hr, self.is_hr_pass, self.denoising_strength = False, False, 0.7
        self.hr_second_pass_steps, self.hr_sampler_name, self.firstpass_image = 0, None, None
        self.hr_prompt = self.hr_negative_prompt = ""
        self.is_api, self.styles, self.do_not_save_grid, self.override_settings = False, [], False, {}
        self.script_args, self.scripts = [], None
        self.mask = self.nmask = self.refiner_checkpoint_info = self.refiner_switch_at = None
        for name, value in fields.items():
            assert hasattr(self, name) or name == "init_images", name
            setattr(self, name, value)
        self.sd_model = shared.sd_model
        self.extra_generation_params, self.comments = {}, {}

    def comment(self, text):
        self.comments[text] = 1

    def init(self, all_prompts, all_seeds, all_subseeds): ...

    def setup_prompts(self):
        self.all_prompts = self.for_all(self.prompt)
        self.all_negative_prompts = self.for_all(self.negative_prompt)

    def for_all(self, text):
        return text if isinstance(text, list) else [text] * self.batch_size * self.n_iter

    def setup_seeds(self):
        def counted(seed, by):
            return seed if isinstance(seed, list) else [seed + by * i for i in range(self.batch_size * self.n_iter)]

        self.all_seeds, self.all_subseeds = counted(self.seed, 0 if self.subseed_strength else 1), counted(self.subseed, 1)

    def begin_batch(self):
        part = slice(self.iteration * self.batch_size, (self.iteration + 1) * self.batch_size)
        self.prompts, self.negative_prompts = self.all_prompts[part], self.all_negative_prompts[part]
        self.seeds, self.subseeds = self.all_seeds[part], self.all_subseeds[part]
        self.rng = rng.ImageRNG((3, 24, 24), self.seeds, self.subseeds, self.subseed_strength)


class Txt2Img(Processing):
    def setup_prompts(self):
        super().setup_prompts()
        if self.enable_hr:
            self.hr_prompt = self.hr_prompt or self.prompt
            self.hr_negative_prompt = self.hr_negative_prompt or self.negative_prompt
            self.all_hr_prompts, self.all_hr_negative_prompts = map(self.for_all, (self.hr_prompt, self.hr_negative_prompt))

    def sample(self, cond, uncond):
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        if self.firstpass_image is not None and self.enable_hr:
            return self.sample_hr_pass(self.firstpass_image, cond, uncond)
        x = self.rng.next()
        self.scripts.process_before_every_sampling(self, x=x, noise=x, c=cond, uc=uncond)
        samples = self.sampler.sample(self, x, cond, uncond, image_conditioning=x.new_zeros(len(x), 5, 1, 1))
        return self.sample_hr_pass(samples, cond, uncond) if self.enable_hr else samples

    def sample_hr_pass(self, samples, cond, uncond):
        self.is_hr_pass = True
        self.sampler = sd_samplers.create_sampler(self.hr_sampler_name or self.sampler_name, self.sd_model)
        self.rng = rng.ImageRNG((3, 24, 24), self.seeds, self.subseeds, self.subseed_strength)
        noise = self.rng.next()
        for _ in range(2 if hasattr(self.sd_model, "forge_objects") else 1):  # Forge calls the hook twice
            self.scripts.process_before_every_sampling(self, x=samples, noise=noise, c=cond, uc=uncond)
        steps = self.hr_second_pass_steps or self.steps
        samples = self.sampler.sample_img2img(self, samples, noise, cond, uncond, steps=steps)
        self.is_hr_pass = False
        return samples


class Img2Img(Processing):
    def init(self, all_prompts, all_seeds, all_subseeds):
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        self.initial_noise_multiplier = shared.opts.initial_noise_multiplier
        self.init_latent = torch.stack(self.init_images).expand(self.batch_size, -1, -1, -1)
        if self.nmask is not None:
            self.mask = 1 - self.nmask

    def sample(self, cond, uncond):
        x = self.rng.next()
        if self.initial_noise_multiplier != 1.0:
            x = x * self.initial_noise_multiplier
        self.scripts.process_before_every_sampling(self, x=self.init_latent, noise=x, c=cond, uc=uncond)
        return self.sampler.sample_img2img(self, self.init_latent, x, cond, uncond)


def quote(value):
    text = str(value)
    return json.dumps(text) if any(mark in text for mark in ",:\n") else text


def infotext(p, index):
    parameters = {"Steps": p.steps, "Sampler": p.sampler_name, "CFG scale": p.cfg_scale, "Seed": p.seeds[index]}
    for key, value in p.extra_generation_params.items():
        if callable(value):  # with everything that is known about the picture, as the hosts do
            value = value(p=p, all_seeds=p.seeds, all_subseeds=p.subseeds, index=index, use_main_prompt=False)
        elif isinstance(value, list):
            value = value[index]
        if value is not None:
            parameters[key] = value
    return p.prompts[index] + "\n" + ", ".join(f"{key}: {quote(value)}" for key, value in parameters.items())


class Processed:
    def __init__(self, p, images, info="", infotexts=None):
        self.images, self.info, self.infotexts = images, info, infotexts or [info]
        self.index_of_first_image, self.comments = 0, "".join(f"{line}\n" for line in p.comments)
        self.seed = p.seed[0] if isinstance(p.seed, list) else p.seed


def process_images(p):
    p.scripts.before_process(p)
    return process_images_inner(p)


@torch.inference_mode()
def process_images_inner(p):
    """Per picture a latent [3, 24, 24] and an infotext, over all batches, and what is shown below the pictures."""
    shared.state.__dict__.update(shared.fresh_state().__dict__)
    latents, texts = [], []
    p.setup_prompts()
    p.setup_seeds()
    p.scripts.process(p)
    p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
    for iteration in range(p.n_iter):
        p.iteration = iteration
        p.begin_batch()
        batch = {"batch_number": iteration, "prompts": p.prompts, "seeds": p.seeds, "subseeds": p.subseeds}
        p.scripts.before_process_batch(p, **batch)
        p.scripts.process_batch(p, **batch)
        per_step = 2 if p.sampler_name == "Heun" else 1
        last_step = per_step * max(p.steps, getattr(p, "hr_second_pass_steps", 0))
        cond = prompt_parser.multicond(p.sd_model.condition(p.prompts), last_step)
        forge_without_guidance = hasattr(p.sd_model, "forge_objects") and p.cfg_scale == 1
        negative = p.sd_model.condition(p.negative_prompts)
        uncond = None if forge_without_guidance else prompt_parser.scheduled(negative, last_step)
        samples = p.sample(cond, uncond)
        if not torch.isfinite(samples).all():
            errors.report("A tensor with NaNs was produced")
        p.scripts.postprocess_batch(p, batch_number=iteration, images=samples)
        latents += samples
        texts += [infotext(p, index) for index in range(p.batch_size)]
        if shared.state.interrupted:
            break
    processed = Processed(p, latents, texts[0], texts)
    p.scripts.postprocess(p, processed)
    return processed
