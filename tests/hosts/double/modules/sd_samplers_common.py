def setup_img2img_steps(p, steps=None):
    if steps is not None:
        return int(steps / min(p.denoising_strength, 0.999)) if p.denoising_strength > 0 else 0, steps - 1
    return p.steps, int(min(p.denoising_strength, 0.999) * p.steps)
