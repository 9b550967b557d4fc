"""shapes-sd1 in a WebUI's folder: what is written is what the WebUI's own libraries read."""

import pytest
import torch
import transformers

from lib_noiseorder.tools.cli import main
from lib_noiseorder.tools.lab.formats import sd1
from lib_noiseorder.tools.lab.formats.in_webui import install


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    folder = tmp_path_factory.mktemp("webui")
    (folder / "models/Stable-diffusion").mkdir(parents=True)
    assert main(["lab", "webui", str(folder)]) == 0
    return folder


@pytest.fixture
def cached(webui, monkeypatch):
    """Where the hub's own library finds the entry, as a WebUI's process would."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return {"cache_dir": webui / "models/shapes-sd1-hub/hub", "local_files_only": True}


def test_the_checkpoint_is_the_packaged_one(webui):
    written = sd1.ShapesSD1.load(webui / "models/Stable-diffusion/shapes-sd1.safetensors").to_ldm()
    assert all(torch.equal(tensor, written[name]) for name, tensor in sd1.ShapesSD1.load().to_ldm().items())
    assert (webui / "models/Stable-diffusion/shapes-sd1.yaml").is_file()


def test_the_tokenizer_gives_clips_ids(cached):
    tokenizer = transformers.CLIPTokenizer.from_pretrained("openai/clip-vit-large-patch14", **cached)
    whole = [word for word in sd1.TOKEN_IDS if word != "tri"]
    texts = [*whole, "triangles", "A red circle, left of three triangles", "the yellow triangle is right of a square."]
    ids = tokenizer(texts, padding="max_length", max_length=sd1.TOKEN_LENGTH, return_tensors="pt").input_ids
    assert torch.equal(ids, sd1.token_ids(texts))
    assert len(tokenizer("cat").input_ids) == 5  # a word it does not know falls into letters


def test_the_text_encoder_is_as_small_as_ours(cached):
    config = transformers.CLIPTextConfig.from_pretrained("openai/clip-vit-large-patch14", **cached)
    ours = sd1.ShapesSD1.untrained().text
    theirs = transformers.CLIPTextModel(config)
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}


def test_a_folder_that_is_no_webui_is_refused(tmp_path):
    with pytest.raises(OSError, match="not a WebUI's folder"):
        install(tmp_path)
    assert not list(tmp_path.iterdir())
