"""Scores: the real libraries on tiny models of random weights, and what is said where a library or its weights are missing."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lib_noiseorder.judges import libraries
from lib_noiseorder.judges.libraries import Missing
from lib_noiseorder.tools.cli import main
from lib_noiseorder.tools.compare import metrics
from lib_noiseorder.tools.compare.metrics import parse
from tests.hosts.small_webui import SmallWebUI

PROMPTS = ["red circle left of blue square", "two green triangles", "red circle left of blue square"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def pictures(tmp_path):
    made = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        picture = Image.fromarray(pixels)
        picture.filename = str(tmp_path / f"{number}.png")
        made.append(picture)
    return made


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """The folder of a CLIP model of random weights with its processor."""
    transformers = pytest.importorskip("transformers")
    from lib_noiseorder.tools.lab.formats.sd1 import tokenizer

    words = tokenizer()
    inside = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 8}
    special = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = {**inside, **special, "vocab_size": 49408, "max_position_embeddings": 77}
    vision = {**inside, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    eyes = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    transformers.CLIPProcessor(eyes, words).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def cosines(tiny_clip, pictures):
    """The model asked without any metric's library: cosines of pictures and prompts, and exp(logit_scale)."""
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(tiny_clip).eval(), CLIPProcessor.from_pretrained(tiny_clip)
    inputs = processor(text=PROMPTS, images=pictures, return_tensors="pt", padding=True)
    with torch.no_grad():
        output = model(**inputs)
    return (output.image_embeds * output.text_embeds).sum(-1).numpy(), model.logit_scale.exp().item()


def test_clip_score_of_the_real_classes(tiny_clip, pictures, cosines):
    pytest.importorskip("torchmetrics")
    scored = metrics.ClipScore(tiny_clip, "cpu")(pictures, PROMPTS)
    np.testing.assert_allclose(scored.scores["CLIPScore"], 100 * cosines[0].clip(0), atol=1e-3)
    assert scored.features.shape == (3, 8) and np.allclose(np.linalg.norm(scored.features, axis=1), 1, atol=1e-5)


def test_pick_score_of_the_real_classes(tiny_clip, pictures, cosines):
    scored = metrics.PickScore(tiny_clip, "cpu")(pictures, PROMPTS)
    np.testing.assert_allclose(scored.scores["PickScore"], cosines[1] * cosines[0], atol=1e-3)
    assert scored.features.shape == (3, 8)


def test_both_on_a_run_and_what_is_scored_once_is_not_scored_again(tiny_clip, tmp_path, capsys, monkeypatch):
    pytest.importorskip("torchmetrics")
    wish = f"clipscore={tiny_clip},pickscore={tiny_clip}"
    command = ["--prompts", "shapes", "--pairs", "4", "--out", str(tmp_path), "--quiet", "--scores"]
    with SmallWebUI() as webui:
        assert main(["compare", "--webui", webui.url, *command, wish]) == 0
    first = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert (
        "| CLIPScore | plain |" in capsys.readouterr().out
        and "| PickScore | automatic |" in (tmp_path / "tables.md").read_text()
    )
    monkeypatch.setitem(metrics.METRICS, "clipscore", lambda *_: pytest.fail("asked again"))
    monkeypatch.setitem(metrics.METRICS, "pickscore", lambda *_: pytest.fail("asked again"))
    assert main(["compare", "--report-only", "--out", str(tmp_path), "--scores", wish]) == 0
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == first


# -- what is not there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module", "command"),
    [
        ("clipscore", "torchmetrics.functional.multimodal", "pip install torchmetrics"),
        ("clipscore", "transformers", "pip install transformers"),
        ("pickscore", "transformers", "pip install transformers"),
        ("imagereward", "ImageReward", "pip install image-reward"),
        ("vqascore", "t2v_metrics", "pip install t2v-metrics"),
        ("hpsv2", "hpsv2.img_score", "pip install hpsv2"),
    ],
)
def test_a_missing_library_is_skipped_with_the_command(name, module, command, monkeypatch, tmp_path, capsys):
    if name == "clipscore":
        pytest.importorskip("transformers")
    import_module = libraries.importlib.import_module

    def without(wanted):
        if wanted == module:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return import_module(wanted)

    monkeypatch.setattr(libraries.importlib, "import_module", without)
    with SmallWebUI() as webui:
        run = ["compare", "--webui", webui.url, "--prompts", "shapes", "--pairs", "4", "--out", str(tmp_path), "--quiet"]
        assert main([*run, "--scores", f"oracle,{name}"]) == 0
    said = f"{name} skipped: {module} is not installed; {command}"
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert said in capsys.readouterr().out and command in report and f"{name} was skipped" in report
    assert '"CLIPScore"' not in (tmp_path / "results.json").read_text(encoding="utf-8")


