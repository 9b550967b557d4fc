"""Judges: transformers' own classes with random weights, folders of every kind, and what is said of those that are none."""

import importlib.util
import inspect
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save_file

from lib_noiseorder import judges
from lib_noiseorder.judges import JudgeError, LoadedJudge
from lib_noiseorder.judges import folders as judge_folders
from lib_noiseorder.judges import models as judge_models
from lib_noiseorder.tools.compare import metrics

transformers = pytest.importorskip("transformers")

PROMPTS = ["red circle left of blue square", "two green triangles", "a yellow square"]
INSIDE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def words(length):
    from lib_noiseorder.tools.lab.formats.sd1 import tokenizer

    made = tokenizer()
    made.model_max_length = length
    return made


def saved(folder, kind, dtype=torch.float32):
    """A tiny model of that type in a folder, with all that belongs to it."""
    torch.manual_seed(0)
    if kind == "clip":
        special = {f"{name}_token_id": getattr(words(77), f"{name}_token_id") for name in ("bos", "eos", "pad")}
        text = {**INSIDE, **special, "projection_dim": 8, "vocab_size": 49408, "max_position_embeddings": 77}
        vision = {**INSIDE, "projection_dim": 8, "image_size": 32, "patch_size": 8}
        model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
        eyes, reads = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32), 77
    else:
        text = {**INSIDE, "vocab_size": 49408, "max_position_embeddings": 12, "projection_size": 16}
        vision = {**INSIDE, "image_size": 32, "patch_size": 8}
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
        torch.nn.init.constant_(model.logit_bias, -3.0)
        torch.nn.init.constant_(model.logit_scale, 2.0)
        eyes, reads = transformers.SiglipImageProcessor(size={"height": 32, "width": 32}), 12
    model.to(dtype).save_pretrained(folder, safe_serialization=True)
    eyes.save_pretrained(folder)
    words(reads).save_pretrained(folder)
    return Path(folder)


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch, tmp_path_factory):
    """No hub cache but an empty one, no packages' weights, and no connection."""
    home = tmp_path_factory.mktemp("home")
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(home)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a connection"))
    return home


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "clip", "clip")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    if not hasattr(transformers, "SiglipModel"):
        pytest.skip("this transformers has no SigLIP")
    return saved(tmp_path_factory.mktemp("models") / "siglip", "siglip")


@pytest.fixture
def copied(clip, tmp_path):
    """A folder of the tiny CLIP that may be spoilt."""
    folder = tmp_path / "judges" / "copied"
    folder.mkdir(parents=True)
    for file in clip.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def pixels(count=3, height=40, width=48):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def pictures(count=3):
    return torch.from_numpy(pixels(count)).permute(0, 3, 1, 2).float() / 255


# -- what they say -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_eight_bits_stay_what_they_were(dtype):
    every = torch.arange(256).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    shown = judges.images((every.float() / 255).to(dtype))
    assert torch.equal(torch.from_numpy(np.array(shown[0])).permute(2, 0, 1)[None].long(), every)
    assert np.array(judges.images(torch.tensor([-1.0, 0.5, 2.0]).reshape(1, 3, 1, 1))[0]).tolist() == [[[0, 128, 255]]]


def test_a_clip_says_what_pick_score_says_in_compare_to_the_bit(clip):
    shown = [Image.fromarray(picture) for picture in pixels()]
    model = transformers.AutoModel.from_pretrained(clip).eval()
    seen = transformers.CLIPImageProcessor.from_pretrained(clip)(images=shown, return_tensors="pt")["pixel_values"]
    read = transformers.AutoTokenizer.from_pretrained(clip)(
        PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt", return_token_type_ids=False
    )
    with torch.no_grad():
        seen = judge_models.features_of(model.get_image_features(seen))
        read = judge_models.features_of(model.get_text_features(**read))
        unit = torch.nn.functional.normalize
        expected = model.logit_scale.exp() * (unit(seen.float(), dim=-1) * unit(read.float(), dim=-1)).sum(-1)

    judge = judges.load(clip)
    assert torch.equal(judges.scores(judge, pictures(), PROMPTS), expected) and expected.std() > 0
    assert judge.name == "clip" and judge.device.type == "cpu"


