"""The accordion in txt2img and img2img, made from the table of knobs."""

from __future__ import annotations

import html
import json
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from ...infotexts import parameters
from ...knobs import FORMULAS, JUDGE, MORE
from ...settings import (
    CUSTOM,
    INFOTEXT_PREFIX,
    KNOB,
    KNOBS,
    LIGHT,
    PAPER,
    PRESETS,
    RECOMMENDED,
    Knob,
    NoiseOrderSettings,
    SettingsError,
    chosen_in,
)
from ..job.judged_pictures import HOW_TO_GET_ONE, judges_menu
from ..model.beforehand import Loaded
from .cost_line import Page, Timing, cost_line, in_effect
from .pasting import pasted, pasted_values
from .presets import SAVED, PresetError, SavedPresets

TITLE = INFOTEXT_PREFIX

_IN_THE_BROWSER = "_js" if int(gr.__version__.split(".")[0]) < 4 else "js"
"""The argument for a function in JavaScript: the one thing in which the panel differs between the hosts' gradios."""
_HIDDEN = "noise-order-hidden"
"""Class of elements that only the page's script needs; `visible=False` would leave them out of the page."""
_DECIDED = (*(knob.name for knob in KNOBS if knob.group == FORMULAS), "extra_cost")
"""The controls that a preset may decide. The hosts must not keep them as a page's defaults: the preset is kept."""
_PLACEHOLDERS = {"chosen": "seed:draw", "judge_threshold": "none"}
_TO_CUSTOM = f"() => {json.dumps([CUSTOM, CUSTOM])}"
_TO_ITS_OWN = f"(preset) => preset === {json.dumps(LIGHT)} ? {json.dumps([RECOMMENDED, RECOMMENDED])} : [preset, preset]"
"""What the preset and the menu become when one of the formulas' controls is turned, and when another one is."""


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

    def __init__(self, tab: str, timing: Timing | None = None, saved: SavedPresets | None = None):
        """
        Args:
            tab: "txt2img" or "img2img".
            timing: where the script notes how long an evaluation takes.
            saved: the user's presets.
        """
        self._tab = tab
        self._timing = timing or Timing()
        self._saved = saved or SavedPresets()
        made: dict[str, Any] = {}
        with InputAccordion(KNOBS[0].default, label=TITLE, elem_id=self._elem_id("accordion")) as accordion:
            made["enabled"] = accordion
            self._lay_out(made)
        self.components = [made[knob.name] for knob in KNOBS]
        for name in _DECIDED:
            _not_in_ui_config(made[name])
        by_name = {knob.name: (made[knob.name], pasted(knob.name)) for knob in KNOBS}
        self.infotext_fields = [*by_name.values(), (self._menu, pasted("preset")), (self._message, self._paste_trouble)]
        self.paste_field_names = [function for _, function in by_name.values()]
        self._connect(made)

    # -- layout ----------------------------------------------------------------------------------------------------

    def _lay_out(self, made: dict[str, Any]) -> None:
        preset = KNOB["preset"]
        made["preset"] = self._component(preset, visible=False)
        with gr.Row(elem_id=self._elem_id("preset_row")):
            self._menu = self._preset_menu(preset)
            made["extra_cost"] = self._component(KNOB["extra_cost"])
        self._cost = self._line("cost", "status")
        self._line("complaint", "alert")
        with gr.Row(elem_id=self._elem_id("ticks_row")):
            made.update((name, self._component(KNOB[name])) for name in ("compare_with_off", "show_injected"))
        with gr.Row(elem_id=self._elem_id("chosen_row")):
            made["chosen"] = _not_in_ui_config(self._component(KNOB["chosen"]))
            self._use = self._button("Use this noise again", "use")
            self._forget = self._button("Choose again", "forget")
        self._line("outcome", "status")
        self._message = self._line("message", "status", self._saved.notice)
        with gr.Accordion("The paper's formulas", open=False, elem_id=self._elem_id("formulas")):
            made.update((knob.name, self._component(knob)) for knob in KNOBS if knob.group == FORMULAS)
        with gr.Accordion("A judge of your own", open=False, elem_id=self._elem_id("judges")):
            made.update((knob.name, _not_in_ui_config(self._component(knob))) for knob in KNOBS if knob.group == JUDGE)
            self._line("judges_looked", "none", HOW_TO_GET_ONE)
        with gr.Accordion("More passes, and your presets", open=False, elem_id=self._elem_id("more")):
            made.update((knob.name, self._component(knob)) for knob in KNOBS if knob.group == MORE)
            with gr.Row(elem_id=self._elem_id("presets_row")):
                self._name = _not_in_ui_config(
                    gr.Textbox(
                        label="Save as preset",
                        placeholder="name",
                        max_lines=1,
                        elem_id=self._elem_id("preset_name"),
                        info="Keeps the preset, the extra cost and both folds under a name, for the preset menu.",
                    )
                )
                self._save = self._button("Save", "preset_save")
                self._delete = self._button("Delete the chosen preset", "preset_delete")
        ranges = {
            knob.name: {"label": knob.label, "minimum": knob.minimum, "maximum": knob.maximum, "whole": knob.kind is int}
            for knob in KNOBS
            if knob.minimum is not None
        }
        gr.HTML(self._line_html("ranges", "none", "", ranges=ranges), elem_classes=[_HIDDEN])
        self._page = _not_in_ui_config(gr.Textbox(elem_id=self._elem_id("page"), elem_classes=[_HIDDEN]))
        self._reckon = self._button("Reckon", "reckon", elem_classes=[_HIDDEN])
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
        common = {"label": knob.label, "value": knob.default, "elem_id": self._elem_id(knob.name), "info": knob.help, **more}
        if knob.kind is bool:
            return gr.Checkbox(**common)
        if knob.choices:
            return gr.Dropdown(choices=list(knob.choices), **common)
        if knob.name == "judge":  # another machine's picture may name one that is not here
            return gr.Dropdown(choices=judges_menu(), allow_custom_value=True, **common)
        if knob.check:
            return gr.Textbox(max_lines=1, placeholder=_PLACEHOLDERS.get(knob.name), **common)
        assert knob.minimum is not None and knob.maximum is not None
        return gr.Slider(minimum=knob.minimum, maximum=knob.maximum, step=knob.step, **common)

    def _line(self, name: str, role: str, text: str = "") -> Any:
        return gr.HTML(self._line_html(name, role, text), elem_classes=["noise-order-line"])

    def _line_html(self, name: str, role: str, text: str, **data: Any) -> str:
        """With the id inside: gradio 3 writes an HTML element's own `elem_id` twice."""
        said = "".join(f' data-{key}="{html.escape(json.dumps(value))}"' for key, value in data.items())
        return f'<div id="{self._elem_id(name)}" role="{role}"{said}>{html.escape(text)}</div>'

    def _button(self, text: str, name: str, **more: Any) -> Any:
        return _not_in_ui_config(gr.Button(text, size="sm", elem_id=self._elem_id(name), **more))

    # -- behaviour -------------------------------------------------------------------------------------------------

    def _connect(self, made: dict[str, Any]) -> None:
        preset, decided = made["preset"], [made[name] for name in _DECIDED]
        saved = [made[name] for name in SAVED]
        at_once = {"show_progress": False, "queue": False}  # not after the pictures that are being made
        built_in = {
            _IN_THE_BROWSER: f"(menu, ...now) => (({_values_of_presets()})[menu] || now).map((one, i) => one ?? now[i])"
        }
        self._menu.input(None, [self._menu, preset, *decided], [preset, *decided], show_progress=False, **built_in)
        self._menu.input(self._picked, [self._menu], [*saved, self._message], **at_once)
        for name in SAVED:
            if name != "preset":
                turned = {_IN_THE_BROWSER: _TO_CUSTOM if KNOB[name].group == FORMULAS else _TO_ITS_OWN}
                made[name].input(None, [preset], [preset, self._menu], show_progress=False, **turned)
        self._forget.click(None, [], [made["chosen"]], show_progress=False, **{_IN_THE_BROWSER: "() => ''"})
        shown = {_IN_THE_BROWSER: f"(page, chosen) => [noiseOrder.shownInfotext('{self._tab}'), chosen]"}
        self._use.click(self._used_again, [self._page, made["chosen"]], [made["chosen"], self._message], **at_once, **shown)
        outputs = [self._menu, self._name, self._message]
        self._save.click(self._saved_as, [self._name, *saved], outputs, **at_once)
        self._delete.click(self._deleted, [self._menu, preset], [self._menu, self._message], **at_once)
        refreshed = [self._menu, *decided, self._message, made["judge"]]
        self._refresh.click(self._refreshed, [preset, self._menu], refreshed, **at_once)
        about = {_IN_THE_BROWSER: f"(page, ...settings) => [noiseOrder.page('{self._tab}'), ...settings]"}
        self._reckon.click(self._reckoned, [self._page, *self.components], [self._cost], **at_once, **about)

    def _choices(self) -> list[str]:
        try:
            return [*PRESETS, *self._saved.names()]
        except PresetError:
            return list(PRESETS)

    def _picked(self, name: str) -> list[Any]:
        """What one of the user's own presets sets, and a message; the page itself sets what a built-in one decides."""
        nothing = [gr.update() for _ in SAVED]
        if name in PRESETS:
            return [*nothing, self._said("")]
        try:
            values = self._saved.load(name).to_form()
        except PresetError as error:
            return [*nothing, self._said(str(error))]
        return [*[gr.update(value=values[knob]) for knob in SAVED], self._said("")]

    def _saved_as(self, name: str, *values: Any) -> list[Any]:
        """The menu with the new preset chosen, an empty name field, and a message; nothing but a message on failure."""
        try:
            name = self._saved.save(name, NoiseOrderSettings.from_form(dict(zip(SAVED, values))))
        except (PresetError, SettingsError) as error:
            return [gr.update(), gr.update(), self._said(f"Not saved: {error}")]
        return [gr.update(choices=self._choices(), value=name), "", self._said(f"Saved as {name!r}.")]

    def _deleted(self, name: str, preset: str) -> list[Any]:
        """The menu without the preset, and a message; what the preset had set stays in force."""
        try:
            self._saved.delete(name)
        except PresetError as error:
            return [gr.update(), self._said(f"Not deleted: {error}")]
        return [gr.update(choices=self._choices(), value=preset), self._said(f"Deleted {name!r}.")]

    def _refreshed(self, preset: str, shown: str) -> list[Any]:
        """What the page asks for when the panel opens and after every picture: the menu as it is now, and what it stands for.

        A page may have kept another preset than the menu's among its saved defaults: what is in force is shown.
        """
        choices, decided = self._choices(), [gr.update() for _ in _DECIDED]
        if shown in PRESETS and shown != preset and preset != CUSTOM:
            values = NoiseOrderSettings(preset=preset).to_form()
            decided = [gr.update(value=values[name]) for name in _DECIDED]
        stays = shown in choices and (shown not in PRESETS or shown == preset)
        menu = gr.update(choices=choices) if stays else gr.update(choices=choices, value=preset)
        message = self._said(self._saved.notice) if self._saved.notice else gr.update()
        return [menu, *decided, message, gr.update(choices=judges_menu())]

    def _reckoned(self, page: str, *values: Any) -> str:
        """The cost line; for the page's script which controls have an effect, and whether the formulas are in use."""
        try:
            settings = NoiseOrderSettings.from_form({**dict(zip(KNOB, values)), "enabled": True})
            line, warns = cost_line(settings, Page.read(page), Loaded.now(), self._timing.seconds)
        except SettingsError as error:
            return self._line_html("cost", "status", f"⚠ {str(error).removeprefix(f'{INFOTEXT_PREFIX}: ')}", warns=True)
        except ValueError:
            return self._line_html("cost", "status", "")
        effect, formulas = in_effect(settings, self._tab), settings.preset in (CUSTOM, PAPER)
        text = f"⚠ {line}" if warns else line
        return self._line_html("cost", "status", text, warns=warns, effect=effect, formulas=formulas)

    def _used_again(self, infotext: str, chosen: str) -> list[Any]:
        """The setting `chosen` for the picture that is shown, and a message."""
        try:
            found = chosen_in(parameters(infotext))
        except SettingsError as error:
            return [chosen, self._said(str(error))]
        if not found:
            return [
                chosen,
                self._said("The picture that is shown was not chosen by comparing noises: its seed alone makes it again."),
            ]
        return [found, self._said("Its seed and its noise are kept: nothing is compared again.")]

    def _paste_trouble(self, infotext: dict[str, Any]) -> Any:
        """What of a pasted infotext cannot be used, for the message line; None where all can."""
        trouble = pasted_values(infotext)[1]
        return self._said("; ".join(trouble)) if trouble else None

    def _said(self, text: str) -> str:
        return self._line_html("message", "status", text)


def _values_of_presets() -> str:
    """What each built-in preset sets of `preset` and the controls that it decides, for the page; null leaves one as it is."""
    return json.dumps(
        {
            name: [name, *(None if name == CUSTOM else NoiseOrderSettings(preset=name).to_form()[knob] for knob in _DECIDED)]
            for name in PRESETS
        }
    )


def _not_in_ui_config(component: Any) -> Any:
    """Keep a component out of the hosts' ui-config.json: it belongs to no generation, and its choices change."""
    component.do_not_save_to_config = True
    return component
