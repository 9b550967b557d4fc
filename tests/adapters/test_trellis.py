"""The TRELLIS adapter on TRELLIS' own samplers, structure model and sparse tensors, on the CPU, with random weights.

NOISEORDER_TRELLIS names the folder of a checkout; without it an installed package is used.
"""

import importlib
import importlib.util
import os
import re
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lib_noiseorder import NoiseOrderSettings, order_noise
from lib_noiseorder.adapters.noise_keyed_draws import further_draws
from lib_noiseorder.adapters.trellis import order_trellis

pytestmark = pytest.mark.needs("TRELLIS", fixture="trellis")
PLAIN = NoiseOrderSettings(enabled=True, erasure_samples=1, strength=0.0)
ERASED = NoiseOrderSettings(enabled=True, strength=0.0)
INJECTED = NoiseOrderSettings(preset="Custom")


class SparseConvTensor:
    """What TRELLIS' sparse tensors keep their data in where spconv, which needs a GPU, is installed."""

    def __init__(self, features, indices, spatial_shape, batch_size, grid=None, voxel_num=None, indice_dict=None):
        self._features, self.indices, self.spatial_shape, self.batch_size = features, indices, spatial_shape, batch_size
        self.grid, self.voxel_num, self.indice_dict = grid, voxel_num, indice_dict
        self.benchmark = self.benchmark_record = self.thrust_allocator = self._timer = self.force_algo = self.int8_scale = None

    @property
    def features(self):
        return self._features


