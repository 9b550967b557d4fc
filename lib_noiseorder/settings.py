"""Every knob once: name, label, meaning, range, default, infotext key and API key.

The panel, the API, the infotext, the grid axes and README's table are all made from this file. The API key of a knob
is its field name; the order of the fields is the order of the panel's flat argument list and only ever grows at its end.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import chosen as chosen_setting
from .infotexts import parameters
from .knobs import INFOTEXT_PREFIX, Knob, SettingsError, setting, shown

CUSTOM = "Custom"

_NO_INJECTION = {"erasure_samples": 1, "strength": 0.0, "noise_scale": 1.0, "selection_draws": 0}

PRESETS: dict[str, dict[str, Any]] = {
    CUSTOM: {},
    "Automatic": {"selection": "automatic", **_NO_INJECTION},
    "Light": {"selection": "light", **_NO_INJECTION},
    "Paper": {
        "selection": "off",
        "erasure_samples": 4,
        "strength": 0.1,
        "injection": "literal",
        "strength_schedule": "constant",
        "noise_scale": 1.0,
        "layout_weight": 1.0,
        "structure_weight": 1.0,
        "detail_weight": 1.0,
        "layout_timestep": 0.9,
        "structure_timestep": 0.5,
        "detail_timestep": 0.1,
    },
}
"""What each preset decides. Custom decides nothing."""

RECOMMENDED = "Automatic"
"""The preset that a panel starts with."""


def _weight(stage: str, decides: str, default: float = 1.0) -> Any:
    return setting(
        default,
        f"{stage.capitalize()} weight",
        f"How much the model's answer at the {stage} timestep counts ({decides}). 0 saves its evaluation.",
        minimum=-2.0, maximum=2.0, step=0.05,
    )  # fmt: skip


def _timestep(stage: str, default: float) -> Any:
    return setting(
        default,
        f"{stage.capitalize()} timestep",
        f"Where in the model's noise schedule the {stage} is asked for: 1 is pure noise, near 0 the finished picture.",
        minimum=0.01, maximum=1.0, step=0.01, advanced=True,
    )  # fmt: skip


@dataclass(frozen=True, init=False)
class NoiseOrderSettings:
    """All settings of one generation; immutable, validated when made.

    What is named counts, by whatever way it comes (keyword, mapping, flat arguments, infotext, a node's inputs): a preset
    decides the fields that are not named, and a named value that contradicts the preset is refused.
    """

    enabled: bool = setting(False, "Enable", "Replace the random initial noise by noise put in order.")
    preset: str = setting(
        CUSTOM,
        "Preset",
        "Automatic: the best of several noises of the seed, for up to 40 % more evaluations; helps flow models and some eps "
        "models. Light: the better of two, for two to four evaluations; helps some eps models. Paper: the formulas to the "
        "letter. Custom: the controls below.",
        choices=tuple(PRESETS),
    )
    erasure_samples: int = setting(
        4,
        "Erasure draws",
        "How many independent noises are summed, so that no single draw's accidental semantics survives. "
        "1 keeps the seed's own noise. Costs no evaluation.",
        minimum=1, maximum=64, step=1,
    )  # fmt: skip
    strength: float = setting(
        0.1,
        "Strength",
        "How much of the model's own predictions for the prompt is mixed into the noise (δ in the paper). 0 asks nothing.",
        minimum=-2.0, maximum=2.0, step=0.01,
    )  # fmt: skip
    layout_weight: float = _weight("layout", "early steps: what goes where")
    structure_weight: float = _weight("structure", "middle steps: shapes")
    detail_weight: float = _weight("detail", "late steps: texture")
    injection: str = setting(
        "calibrated",
        "Injection",
        "calibrated: every picture's noise keeps its own mean and standard deviation. "
        "literal: the paper's formula as printed, which lets the noise grow.",
        choices=("calibrated", "literal"), advanced=True,
    )  # fmt: skip
    strength_schedule: str = setting(
        "constant",
        "Strength schedule",
        "How the strength fades from the layout to the detail timestep.",
        choices=("constant", "linear", "cosine"), advanced=True,
    )  # fmt: skip
    noise_scale: float = setting(
        1.0,
        "Noise scale",
        "Multiplies the finished noise. 0.9 gives calmer pictures with a little less variety.",
        minimum=0.5, maximum=1.5, step=0.01, advanced=True,
    )  # fmt: skip
    layout_timestep: float = _timestep("layout", 0.9)
    structure_timestep: float = _timestep("structure", 0.5)
    detail_timestep: float = _timestep("detail", 0.1)
    selection: str = setting(
        "off",
        "Selection",
        "Compare several noises of the seed by what the model sees coming, and keep the one it can best believe in. "
        "automatic: a careful look. light: a quick one. off: no comparison.",
        choices=("off", "light", "automatic"), advanced=True,
    )  # fmt: skip
    selection_draws: int = setting(
        0,
        "Selection draws",
        "How many noises are compared; 0 leaves it to the kind of model and the number of steps (2 to 7).",
        minimum=0, maximum=16, step=1, advanced=True,
    )  # fmt: skip
    compare_with_off: bool = setting(
        False,
        "Compare with off",
        "Also make the plain copy of each picture, with the same seed and without Noise Order, next to it in the gallery.",
    )
    show_injected: bool = setting(
        False,
        "Show what is injected",
        "Add a sheet per picture to the gallery: the noise before and after with their spectra, and what the model saw in it.",
    )
    hires_pass: bool = setting(
        False,
        "Order the hires pass",
        "In hires fix, put the second pass's noise in order, too. Its injection fades with the denoising strength.",
        advanced=True,
    )
    inner_passes: bool = setting(
        False,
        "Order inner passes",
        "Also order the noise of pictures that other scripts make inside a picture, as ADetailer does.",
        advanced=True,
    )

    chosen: str = setting(
        "",
        "Chosen",
        "Which draw a seed gets without comparing: seed:draw. Pasting a picture's infotext fills it in.",
        check=chosen_setting.check, form=chosen_setting.RANGE,
    )  # fmt: skip

    def __init__(self, **named: Any) -> None:
        """
        Raises:
            SettingsError: an unknown name (the nearest known one is told), a value of the wrong type or out of its range,
                or one that contradicts the preset.
        """
        for name in named:
            if name not in KNOB:
                near = difflib.get_close_matches(str(name), KNOB, n=1, cutoff=0)
                raise SettingsError(f"{INFOTEXT_PREFIX}: unknown setting {str(name)[:80]!r}; did you mean {near[0]!r}?")
        values = {name: KNOB[name].checked(value) for name, value in named.items()}
        preset = values.get("preset", KNOB["preset"].default)
        for name, decided in PRESETS[preset].items():
            if values.setdefault(name, decided) != decided:
                raise _contradiction(preset, name, values[name])
        for knob in KNOBS:
            object.__setattr__(self, knob.name, values.get(knob.name, knob.default))
        if self.strength != 0 and not any((self.layout_weight, self.structure_weight, self.detail_weight)):
            raise SettingsError(
                f"{INFOTEXT_PREFIX}: layout_weight, structure_weight and detail_weight = 0 leave nothing to inject with "
                f"strength = {self.strength:g}; set a weight other than 0, or strength = 0"
            )

    def changed(self, **values: Any) -> NoiseOrderSettings:
        """These settings with some knobs turned, as in the panel: a preset brings its values along, and a knob that the
        preset decides makes it Custom.

        Raises:
            SettingsError: as `from_dict`.
        """
        merged = self.to_dict()
        preset = KNOB["preset"].checked(values.get("preset", self.preset))
        if "preset" in values:
            merged.update(PRESETS[preset])
        merged.update(values)
        if any(merged[name] != decided for name, decided in PRESETS[preset].items()):
            merged["preset"] = CUSTOM
        return self.from_dict(merged)

    def to_dict(self) -> dict[str, Any]:
        """Every knob by its API key, as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NoiseOrderSettings:
        """Settings from API keys; knobs not named keep their defaults.

        Raises:
            SettingsError: not a mapping, an unknown key (the nearest known one is named), or a bad value.
        """
        if not isinstance(values, Mapping):
            raise SettingsError(f"{INFOTEXT_PREFIX}: settings must be an object of named values, not {type(values).__name__}")
        return cls(**{str(name): value for name, value in values.items()})

    @classmethod
    def from_args(cls, args: Sequence[Any]) -> NoiseOrderSettings:
        """Settings from an API's `args`: one object as the first value, or a flat list in the order of the knobs.

        Raises:
            SettingsError: too many values, or as `from_dict`.
        """
        if isinstance(args, (str, bytes, Mapping)) or not isinstance(args, Sequence):
            raise SettingsError(f"{INFOTEXT_PREFIX}: args must be a list, not {type(args).__name__}")
        if args and isinstance(args[0], Mapping):
            return cls.from_dict(args[0])
        if len(args) > len(KNOBS):
            raise SettingsError(f"{INFOTEXT_PREFIX}: args has {len(args)} values, at most {len(KNOBS)} are known")
        return cls(**{knob.name: value for knob, value in zip(KNOBS, args)})

    def to_infotext(self) -> dict[str, str]:
        """Every knob by its infotext key, as text; an empty text is left out."""
        texts = {knob.infotext_key: str(getattr(self, knob.name)) for knob in KNOBS}
        return {key: text for key, text in texts.items() if text}

    @classmethod
    def from_infotext(cls, infotext: Mapping[str, Any] | str) -> NoiseOrderSettings:
        """Settings from a picture's infotext: its parsed parameters, or the text itself.

        Keys that are no knob of this version (results, other parameters) are passed over. Without any, the
        defaults come back, switched off. The picture's draw is tied to its seed, if that is among them.

        Raises:
            SettingsError: a knob's text is no value of its range.
        """
        if isinstance(infotext, str):
            infotext = parameters(infotext)
        named = {knob.name: knob.parsed(infotext[knob.infotext_key]) for knob in KNOBS if knob.infotext_key in infotext}
        return cls(**{**named, "chosen": chosen_in(infotext)})


def chosen_in(infotext: Mapping[str, Any]) -> str:
    """The setting `chosen` that an infotext's parameters stand for: the picture's draws, tied to its seed.

    Raises:
        SettingsError: they cannot be read.
    """
    keys = CHOSEN, HIRES_CHOSEN, "Seed", "Variation seed"
    return KNOB["chosen"].checked(chosen_setting.of_infotext(*(str(infotext.get(key, "")).strip() for key in keys)))


def _contradiction(preset: str, name: str, value: Any) -> SettingsError:
    return SettingsError(
        f"{INFOTEXT_PREFIX}: {name} = {shown(value)} contradicts preset {preset!r}, which sets {PRESETS[preset][name]!r}; "
        f"use preset {CUSTOM!r} to choose {name} yourself"
    )


def _knobs() -> tuple[Knob, ...]:
    kinds = {"bool": bool, "int": int, "float": float, "str": str}
    return tuple(
        Knob(name=field.name, kind=kinds[str(field.type)], default=field.default, **field.metadata)
        for field in dataclasses.fields(NoiseOrderSettings)
    )


KNOBS: tuple[Knob, ...] = _knobs()
"""All knobs in the order of the panel's arguments."""

KNOB: dict[str, Knob] = {knob.name: knob for knob in KNOBS}
"""All knobs by name."""

CHOSEN = KNOB["chosen"].infotext_key
HIRES_CHOSEN, EVALUATIONS, SKIPPED, ERROR = (
    f"{INFOTEXT_PREFIX} {name}" for name in ("hires chosen", "evaluations", "skipped", "error")
)
"""What happened, by infotext key: which draw the picture got, and which one in the hires pass; model evaluations that were
added; what was left out, and why; why nothing was ordered."""

INFOTEXT_KEYS = frozenset((*(knob.infotext_key for knob in KNOBS), HIRES_CHOSEN, EVALUATIONS, SKIPPED, ERROR))
"""Every infotext key of ours."""
