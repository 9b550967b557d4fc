"""Noise Order beside what people run together with it, on real hosts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path as File

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from lib_noiseorder import NoiseOrderSettings

from .client import difference, encoded, noise_order
from .real import FLAGS, RealHost, Server, folder, grey_picture
from .test_paths import Path, always_on, held, not_flow, option

NAME = "noise-order-test"
INNER_JOBS = File(__file__).parent / "inner_jobs"


@contextlib.contextmanager
def shapes(host):
    """A function that gives the shape of a tensor of the host's checkpoint, and the names of all of them."""
    path = folder(host.server.name) / "models/Stable-diffusion" / f"{host.checkpoint}.safetensors"
    with safe_open(path, "pt") as checkpoint:
        yield list(checkpoint.keys()), lambda name: checkpoint.get_slice(name).get_shape()


@pytest.fixture
def lora(host, bare_host):
    """A LoRA of random weights for all attention of the host's checkpoint, for as long as the test runs."""
    if not_flow(host):
        pytest.skip(not_flow(host))
    generator = torch.Generator().manual_seed(1)
    weights = {}
    with shapes(host) as (names, shape):
        for name in names:
            if name.startswith("model.diffusion_model.") and name.endswith(("_q.weight", "_k.weight", "_v.weight")):
                inner = "lora_unet_" + name.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_")
                out_size, in_size = shape(name)
                weights[f"{inner}.lora_down.weight"] = torch.randn(4, in_size, generator=generator) / in_size**0.5
                weights[f"{inner}.lora_up.weight"] = torch.randn(out_size, 4, generator=generator)
                weights[f"{inner}.alpha"] = torch.tensor(4.0)
    assert weights
    path = folder(host.server.name) / "models/Lora" / f"{NAME}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(weights, path)
    try:
        for one in (host, bare_host):
            one.server.post("/sdapi/v1/refresh-loras", {})
        yield f"<lora:{NAME}:1>"
    finally:
        path.unlink()


@pytest.mark.real_host
@pytest.mark.path("LoRA")
def test_lora(host, bare_host, lora):
    path = Path("LoRA", payload={"prompt": f"{host.prompt} {lora}"})
    assert difference(path.make(host), host.txt2img()) > 0, "the LoRA does nothing"
    held(host, bare_host, path)


@pytest.mark.real_host
@pytest.mark.path("textual inversion")
def test_textual_inversion(host, bare_host):
    if not_flow(host):
        pytest.skip(not_flow(host))
    with shapes(host) as (names, shape):
        tables = [name for name in names if name.endswith("token_embedding.weight")]
        widths = [shape(name)[1] for name in tables]
    keys = ["emb_params"] if len(widths) == 1 else ["clip_l", "clip_g"]
    generator = torch.Generator().manual_seed(2)
    weights = {key: torch.randn(2, width, generator=generator) for key, width in zip(keys, widths)}
    path = Path("textual inversion", payload={"prompt": f"{host.prompt} noiseordertest"})
    unknown = path.make(host)
    host.txt2img()  # the host remembers the last prompt's encoding
    for one in (host, bare_host):
        put = one.server.log.parent / "embeddings" / "noiseordertest.safetensors"
        put.parent.mkdir(exist_ok=True)
        save_file(weights, put)
        one.server.post("/sdapi/v1/refresh-embeddings", {})
    if difference(unknown, path.make(host)) == 0:
        pytest.skip("this host does not find an embedding that is put in while it runs")
    held(host, bare_host, path)


@pytest.mark.real_host
@pytest.mark.path("PNG info")
def test_png_info_gives_every_knob(host):
    wish = NoiseOrderSettings(enabled=True, strength=0.3, detail_weight=0.5, noise_scale=0.95, hires_pass=True)
    made = host.server.post("/sdapi/v1/txt2img", {**host.defaults(), **noise_order(**wish.to_dict())})
    read = host.server.post("/sdapi/v1/png-info", {"image": "data:image/png;base64," + made["images"][0]})
    assert NoiseOrderSettings.from_infotext(read["info"]) == wish


