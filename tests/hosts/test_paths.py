"""Every way to a picture: off is not there, nothing is nothing, on is repeatable and costs what it says. One table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import requests

from .client import Refused, difference, encoded, noise_order
from .double.host import DoubleHost
from .real import folder, grey_picture


def nothing(host):
    return None


@dataclass(frozen=True)
class Path:
    """A way to a picture.

    Attributes:
        name: its line in docs/compatibility.md.
        tab: txt2img or img2img.
        payload: what the request has besides the host's defaults.
        settings: of Noise Order, where it is on.
        needs: asked with the host; a reason means that the way is not there.
        counted: whether one network makes the whole job and its last infotext tells of it, so that evaluations can be
            compared.
    """

    name: str
    tab: str = "txt2img"
    payload: dict | Callable[[object], dict] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    needs: Callable[[object], str | None] = nothing
    counted: bool = True

    def make(self, host, **more):
        payload = self.payload(host) if callable(self.payload) else self.payload
        common = {} if self.tab == "txt2img" else {"init_images": [encoded(grey_picture(host.size))], "denoising_strength": 0.7}
        extra = {**payload.get("alwayson_scripts", {}), **more.pop("alwayson_scripts", {})}
        made = {**common, **payload, **more, **({"alwayson_scripts": extra} if extra else {})}
        if "override_settings" in made and not isinstance(host, DoubleHost):
            host.settle(made["override_settings"])
            made["override_settings"] = {**host.defaults()["override_settings"], **made["override_settings"]}
        try:
            return getattr(host, self.tab)(**made)
        except Refused as refused:
            if "Noise Order" in str(made.get("alwayson_scripts", "")):
                raise
            pytest.skip(f"the host alone cannot do it: {refused.status}, {refused.message[:100]}")


# -- what a host has ---------------------------------------------------------------------------------------------------


def a_real_host(host):
    return "the double has none of it" if isinstance(host, DoubleHost) else None


def a_script(title, tab="img2img"):
    def needs(host):
        if isinstance(host, DoubleHost):
            return a_real_host(host)
        titles = [name.lower() for name in asked(host, "/sdapi/v1/scripts")[tab]]
        return None if title.lower() in titles else f"this host has no script {title!r}"

    return needs


def asked(host, path):
    return requests.get(f"{host.server.url}{path}", timeout=60).json()


def not_flow(host):
    return a_real_host(host) or ("no such prompts in Flux's text encoders" if "flux" in host.checkpoint else None)


def only(name, kind=""):
    def needs(host):
        if a_real_host(host):
            return a_real_host(host)
        fits = host.server.name == name and kind in host.checkpoint
        return None if fits else f"a matter of {name}{' with a checkpoint like ' + kind if kind else ''} only"

    return needs


def a_second_checkpoint(host):
    return a_real_host(host) or (None if second(host) else "there is no second checkpoint of this kind to change to")


def second(host):
    """Another checkpoint of the same kind, for hosts that change checkpoints half-way."""
    kinds = {"tiny-sd1-eps": "shapes-sd1", "shapes-sd1": "tiny-sd1-eps", "tiny-sd1-v": "tiny-sd1-eps"}
    other = kinds.get(host.checkpoint)
    path = folder(host.server.name) / "models/Stable-diffusion" / f"{other}.safetensors"
    return other if other and path.exists() else None


def mask(host):
    picture = np.zeros((host.size, host.size, 3))
    picture[host.size // 4 : 3 * host.size // 4, host.size // 4 : 3 * host.size // 4] = 255
    return encoded(picture)


def inpaint(**more):
    def payload(host):
        fields = {"mask": mask(host)}
        return fields if isinstance(host, DoubleHost) else {**fields, "mask_blur": 0, "inpaint_full_res": False, **more}

    return payload


def option(**values):
    return {"override_settings": values}


def script(title, *args):
    return {"script_name": title, "script_args": list(args)}


def sd_upscale(host):
    """The hosts' run() take different arguments."""
    args = {"CLASSIC": (16, "Lanczos", 1.5), "NEO": (16, "None", 1.5, False)}.get(host.server.name, ("", 16, "Lanczos", 1.5))
    return script("sd upscale", *args)


def always_on(title, *args):
    return {"alwayson_scripts": {title: {"args": list(args)}}}


