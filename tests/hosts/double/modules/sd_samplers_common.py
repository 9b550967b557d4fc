def setup_img2img_steps(p, steps=None):
    steps = steps or p.steps
    return steps, int(min(p.denoising_strength, 0.999) * steps)
