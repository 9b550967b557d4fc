"""Noise Order beside what people run together with it, on real hosts."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path as File

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib_noiseorder import NoiseOrderSettings

from .client import difference, noise_order
from .double.host import DoubleHost
from .real import FLAGS, RealHost, Server, folder
from .test_paths import Path, a_real_host, held, not_flow

NAME = "noise-order-test"


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


@pytest.mark.path("LoRA")
def test_lora(host, bare_host, lora):
    path = Path("LoRA", payload={"prompt": f"{host.prompt} {lora}"})
    assert difference(path.make(host), host.txt2img()) > 0, "the LoRA does nothing"
    held(host, bare_host, path)


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


@pytest.mark.path("PNG info")
def test_png_info_gives_every_knob(host):
    if isinstance(host, DoubleHost):
        pytest.skip(a_real_host(host))
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


@pytest.mark.path("Dynamic Thresholding")
def test_extensions_that_are_named(host, tmp_path):
    """NOISEORDER_COMPANY names a folder with a checkout of sd-dynamic-thresholding in it."""
    reason = a_real_host(host) or not_flow(host)
    company = os.environ.get("NOISEORDER_COMPANY")
    found = File(company) / "sd-dynamic-thresholding" if company else None
    if reason or found is None:
        pytest.skip(reason or "set NOISEORDER_COMPANY to a folder with sd-dynamic-thresholding in it")
    servers = [Server(host.server.name, tmp_path / str(on), on, also=[found]) for on in (True, False)]
    title = "Dynamic Thresholding (CFG Scale Fix)"
    args = [True, 7.0, 99.0, "Constant", 0.0, "Constant", 0.0, 4.0, True, "MEAN", "AD", 1.0]
    try:
        with_it, without = (RealHost(server, host.checkpoint) for server in servers)
        path = Path("Dynamic Thresholding", payload={"cfg_scale": 9, "alwayson_scripts": {title: {"args": args}}})
        assert difference(path.make(with_it), with_it.txt2img(cfg_scale=9)) > 0, "it does nothing"
        held(with_it, without, path)
    finally:
        for server in servers:
            server.stop()


@pytest.mark.path("low and medium VRAM")
@pytest.mark.parametrize("flag", ["--medvram", "--lowvram"])
def test_low_and_medium_vram(host, tmp_path, monkeypatch, flag):
    if isinstance(host, DoubleHost) or host.server.name != "A1111":
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