def quick_button(host):
    """The API takes no picture for it; a tiny extension beside the counter does what the page's button does."""
    if isinstance(host, DoubleHost):
        return {"enable_hr": True, "firstpass_image": grey_picture(host.size).tolist()}
    return {"enable_hr": True, **script("hires quick button")}


PATHS = [
    Path("txt2img"),
    Path("batch size × batch count", payload={"batch_size": 2, "n_iter": 2}),
    Path("variation seed", payload={"batch_size": 2, "subseed": 5, "subseed_strength": 0.4}),
    Path("seed resize", payload={"seed_resize_from_w": 128, "seed_resize_from_h": 96}, needs=a_real_host),
    Path("ENSD", payload={"sampler_name": "Euler a", **option(eta_noise_seed_delta=31337)}, needs=a_real_host),
    Path("noise source: GPU", payload=option(randn_source="GPU"), needs=a_real_host),
    Path("noise source: NV", payload=option(randn_source="NV"), needs=a_real_host),
    Path("SGM noise multiplier", payload=option(sgm_noise_multiplier=True), needs=a_real_host),
    Path("CFG 1", payload={"cfg_scale": 1}),
    Path("distilled CFG", payload={"distilled_cfg_scale": 2.5}, needs=only("FORGE", "flux")),
    Path("negative prompt", payload={"negative_prompt": "red triangle"}),
    Path("AND", payload={"prompt": "a red circle AND a blue square :0.7"}, needs=not_flow),
    Path("prompt editing", payload={"prompt": "a [red:blue:0.5] circle"}, needs=not_flow),
    Path("prompt alternation", payload={"prompt": "a [red|blue] circle"}, needs=not_flow),
    Path("a long prompt", payload={"prompt": "a red circle, " * 30, "negative_prompt": "a square"}, needs=not_flow),
    Path("token merging", payload=option(token_merging_ratio=0.5), needs=not_flow),
    Path("img2img", "img2img"),
    Path("img2img: batch", "img2img", {"batch_size": 2}),
    Path("img2img: noise multiplier", "img2img", {"initial_noise_multiplier": 0.9}, needs=a_real_host),
    Path("img2img: every step", "img2img", option(img2img_fix_steps=True), needs=a_real_host),
    Path("img2img: extra noise", "img2img", option(img2img_extra_noise=0.1), needs=a_real_host),
    Path("img2img: latent upscale", "img2img", {"resize_mode": 3}, needs=a_real_host),
    Path("inpaint: fill", "img2img", inpaint(inpainting_fill=0)),
    Path("inpaint: original", "img2img", inpaint(inpainting_fill=1)),
    Path("inpaint: latent noise", "img2img", inpaint(inpainting_fill=2)),
    Path("inpaint: latent nothing", "img2img", inpaint(inpainting_fill=3)),
    Path("inpaint: only masked", "img2img", inpaint(inpainting_fill=1, inpaint_full_res=True), needs=a_real_host),
    Path("inpaint: not masked", "img2img", inpaint(inpainting_fill=1, inpainting_mask_invert=1), needs=a_real_host),
    Path("soft inpainting", "img2img", lambda host: {
        **inpaint(inpainting_fill=1)(host), **always_on("Soft Inpainting", True, 1, 0.5, 4, 0, 0.5, 2),
    }, needs=a_script("soft inpainting")),
    Path("hires fix", payload={"enable_hr": True}),
    Path("hires second pass", payload={"enable_hr": True, "hr_second_pass_steps": 3}, settings={"hires_pass": True}),
    Path("hires second pass: another sampler", payload={"enable_hr": True, "hr_sampler_name": "Euler a"},
         settings={"hires_pass": True}),
    Path("hires prompts", payload={"enable_hr": True, "hr_prompt": "a blue square", "hr_negative_prompt": "red"},
         settings={"hires_pass": True}, needs=a_real_host),
    Path("hires checkpoint", payload=lambda host: {"enable_hr": True, "hr_checkpoint_name": second(host)},
         settings={"hires_pass": True}, needs=a_second_checkpoint, counted=False),
    Path("hires quick button", payload=quick_button, settings={"hires_pass": True}),
    Path("refiner", payload=lambda host: {"refiner_checkpoint": second(host), "refiner_switch_at": 0.5, "steps": 6},
         needs=a_second_checkpoint),
    Path("loopback", "img2img", script("loopback", 2, 0.5, "Linear", "None"), needs=a_script("loopback"), counted=False),
    Path("SD upscale", "img2img", sd_upscale, needs=a_script("sd upscale"), counted=False),
    Path("outpainting: poor man's", "img2img", script("poor man's outpainting", 32, 4, 0, ["left"]),
         needs=a_script("poor man's outpainting"), counted=False),
    Path("outpainting: mk2", "img2img", script("outpainting mk2", "", 64, 4, ["left"], 1.0, 0.05),
         needs=a_script("outpainting mk2"), counted=False),
    Path("prompt matrix", payload={"prompt": "a circle|red", **script("prompt matrix", False, False, "positive", "comma", 0)},
         needs=a_script("prompt matrix", "txt2img"), counted=False),
    Path("FreeU", payload=always_on("FreeU Integrated (SD 1.x, SD 2.x, SDXL)", True, 1.1, 1.1, 0.9, 0.9, 0.0, 1.0),
         needs=a_script("freeu integrated (sd 1.x, sd 2.x, sdxl)", "txt2img")),
    Path("SAG", payload=always_on("SelfAttentionGuidance Integrated (SD 1.x, SD 2.x, SDXL)", True, 0.5, 2.0, 1.0),
         needs=a_script("selfattentionguidance integrated (sd 1.x, sd 2.x, sdxl)", "txt2img")),
    Path("PAG", payload=always_on("PerturbedAttentionGuidance Integrated", True, 3.0, 0.0, 0.0, 1.0),
         needs=a_script("perturbedattentionguidance integrated", "txt2img")),
    Path("Kohya HRFix", payload=always_on("Kohya HRFix Integrated", True, 3, 2.0, 0.0, 0.5, True, "bicubic", "bicubic"),
         needs=a_script("kohya hrfix integrated", "txt2img")),
    Path("Dynamic Thresholding: built in", payload=always_on("DynamicThresholding (CFG-Fix) Integrated", True),
         needs=a_script("dynamicthresholding (cfg-fix) integrated", "txt2img")),
    Path("MultiDiffusion", payload=always_on("MultiDiffusion Integrated", True, "MultiDiffusion", 32, 32, 16, 2),
         needs=a_script("multidiffusion integrated", "txt2img"), counted=False),  # a question is asked in tiles, as a step
    Path("StyleAlign", payload={"batch_size": 2, **always_on("StyleAlign Integrated", True, 1.0)},
         needs=a_script("stylealign integrated", "txt2img")),
    Path("ControlNet: reference", payload=lambda host: option(control_net_no_detectmap=True) | always_on("ControlNet", {
        "enabled": True, "module": "reference_only", "model": "None", "image": encoded(grey_picture(host.size)), "weight": 1.0,
        "threshold_a": 0.5, "processor_res": 64, "guidance_start": 0.0, "guidance_end": 1.0,
    }), needs=a_script("controlnet", "txt2img"), counted=False),  # the reference is evaluated beside every question
    Path("hypertile", payload=option(hypertile_enable_unet=True), needs=only("A1111")),
]  # fmt: skip


