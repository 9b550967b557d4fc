"""Noise Order: the initial noise of a diffusion sampler put in order. Importing this costs torch and nothing else."""

from .formulas import aggregate, erase, inject, inject_calibrated
from .model import Draw, Model, NoiseLevel, along_noise, clean
from .ordering import Denoiser, order_noise
from .questions import Observer
from .report import OrderedNoise, Report
from .settings import KNOBS, NoiseOrderSettings, SettingsError

__version__ = "0.2.0"

__all__ = [
    "KNOBS",
    "Denoiser",
    "Draw",
    "Model",
    "NoiseLevel",
    "NoiseOrderSettings",
    "Observer",
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
