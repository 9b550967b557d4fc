import numpy as np
from PIL import Image

from lib_noiseorder.tools.lab.world import to_pictures


def setup_img2img_steps(p, steps=None):
    if steps is not None:
        return int(steps / min(p.denoising_strength, 0.999)) if p.denoising_strength > 0 else 0, steps - 1
    return p.steps, int(min(p.denoising_strength, 0.999) * p.steps)


approximation_indexes = {"Full": 0}


def single_sample_to_image(sample, approximation=None):
    if approximation != approximation_indexes["Full"]:
        raise NotImplementedError(approximation)
    pixels = to_pictures(sample[None])[0].permute(1, 2, 0) * 255
    return Image.fromarray(pixels.numpy().astype(np.uint8))
