"""The accordion in txt2img and img2img, made from the table of knobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from ..settings import CUSTOM, KNOBS, PRESETS, RECOMMENDED, Knob, NoiseOrderSettings, SettingsError

TITLE = "Noise Order"


class Panel:
    """The controls of one tab.

    Attributes:
        components: one per knob, in the knobs' order; the values of a generation come in this order.
        infotext_fields: (component, function of the parsed infotext) pairs for the host's paste button.
    """

    def __init__(self, tab: str):
        self._tab = tab
        self._initial = NoiseOrderSettings(preset=RECOMMENDED)
        switch, *rest = KNOBS
        made: dict[str, Any] = {}
        with InputAccordion(switch.default, label=TITLE, elem_id=self._elem_id("accordion")) as accordion:
            made[switch.name] = accordion
            made.update((knob.name, self._component(knob)) for knob in rest if not knob.advanced)
            with gr.Accordion("Advanced", open=False, elem_id=self._elem_id("advanced")):
                made.update((knob.name, self._component(knob)) for knob in rest if knob.advanced)
        self.components = [made[knob.name] for knob in KNOBS]
        self.infotext_fields = [(made[knob.name], _pasted(knob)) for knob in KNOBS]
        self._follow_preset(made)

    def _elem_id(self, name: str) -> str:
        return f"{self._tab}_noise_order_{name}"

    def _component(self, knob: Knob) -> Any:
        common = {"label": knob.label, "value": getattr(self._initial, knob.name), "elem_id": self._elem_id(knob.name), "info": knob.help}
        if knob.choices:
            return gr.Dropdown(choices=list(knob.choices), **common)
        return gr.Slider(minimum=knob.minimum, maximum=knob.maximum, step=knob.step, **common)


    def _follow_preset(self, made: dict[str, Any]) -> None:
        """Choosing a preset shows its values in the controls; touching one of those makes the preset Custom."""
        decided = sorted({name for values in PRESETS.values() for name in values})

        def show(preset: str) -> list[Any]:
            values = PRESETS.get(preset, {})
            return [gr.update(value=values[name]) if name in values else gr.update() for name in decided]

        made["preset"].input(show, [made["preset"]], [made[name] for name in decided], show_progress=False)
        for name in decided:
            made[name].input(lambda: CUSTOM, [], [made["preset"]], show_progress=False)


def _pasted(knob: Knob) -> Callable[[dict[str, Any]], Any]:
    """What a pasted infotext sets the knob to: its value there; off for the switch, untouched for others, if absent."""

    def value(parameters: dict[str, Any]) -> Any:
        try:
            if knob.infotext_key in parameters:
                return getattr(NoiseOrderSettings.from_infotext(parameters), knob.name)
        except SettingsError:
            pass
        return False if knob.name == "enabled" else None

    return value