def each(paths):
    return [pytest.param(path, id=path.name, marks=marks(path)) for path in paths]


def marks(path):
    """What a path needs, real hosts only may have."""
    return [pytest.mark.path(path.name), *([pytest.mark.real_host] if path.needs is not nothing else [])]


def tolerance(host, path):
    """How far two equal jobs are apart: the hosts sample the encoder's latent from an unseeded generator."""
    if isinstance(host, DoubleHost):
        return 0
    first = path.make(host)
    encodes = path.tab == "img2img" or path.payload is quick_button
    return max(int(encodes), *(difference(first, path.make(host)) for _ in range(3 if encodes else 1)))


@pytest.mark.parametrize("path", each(PATHS))
def test_a_way_to_a_picture(host, bare_host, path):
    reason = path.needs(host)
    if reason:
        pytest.skip(reason)
    held(host, bare_host, path)


def held(host, bare_host, path):
    """Hold a path to what Noise Order promises."""
    plain, noise = path.make(host), tolerance(host, path)
    ordered = path.make(host, **noise_order(**path.settings))
    nothing = path.make(host, **noise_order(erasure_samples=1, strength=0, **path.settings))
    assert plain.pictures.std() > 1, "the host draws nothing here, so nothing is proved"
    assert difference(plain, path.make(bare_host)) <= noise, "switched off is not the same as not installed"
    assert difference(plain, nothing) <= noise, "one draw and strength 0 is not the same as off"
    assert ordered["Noise Order skipped"] is None, ordered["Noise Order skipped"]
    if difference(plain, ordered) <= noise and difference(plain, path.make(host, seed=77)) <= noise:
        pytest.skip("this host's own picture is the same for every seed here")
    assert difference(plain, ordered) > noise, "nothing was ordered"
    host.txt2img(seed=77, **noise_order())
    again = path.make(host, **noise_order(**path.settings))
    assert difference(ordered, again) <= noise + 1, "another picture after another job"
    assert difference(plain, path.make(host)) <= noise, "something stayed behind"
    if path.counted:
        assert ordered.evaluations - plain.evaluations == int(ordered["Noise Order evaluations"])
        assert nothing.evaluations == plain.evaluations


