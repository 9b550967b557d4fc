"""Every knob once: name, label, meaning, range, default, infotext key and API key.

The panel, the API, the infotext, the grid axes and docs/settings.md are all made from this file. The API key of a knob
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
from .judge_settings import JUDGES, MODEL, THRESHOLDS, check_judge, check_threshold
from .knobs import FORMULAS, INFOTEXT_PREFIX, JUDGE, MORE, Knob, SettingsError, setting, shown
from .plans import COST_STEP, DEAREST, EXTRA_COST

CUSTOM = "Custom"
RECOMMENDED = "Automatic"
"""The preset that counts where nothing else is said."""

_NO_INJECTION = {"selection": "automatic", "erasure_samples": 1, "strength": 0.0, "noise_scale": 1.0}
LIGHT, PAPER = "Light", "Paper"
_LIGHT_COST = 0.2

PRESETS: dict[str, dict[str, Any]] = {
    CUSTOM: {},
    RECOMMENDED: _NO_INJECTION,
    LIGHT: {**_NO_INJECTION, "extra_cost": _LIGHT_COST},
    PAPER: {
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


def _weight(stage: str, decides: str) -> Any:
    return setting(
        1.0,
        f"{stage.capitalize()} weight",
        f"How much the model's answer at the {stage} timestep counts ({decides}). 0 leaves it out.",
        minimum=-2.0, maximum=2.0, step=0.05, group=FORMULAS,
    )  # fmt: skip


def _timestep(stage: str, default: float) -> Any:
    return setting(
        default,
        f"{stage.capitalize()} timestep",
        f"Where the model is asked about the {stage}: 1 is pure noise, near 0 the finished picture.",
        minimum=0.01, maximum=1.0, step=0.01, group=FORMULAS,
    )  # fmt: skip


@dataclass(frozen=True, init=False)
class NoiseOrderSettings:
    """All settings of one generation; immutable, validated when made.

    One rule, by whatever way the settings come (keywords, mapping, flat arguments, infotext, a node's inputs, a grid's axes):

    * what is named counts; whoever names anything wants it, unless `enabled` says no;
    * without a preset it is Automatic, or Custom where one of the formulas' settings is named;
    * a preset decides what is not named, and a named value that contradicts it is refused.
    """

    enabled: bool = setting(
        False, "Enable", "Choose or prepare the noise that a picture starts from, as the preset says.", makes_the_picture=False
    )
    preset: str = setting(
        RECOMMENDED,
        "Preset",
        "Automatic compares several noises and keeps the best, Light for half the cost. Paper, Custom: the paper's formulas.",
        choices=tuple(PRESETS), key=INFOTEXT_PREFIX,
    )  # fmt: skip
    erasure_samples: int = setting(
        4,
        "Erasure draws",
        "How many noises are added up, so that no single one decides. 1 keeps the seed's own. Costs nothing.",
        minimum=1, maximum=64, step=1, group=FORMULAS,
    )  # fmt: skip
    strength: float = setting(
        0.1,
        "Strength",
        "How much of what the model predicts for the prompt is mixed into the noise (δ in the paper). 0 mixes in nothing.",
        minimum=-2.0, maximum=2.0, step=0.01, group=FORMULAS,
    )  # fmt: skip
    layout_weight: float = _weight("layout", "early steps: what goes where")
    structure_weight: float = _weight("structure", "middle steps: shapes")
    detail_weight: float = _weight("detail", "late steps: texture")
    injection: str = setting(
        "calibrated",
        "Injection",
        "calibrated keeps the noise's mean and standard deviation. literal is the formula as printed: the noise grows.",
        choices=("calibrated", "literal"), group=FORMULAS,
    )  # fmt: skip
    strength_schedule: str = setting(
        "constant",
        "Strength schedule",
        "How the strength fades from the layout to the detail timestep.",
        choices=("constant", "linear", "cosine"), group=FORMULAS,
    )  # fmt: skip
    noise_scale: float = setting(
        1.0,
        "Noise scale",
        "Multiplies the finished noise. 0.9 gives calmer pictures with a little less variety.",
        minimum=0.5, maximum=1.5, step=0.01, group=FORMULAS,
    )  # fmt: skip
    layout_timestep: float = _timestep("layout", 0.9)
    structure_timestep: float = _timestep("structure", 0.5)
    detail_timestep: float = _timestep("detail", 0.1)
    selection: str = setting(
        "off",
        "Selection",
        "automatic compares several such noises and keeps the best. off compares nothing.",
        choices=("off", "automatic"), formerly=("light",), group=FORMULAS,
    )  # fmt: skip
    selection_draws: int = setting(
        0,
        "Selection draws",
        "How many noises are compared, whatever that costs. 0 leaves it to the extra cost.",
        minimum=0, maximum=16, step=1, group=MORE,
    )  # fmt: skip
    compare_with_off: bool = setting(
        False, "Compare with off", "Also make each picture without Noise Order. Doubles the time.", makes_the_picture=False
    )
    show_injected: bool = setting(
        False,
        "Show what was compared",
        "Add a sheet to the gallery: the noises compared, or what the formulas changed.",
        makes_the_picture=False,
    )
    hires_pass: bool = setting(False, "Order the hires pass", "In hires fix, order the second pass's noise, too.", group=MORE)
    inner_passes: bool = setting(
        False,
        "Order inner passes",
        "Also for pictures that other scripts make inside a picture, as ADetailer does.",
        group=MORE,
    )
    chosen: str = setting(
        "",
        "Chosen",
        "Noises to use again without comparing. Pasting a picture's infotext fills it in.",
        check=chosen_setting.check, form=chosen_setting.RANGE,
    )  # fmt: skip
    extra_cost: float = setting(
        EXTRA_COST,
        "Extra cost",
        "The most that comparing may cost: 0.4 is up to 40 % more work per picture. More compares more noises.",
        minimum=0.0, maximum=DEAREST, step=COST_STEP,
    )  # fmt: skip
    judge: str = setting(
        MODEL,
        "Judge",
        "Who says which noise is best: model is the checkpoint itself; any other name is a judge that was found here.",
        check=check_judge, form=JUDGES, group=JUDGE,
    )  # fmt: skip
    judge_at: float = setting(
        0.25,
        "Judge at",
        "Share of the steps after which a judge sees what is coming. At 1 it sees finished pictures, one of every noise.",
        minimum=0.05, maximum=1.0, step=0.05, group=JUDGE,
    )  # fmt: skip
    judge_threshold: str = setting(
        "",
        "Judge threshold",
        "A score that is good enough: no further noise is tried. Empty tries as many as the extra cost buys.",
        check=check_threshold, form=THRESHOLDS, group=JUDGE,
    )  # fmt: skip

    def __init__(self, **named: Any) -> None:
        """
        Raises:
            SettingsError: an unknown name (the nearest known one is told), a value of the wrong type or out of its range,
                or one that contradicts the preset.
        """
        if named.get("selection") == "light":  # 0.1's word for a small extra cost
            named = {"extra_cost": _LIGHT_COST, **named, "selection": "automatic"}
        for name in named:
            if name not in KNOB:
                near = difflib.get_close_matches(str(name), KNOB, n=1, cutoff=0)
                raise SettingsError(f"{INFOTEXT_PREFIX}: unknown setting {str(name)[:80]!r}; did you mean {near[0]!r}?")
        values = {name: KNOB[name].checked(value) for name, value in named.items()}
        values.setdefault("enabled", bool(values))
        preset = values.setdefault("preset", CUSTOM if any(KNOB[name].group == FORMULAS for name in values) else RECOMMENDED)
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
        """These settings with some knobs turned, as on a panel: another preset brings its own values along, and one of the
        formulas' knobs makes a preset Custom.

        Raises:
            SettingsError: as `from_dict`.
        """
        kept, shown = self.named(), self.to_form()
        preset = KNOB["preset"].checked(values["preset"]) if "preset" in values else None
        formulas = [name for name in values if name in KNOB and KNOB[name].group == FORMULAS]
        if preset == CUSTOM:  # takes what is there
            kept = shown
        elif preset:
            decided = {*PRESETS[self.preset], *PRESETS[preset], *(knob.name for knob in KNOBS if knob.group == FORMULAS)}
            kept = {name: value for name, value in kept.items() if name not in decided}
        elif self.preset != CUSTOM and any(
            self._leaves_formulas_out or values[name] != getattr(self, name) for name in formulas
        ):
            kept = {**shown, "preset": CUSTOM}
        elif any(PRESETS[self.preset].get(name, value) != value for name, value in values.items()):
            kept.pop("preset")
        return self.from_dict({**kept, **values})

    @property
    def _leaves_formulas_out(self) -> bool:
        return self.preset in (RECOMMENDED, LIGHT)

    def named(self) -> dict[str, Any]:
        """The fewest named values that mean the same: `enabled`, the preset, and what neither it nor the defaults decide."""
        usual = {knob.name: knob.default for knob in KNOBS} | PRESETS[self.preset]
        values = self.to_dict()
        return {name: value for name, value in values.items() if name in ("enabled", "preset") or value != usual[name]}

    def to_form(self) -> dict[str, Any]:
        """Every knob's value as a panel shows it: the formulas' knobs, where their preset does not use them, at their defaults.
        `from_form` reads it back."""
        unused = self._leaves_formulas_out
        return {knob.name: knob.default if unused and knob.group == FORMULAS else getattr(self, knob.name) for knob in KNOBS}

    def to_dict(self) -> dict[str, Any]:
        """Every knob by its API key, as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NoiseOrderSettings:
        """Settings from API keys.

        Raises:
            SettingsError: not a mapping, an unknown key (the nearest known one is named), or a bad value.
        """
        if not isinstance(values, Mapping):
            raise SettingsError(f"{INFOTEXT_PREFIX}: settings must be an object of named values, not {type(values).__name__}")
        return cls(**{str(name): value for name, value in values.items()})

    @classmethod
    def from_args(cls, args: Sequence[Any]) -> NoiseOrderSettings:
        """Settings from an API's `args`: one object as the first value, or a flat list in the order of the knobs.

        The hosts fill a short list up with what their panel starts with, so a list is read as a form is (`from_form`).

        Raises:
            SettingsError: too many values, or as `from_dict`.
        """
        if isinstance(args, (str, bytes, Mapping)) or not isinstance(args, Sequence):
            raise SettingsError(f"{INFOTEXT_PREFIX}: args must be a list, not {type(args).__name__}")
        if args and isinstance(args[0], Mapping):
            return cls.from_dict(args[0])
        if len(args) > len(KNOBS):
            raise SettingsError(f"{INFOTEXT_PREFIX}: args has {len(args)} values, at most {len(KNOBS)} are known")
        return cls.from_form({knob.name: value for knob, value in zip(KNOBS, args)})

    @classmethod
    def from_form(cls, values: Mapping[str, Any]) -> NoiseOrderSettings:
        """Settings from something in which every knob has a value, touched or not: a default is no wish, the preset decides.

        Raises:
            SettingsError: as `from_dict`.
        """
        touched = {
            name: value
            for name, value in values.items()
            if name in ("enabled", "preset") or name not in KNOB or KNOB[name].checked(value) != KNOB[name].default
        }
        return cls.from_dict(touched)

    def to_infotext(self) -> dict[str, str]:
        """What is needed to make the picture again, by infotext key, as text."""
        return {KNOB[name].infotext_key: str(value) for name, value in self.named().items() if KNOB[name].makes_the_picture}

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
        named = named_in(infotext)
        chosen = chosen_in(infotext)
        return cls(**({**named, "chosen": chosen} if chosen else named))