def test_compare_scores_with_the_same_judge(copied):
    if transformers.__version__ < "4.5":
        pytest.skip("its CLIPProcessor takes no tokenizer of another class")
    parts = transformers.CLIPImageProcessor.from_pretrained(copied), transformers.AutoTokenizer.from_pretrained(copied)
    transformers.CLIPProcessor(*parts).save_pretrained(copied)
    scored = metrics.PickScore(str(copied), "cpu")([Image.fromarray(picture) for picture in pixels()], PROMPTS)
    assert scored.scores["PickScore"].tolist() == judges.scores(judges.load(copied), pictures(), PROMPTS).tolist()


def test_a_siglip_has_its_bias_and_reads_padded_prompts(siglip):
    shown = [Image.fromarray(picture) for picture in pixels()]
    model = transformers.SiglipModel.from_pretrained(siglip).eval()
    inputs = transformers.AutoImageProcessor.from_pretrained(siglip)(images=shown, return_tensors="pt")
    read = words(12)(PROMPTS, padding="max_length", max_length=12, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(
            pixel_values=inputs["pixel_values"], input_ids=read["input_ids"], attention_mask=read["attention_mask"]
        )
    said = judges.scores(judges.load(siglip), pictures(), PROMPTS)
    torch.testing.assert_close(said, expected.logits_per_image.diagonal(), atol=1e-5, rtol=0)


def test_a_prompt_longer_than_it_reads_is_cut_and_that_is_noted(siglip):
    judge = judges.load(siglip)
    fits = "red circle left of blue square above two green squares"  # 12 tokens with the two at its ends
    short = judges.scores(judge, pictures(1), [fits])
    assert judge.reads == 12 and not judge.cut
    judges.scores(judge, pictures(1), [f"{fits}, a yellow square"])
    assert judge.cut
    judge.cut = False
    assert torch.equal(judges.scores(judge, pictures(1), [fits]), short) and not judge.cut


@pytest.mark.parametrize("kind", judge_folders.DUAL_ENCODERS)
def test_the_types_are_dual_encoders_of_transformers(kind):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    if kind == "vision-text-dual-encoder":
        parts = transformers.CLIPVisionConfig(**INSIDE), transformers.BertConfig(**INSIDE)
        config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(*parts)
    else:
        config = CONFIG_MAPPING[kind]()
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    assert "pixel_values" in inspect.signature(model.get_image_features).parameters
    assert "input_ids" in inspect.signature(model.get_text_features).parameters
    assert {"logit_scale", "temperature"} & {name for name, _ in model.named_parameters(recurse=False)}
    assert config.text_config.vocab_size and model.config.model_type == kind


# -- what is checked -----------------------------------------------------------------------------------------------------


def test_any_function_is_a_judge_and_nan_passes():
    given = judges.scores(lambda shown, _: [float("nan"), float("inf"), shown[2].mean()], pictures(), PROMPTS)
    assert given.dtype == torch.float32 and given[0].isnan() and given[1].isinf() and given[2] == pictures()[2].mean()


def test_a_picture_that_is_not_finite_is_no_number_and_the_others_are_judged(clip):
    judge, shown = judges.load(clip), pictures()
    whole = judges.scores(judge, shown, PROMPTS)
    shown[1, 0, 3, 3] = torch.nan
    spoilt = judges.scores(judge, shown, PROMPTS)
    assert spoilt[1].isnan() and torch.equal(spoilt[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda *_: torch.zeros(2), "the judge gave 2 scores for 3 pictures"),
        (lambda *_: torch.zeros(3, 1), r"the judge gave scores of shape \(3, 1\) for 3 pictures"),
        (lambda *_: 1.0, r"the judge gave scores of shape \(\) for 3 pictures"),
        (lambda *_: {}["x"], r"the judge failed \(KeyError: 'x'\)"),
        (lambda *_: "good", r"the judge failed \(.+\)"),
    ],
)
def test_anything_but_one_score_a_picture_is_refused(answer, told):
    with pytest.raises(JudgeError, match=f"^{told}$"):
        judges.scores(answer, pictures(), PROMPTS)


def test_pictures_without_prompts_are_refused():
    with pytest.raises(ValueError, match="with B prompts, not"):
        judges.scores(lambda *_: torch.zeros(3), pictures(), PROMPTS[:2])
    assert judges.scores(lambda shown, _: shown.mean((1, 2, 3)), pictures()[:0], []).shape == (0,)


# -- what is found -------------------------------------------------------------------------------------------------------


