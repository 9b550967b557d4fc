"""Noise Order: the initial noise of a diffusion sampler put in order. Importing this costs torch and nothing else."""

from .formulas import aggregate, erase, inject, inject_calibrated
from .model import Denoiser, NoiseLevel, along_noise, clean
from .ordering import OrderedNoise, Report, order_noise
from .settings import KNOBS, NoiseOrderSettings, SettingsError

__version__ = "0.1.0"

__all__ = [
    "KNOBS",
    "Denoiser",
    "NoiseLevel",
    "NoiseOrderSettings",
    "OrderedNoise",
    "Report",
    "SettingsError",
    "aggregate",
    "along_noise",
    "clean",
    "erase",
    "inject",
    "inject_calibrated",
    "order_noise",
]