TRIED_TOGETHER = (
    "txt2img", "noise source: NV", "AND", "prompt editing", "img2img", "inpaint: original", "hires second pass", "seed resize",
    "SAG", "FreeU",
)  # fmt: skip


@pytest.mark.parametrize("path", each(path for path in PATHS if path.name in TRIED_TOGETHER))
def test_a_seed_gives_the_same_picture_alone_and_in_a_batch(host, path):
    reason = path.needs(host)
    if reason:
        pytest.skip(reason)
    own = tolerance(host, path)
    for batch in ({"batch_size": 3}, {"n_iter": 3}):
        ordered = path.make(host, seed=1, **batch, **noise_order(**path.settings))
        plain = path.make(host, seed=1, **batch)
        assert len(ordered.pictures) == len(plain.pictures)
        if len(plain.pictures) < 3:
            pytest.skip("does not apply: this host makes one picture of such a batch")
        for index in range(3):
            alone = path.make(host, seed=1 + index, **noise_order(**path.settings))
            without = path.make(host, seed=1 + index)
            apart = abs(alone.pictures[0] - ordered.pictures[index]).max()
            hosts_own = abs(without.pictures[0] - plain.pictures[index]).max()
            if host.img2img_noise and hosts_own > 8:  # only where the host is known to draw from an unseeded generator
                pytest.skip("this host itself makes another picture of a seed in a batch here")
            assert apart <= max(1, own, hosts_own) + 1, f"picture {index + 1} with {batch}"


@pytest.mark.path("img2img: fades with the denoising strength")
def test_injection_fades_with_the_denoising_strength(host):
    """The same injection moves a picture less, the less img2img may change it; the erased noise is the same."""
    moved = []
    for denoising_strength in (0.9, 0.3):
        path = Path("", "img2img", {"denoising_strength": denoising_strength, "steps": 10})
        erased = path.make(host, **noise_order(strength=0, erasure_samples=1))
        injected = path.make(host, **noise_order(strength=1.0, erasure_samples=1))
        moved.append(abs(erased.pictures - injected.pictures).mean())
    assert moved[1] < 0.7 * moved[0]


@pytest.mark.path("hires fix: the second pass is left alone")
def test_a_job_of_a_hires_pass_only_says_that_it_is_left_alone(host):
    quick = next(path for path in PATHS if path.name == "hires quick button")
    plain, left_alone = quick.make(host), quick.make(host, **noise_order())
    assert difference(plain, left_alone) <= tolerance(host, quick)
    assert "a hires pass only" in left_alone["Noise Order skipped"]


@pytest.mark.real_host  # on the double, test_faults.py has a test of its own
@pytest.mark.path("ADetailer's way: a job inside the job")
def test_inner_pictures_are_ordered_only_if_asked(host):
    inner = {"Inner picture": {"args": [True]}}
    left_alone = host.txt2img(alwayson_scripts={**noise_order()["alwayson_scripts"], **inner})
    asked_for = host.txt2img(alwayson_scripts={**noise_order(inner_passes=True)["alwayson_scripts"], **inner})
    off = host.txt2img(alwayson_scripts=inner)
    assert (off["Inner picture"], left_alone["Inner picture"]) == ("left alone", "left alone")
    assert int(asked_for["Inner picture"]) == int(asked_for["Noise Order evaluations"]) > 0
    assert left_alone["Noise Order evaluations"] == asked_for["Noise Order evaluations"]