def test_judges_are_found_in_folders_and_in_the_hubs_cache(clip, tmp_path):
    place, hub = tmp_path / "place", tmp_path / "hub"
    (tmp_path / "place").mkdir()
    (place / "model").symlink_to(clip)  # what the settings call the checkpoint
    for inner in ("b", "org/a", "org/deep/er", "empty"):
        (place / inner).parent.mkdir(parents=True, exist_ok=True)
        (place / inner).symlink_to(clip) if inner == "b" else (place / inner).mkdir()
    for inner in ("org/a", "org/deep/er"):
        for file in clip.iterdir():
            (place / inner / file.name).symlink_to(file)
    (place / "around").symlink_to(place)
    (place / "itself").symlink_to(place / "itself")
    (place / "file.txt").write_text("no folder")
    for commit in ("111", "999"):
        snapshot = hub / "models--some--model-h--b/snapshots" / commit
        snapshot.mkdir(parents=True)
        for file in clip.iterdir():
            (snapshot / file.name).symlink_to(file)
    (hub / "models--some--model-h--b/refs").mkdir()
    (hub / "models--some--model-h--b/refs/main").write_text("111\n")
    (hub / "models--some--empty").mkdir()
    found = judges.find([place, tmp_path / "not there"], hub)
    assert list(found) == ["b", "org/a", "some/model-h--b"]
    assert found["some/model-h--b"].name == "111" and found["org/a"] == place / "org/a"
    assert judges.find([clip], tmp_path) == {"clip": clip}
    assert judges.load("org/a", [place], hub).name == "org/a"


def test_the_hubs_cache_is_where_its_variables_say(monkeypatch, nothing_of_this_machine):
    assert judge_folders.hub_cache() == nothing_of_this_machine / ".cache/huggingface/hub"
    for name, value, then in (
        ("XDG_CACHE_HOME", "/x", "/x/huggingface/hub"),
        ("HF_HOME", "~/hf", f"{nothing_of_this_machine}/hf/hub"),
        ("HUGGINGFACE_HUB_CACHE", "/old", "/old"),
        ("HF_HUB_CACHE", "/new", "/new"),
    ):
        monkeypatch.setenv(name, value)
        assert judge_folders.hub_cache() == Path(then)


