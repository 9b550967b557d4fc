"""The lab's judge: what it is taught with, a short training, and the packaged folder."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from lib_noiseorder.tools.cli import main
from lib_noiseorder.tools.lab import judge_lessons as lessons
from lib_noiseorder.tools.lab import judge_training
from lib_noiseorder.tools.lab.judge_folder import vocabulary
from lib_noiseorder.tools.lab.world import Prompt

transformers = pytest.importorskip("transformers")

PACKAGED = Path(str(files("lib_noiseorder.tools.lab") / "weights/judge"))
MOST_BYTES = 3_000_000
EVERY_WORLD = pytest.mark.parametrize("world", lessons.VOCABULARIES)


def loaded(folder):
    """Model, tokenizer and image processor, as any program would load them."""
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).float().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model, tokenizer, transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)


def scores(folder, pictures, texts):
    """The score of every picture [size, size, 3] in 0..1 for every text."""
    model, tokenizer, processor = loaded(folder)
    pictures = [(picture.clip(0, 1) * 255).round().astype(np.uint8) for picture in pictures]
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, return_tensors="pt"), pixel_values=pixels).logits_per_image


def test_a_short_training_writes_a_folder_that_transformers_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(judge_training, "_FAMILIES", 1)
    assert main(["lab", "train", "--model", "judge", "--minutes", "0.001", "--out", str(tmp_path / "judge")]) == 0
    assert sum(path.stat().st_size for path in (tmp_path / "judge").iterdir()) <= MOST_BYTES
    answer = scores(tmp_path / "judge", [np.full((24, 24, 3), 0.5)], ["a red circle", "two blue fishs"])
    assert answer.shape == (1, 2)
    assert torch.isfinite(answer).all()


@EVERY_WORLD
def test_a_step_changes_every_weight(world, tmp_path):
    rng = np.random.default_rng(1)
    judge_training.write_texts(tmp_path)
    model = judge_training.new_model()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    aids = judge_training.Aids(model)
    loss = judge_training.judge_loss(model, tokenizer, [lessons.family(world, rng) for _ in range(2)], rng, aids)
    loss.backward()
    assert torch.isfinite(loss)
    unmoved = {
        name
        for name, parameter in [*model.named_parameters(), *aids.named_parameters()]
        if parameter.grad is None or not parameter.grad.any()
    }
    assert not unmoved


@EVERY_WORLD
def test_near_misses_mean_something_else(world):
    rng, words = np.random.default_rng(2), lessons.VOCABULARIES[world]
    for _ in range(100):
        prompt = lessons.any_prompt(words, rng)
        others = lessons.near_misses(words, prompt, rng)
        assert len({str(other) for other in others}) == lessons.NEAR_MISSES
        assert not any(lessons.agree(words, prompt, other) for other in others)


def test_what_is_said_in_another_way_agrees():
    words = lessons.VOCABULARIES["shapes"]
    said = Prompt("red", "circle", 1, "left of", "blue", "square")
    assert lessons.agree(words, said, Prompt("blue", "square", 1, "right of", "red", "circle"))
    assert not lessons.agree(words, said, Prompt("blue", "square", 1, "left of", "red", "circle"))


@EVERY_WORLD
def test_a_family_has_its_pictures_and_knows_what_is_where(world):
    rng, words = np.random.default_rng(3), lessons.VOCABULARIES[world]
    family = lessons.family(world, rng)
    assert family.pictures.shape == (lessons.PICTURES, words.module.SIZE, words.module.SIZE, 3)
    assert len(lessons.SHOWN) == lessons.PICTURES
    for number, which in enumerate(lessons.SHOWN[: family.seen.shape[1]]):
        things = words.things(family.prompts[which])
        for values, names, truth in (
            (family.seen[0], lessons.KINDS, [kind for _, kind in things]),
            (family.seen[1], lessons.COLOURS, [colour for colour, _ in things]),
        ):
            assert sorted(names[value - 1] for value in values[number].flatten() if value) == sorted(truth)


def test_the_packaged_judge_is_small_and_knows_every_word():
    assert sum(path.stat().st_size for path in PACKAGED.iterdir()) <= MOST_BYTES
    tokenizer = loaded(PACKAGED)[1]
    ids, _ = vocabulary(lessons.words())
    for word in lessons.words():
        assert tokenizer(word)["input_ids"] == [ids["<|startoftext|>"], ids[f"{word}</w>"], ids["<|endoftext|>"]]


@EVERY_WORLD
def test_the_packaged_judge_tells_near_misses_apart(world):
    rng, right = np.random.default_rng(4), []
    families = [lessons.family(world, rng) for _ in range(24)]
    texts = [str(prompt) for family in families for prompt in family.prompts]
    of_all = scores(PACKAGED, [family.pictures[0] for family in families], texts)
    for number, family in enumerate(families):
        mine = of_all[number, number * len(family.prompts) :][: len(family.prompts)]
        right += [bool(mine[0] > other) for other in mine[1:]]
    assert np.mean(right) > 0.85