def test_what_a_library_needs_itself_is_named(monkeypatch, tmp_path):
    (tmp_path / "ImageReward.py").write_text("import clip")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "clip", None)
    with pytest.raises(Missing) as told:
        metrics.ImageReward("", "cpu")
    assert (told.value.reason, told.value.command) == (
        "clip, which image-reward needs, is not installed",
        "pip install openai-clip",
    )


def test_missing_weights_are_skipped_and_never_downloaded(monkeypatch):
    pytest.importorskip("transformers")
    asked = []

    class Kind:
        @staticmethod
        def from_pretrained(name, **how):
            asked.append(how)
            raise OSError("not in the cache\nmore")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(Missing) as told:
        libraries.from_disk(Kind, "someone/model")
    assert asked == [{"local_files_only": True}] and told.value.command == "hf download someone/model"
    assert str(told.value) == "the weights 'someone/model' cannot be loaded (not in the cache)"


def test_broken_weights_cost_their_score_only(tmp_path, capsys):
    pytest.importorskip("torchmetrics")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    with SmallWebUI() as webui:
        run = [
            "compare",
            "--webui",
            webui.url,
            "--prompts",
            "shapes",
            "--pairs",
            "4",
            "--out",
            str(tmp_path / "run"),
            "--quiet",
        ]
        assert main([*run, "--scores", f"oracle,pickscore={tmp_path / 'broken'}"]) == 0
    assert "pickscore skipped: " in capsys.readouterr().out


def test_the_oracle_does_not_read_other_prompts(tmp_path, pictures):
    with pytest.raises(Missing, match="the lab's shapes only"):
        metrics.ShapesOracle("", "cpu")(pictures, ["a cat"] * 3)


def test_names_and_models():
    assert parse("oracle, clipscore=/models/clip,") == {"oracle": "", "clipscore": "/models/clip"}
    with pytest.raises(ValueError, match="'beauty' is not one of oracle"):
        parse("beauty")


# -- wrappers of libraries that cannot be installed beside today's torch: stand-ins with the signatures of image-reward 1.5,
#    t2v-metrics 3.0 and hpsv2 1.2.0


def stand_in(monkeypatch, name, **members):
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_image_reward_is_asked_as_its_library_wants(monkeypatch, tmp_path, pictures):
    loaded = {}

    def load(name="ImageReward-v1.0", device="cpu", download_root=None, med_config=None):
        loaded.update(name=name, device=device, med_config=med_config)
        return SimpleNamespace(score=lambda prompt, image: len(prompt) + image.size[0] / 100)

    stand_in(monkeypatch, "ImageReward", load=load)
    weights = tmp_path / "ImageReward.pt"
    with pytest.raises(Missing) as told:
        metrics.ImageReward(str(weights), "cpu")
    assert told.value.command == f"hf download THUDM/ImageReward --local-dir {tmp_path}"
    weights.touch()
    (tmp_path / "med_config.json").touch()
    scored = metrics.ImageReward(str(weights), "cpu")(pictures, PROMPTS)
    assert loaded == {"name": str(weights), "device": "cpu", "med_config": str(tmp_path / "med_config.json")}
    assert scored.scores["ImageReward"].tolist() == [30.48, 19.48, 30.48] and scored.features is None


def test_vqa_score_is_asked_as_its_library_wants(monkeypatch, pictures):
    class VQAScore:
        def __init__(self, model, device="cuda", cache_dir="./"):
            self.model = model

        def __call__(self, images=None, texts=None):
            assert [Image.open(image).size for image in images] == [(48, 40)] and len(texts) == 1
            return torch.tensor([[len(texts[0]) / 100]])

    stand_in(monkeypatch, "t2v_metrics", VQAScore=VQAScore)
    scored = metrics.VqaScore("clip-flant5-xl", "cpu")(pictures, PROMPTS)
    np.testing.assert_allclose(scored.scores["VQAScore"], [0.30, 0.19, 0.30], atol=1e-6)


def test_hpsv2_loads_its_checkpoint_once_a_prompt(monkeypatch, pictures):
    calls = []

    def score(img_path, prompt, cp=None, hps_version="v2.0"):
        calls.append((len(img_path), prompt, cp, hps_version))
        return [np.float32(np.asarray(picture).mean()) for picture in img_path]

    stand_in(monkeypatch, "hpsv2")
    stand_in(monkeypatch, "hpsv2.img_score", score=score)
    scored = metrics.Hpsv2("", "cpu")(pictures, PROMPTS)
    assert calls == [(2, PROMPTS[0], None, "v2.1"), (1, PROMPTS[1], None, "v2.1")]
    np.testing.assert_allclose(scored.scores["HPSv2"], [np.asarray(picture).mean() for picture in pictures], rtol=1e-5)