def test_a_folder_that_cannot_be_read_is_passed_by(clip, monkeypatch, tmp_path):
    refused = tmp_path / "refused"
    refused.mkdir()
    listed = Path.iterdir

    def iterdir(folder):
        if folder == refused:
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert list(judges.find([refused, clip], tmp_path)) == ["clip"]
    monkeypatch.setattr(Path, "is_file", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert judges.why_not(clip) == "cannot be read (Permission denied)" and judges.find([refused], tmp_path) == {}


def test_finding_imports_no_library(clip):
    code = (
        "import sys; from pathlib import Path; from lib_noiseorder import judges; print(list(judges.find(sys.argv[1:])), "
        "{'transformers', 'huggingface_hub', 'PIL', 'numpy', 'safetensors'} & set(sys.modules) - before)"
    )
    code = "import sys, torch; before = set(sys.modules); " + code
    root = Path(judges.__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", code, clip], cwd=root, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "['clip'] set()"


def shards(folder, names):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = {"weight_map": {str(number): name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-100])


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json: "),
        (lambda folder: (folder / "config.json").write_text("{"), "has a config.json that names no model_type"),
        (lambda folder: (folder / "config.json").write_text("[]"), "has a config.json that names no model_type"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff"), "has a config.json that names no model_type"),
        (lambda folder: (folder / "config.json").write_text("[" * 99999), "has a config.json that names no model_type"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
            "holds a model of type 'bert', which is",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (pickled, "holds pickled weights only (pytorch_model.bin); Noise Order loads safetensors"),
        (lambda folder: cut_off(folder / "model.safetensors"), "holds a model.safetensors that was cut off: "),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "holds a model.safetensors that is no safetensors"),
        (
            lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs"),
            "holds a model.safetensors that is no",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\2" + bytes(7) + b"[]"),
            "holds a model.safetensors that is no",
        ),
        (lambda folder: shards(folder, ["a.safetensors", "b.safetensors"]), "lacks b.safetensors"),
        (lambda folder: shards(folder, [7]), "has a broken model.safetensors.index.json"),
    ],
)
def test_a_folder_that_is_no_judge_is_told_why(copied, spoil, told):
    assert list(judges.find([copied.parent])) == ["copied"]
    spoil(copied)
    assert judges.why_not(copied).startswith(told) and judges.find([copied.parent]) == {}
    for judge, folders in (("copied", [copied.parent]), (copied, [])):
        with pytest.raises(JudgeError) as error:
            judges.load(judge, folders)
        assert told in str(error.value) and "\n" not in str(error.value)


def test_a_name_that_is_nowhere_is_told_where_it_was_looked_for(tmp_path):
    with pytest.raises(JudgeError, match=f"there is no judge 'nowhere': none of that name is in {tmp_path}, .*hub$"):
        judges.load("nowhere", [tmp_path])
    assert judges.why_not(tmp_path / "nowhere") == "is no folder"
    (tmp_path / "org/bare").mkdir(parents=True)
    (tmp_path / "org/bare/file").touch()
    for name, folder in (("org/bare", tmp_path / "org/bare"), (tmp_path.name, tmp_path)):
        with pytest.raises(JudgeError, match=f"there is no judge '{name}': the folder {folder} has no config.json: "):
            judges.load(name, [tmp_path])
    for name in ("", ".", "..", f"../{tmp_path.name}", str(tmp_path / "org/bare")):
        with pytest.raises(JudgeError, match="none of that name"):
            judges.load(name, [tmp_path])


def test_weights_of_another_model_are_refused(copied):
    weights = load((copied / "model.safetensors").read_bytes())
    save_file({name: x for name, x in weights.items() if "vision" not in name}, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(JudgeError, match=r"the judge copied cannot be loaded: \d+ of its weights are not in its file \(vis"):
        judges.load(copied)
    weights["text_projection.weight"] = torch.zeros(3, 3)
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(JudgeError, match=r"the judge copied cannot be loaded \(RuntimeError: .+\)$"):
        judges.load(copied)


def test_a_model_of_another_type_is_no_dual_encoder():
    with torch.device("meta"):
        bert = transformers.BertModel(transformers.BertConfig(**INSIDE))
    with pytest.raises(JudgeError, match="mine is a model of type 'bert', which is none of align, "):
        judge_models.DualEncoder("mine", bert, words(77), None)


def test_weights_in_several_files_are_read(copied, clip):
    shards(copied, ["a.safetensors", "b.safetensors"])
    weights = load((copied / "a.safetensors").read_bytes())
    halves = {"a.safetensors": list(weights)[::2], "b.safetensors": list(weights)[1::2]}
    for file, names in halves.items():
        save_file({name: weights[name] for name in names}, copied / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, names in halves.items() for name in names}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    said = [judges.scores(judges.load(folder), pictures(), PROMPTS) for folder in (copied, clip)]
    assert torch.equal(*said) and len(judges.digest(copied)) == 10


def test_a_digest_is_of_the_bytes(copied, clip):
    first = judges.digest(copied)
    assert first == judges.digest(clip) == judges.digest(str(copied)) and len(first) == 10 and int(first, 16)
    for name in ("model.safetensors", "config.json"):
        before, raw = judges.digest(copied), bytearray((copied / name).read_bytes())
        raw[-1] ^= 1
        (copied / name).write_bytes(raw)
        os.utime(copied / name, ns=(1, 1))
        assert judges.digest(copied) not in (before, first)
        raw[-1] ^= 1
        (copied / name).write_bytes(raw)
        os.utime(copied / name, ns=(2, 2))
        assert judges.digest(copied) == first


def test_a_judge_is_read_once_and_again_when_its_bytes_are_others(copied, tmp_path):
    name = copied.name
    first, which = judges.load_once(name, [copied.parent], tmp_path)
    first.cut = True
    again, same = judges.load_once(name, [copied.parent], tmp_path)
    assert again is first and same == which == judges.digest(copied) and not again.cut
    config = copied / "config.json"
    config.write_text(config.read_text() + "\n")
    other, another = judges.load_once(name, [copied.parent], tmp_path)
    assert other is not first and another != which
    config.unlink()
    with pytest.raises(JudgeError, match=r"config\.json"):
        judges.load_once(name, [copied.parent], tmp_path)


# -- what a folder may lack ----------------------------------------------------------------------------------------------


def without_processor(folder):
    for name in [name for names in judge_models._FILES.values() for name in names] + ["tokenizer_config.json"]:
        (folder / name).unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("where", ["models/laion/{}", "models/{}", "hub/models--laion--{}/snapshots/1"])
def test_a_clip_without_a_processor_takes_that_of_pick_score(where, copied, clip, tmp_path):
    without_processor(copied)
    with pytest.raises(
        JudgeError, match=f"the judge copied has no tokenizer .*, and {judge_models.PROCESSOR}, whose would do, is"
    ):
        judges.load(copied)
    other = tmp_path / where.format("CLIP-ViT-H-14-laion2B-s32B-b79K")
    other.mkdir(parents=True)
    for file in clip.iterdir():
        if file.suffix == ".json":
            (other / file.name).write_bytes(file.read_bytes())
    judge = judges.load(copied, [tmp_path / "models"], tmp_path / "hub")
    assert torch.equal(judges.scores(judge, pictures(), PROMPTS), judges.scores(judges.load(clip), pictures(), PROMPTS))
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(other)
    with pytest.raises(JudgeError, match=r"does not fit: 16 pixels and \d+ words, not 32 and 49408$"):
        judges.load(copied, [tmp_path / "models"], tmp_path / "hub")


def test_a_siglip_without_a_processor_is_refused(siglip, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((siglip / name).read_bytes())
    with pytest.raises(JudgeError, match=r"the judge bare has no tokenizer \(tokenizer.json\) in its folder$"):
        judges.load(folder)


def test_without_transformers_it_says_what_would_help(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        JudgeError, match="clip cannot be loaded: transformers is not installed; pip install transformers would help"
    ):
        judges.load(clip)


# -- where they are ------------------------------------------------------------------------------------------------------


def test_loading_uses_up_none_of_the_hosts_random_numbers(clip):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    judges.load(clip)
    assert torch.equal(torch.rand(3), expected)


def test_half_precision_stays_half_on_a_gpu_only(tmp_path):
    judge = judges.load(saved(tmp_path / "half", "clip", torch.float16))
    whole = judges.load(saved(tmp_path / "whole", "clip"))
    weights = load((tmp_path / "whole/model.safetensors").read_bytes()).values()
    numbers = sum(weight.numel() for weight in weights if weight.is_floating_point())
    assert (judge.nbytes, whole.nbytes) == (2 * numbers, 4 * numbers)
    torch.testing.assert_close(*(judges.scores(each, pictures(), PROMPTS) for each in (judge, whole)), atol=0.1, rtol=0)
    assert {weight.dtype for weight in judge._model.parameters()} == {torch.float32}
    for each, dtype in ((judge, torch.float16), (whole, torch.float32)):
        each.to("meta")
        assert {weight.dtype for weight in each._model.parameters()} == {dtype} and each.device.type == "meta"


class Fake(LoadedJudge):
    """A judge on a GPU whose memory runs out where it is told to."""

    def __init__(self, runs_out=""):
        super().__init__("fake", "cpu")
        self.runs_out, self.asked_on = runs_out, []

    @property
    def nbytes(self):
        return 1000

    def to(self, device):
        if str(device) != "cpu" and self.runs_out == "moving":
            raise torch.cuda.OutOfMemoryError
        self.device = torch.device(device)

    def of(self, pictures, prompts):
        self.asked_on.append(self.device.type)
        if self.device.type != "cpu" and self.runs_out == "scoring":
            raise torch.cuda.OutOfMemoryError
        return torch.arange(len(pictures))


@pytest.mark.parametrize(
    ("free", "runs_out", "asked_on"),
    [
        (1000 + judges.MARGIN, "", ["cuda", "cuda"]),
        (999 + judges.MARGIN, "", ["cpu", "cpu"]),
        (2**40, "moving", ["cpu", "cpu"]),
        (2**40, "scoring", ["cuda", "cpu", "cpu"]),
    ],
)
def test_a_gpu_is_used_where_there_is_room(free, runs_out, asked_on):
    fake = Fake(runs_out)
    with judges.on_device(fake, "cuda:0", lambda device: free if device == torch.device("cuda:0") else 0) as judge:
        for _ in range(2):
            assert judges.scores(judge, pictures(), PROMPTS).tolist() == [0, 1, 2]
    assert fake.asked_on == asked_on and fake.device.type == "cpu"


def test_nothing_is_left_on_the_gpu_after_an_error():
    fake = Fake()
    with pytest.raises(KeyboardInterrupt), judges.on_device(fake, "cuda:0", lambda _: 2**40):
        assert fake.device.type == "cuda"
        raise KeyboardInterrupt
    assert fake.device.type == "cpu"


def test_other_devices_have_no_room_and_functions_stay_as_they_are():
    with judges.on_device(Fake(), "meta") as judge:
        assert judge.device.type == "cpu"

    def own(*_):
        return torch.zeros(3)

    with judges.on_device(own, "cuda:0", lambda _: pytest.fail("asked")) as judge:
        assert judge is own
    with judges.on_device(Fake(), "cpu", lambda _: pytest.fail("asked")) as judge:
        assert judge.device.type == "cpu"


# -- packages: stand-ins with the members of image-reward 1.5, t2v-metrics 3.0 and hpsv2 1.2.0 that are used ---------------

PACKAGES = {
    "ImageReward.py": """
import os, torch, huggingface_hub.constants as hub
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.device = torch.nn.Parameter(torch.zeros(10)), "cpu"
    def score(self, prompt, image):
        return len(prompt) + image.size[0] / 100
def load(name, device, med_config):
    assert hub.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1" and device == "cpu"
    return Model()
""",
    "hpsv2/__init__.py": "",
    "hpsv2/img_score.py": """
import numpy as np, torch, huggingface_hub.constants as hub
model_dict, device = {}, "cuda"
def initialize_model():
    assert hub.HF_HUB_OFFLINE and device == "cpu"
    model_dict["model"] = torch.nn.Linear(4, 5)
def score(pictures, prompt, cp=None, hps_version="v2.0"):
    assert cp.endswith("HPS_v2.1_compressed.pt") and hps_version == "v2.1"
    return [np.float32(np.asarray(picture).mean()) for picture in pictures]
""",
    "t2v_metrics.py": """
import torch, types, huggingface_hub.constants as hub
from PIL import Image
class VQAScore:
    def __init__(self, model, device):
        assert hub.HF_HUB_OFFLINE and model == "clip-flant5-xxl"
        self.device, self.model = device, types.SimpleNamespace(model=torch.nn.Linear(4, 5), device=device)
    def __call__(self, images, texts):
        return torch.tensor([[Image.open(images[0]).size[0] / 100 + len(texts[0])]])
""",
}


@pytest.fixture
def packages(monkeypatch, tmp_path, nothing_of_this_machine):
    for name, text in PACKAGES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("ImageReward", "hpsv2", "hpsv2.img_score", "t2v_metrics"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield nothing_of_this_machine
    for name in ("ImageReward", "hpsv2", "hpsv2.img_score", "t2v_metrics"):
        sys.modules.pop(name, None)


WEIGHTS = {
    "ImageReward": (".cache/ImageReward/ImageReward.pt", ".cache/ImageReward/med_config.json"),
    "HPSv2": (".cache/huggingface/hub/models--xswu--HPSv2/snapshots/1/HPS_v2.1_compressed.pt",),
    "VQAScore": (
        "hf_cache/models--zhiqiulin--clip-flant5-xxl/snapshots/1/config.json",
        "hf_cache/models--zhiqiulin--clip-flant5-xxl/snapshots/1/pytorch_model.bin",
    ),
}


@pytest.mark.parametrize(
    ("name", "nbytes", "expected"),
    [
        ("ImageReward", 40, [len(prompt) + 0.48 for prompt in PROMPTS]),
        ("HPSv2", 200, [picture.mean() for picture in pixels()]),
        ("VQAScore", 100, [len(prompt) + 0.48 for prompt in PROMPTS]),
    ],
)
def test_a_package_is_a_judge_where_its_weights_are(name, nbytes, expected, packages):
    import huggingface_hub.constants as hub

    assert judges.find() == {}
    for file in WEIGHTS[name]:
        (packages / file).parent.mkdir(parents=True, exist_ok=True)
        (packages / file).write_text("{}")
    assert list(judges.find()) == [name] and len(judges.digest(judges.find()[name])) == 10
    judge = judges.load(name)
    assert not hub.HF_HUB_OFFLINE and "HF_HUB_OFFLINE" not in os.environ
    np.testing.assert_allclose(judges.scores(judge, pictures(), PROMPTS), expected, rtol=1e-5)
    assert judge.nbytes == nbytes and judge.name == name and not judge.cut
    judge.to("meta")
    assert judge.device.type == "meta"


def test_weights_without_their_package_are_no_judge(nothing_of_this_machine):
    for file in [file for files in WEIGHTS.values() for file in files]:
        (nothing_of_this_machine / file).parent.mkdir(parents=True, exist_ok=True)
        (nothing_of_this_machine / file).write_text("{}")
    packages = {"ImageReward": "ImageReward", "HPSv2": "hpsv2", "VQAScore": "t2v_metrics"}
    assert set(judges.find()) == {name for name in packages if importlib.util.find_spec(packages[name])}