def named_in(infotext: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs that an infotext's parameters name, but for `chosen`.

    Raises:
        SettingsError: a knob's text is no value of its range.
    """
    keys = [("preset", _PRESET_IN_0_1), *((knob.name, knob.infotext_key) for knob in KNOBS if knob.name != "chosen")]
    return {name: KNOB[name].parsed(infotext[key]) for name, key in keys if key in infotext}


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
HIRES_CHOSEN, EVALUATIONS, SKIPPED, ERROR, JUDGE_HASH, SCORE = (
    f"{INFOTEXT_PREFIX} {name}" for name in ("hires chosen", "evaluations", "skipped", "error", "judge hash", "score")
)
"""What happened, by infotext key: which draw the picture got in the hires pass; model evaluations that were added; what was
left out, and why; why nothing was ordered; which judge it was, to the byte, and what it gave the picture."""

_PRESET_IN_0_1 = f"{INFOTEXT_PREFIX} preset"
OUTCOME_KEYS = (HIRES_CHOSEN, EVALUATIONS, SKIPPED, ERROR, JUDGE_HASH, SCORE)
INFOTEXT_KEYS = frozenset((*(knob.infotext_key for knob in KNOBS), _PRESET_IN_0_1, *OUTCOME_KEYS))
"""Every infotext key of ours."""
