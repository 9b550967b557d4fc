"""Families of diffusers' pipelines, made small; docs/diffusers.md says of every class what happens to it."""

import random
from pathlib import Path

import pytest

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from ..lengths import at_length  # noqa: E402
from . import diffusers_table, tiny  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "diffusers.md"
WRITTEN = diffusers_table.read(PAGE.read_text(encoding="utf-8"))
written_for_this = pytest.mark.skipif(
    f"diffusers {diffusers.__version__}" not in PAGE.read_text(encoding="utf-8"), reason="written for another diffusers"
)
NAMED = ["QwenImage", "ZImage", "Flux2Klein", "Chroma", "Sana", "Lumina2", "HunyuanVideo", "LTX", "CogVideoX", "AuraFlow"]
OTHERS = [name for name in WRITTEN if name.removesuffix("Pipeline") not in NAMED]
SAMPLE = at_length(random.Random(diffusers.__version__).sample(OTHERS, 4), OTHERS)


@written_for_this
@pytest.mark.parametrize("name", [f"{name}Pipeline" for name in NAMED] + SAMPLE)
def test_what_is_written_of_a_pipeline_happens(name):
    kind = tiny.pipeline_classes()[name]
    happened, reason = diffusers_table.in_time(kind, seconds=60)
    assert happened == WRITTEN[name], reason


@written_for_this
def test_every_pipeline_is_written_about():
    assert set(tiny.pipeline_classes()) == set(WRITTEN)


def test_the_named_families_work():
    assert {WRITTEN[f"{name}Pipeline"] for name in NAMED} == {diffusers_table.WORKS}
