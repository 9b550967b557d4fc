import torch


def randn_local(seed, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(int(seed)))


def slerp(value, low, high):
    low_norm, high_norm = (side / side.norm(dim=1, keepdim=True) for side in (low, high))
    omega = torch.acos((low_norm * high_norm).sum(1))
    parts = torch.sin((1 - value) * omega) / torch.sin(omega), torch.sin(value * omega) / torch.sin(omega)
    return parts[0].unsqueeze(1) * low + parts[1].unsqueeze(1) * high


class ImageRNG:
    def __init__(self, shape, seeds, subseeds=None, subseed_strength=0.0):
        self.shape, self.seeds, self.subseeds, self.subseed_strength = shape, seeds, subseeds, subseed_strength
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.is_first = True

    def next(self):
        noises = [torch.randn(self.shape, generator=generator) for generator in self.generators]
        if self.is_first and self.subseed_strength:
            variations = [randn_local(subseed, self.shape) for subseed in self.subseeds]
            noises = [slerp(self.subseed_strength, *pair) for pair in zip(noises, variations)]
        self.is_first = False
        return torch.stack(noises)