@pytest.mark.path("stable-diffusion-webui-distributed: pieces of a batch")
def test_the_pieces_of_a_split_batch_are_the_pictures_of_one_machine(host):
    """The arguments go through JSON; every machine gets some of the seeds."""
    sent = json.loads(json.dumps(noise_order(preset="Automatic")))
    whole = host.txt2img(seed=1, batch_size=3, steps=8, **sent)
    pieces = [host.txt2img(seed=1, batch_size=1, steps=8, **sent), host.txt2img(seed=2, batch_size=2, steps=8, **sent)]
    apart = [abs(torch.tensor(piece.pictures) - torch.tensor(whole.pictures[at : at + len(piece.pictures)])).max()
             for piece, at in zip(pieces, (0, 1))]  # fmt: skip
    assert max(apart) <= 1


@dataclass(frozen=True)
class Extension:
    """An extension of somebody else's, in a way that people use it.

    Attributes:
        folder: its checkout's name in the folder that NOISEORDER_COMPANY names.
        path: a job that it takes part in.
        without: the same job's payload without it.
        rows: how many rows of the network's batch it makes of one.
    """

    folder: str
    path: Path
    without: dict = field(default_factory=dict)
    rows: int = 1


def face(host):
    """A photograph with a face in it, of scikit-image's, which the host brings."""
    found = sorted(folder(host.server.name).glob("venv/lib/*/site-packages/skimage/data/astronaut.png"))
    if not found:
        pytest.skip("no picture with a face: this host's venv has no scikit-image")
    return encoded(np.asarray(Image.open(found[0]).convert("RGB").resize((256, 256))))


def adetailer(host):
    """Its inpainting of the face alone: it throws away what img2img made, of which random weights leave no face."""
    inner = {"ad_model": "mediapipe_face_full", "ad_use_inpaint_width_height": True, "ad_denoising_strength": 0.7,
             "ad_inpaint_width": host.size, "ad_inpaint_height": host.size}  # fmt: skip
    payload = {"init_images": [face(host)], "width": 256, "height": 256, **always_on("ADetailer", True, True, inner)}
    return {**payload, **option(ad_only_selected_scripts=False)}


def reference(host):
    return option(control_net_no_detectmap=True) | always_on("ControlNet", {
        "enabled": True, "module": "reference_only", "model": "None", "image": encoded(grey_picture(host.size)), "weight": 1.0,
        "threshold_a": 0.5, "processor_res": 64, "guidance_start": 0.0, "guidance_end": 0.5,
    })  # fmt: skip


