"""Remembered noise: two questions that differ anywhere never share a key, and what is kept stays what it was."""

import copy
import dataclasses
import enum
import gc
import struct
import threading

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lib_noiseorder import KNOBS, NoiseOrderSettings
from lib_noiseorder.cache import WITHOUT_INFLUENCE, Identities, NoiseCache, Uncacheable, fingerprint, settings_of_the_noise
from lib_noiseorder.ordering import OrderedNoise, Report, order_noise

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.binary(max_size=6),
    st.lists(st.floats(width=32), max_size=4).map(lambda values: torch.tensor(values, dtype=torch.float32)),
    st.lists(st.integers(-99, 99), max_size=4).map(lambda values: np.array(values, dtype=np.int16)),
)  # fmt: skip
nested = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8
)


def same(a, b):
    """Equality to the bit and to the type; what `fingerprint` promises, said another way."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (torch.Tensor, np.ndarray)):
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


@settings(max_examples=400, deadline=None)
@given(nested, nested)
def test_fingerprints_are_equal_exactly_where_the_values_are(a, b):
    assert (fingerprint(a) == fingerprint(b)) == same(a, b)
    assert fingerprint(a) == fingerprint(copy.deepcopy(a))


@settings(max_examples=200, deadline=None)
@given(st.lists(nested, min_size=1, max_size=4), st.data())
def test_one_changed_leaf_anywhere_changes_the_fingerprint(value, data):
    changed = copy.deepcopy(value)
    place = changed
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (list, dict)) or not place[key]:
            break
        place = place[key]
    other = data.draw(leaves)
    assume(not same(other, place[key]))
    place[key] = other
    assert fingerprint(changed) != fingerprint(value)


@pytest.mark.parametrize(
    "a, b",
    [
        (1, True), (1, 1.0), (1, "1"), ("1", b"1"), (0.0, -0.0), ([1], (1,)), ([[1], 2], [[1, 2]]), (["ab"], ["a", "b"]),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}), (None, "None"), ([], {}), (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)), (torch.zeros(4), np.zeros(4, np.float32)),
        (torch.zeros(1), torch.zeros(())), (np.zeros(2, np.int32), np.zeros(2, np.uint32)), ({1}, {"1"}),
        (torch.float16, torch.bfloat16), (torch.zeros(4, dtype=torch.int16), torch.zeros(4, dtype=torch.bfloat16)),
    ],
    ids=str,
)  # fmt: skip
def test_what_looks_alike_is_told_apart(a, b):
    assert fingerprint(a) != fingerprint(b)


def test_the_order_of_a_dictionary_and_the_strides_of_a_tensor_are_no_difference():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    picture = torch.randn(2, 3)
    assert fingerprint(picture) == fingerprint(picture.T.contiguous().T)
    assert fingerprint(picture) == fingerprint(torch.cat([picture, picture])[:2])


def test_plain_data_of_other_programs_has_a_fingerprint():
    class Mode(enum.Enum):
        BALANCED = 1
        PROMPT = 2

    @dataclasses.dataclass
    class Unit:
        mode: Mode
        weight: float = 1.0

    class ShapedDict(dict):
        pass

    assert fingerprint(Unit(Mode.BALANCED)) == fingerprint(Unit(Mode.BALANCED))
    assert len({fingerprint(value) for value in (Unit(Mode.BALANCED), Unit(Mode.PROMPT), Unit(Mode.BALANCED, 0.5))}) == 3
    marked, plain = ShapedDict(a=1), ShapedDict(a=1)
    marked.extra = "state besides the items"
    assert len({fingerprint(value) for value in (marked, plain, {"a": 1})}) == 3
    late = Unit(Mode.BALANCED)
    late.added = 3
    assert fingerprint(late) != fingerprint(Unit(Mode.BALANCED))


class Opaque:
    pass


@pytest.mark.parametrize(
    "value",
    [
        Opaque(), lambda: 1, Opaque, iter([1]), object(), [1, {"a": Opaque()}], torch.Generator(), torch.nn.Linear(1, 1),
        np.array([Opaque()]), np.ma.array([1], mask=[0]), torch.zeros(2, 2).to_sparse(), torch.zeros(2, device="meta"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_may_differ_without_looking_different_is_refused(value):
    with pytest.raises(Uncacheable, match="no fingerprint"):
        fingerprint(value)


def test_a_value_that_contains_itself_is_refused():
    ring = []
    ring.append(ring)
    with pytest.raises(Uncacheable):
        fingerprint(ring)


def test_an_identity_is_never_given_out_twice():
    identities, seen = Identities(), set()
    for _ in range(200):  # the next object often gets the freed one's address
        thing = Opaque()
        assert identities(thing) == identities(thing)
        seen.add(identities(thing))
        del thing
        gc.collect(0)
    assert len(seen) == 200
    alike = torch.zeros(3), torch.zeros(3)
    assert identities(alike[0]) != identities(alike[1])
    with pytest.raises(Uncacheable):
        identities(3)


def ordered(value, floats=256):
    return OrderedNoise(torch.full((1, floats), float(value)), Report(evaluations=3, chosen=[value]))


def test_what_is_kept_comes_back_as_it_was_whatever_happens_to_the_copies():
    cache, original = NoiseCache(), ordered(1)
    cache.keep(b"key", original)
    original.noise.zero_()
    original.report.chosen.append(9)
    for _ in range(2):
        found = cache.find(b"key")
        assert (found.noise == 1).all() and found.report == Report(evaluations=3, chosen=[1])
        found.noise.zero_()
        found.report.skipped.append("spoiled")
    assert cache.find(b"another key") is None


def test_the_bound_of_bytes_is_kept_and_the_least_recently_used_go_first():
    cache = NoiseCache(capacity=3 * 1024)
    for number in (1, 2, 3):
        cache.keep(bytes([number]), ordered(number))
    cache.find(bytes([1]))
    cache.keep(bytes([4]), ordered(4))
    assert [cache.find(bytes([number])) is not None for number in (1, 2, 3, 4)] == [True, False, True, True]
    assert cache.size == 3 * 1024
    cache.keep(bytes([5]), ordered(5, floats=1024))
    assert cache.find(bytes([5])) is None and len(cache) == 3, "larger than the bound"
    cache.keep(bytes([1]), ordered(6, floats=512))
    assert cache.size <= 3 * 1024 and cache.find(bytes([1])).noise.numel() == 512
    cache.clear()
    assert cache.size == len(cache) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 600)), max_size=40))
def test_the_bound_holds_for_any_course_of_events(course):
    cache = NoiseCache(capacity=4096)
    for key, floats in course:
        cache.keep(bytes([key]), ordered(key, floats))
        kept = [found for number in range(6) if (found := cache.find(bytes([number]))) is not None]
        assert cache.size == sum(found.noise.numel() * 4 for found in kept) <= 4096
        assert all((found.noise == found.report.chosen[0]).all() for found in kept)


def test_many_threads_may_use_it_at_once():
    cache, failures = NoiseCache(capacity=8 * 1024), []

    def work(number):
        for turn in range(200):
            key = (number + turn) % 12
            cache.keep(bytes([key]), ordered(key))
            found = cache.find(bytes([key]))
            if found is not None and not (found.noise == key).all():
                failures.append(key)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and cache.size == len(cache) * 1024 <= 8 * 1024


def another(knob):
    """A value of the knob's range that is not its default."""
    if knob.choices:
        return next(choice for choice in knob.choices if choice != knob.default)
    return not knob.default if knob.kind is bool else knob.kind(knob.maximum)


@pytest.mark.parametrize("knob", [knob for knob in KNOBS if knob.name not in ("enabled", "preset")], ids=lambda knob: knob.name)
def test_every_knob_is_in_the_key_or_proven_to_change_nothing(knob):
    plain = NoiseOrderSettings(enabled=True)
    changed = dataclasses.replace(plain, **{knob.name: another(knob)})
    if knob.name not in WITHOUT_INFLUENCE:
        assert fingerprint(settings_of_the_noise(changed)) != fingerprint(settings_of_the_noise(plain))
        return

    def noise(chosen):
        return order_noise(chosen, lambda k: torch.full((1, 8), float(k)), lambda z, t: z * t + torch.arange(8)).noise

    assert fingerprint(settings_of_the_noise(changed)) == fingerprint(settings_of_the_noise(plain))
    assert torch.equal(noise(changed), noise(plain))


def test_a_preset_and_its_values_chosen_by_hand_share_a_key():
    by_hand = NoiseOrderSettings(enabled=True, erasure_samples=4, strength=0.1, injection="literal")
    paper = NoiseOrderSettings(enabled=True, preset="Paper")
    assert fingerprint(settings_of_the_noise(by_hand)) == fingerprint(settings_of_the_noise(paper))
