"""The first world, coloured shapes: see `lab.world` for its pictures, `lab.network` and `lab.oracle` for its networks."""

from __future__ import annotations

from ..network import ShapesNet
from ..oracle import Oracle
from ..world import NO_PROMPT, SIZE, place, random_prompt, render, test_prompts, to_latent, to_pictures
from . import World, WorldModel

WORLD = World(
    name="shapes",
    size=SIZE,
    steps=20,
    models={
        "eps": WorldModel(weights="eps.safetensors", parameterisation="eps", guidance=3.5),
        "flow": WorldModel(weights="flow.safetensors", parameterisation="flow", guidance=3.0),
        "distilled": WorldModel(weights="distilled.safetensors", parameterisation="flow", guidance=1.0),
        "few-steps": WorldModel(
            weights="few-steps.safetensors", base="distilled.safetensors", parameterisation="flow", guidance=1.0, steps=4
        ),
        "v": WorldModel(weights="v.safetensors", parameterisation="v", guidance=3.5, zero_terminal_snr=True),
    },
    network=ShapesNet,
    oracle=Oracle,
    no_prompt=NO_PROMPT,
    random_prompt=random_prompt,
    test_prompts=test_prompts,
    picture=lambda prompt, rng: render(place(prompt, rng), rng),
    to_latent=to_latent,
    to_pictures=to_pictures,
)
"""`distilled` and `few-steps` have flow's guidance in their weights."""
