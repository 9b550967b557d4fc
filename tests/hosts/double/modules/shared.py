from types import SimpleNamespace

device = "cpu"


def fresh_state():
    return SimpleNamespace(
        interrupted=False, skipped=False, sampling_step=0, sampling_steps=0, textinfo=None, job_count=0, current_latent=None
    )


state = fresh_state()
opts = SimpleNamespace(
    s_min_uncond=0.0,
    s_min_uncond_all=False,
    skip_early_cond=0.0,
    initial_noise_multiplier=1.0,
    sgm_noise_multiplier=False,
    img2img_fix_steps=False,
)
sd_model = None
