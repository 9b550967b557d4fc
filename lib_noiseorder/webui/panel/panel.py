"""The accordion in txt2img and img2img, made from the table of knobs."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from ...settings import (
    CUSTOM,
    INFOTEXT_PREFIX,
    KNOB,
    KNOBS,
    PRESETS,
    RECOMMENDED,
    Knob,
    NoiseOrderSettings,
    SettingsError,
    chosen_in,
)
from .cost_table import cost_table
from .presets import SAVED, PresetError, SavedPresets

TITLE = INFOTEXT_PREFIX

_IN_THE_BROWSER = "_js" if int(gr.__version__.split(".")[0]) < 4 else "js"
"""The argument for a function in JavaScript: the one thing in which the panel differs between the hosts' gradios."""
_HIDDEN = "noise-order-hidden"
"""Class of elements that only the page's script needs; `visible=False` would leave them out of the page."""
_DECIDED = tuple(name for name in SAVED if name != "preset")
"""The controls that a preset may decide."""


class Panel:
    """The controls of one tab.

    The preset menu is not among the arguments of a generation: it also shows the user's own presets, and those only
    set the other controls. The knob `preset` follows it, unseen.

    Attributes:
        components: one per knob, in the knobs' order; the values of a generation come in this order.
        infotext_fields: (component, function of the parsed infotext) pairs for the host's paste button.
        paste_field_names: those of these functions whose components "Send to" copies to another tab's panel. The panels of
            all tabs share the functions; the hosts find a component's counterpart by them.
    """

    def __init__(self, tab: str, saved: SavedPresets | None = None):
        self._tab = tab
        self._saved = saved or SavedPresets()
        self._initial = NoiseOrderSettings(preset=RECOMMENDED)
        made: dict[str, Any] = {}
        with InputAccordion(KNOBS[0].default, label=TITLE, elem_id=self._elem_id("accordion")) as accordion:
            made["enabled"] = accordion
            self._lay_out(made)
        self.components = [made[knob.name] for knob in KNOBS]
        by_name = {knob.name: _pasted(knob) for knob in KNOBS}
        self.infotext_fields = [(made[name], function) for name, function in by_name.items()]
        self.infotext_fields.append((self._menu, by_name["preset"]))
        self.paste_field_names = list(by_name.values())
        self._connect(made)

    # -- layout ----------------------------------------------------------------------------------------------------

    def _lay_out(self, made: dict[str, Any]) -> None:
        preset, *rest = KNOBS[1:]
        self._menu = self._preset_menu(preset)
        made[preset.name] = self._component(preset, visible=False)
        self._line("cost", "status")
        self._line("complaint", "alert")
        basic = [knob for knob in rest if not knob.advanced]
        made.update((knob.name, self._component(knob)) for knob in basic if knob.kind is not bool and not knob.check)
        with gr.Row(elem_id=self._elem_id("ticks_row")):
            made.update((knob.name, self._component(knob)) for knob in basic if knob.kind is bool)
        with gr.Row(elem_id=self._elem_id("chosen_row")):
            made["chosen"] = _not_in_ui_config(self._component(KNOB["chosen"]))
            self._forget = self._button("Choose again", "forget")
        with gr.Accordion("Advanced", open=False, elem_id=self._elem_id("advanced")):
            made.update((knob.name, self._component(knob)) for knob in rest if knob.advanced)
            with gr.Row(elem_id=self._elem_id("presets_row")):
                self._name = _not_in_ui_config(
                    gr.Textbox(
                        label="Save as preset",
                        placeholder="name",
                        max_lines=1,
                        elem_id=self._elem_id("preset_name"),
                        info="Keeps all controls but the ticks under a name, for the preset menu.",
                    )
                )
                self._save = self._button("Save", "preset_save")
                self._delete = self._button("Delete the chosen preset", "preset_delete")
        self._message = self._line("message", "status", self._saved.notice)
        self._line("outcome", "status")
        self._table = gr.HTML(self._table_html(), elem_classes=[_HIDDEN])
        self._refresh = self._button("Refresh", "refresh", elem_classes=[_HIDDEN])

    def _elem_id(self, name: str) -> str:
        return f"{self._tab}_noise_order_{name}"

    def _preset_menu(self, knob: Knob) -> Any:
        return _not_in_ui_config(
            gr.Dropdown(
                choices=self._choices(), value=RECOMMENDED, label=knob.label, info=knob.help, elem_id=self._elem_id("menu")
            )
        )

    def _component(self, knob: Knob, **more: Any) -> Any:
        value = getattr(self._initial, knob.name)
        common = {"label": knob.label, "value": value, "elem_id": self._elem_id(knob.name), "info": knob.help, **more}
        if knob.kind is bool:
            return gr.Checkbox(**common)
        if knob.choices:
            return gr.Dropdown(choices=list(knob.choices), **common)
        if knob.check:
            return gr.Textbox(max_lines=1, placeholder="seed:draw", **common)
        assert knob.minimum is not None and knob.maximum is not None
        return gr.Slider(minimum=knob.minimum, maximum=knob.maximum, step=knob.step, **common)

    def _line(self, name: str, role: str, text: str = "") -> Any:
        return gr.HTML(self._line_html(name, role, text), elem_classes=["noise-order-line"])

    def _line_html(self, name: str, role: str, text: str) -> str:
        """With the id inside: gradio 3 writes an HTML element's own `elem_id` twice."""
        return f'<div id="{self._elem_id(name)}" role="{role}">{html.escape(text)}</div>'

    def _table_html(self) -> str:
        table = html.escape(json.dumps(cost_table()))
        return f'<div id="{self._elem_id("cost_table")}" hidden data-table="{table}"></div>'

    def _button(self, text: str, name: str, **more: Any) -> Any:
        return _not_in_ui_config(gr.Button(text, size="sm", elem_id=self._elem_id(name), **more))

    # -- behaviour -------------------------------------------------------------------------------------------------

    def _connect(self, made: dict[str, Any]) -> None:
        preset, controls = made["preset"], [made[name] for name in _DECIDED]
        at_once = {"show_progress": False, "queue": False}  # not after the pictures that are being made
        self._menu.input(self._chosen, [self._menu], [preset, *controls, self._message], **at_once)
        touched = {_IN_THE_BROWSER: f"() => [{json.dumps(CUSTOM)}, {json.dumps(CUSTOM)}]"}
        for control in controls:
            control.input(None, [], [preset, self._menu], show_progress=False, **touched)
        self._forget.click(None, [], [made["chosen"]], show_progress=False, **{_IN_THE_BROWSER: "() => ''"})
        inputs = [self._name, preset, *controls]
        self._save.click(self._saved_as, inputs, [self._menu, self._name, self._message], **at_once)
        self._delete.click(self._deleted, [self._menu], [preset, self._menu, self._message], **at_once)
        self._refresh.click(self._refreshed, [preset, self._menu], [self._menu, self._table], **at_once)

    def _choices(self) -> list[str]:
        try:
            return [*PRESETS, *self._saved.names()]
        except PresetError:
            return list(PRESETS)

    def _chosen(self, name: str) -> list[Any]:
        """A preset's values for the preset knob and all that it may decide, and a message."""
        try:
            values = {"preset": name, **PRESETS[name]} if name in PRESETS else self._saved.load(name).to_dict()
        except PresetError as error:
            return [gr.update() for _ in SAVED] + [self._said(str(error))]
        updates = [gr.update(value=values[knob]) if knob in values else gr.update() for knob in ("preset", *_DECIDED)]
        return [*updates, self._said("")]

    def _saved_as(self, name: str, preset: str, *values: Any) -> list[Any]:
        """The menu with the new preset chosen, an empty name field, and a message; nothing but a message on failure."""
        try:
            settings = NoiseOrderSettings.from_dict({"preset": preset, **dict(zip(_DECIDED, values))})
            name = self._saved.save(name, settings)
        except (PresetError, SettingsError) as error:
            return [gr.update(), gr.update(), self._said(f"Not saved: {error}")]
        return [gr.update(choices=self._choices(), value=name), "", self._said(f"Saved as {name!r}.")]

    def _deleted(self, name: str) -> list[Any]:
        try:
            self._saved.delete(name)
        except PresetError as error:
            return [gr.update(), gr.update(), self._said(f"Not deleted: {error}")]
        return [CUSTOM, gr.update(choices=self._choices(), value=CUSTOM), self._said(f"Deleted {name!r}.")]

    def _refreshed(self, preset: str, shown: str) -> list[Any]:
        """What the page asks for when it is loaded and after every picture: the menu and the cost table as they are now."""
        choices = self._choices()
        return [gr.update(choices=choices, value=shown if shown in choices else preset), self._table_html()]

    def _said(self, text: str) -> str:
        return self._line_html("message", "status", text)


def _not_in_ui_config(component: Any) -> Any:
    """Keep a component out of the hosts' ui-config.json: it belongs to no generation, and its choices change."""
    component.do_not_save_to_config = True
    return component


@cache
def _pasted(knob: Knob) -> Callable[[dict[str, Any]], Any]:
    """What a pasted infotext sets the knob to: its value there; if absent, off for the switch, nothing chosen, others as
    they are."""

    def value(parameters: dict[str, Any]) -> Any:
        try:
            if knob.name == "chosen":
                return chosen_in(parameters)
            if knob.infotext_key in parameters:
                return knob.parsed(parameters[knob.infotext_key])
        except SettingsError as error:
            print(f"{error}; the rest of the infotext is pasted")
        return {"enabled": False, "chosen": ""}.get(knob.name)

    return value