TWO = {"prompt": "red circle BREAK blue square", "width": 128}
LARGE = {"width": 192, "height": 192}
HALVES = [True, False, "Matrix", "Columns", "Mask", "Prompt", "1,1", "", False, False, False]
EXTENSIONS = [
    Extension(
        "sd-dynamic-thresholding",
        Path("Dynamic Thresholding", payload={"cfg_scale": 9, **always_on(
            "Dynamic Thresholding (CFG Scale Fix)",
            True, 7.0, 99.0, "Constant", 0.0, "Constant", 0.0, 4.0, True, "MEAN", "AD", 1.0,
        )}),
        without={"cfg_scale": 9},
    ),
    Extension(
        "sd-webui-regional-prompter",
        Path("Regional Prompter: attention", payload={**TWO, **always_on("Regional Prompter", *HALVES, "Attention")}),
        without=TWO,
    ),
    Extension(
        "sd-webui-regional-prompter",
        Path("Regional Prompter: latent", payload={**TWO, **always_on("Regional Prompter", *HALVES, "Latent")}),
        without=TWO,
    ),
    *(Extension(
        "multidiffusion-upscaler-for-automatic1111",
        Path(f"Tiled Diffusion: {method}, {sampler}", payload={**LARGE, "sampler_name": sampler, **always_on(
            "Tiled Diffusion", True, method, False, True, 1024, 1024, 16, 16, 8, 4,
        )}),
        without={**LARGE, "sampler_name": sampler},
        rows=4,
    ) for method, sampler in (("MultiDiffusion", "Euler"), ("MultiDiffusion", "DPM++ 2M"), ("Mixture of Diffusers", "Euler"))),
    Extension(
        "sd-webui-controlnet", Path("ControlNet: reference, to half the steps", payload=reference, counted=False),
    ),
    Extension(
        "sd-webui-neutral-prompt",
        Path("Neutral Prompt", payload={"prompt": "a red circle AND_PERP a blue square :0.8"}),
        without={"prompt": "a red circle AND a blue square :0.8"},
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def beside(host, tmp_path_factory):
    """A function that gives the host with an extension of that folder, with Noise Order and without."""
    running = {}

    def pair(name):
        if reason := not_flow(host):
            pytest.skip(reason)
        company = os.environ.get("NOISEORDER_COMPANY")
        if not company or not (File(company) / name).is_dir():
            pytest.skip(f"set NOISEORDER_COMPANY to a folder with {name} in it")
        if name not in running:
            data = tmp_path_factory.mktemp(name)
            also = [File(company).resolve() / name, INNER_JOBS]
            running[name] = []
            for on in (True, False):
                running[name].append(Server(host.server.name, data / str(on), on, also=also))
        return [RealHost(server, host.checkpoint) for server in running[name]]

    yield pair
    for servers in running.values():
        for server in servers:
            server.stop()


@pytest.mark.real_host
@pytest.mark.parametrize("extension", [
    pytest.param(extension, id=extension.path.name, marks=pytest.mark.path(extension.path.name)) for extension in EXTENSIONS
])  # fmt: skip
def test_extensions_that_are_named(beside, extension):
    """NOISEORDER_COMPANY names a folder with checkouts of extensions in it."""
    with_it, without = beside(extension.folder)
    path = extension.path
    plain = path.make(with_it)
    assert difference(plain, getattr(with_it, path.tab)(**extension.without)) > 0, "it does nothing"
    held(with_it, without, dataclasses.replace(path, counted=path.counted and extension.rows == 1))
    if path.counted and extension.rows > 1:
        ordered = path.make(with_it, **noise_order())
        announced = int(ordered["Noise Order evaluations"])
        assert announced > 0 and ordered.evaluations - plain.evaluations == extension.rows * announced


@pytest.mark.real_host
@pytest.mark.path("ADetailer")
def test_adetailer_is_left_alone_unless_asked(beside):
    """Its job inside the job: left alone by default, ordered with `inner_passes`, and counted apart."""
    with_it, without = beside("adetailer")
    path = Path("ADetailer", "img2img", adetailer)

    def inner(**settings):
        """The picture, and the evaluations counted in and announced for the job inside the job."""
        start = len(with_it.server.said())
        made = path.make(with_it, **(noise_order(**settings) if settings else {}))
        told = re.findall(r"Inner jobs: (\d+)x\d+, counted ([\d.]+), announced (\d+)", with_it.server.said()[start:])
        assert [int(width) for width, _, _ in told] == [128, with_it.size], "there was no face, or not one"
        return made, *map(float, told[1][1:])

    (off, counted, _), (alone, counted_alone, announced_alone) = inner(), inner(enabled=True)
    _, counted_ordered, announced = inner(inner_passes=True)
    untouched = with_it.img2img(**{**adetailer(with_it), "alwayson_scripts": {}})
    assert off.pictures.shape == untouched.pictures.shape and difference(off, untouched) > 0, "it does nothing"
    assert (counted_alone, announced_alone, difference(off, alone)) == (counted, 0, 0)
    assert counted_ordered - counted == announced > 0
    held(with_it, without, dataclasses.replace(path, settings={"inner_passes": True}))


@pytest.mark.real_host
@pytest.mark.path("low and medium VRAM")
@pytest.mark.parametrize("flag", ["--medvram", "--lowvram"])
def test_low_and_medium_vram(host, tmp_path, monkeypatch, flag):
    if host.server.name != "A1111":
        pytest.skip("a matter of A1111's flags only")
    usual = host.txt2img(), host.txt2img(**noise_order())
    monkeypatch.setenv("NOISEORDER_A1111_FLAGS", f"{FLAGS['A1111']} {flag}")
    server = Server("A1111", tmp_path / "data", True)
    try:
        small = RealHost(server, host.checkpoint)
        assert difference(small.txt2img(), usual[0]) == 0
        assert difference(small.txt2img(**noise_order()), usual[1]) == 0
    finally:
        server.stop()
