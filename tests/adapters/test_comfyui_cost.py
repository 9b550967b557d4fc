"""ComfyUI: what is announced is what a counter on the network counts, and no more than the extra cost allows."""

import pytest

from ..lengths import at_length
from .comfyui_graphs import (
    KINDS,
    active_from,
    custom,
    dual,
    evaluations_of,
    from_pure_noise,
    graph,
    masked,
    part_of_the_steps,
    said,
    sampled,
    second_pass,
    two_areas,
    without_ours,
)

pytestmark = pytest.mark.needs("ComfyUI", fixture="host")
LIMITS = {"Automatic": 0.4, "Light": 0.2}
SAMPLERS = [
    "euler", "euler_cfg_pp", "euler_ancestral", "heun", "heunpp2", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast",
    "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "ddpm", "lcm", "ipndm", "ipndm_v", "deis", "res_multistep",
    "res_multistep_ancestral", "gradient_estimation", "er_sde", "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece",
    "ddim", "uni_pc", "uni_pc_bh2",
]  # fmt: skip


def combinations():
    """(name, preset, graph): built from the preset's settings alone."""
    for preset in LIMITS:
        on = {"preset": preset}
        for sampler in SAMPLERS:
            yield f"{sampler}-flux", preset, graph("flux", on, steps=12, sampler=sampler)
        for kind in KINDS:
            for steps in (1, 2, 4, 8, 20):
                yield f"{steps} steps-{kind}", preset, graph(kind, on, steps=steps)
            yield f"no guidance-{kind}", preset, graph(kind, on, steps=16, cfg=1.0)
            for start, end in ((0, 3), (0, 8), (6, 10)):
                yield f"steps {start} to {end}-{kind}", preset, part_of_the_steps(graph(kind, on, steps=16), start, end)
            yield f"mask-{kind}", preset, masked(graph(kind, on, steps=16))
            yield f"half denoised-{kind}", preset, second_pass(graph(kind, on, steps=16), 0.5)
            yield f"mask half denoised-{kind}", preset, masked(second_pass(graph(kind, on, steps=16), 0.6))
            yield f"from 30 %-{kind}", preset, active_from(graph(kind, on, steps=16), 0.3)
            yield f"up to 50 %-{kind}", preset, active_from(graph(kind, on, steps=16), 0.0, 0.5)
            yield f"no negative prompt-{kind}", preset, custom(kind, on)
            for scales in ((3.0, 2.0), (3.0, 1.0), (1.0, 1.0), (1.0, 3.0)):
                yield f"dual {scales}-{kind}", preset, dual(kind, on, "regular", *scales)
            yield f"nested-{kind}", preset, dual(kind, on, "nested", 3.0, 2.0)
        for steps in (8, 20):
            yield f"{steps} steps from pure noise", preset, from_pure_noise(graph("sd15", on, steps=steps))
        yield "areas", preset, two_areas(graph("sd15", on, steps=16))
        yield "mask ddim", preset, masked(graph("sd15", on, steps=16, sampler="ddim"))


COMBINATIONS = list(combinations())


@pytest.mark.parametrize(
    "preset, nodes",
    [pytest.param(preset, nodes, id=f"{name}-{preset}") for name, preset, nodes in COMBINATIONS[:: at_length(5, 1)]],
)
def test_announced_is_counted_and_within_the_limit(host, preset, nodes):
    _, own = sampled(host, without_ours(nodes))
    first = evaluations_of(own) // 2 if "first" in nodes else 0  # the plain picture that the sampler starts from
    _, seen = sampled(host, nodes)
    paid, limit = evaluations_of(seen) - evaluations_of(own), LIMITS[preset] * (evaluations_of(own) - first)
    announced, chosen, reasons = said(host)
    print(f"{paid} paid, {announced} announced, {limit:.1f} allowed, chosen {chosen} {reasons}")
    assert paid == announced <= limit
    assert chosen or reasons, "compared, or told why not"
