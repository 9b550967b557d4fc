"""The example workflows: pictures that ComfyUI's canvas and its queue take."""

import importlib.util
import json

import pytest
from PIL import Image

from ..servers import REPOSITORY
from . import comfyui

FOLDER = REPOSITORY / "examples/comfyui"
_spec = importlib.util.spec_from_file_location("comfyui_examples", FOLDER / "make.py")
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)
NAMES = list(make.workflows())


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_small_and_has_its_graph_inside(name):
    path = FOLDER / f"{name}.png"
    assert path.stat().st_size < 60_000
    with Image.open(path) as picture:
        prompt, workflow = (json.loads(picture.info[kind]) for kind in ("prompt", "workflow"))
    kinds = [node["class_type"] for node in prompt.values()]
    assert kinds.count("NoiseOrder") == kinds.count("NoiseOrderReport") == 1
    assert [node["type"] for node in workflow["nodes"]] == kinds
    linked = sum(isinstance(value, list) for node in prompt.values() for value in node["inputs"].values())
    assert linked == len(workflow["links"]) == sum(len(out["links"]) for node in workflow["nodes"] for out in node["outputs"])


@pytest.mark.needs("ComfyUI", fixture="host")
@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_what_comfyui_would_run_with_the_model_files(host, name):
    with Image.open(FOLDER / f"{name}.png") as picture:
        prompt, workflow = (json.loads(picture.info[kind]) for kind in ("prompt", "workflow"))
    known = host.get("/object_info")
    assert prompt == make.completed(make.workflows()[name], known) and workflow == make.on_canvas(prompt, known)
    with pytest.raises(comfyui.Refused) as refused:
        host.queue(prompt)
    errors = [error for node in json.loads(str(refused.value))["node_errors"].values() for error in node["errors"]]
    assert errors and {error["type"] for error in errors} == {"value_not_in_list"}
    files = {"ckpt_name", "unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name"}
    assert {error["extra_info"]["input_name"] for error in errors} <= files, "nothing but the files is missing"
