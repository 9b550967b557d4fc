"""The second world, tinted pictograms: another kind of picture, other relations, another architecture, nothing tuned to it."""

from __future__ import annotations

from .. import World, WorldModel
from .judge import Oracle
from .network import PictogramsNet
from .scenes import NO_PROMPT, SIZE, place, random_prompt, render, test_prompts, to_latent, to_pictures

WORLD = World(
    name="pictograms",
    size=SIZE,
    steps=20,
    models={
        "eps": WorldModel(weights="pictograms-eps.safetensors", parameterisation="v", guidance=3.0),
        "flow": WorldModel(weights="pictograms-flow.safetensors", parameterisation="flow", guidance=2.5),
        "few-steps": WorldModel(
            weights="pictograms-few-steps.safetensors",
            base="pictograms-flow.safetensors",
            parameterisation="flow",
            guidance=1.0,
            steps=4,
        ),
    },
    network=PictogramsNet,
    oracle=Oracle,
    no_prompt=NO_PROMPT,
    random_prompt=random_prompt,
    test_prompts=test_prompts,
    picture=lambda prompt, rng: render(place(prompt, rng), rng),
    to_latent=to_latent,
    to_pictures=to_pictures,
    chunk=8,
)
