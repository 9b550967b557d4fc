"""A judge of the user's own chooses: the lab's small CLIP, through the hosts' own decoders."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import pytest

from lib_noiseorder import NoiseOrderSettings
from lib_noiseorder.tools.lab import packaged

from .client import difference, noise_order
from .double.host import DoubleHost
from .test_announced import announced, make
from .test_grid import plotted

pytest.importorskip("transformers")
JUDGE = "lab judge"
AUTOMATIC = {"preset": "Automatic", "judge": JUDGE}
FINISHED = {**AUTOMATIC, "judge_at": 1, "extra_cost": 2}
SAMPLERS = ["Euler", "Euler a", "Heun", "DPM++ 2M SDE"]


@pytest.fixture(scope="module")
def judges(host, tmp_path_factory):
    """The folder in which the host's judges are, the lab's one there."""
    if isinstance(host, DoubleHost):
        from modules import paths_internal

        paths_internal.models_path = str(tmp_path_factory.mktemp("models"))
        folder = Path(paths_internal.models_path) / "noise_order_judges"
    else:
        folder = host.server.path / "models/noise_order_judges"
    own = set(folder.iterdir()) if folder.is_dir() else None
    shutil.copytree(packaged.folder("judge"), folder / JUDGE, dirs_exist_ok=True)
    yield folder
    if own is None:
        shutil.rmtree(folder)
    else:
        for made in set(folder.iterdir()) - own:
            shutil.rmtree(made)


@pytest.fixture(autouse=True)
def _judges_are_there(judges): ...


def has(host, sampler):
    return not isinstance(host, DoubleHost) or sampler in ("Euler", "Euler a", "Heun")


def test_off_and_model_are_as_without_a_judge(host):
    plain, automatic = host.txt2img(steps=20), host.txt2img(steps=20, **noise_order(preset="Automatic"))
    assert difference(host.txt2img(steps=20, **noise_order(enabled=False, judge=JUDGE)), plain) == 0
    named = host.txt2img(steps=20, **noise_order(preset="Automatic", judge="model", judge_at=0.3, judge_threshold="5"))
    assert difference(named, automatic) == 0 and named["Noise Order score"] is None


@pytest.mark.parametrize("at, cost", [(0.25, 1.0), (0.5, 1.0), (1.0, 2.0)])
def test_the_infotext_says_who_chose_and_what_it_gave_and_makes_the_picture_again(host, at, cost):
    judged = host.txt2img(steps=8, **noise_order(preset="Automatic", judge=JUDGE, judge_at=at, extra_cost=cost))
    assert judged["Noise Order skipped"] is None
    assert judged["Noise Order judge"] == JUDGE and len(judged["Noise Order judge hash"]) == 10
    assert float(judged["Noise Order score"]) > -100
    replayed = host.txt2img(steps=8, **noise_order(**NoiseOrderSettings.from_infotext(judged.infotexts[0]).to_dict()))
    assert difference(replayed, judged) <= (at < 1)  # answers that are remembered were given in other company
    assert replayed["Noise Order chosen"] == judged["Noise Order chosen"]
    assert replayed["Noise Order evaluations"] == "0"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_finished_picture_is_the_one_made_from_its_draw_alone(host, sampler):
    if not has(host, sampler):
        pytest.skip(f"the double has no {sampler}")
    kept = set()
    for seed in range(1, 4):
        payload = {"seed": seed, "sampler_name": sampler}
        judged = host.txt2img(**payload, **noise_order(**FINISHED))
        kept.add(judged["Noise Order chosen"])
        alone = host.txt2img(**payload, **noise_order(preset="Automatic", chosen=judged["Noise Order chosen"]))
        assert difference(judged, alone) == 0
    assert kept <= {"1", "2", "3"}


def test_it_costs_what_was_announced(host):
    plain = host.txt2img()
    judged = host.txt2img(**noise_order(**FINISHED))
    assert float(judged["Noise Order evaluations"]) == judged.evaluations - plain.evaluations == 2 * plain.evaluations
    early = host.txt2img(steps=20, **noise_order(**AUTOMATIC, judge_at=0.25, extra_cost=1))
    assert 0 < float(early["Noise Order evaluations"]) == early.evaluations - host.txt2img(steps=20).evaluations <= 40


@pytest.mark.parametrize("at", [0.25, 0.75, 0.9])
@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 4.0])
def test_where_the_negative_prompt_is_left_out_late_it_costs_what_was_announced(host, at, sigma):
    """The hosts' "negative guidance minimum sigma": from some step on the sampler asks for less than a question does."""
    payload = {"steps": 12, "override_settings": {"s_min_uncond": sigma}}
    plain = make(host, "txt2img", payload)
    judged = make(host, "txt2img", payload, **noise_order(**AUTOMATIC, judge_at=at, extra_cost=4))
    counted = judged.evaluations - plain.evaluations
    assert judged["Noise Order skipped"] is None
    assert announced(judged["Panel said"]) == float(judged["Noise Order evaluations"]) == counted <= 4 * plain.evaluations


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM2"])
def test_finished_pictures_cost_what_was_announced_with_samplers_of_second_order_too(host, sampler):
    if not has(host, sampler):
        pytest.skip("the double has no such sampler")
    payload = {"steps": 6, "sampler_name": sampler}
    plain = make(host, "txt2img", payload)
    judged = make(host, "txt2img", payload, **noise_order(**FINISHED))
    counted = judged.evaluations - plain.evaluations
    assert announced(judged["Panel said"]) == float(judged["Noise Order evaluations"]) == counted == 2 * plain.evaluations