@pytest.fixture(scope="module")
def trellis():
    """TRELLIS' samplers, structure flow model and sparse tensors, without what else its packages import."""
    if folder := os.environ.get("NOISEORDER_TRELLIS"):
        root = Path(folder) / "trellis"
    else:
        root = Path(importlib.util.find_spec("trellis").submodule_search_locations[0])
    patch = pytest.MonkeyPatch()
    patch.setenv("ATTN_BACKEND", "sdpa")
    for name, path in (("trellis", root), ("trellis.pipelines", root / "pipelines"), ("trellis.modules", root / "modules")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        patch.setitem(sys.modules, name, package)
    spconv = types.ModuleType("spconv.pytorch")
    spconv.SparseConvTensor = SparseConvTensor
    patch.setitem(sys.modules, "spconv", types.ModuleType("spconv"))
    patch.setitem(sys.modules, "spconv.pytorch", spconv)
    yield SimpleNamespace(
        samplers=importlib.import_module("trellis.pipelines.samplers"),
        SparseStructureFlowModel=importlib.import_module("trellis.models.sparse_structure_flow").SparseStructureFlowModel,
        SparseTensor=importlib.import_module("trellis.modules.sparse.basic").SparseTensor,
    )
    for name in [name for name in sys.modules if name == "trellis" or name.startswith("trellis.")]:
        del sys.modules[name]
    patch.undo()


@pytest.fixture
def pipeline(trellis):
    """What a TRELLIS pipeline is to the adapter: two samplers."""
    made = [trellis.samplers.FlowEulerGuidanceIntervalSampler(sigma_min=1e-5) for _ in range(2)]
    return SimpleNamespace(sparse_structure_sampler=made[0], slat_sampler=made[1])


@pytest.fixture(scope="module")
def structure(trellis):
    """The structure flow model, and the number of its evaluations' rows in `seen`."""
    torch.manual_seed(0)
    model = trellis.SparseStructureFlowModel(
        resolution=8, in_channels=4, model_channels=32, cond_channels=16, out_channels=4, num_blocks=1, num_heads=2,
        patch_size=2, qk_rms_norm=True,
    ).eval()  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.seen = []
    model.register_forward_pre_hook(lambda module, args: module.seen.append((len(args[0]), float(args[1][0]))))
    return model


class Features(torch.nn.Module):
    """A model of sparse features that mixes the points of every sample, as attention does."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, t, cond):
        self.seen.append((len(x.layout), float(t[0])))
        mixed = [x.feats[rows] * 0.5 + x.feats[rows].mean(0) + cond[i].mean() for i, rows in enumerate(x.layout)]
        return x.replace(torch.tanh(torch.cat(mixed) + t[0] / 1000))


def conditions(samples=1):
    generator = torch.Generator().manual_seed(4)
    cond = torch.randn(samples, 5, 16, generator=generator)
    return {"cond": cond, "neg_cond": torch.zeros_like(cond)}


PARAMETERS = {"steps": 4, "cfg_strength": 3.0, "cfg_interval": (0.5, 1.0), "rescale_t": 3.0, "verbose": False}


def dense(samples=1):
    return torch.randn(samples, 4, 8, 8, 8, generator=torch.Generator().manual_seed(2))


def sparse(trellis, *points):
    generator = torch.Generator().manual_seed(2)
    places = torch.randint(0, 8, (sum(points), 3), generator=generator)
    coords = torch.cat([torch.arange(len(points)).repeat_interleave(torch.tensor(points))[:, None], places], 1)
    return trellis.SparseTensor(feats=torch.randn(sum(points), 8, generator=generator), coords=coords.int())


def test_structure_with_one_draw_and_no_injection_is_plain_bit_for_bit(pipeline, structure):
    plain = pipeline.sparse_structure_sampler.sample(structure, dense(), **conditions(), **PARAMETERS).samples
    with order_trellis(pipeline, PLAIN) as ordered:
        same = pipeline.sparse_structure_sampler.sample(structure, dense(), **conditions(), **PARAMETERS).samples
    assert torch.equal(same, plain) and [report.evaluations for report in ordered.reports] == [0]


def test_structure_injection_costs_its_evaluations(pipeline, structure):
    structure.seen.clear()
    plain = pipeline.sparse_structure_sampler.sample(structure, dense(2), **conditions(), **PARAMETERS).samples
    evaluations = len(structure.seen)
    structure.seen.clear()
    with order_trellis(pipeline, INJECTED) as ordered:
        other = pipeline.sparse_structure_sampler.sample(structure, dense(2), **conditions(), **PARAMETERS).samples
    assert len(structure.seen) == evaluations + 3 and ordered.reports[0].evaluations == 3
    assert [t for _, t in structure.seen[:3]] == pytest.approx([900, 500, 100])
    assert other.shape == plain.shape and other.dtype == plain.dtype and not torch.equal(other, plain)


def test_the_answers_are_the_models_velocity_with_the_prompt_alone(pipeline, structure):
    cond = conditions()["cond"]

    def denoiser(noise, t):
        with torch.no_grad():
            return structure(noise, torch.tensor([1000 * t]), cond)

    expected = order_noise(INJECTED, further_draws(dense()), denoiser).noise
    started = []
    pipeline.sparse_structure_sampler.sample_once = lambda model, x, *args, **kwargs: (
        started.append(x) or SimpleNamespace(pred_x_prev=x, pred_x_0=x)
    )
    with order_trellis(pipeline, INJECTED):
        pipeline.sparse_structure_sampler.sample(structure, dense(), **conditions(), **PARAMETERS)
    torch.testing.assert_close(started[0], expected)


@pytest.mark.parametrize("preset", ["Light", "Automatic"])
def test_selection_is_done_and_counted(pipeline, structure, preset):
    call = {**conditions(), **PARAMETERS, "steps": 16}
    structure.seen.clear()
    pipeline.sparse_structure_sampler.sample(structure, dense(2), **call)
    evaluations = len(structure.seen)
    structure.seen.clear()
    with order_trellis(pipeline, NoiseOrderSettings(enabled=True, preset=preset)) as ordered:
        pipeline.sparse_structure_sampler.sample(structure, dense(2), **call)
    report = ordered.reports[0]
    assert len(report.chosen) == 2 and not report.skipped
    assert report.saved_evaluations == 0 and len(structure.seen) == evaluations + report.evaluations


def test_sparse_features_are_ordered_per_sample(trellis, pipeline):
    model = Features()
    noise = sparse(trellis, 40, 70)
    plain = pipeline.slat_sampler.sample(model, noise, **conditions(2), **PARAMETERS).samples
    with order_trellis(pipeline, PLAIN):
        same = pipeline.slat_sampler.sample(model, noise, **conditions(2), **PARAMETERS).samples
    assert torch.equal(same.feats, plain.feats)
    started = []
    model.register_forward_pre_hook(lambda module, args: started.append(args[0]))
    before = noise.feats.clone()
    with order_trellis(pipeline, INJECTED) as ordered:
        pipeline.slat_sampler.sample(model, noise, **conditions(2), **PARAMETERS)
    assert torch.equal(noise.feats, before) and [report.evaluations for report in ordered.reports] == [3, 3]
    both = started[6]
    assert both.layout == noise.layout and torch.equal(both.coords, noise.coords)
    for index, rows in enumerate(noise.layout):
        erased = order_noise(ERASED, further_draws(noise.feats[None, rows]), None).noise[0]
        torch.testing.assert_close(both.feats[rows].mean(), erased.mean(), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(both.feats[rows].std(), erased.std(), atol=1e-4, rtol=1e-3)
        assert not torch.equal(both.feats[rows], erased)
        started.clear()
        alone = trellis.SparseTensor(feats=noise.feats[rows], coords=noise.coords[rows] * torch.tensor([0, 1, 1, 1]).int())
        cond = {name: value[index : index + 1] for name, value in conditions(2).items()}
        with order_trellis(pipeline, INJECTED):
            pipeline.slat_sampler.sample(model, alone, **cond, **PARAMETERS)
        torch.testing.assert_close(started[3].feats, both.feats[rows])


def test_a_choice_is_replayed_run_after_run_without_a_question(trellis, pipeline, structure):
    automatic = {"preset": "Automatic"}  # a mapping is switched on unless it says otherwise
    call = {**PARAMETERS, "steps": 16}
    model, noise = Features(), sparse(trellis, 40, 70)

    def both(settings):
        structure.seen.clear()
        model.seen.clear()
        with order_trellis(pipeline, settings) as ordered:
            made = pipeline.sparse_structure_sampler.sample(structure, dense(2), **conditions(), **call).samples
            feats = pipeline.slat_sampler.sample(model, noise, **conditions(2), **call).samples.feats
        return ordered, made, feats, len(structure.seen) + len(model.seen)

    first, made, feats, asked = both(automatic)
    again, made_again, feats_again, fewer = both({**automatic, "chosen": first.chosen})
    assert len(first.chosen.split()) == 4 and again.chosen == first.chosen
    assert torch.equal(made_again, made) and torch.equal(feats_again, feats)
    assert [report.evaluations for report in again.reports] == [0, 0, 0] and fewer < asked
    with pytest.raises(ValueError, match="names seeds"):
        order_trellis(pipeline, {"chosen": "5:3"})
    with pytest.raises(ValueError, match="lists 3 draws for at least 4 pictures"):
        both({**automatic, "chosen": "1 2 3"})


def test_a_run_that_compared_nothing_is_replayed_as_such(pipeline, structure):
    sampler, short = pipeline.sparse_structure_sampler, {**PARAMETERS, "steps": 1}
    long = {**PARAMETERS, "steps": 16}

    def runs(settings):
        with order_trellis(pipeline, settings) as ordered:
            return [
                sampler.sample(structure, dense(), **conditions(), **call).samples for call in (long, short)
            ], ordered.chosen

    first, chosen = runs({"preset": "Automatic"})
    again, _ = runs({"preset": "Automatic", "chosen": chosen})
    assert re.fullmatch(r"[1-9] 0", chosen) and all(map(torch.equal, first, again))


def test_the_global_random_state_is_untouched(pipeline, structure):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with order_trellis(pipeline, INJECTED):
        pipeline.sparse_structure_sampler.sample(structure, dense(), **conditions(), **PARAMETERS)
    assert torch.equal(torch.get_rng_state(), before)


def test_several_images_take_turns_and_the_samplers_own_turns_are_not_used_up(pipeline, structure):
    sampler = pipeline.sparse_structure_sampler
    images = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(5))
    turns = [0, 1, 0, 1]
    with order_trellis(pipeline, INJECTED):
        sampler._old_inference_model = sampler._inference_model
        sampler._inference_model = lambda model, x, t, cond, **more: sampler._old_inference_model(
            model, x, t, cond=cond[turns[0] : turns.pop(0) + 1], **more
        )
        result = sampler.sample(structure, dense(), cond=images, neg_cond=torch.zeros(1, 5, 16), **PARAMETERS)
        del sampler._inference_model, sampler._old_inference_model
    assert torch.isfinite(result.samples).all() and not turns


def test_what_the_model_raises_passes_through_and_undo_leaves_no_trace(pipeline, structure):
    before = [dict(vars(sampler)) for sampler in (pipeline.sparse_structure_sampler, pipeline.slat_sampler)]
    ordered = order_trellis(pipeline, INJECTED)

    def failing(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.sparse_structure_sampler.sample(failing, dense(), **conditions(), **PARAMETERS)
    with pytest.raises(ValueError, match="undo"):
        order_trellis(pipeline, INJECTED)
    ordered.undo()
    ordered.undo()
    assert [dict(vars(sampler)) for sampler in (pipeline.sparse_structure_sampler, pipeline.slat_sampler)] == before


def test_bad_input():
    with pytest.raises(TypeError, match="no sparse_structure_sampler"):
        order_trellis(object(), INJECTED)
    with pytest.raises(TypeError, match="flow samplers"):
        order_trellis(SimpleNamespace(sparse_structure_sampler=object(), slat_sampler=object()), INJECTED)
    with pytest.raises(ValueError, match="strength = 9"):
        order_trellis(object(), {"strength": 9})
