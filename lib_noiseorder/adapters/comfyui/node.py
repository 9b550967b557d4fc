"""The nodes: Noise Order, MODEL → MODEL, and Noise Order Report, which says what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...chosen import check_without_seeds
from ...settings import INFOTEXT_PREFIX, KNOB, KNOBS, Knob, NoiseOrderSettings, SettingsError
from .company import KEY
from .judge import KIND, NoiseJudgeNode, PromptedJudge
from .runs import NOTHING_SEEN, Run, Runs
from .sampling import sampler_wrapper

OF_THE_WEBUI = ("compare_with_off", "show_injected", "judge")
"""Knobs about the WebUI's gallery, and the judge, which has a node of its own here."""
PLACES_ONLY = ("hires_pass", "inner_passes")
"""Knobs about the WebUI's passes, which do nothing here. Saved graphs know a node's values by their places, so that these two
keep theirs, where nobody sees them."""
NODE_KNOBS = tuple(knob for knob in KNOBS if knob.name not in OF_THE_WEBUI)
_DEFAULTS = {"enabled": True}
"""Where a node's inputs start otherwise than the knobs."""


class NoiseOrderNode:
    """Inputs made from the table of knobs, at first with its defaults.

    A node cannot tell an input that was left alone from one that was set to its default: under a preset an input at its
    default follows the preset, any other value that contradicts it is refused. Under Custom all inputs count.
    """

    CATEGORY = "sampling"
    DESCRIPTION = "Chooses or prepares the noise that every sampler with this model starts from."
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"model": ("MODEL",)},
            "optional": {
                **{knob.name: node_input(knob) for knob in NODE_KNOBS},
                "noise_judge": (KIND, {"tooltip": "Who chooses instead of the model itself."}),
                "vae": ("VAE", {"tooltip": "What a judge needs to see pictures."}),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, chosen: Any = "") -> bool | str:
        """Whether a graph may be queued: True, or a message.

        The host itself checks kinds, ranges and choices. It repeats a message for every input that is asked for here.
        """
        if not isinstance(chosen, str):  # linked, and not known yet; or refused by the host
            return True
        try:
            check_without_seeds(KNOB["chosen"].checked(chosen))
        except SettingsError as error:
            return str(error)
        return True

    def patch(
        self, model: Any, node_id: Any = None, noise_judge: PromptedJudge | None = None, vae: Any = None, **values: Any
    ) -> tuple[Any]:
        """A clone of the model that orders the noise it is sampled from.

        Raises:
            SettingsError: values that cannot be used together.
            RuntimeError: a ComfyUI without wrappers around its samplers (before 0.3.11).
        """
        settings = node_settings(values if noise_judge is None else {**values, "judge": noise_judge.name})
        patched = model.clone()
        if not hasattr(patched, "add_wrapper_with_key"):
            raise RuntimeError(f"{INFOTEXT_PREFIX}: this ComfyUI is too old, it has no wrappers around its samplers")
        patched.remove_wrappers_with_key("sampler_sample", KEY)  # of two nodes in a row, the last one decides
        runs = Runs()
        patched.set_attachments(KEY, runs)
        if settings.enabled:
            if node_id is not None:
                runs.listeners.append(lambda run: _show_on_node(run, node_id))
            patched.add_wrapper_with_key("sampler_sample", KEY, sampler_wrapper(settings, runs, noise_judge, vae))
        return (patched,)


class NoiseOrderReportNode:
    """Takes what a sampler made, so that it runs after it, and the model that the sampler was given."""

    CATEGORY = "sampling"
    DESCRIPTION = "Says what Noise Order chose for these latents and what it cost, and shows what the model saw."
    RETURN_TYPES = ("LATENT", "STRING", "IMAGE")
    RETURN_NAMES = ("latent", "report", "compared")
    FUNCTION = "report"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "latent": ("LATENT", {"tooltip": "What the sampler made."}),
                "model": ("MODEL", {"tooltip": "What comes out of Noise Order."}),
            }
        }

    def report(self, latent: dict[str, Any], model: Any) -> dict[str, Any]:
        """The latent as it came, the report's text, and the preview [1, H, W, 3]."""
        runs = model.get_attachment(KEY)
        run = runs.of(latent["samples"]) if isinstance(runs, Runs) else None
        text = (
            run.text if run else f"{INFOTEXT_PREFIX} did not run: put its node before the sampler, and connect its model here."
        )
        return {"ui": {"text": (text,)}, "result": (latent, text, run.preview() if run else NOTHING_SEEN)}


NODE_CLASS_MAPPINGS = {
    "NoiseOrder": NoiseOrderNode,
    "NoiseOrderReport": NoiseOrderReportNode,
    "NoiseOrderJudge": NoiseJudgeNode,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "NoiseOrder": "Noise Order",
    "NoiseOrderReport": "Noise Order Report",
    "NoiseOrderJudge": "Noise Order Judge",
}


def node_settings(values: Mapping[str, Any]) -> NoiseOrderSettings:
    """The settings that a node's inputs mean.

    Raises:
        SettingsError: a value that cannot be used.
    """
    used = {name: value for name, value in values.items() if name not in ("compare_with_off", "show_injected", *PLACES_ONLY)}
    settings = NoiseOrderSettings.from_form({**_DEFAULTS, **used})
    check_without_seeds(settings.chosen)
    return settings


def node_input(knob: Knob) -> tuple[Any, dict[str, Any]]:
    """A knob as an input of a node: its type, or list of choices, and its options."""
    options: dict[str, Any] = {"default": _DEFAULTS.get(knob.name, knob.default), "tooltip": knob.help}
    if knob.name in PLACES_ONLY:
        return "BOOLEAN", {**options, "tooltip": "Does nothing here.", "hidden": True, "advanced": True}
    if knob.group:
        options["advanced"] = True
    if knob.choices:
        return [*knob.choices, *knob.formerly], options
    if knob.check:
        return "STRING", options
    if knob.kind is bool:
        return "BOOLEAN", options
    options |= {"min": knob.minimum, "max": knob.maximum, "step": knob.step}
    return ("INT" if knob.kind is int else "FLOAT"), options


def _show_on_node(run: Run, node_id: Any) -> None:
    """The report as the text below a node, in hosts that have one."""
    from server import PromptServer

    show = getattr(PromptServer.instance, "send_progress_text", None)
    if show is not None:
        show(run.text, node_id)