def test_no_picture_depends_on_another(host):
    batch = {"batch_size": 3, "sampler_name": "Euler a"}
    together = host.txt2img(seed=5, **batch, **noise_order(**FINISHED))
    for row in range(3):
        alone = host.txt2img(seed=5 + row, sampler_name="Euler a", **noise_order(**FINISHED))
        assert f"Noise Order chosen: {alone['Noise Order chosen']}" in together.infotexts[row]
        assert abs(alone.pictures[0] - together.pictures[row]).max() <= 1
    plain_batch = host.txt2img(seed=5, n_iter=2, sampler_name="Euler a", **noise_order(**FINISHED))
    second = host.txt2img(seed=6, sampler_name="Euler a", **noise_order(**FINISHED))
    assert abs(plain_batch.pictures[1] - second.pictures[0]).max() <= 1


def test_hires_fix_goes_on_from_the_kept_picture(host):
    hires = {"enable_hr": True, "sampler_name": "Euler a"}
    judged = host.txt2img(**hires, **noise_order(**FINISHED))
    alone = host.txt2img(**hires, **noise_order(preset="Automatic", chosen=judged["Noise Order chosen"]))
    assert judged["Noise Order skipped"] is None and difference(judged, alone) == 0


def test_good_enough_stops(host):
    first = host.txt2img(**noise_order(**FINISHED, judge_threshold="-1000"))
    assert first["Noise Order chosen"] == "1" and first["Noise Order evaluations"] == "0"
    assert difference(first, host.txt2img(**noise_order(preset="Automatic", chosen="1"))) == 0
    never = host.txt2img(**noise_order(**FINISHED, judge_threshold="1000"))
    assert difference(never, host.txt2img(**noise_order(**FINISHED))) == 0


@pytest.mark.parametrize("at", [0.5, 1.0])
@pytest.mark.parametrize(
    "spoil, says",
    [
        (None, "there is no judge 'nobody'"),
        (lambda folder: (folder / "config.json").unlink(), "there is no judge"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "there is no judge"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"not weights at all"), "there is no judge"),
        (lambda folder: (folder / "vocab.json").write_text("{"), "broken"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "there is no judge"),
    ],
    ids=["unknown", "no config", "no judge", "broken", "broken words", "pickled"],
)
def test_a_judge_that_cannot_be_used_costs_the_effect_and_not_the_picture(host, judges, at, spoil, says):
    name = "nobody"
    if spoil:
        name = "broken"
        shutil.rmtree(judges / name, ignore_errors=True)
        spoil(Path(shutil.copytree(judges / JUDGE, judges / name)))
    told = host.txt2img(steps=8, **noise_order(preset="Automatic", judge=name, judge_at=at, extra_cost=2))
    assert says in told["Noise Order skipped"] and told["Noise Order chosen"] is None
    assert difference(told, host.txt2img(steps=8)) == 0 and told["Noise Order evaluations"] == "0"


@pytest.mark.parametrize("at", [0.5, 1.0])
def test_named_pictures_are_those_of_the_batch_that_chose_them_though_the_judge_is_gone(host, at):
    batch = {"batch_size": 3, "seed": 5, "steps": 8}
    settings = {**AUTOMATIC, "judge_at": at, "extra_cost": 2}
    whole = host.txt2img(**batch, **noise_order(**settings))
    kept = [re.search(r"Noise Order chosen: (\d+)", text)[1] for text in whole.infotexts]
    named = {**settings, "judge": "nobody", "chosen": f"5:{kept[0]} 7:{kept[2]}"}
    again = host.txt2img(**batch, **noise_order(**named))
    assert "there is no judge 'nobody'" in again["Noise Order skipped"] and again["Noise Order chosen"] == kept[0]
    assert abs(again.pictures[[0, 2]] - whole.pictures[[0, 2]]).max() <= (at < 1)
    assert abs(again.pictures[1] - host.txt2img(**batch).pictures[1]).max() == 0


@pytest.mark.parametrize("noise", [1, 2])
@pytest.mark.parametrize("question", [1, 3])
def test_an_injection_that_fails_ends_the_comparison_with_all_counted(host, noise, question):
    if not (isinstance(host, DoubleHost) and host.family.flow):
        pytest.skip("does not apply: the network of the flow double fails on demand")
    plain = host.txt2img(cfg_scale=1)
    asked = []

    def spoil(answer):
        asked.append(len(answer))
        if len(asked) == (noise - 1) * (3 + plain.evaluations) + question:
            raise RuntimeError("no room")
        return answer

    injecting = {"selection": "automatic", "erasure_samples": 1, "judge": JUDGE, "judge_at": 1, "extra_cost": 2}
    with host.spoiled(spoil):
        told = host.txt2img(cfg_scale=1, **noise_order(**injecting))
    where = "noise 2 of 3: " if noise == 2 else ""
    assert told["Noise Order skipped"] == f"selection: {where}RuntimeError: no room"
    expected = 3 * (noise - 1) + question
    assert int(told["Noise Order evaluations"]) == told.evaluations - plain.evaluations == expected


@pytest.mark.real_host
def test_a_plot_over_judges_has_every_judges_picture(host):
    cells = plotted(host, ("judge", f"model, {JUDGE}"), ("extra_cost", "1, 2"), {"preset": "Automatic"})
    for found, (cost, judge) in zip(cells, itertools.product((1, 2), ("model", JUDGE))):
        single = host.txt2img(**noise_order(preset="Automatic", judge=judge, extra_cost=cost))
        assert found["Noise Order judge"] == single["Noise Order judge"] and difference(found, single) == 0
        assert (found["Noise Order score"] is None) == (judge == "model") and found["Noise Order skipped"] is None


@pytest.mark.parametrize("switch, at", [(0.0, "0.05"), (0.01, "0.05"), (0.3, "0.3")])
def test_with_a_refiner_it_is_judged_where_that_takes_over(host, switch, at):
    """However early that is: the setting itself begins at 0.05."""
    if not isinstance(host, DoubleHost):
        pytest.skip("does not apply: another checkpoint is only said to be there")
    refined = {"steps": 20, "refiner_checkpoint_info": "another", "refiner_switch_at": switch}
    told = host.txt2img(**refined, **noise_order(**FINISHED))
    assert told["Noise Order skipped"] == f"judge at 1: judged at {at}, where the refiner takes over"
    assert told["Noise Order chosen"] and told["Noise Order score"]


def test_a_single_draw_is_the_reason_whatever_the_extra_cost(host):
    told = host.txt2img(**noise_order(**FINISHED, selection_draws=1))
    assert told["Noise Order skipped"] == "selection: selection_draws = 1 leaves nothing to compare"


def test_too_little_extra_cost_is_said(host):
    told = host.txt2img(**noise_order(**AUTOMATIC, judge_at=1, extra_cost=0.5))
    assert "extra_cost = 0.5 buys no second picture; 1 would" in told["Noise Order skipped"]
    assert difference(told, host.txt2img()) == 0
