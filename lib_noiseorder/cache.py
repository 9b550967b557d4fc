"""Ordered noise remembered: the same question about the same model is not asked twice, and never answered by another's.

A key is the fingerprint of everything a result depends on. What cannot be told apart with certainty has no fingerprint and
is not remembered: a result is asked for once more rather than once too few.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import hashlib
import struct
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .ordering import OrderedNoise
from .settings import NoiseOrderSettings

CAPACITY = 64 * 2**20
"""Bytes of noise that are remembered: a picture of 1024×1024 takes 64 KiB (SD, SDXL) or 256 KiB (Flux)."""
WITHOUT_INFLUENCE = ("enabled", "preset", "compare_with_off", "show_injected")
"""Settings that change nothing about the noise; what a preset decides stands in the fields it decides."""


class Uncacheable(ValueError):
    """A value that has no fingerprint, because it may behave differently without looking different."""


def fingerprint(value: Any) -> bytes:
    """32 bytes that differ wherever two values differ in type, order, shape or a single bit.

    Args:
        value: None, bool, int, float, complex, str, bytes, enum members, tensors, NumPy arrays and scalars, torch dtypes
            and devices; lists, tuples, sets, dictionaries (in whatever order) and dataclass instances of such values.

    Raises:
        Uncacheable: anything else, anywhere inside; the text names the type.
    """
    try:
        return _digest(value)
    except RecursionError:
        raise Uncacheable("a value that contains itself has no fingerprint") from None


def settings_of_the_noise(settings: NoiseOrderSettings) -> dict[str, Any]:
    """The settings that the ordered noise depends on, by API key."""
    return {name: value for name, value in settings.to_dict().items() if name not in WITHOUT_INFLUENCE}


class Identities:
    """A number for every living object, never given out again, so that a new object is never taken for an old one.

    Nothing is kept alive by it.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, tuple[weakref.ref, int]] = {}
        self._given = 0

    def __call__(self, thing: Any) -> int:
        """The object's number.

        Raises:
            Uncacheable: an object that Python cannot watch.
        """
        known = self._numbers.get(id(thing))
        if known is not None and known[0]() is thing:
            return known[1]
        try:
            watched = weakref.ref(thing, partial(self._forget, id(thing)))
        except TypeError:
            raise Uncacheable(f"a {type(thing).__name__} has no identity to go by") from None
        self._given += 1
        self._numbers[id(thing)] = watched, self._given
        return self._given

    def _forget(self, place: int, watched: weakref.ref) -> None:
        if self._numbers.get(place, (None,))[0] is watched:
            del self._numbers[place]


class NoiseCache:
    """The most recently used ordered noises, on the CPU, within a bound of bytes. Safe to use from several threads."""

    def __init__(self, capacity: int = CAPACITY):
        self._capacity, self._size = capacity, 0
        self._kept: OrderedDict[bytes, OrderedNoise] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes of noise kept now."""
        return self._size

    def find(self, key: bytes) -> OrderedNoise | None:
        """A copy of what was kept under the key, on the CPU; None where nothing is."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return OrderedNoise(found.noise.clone(), copy.deepcopy(found.report))

    def keep(self, key: bytes, ordered: OrderedNoise) -> None:
        """Remember a copy; the least recently used ones give way. A noise larger than the bound is not kept."""
        noise = ordered.noise.detach().to("cpu", copy=True).contiguous()
        bytes_needed = noise.numel() * noise.element_size()
        if bytes_needed > self._capacity:
            return
        with self._lock:
            self._forget(key)
            self._kept[key] = OrderedNoise(noise, copy.deepcopy(ordered.report))
            self._size += bytes_needed
            while self._size > self._capacity:
                self._forget(next(iter(self._kept)))

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._size = 0

    def _forget(self, key: bytes) -> None:
        forgotten = self._kept.pop(key, None)
        if forgotten is not None:
            self._size -= forgotten.noise.numel() * forgotten.noise.element_size()


def _digest(value: Any) -> bytes:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if value is None or kind in (bool, int, str, torch.dtype, torch.device):
        return _hashed(name, str(value).encode("utf-8", "surrogatepass"))
    if kind in (float, complex):
        return _hashed(name, struct.pack("<2d", value.real, value.imag))
    if kind in (bytes, bytearray):
        return _hashed(name, bytes(value))
    if isinstance(value, enum.Enum):
        return _hashed(name, value.name.encode())
    if kind in (Tensor, torch.nn.Parameter):
        return _hashed(name, *_tensor_parts(value))
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.hasobject or isinstance(value, np.ma.MaskedArray):
            raise Uncacheable(f"a NumPy array of {value.dtype} has no fingerprint")
        return _hashed(name, repr((value.dtype.descr, value.shape)).encode(), np.ascontiguousarray(value).tobytes())
    if isinstance(value, (list, tuple)):
        return _hashed(name, *_own_state(value), *map(_digest, value))
    if isinstance(value, (set, frozenset)):
        return _hashed(name, *_own_state(value), *sorted(map(_digest, value)))
    if isinstance(value, dict):
        return _hashed(name, *_own_state(value), *sorted(_digest(key) + _digest(item) for key, item in value.items()))
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "__dict__"):
        return _hashed(name, _digest(vars(value)))
    raise Uncacheable(f"a {name} has no fingerprint")


def _hashed(name: str, *parts: bytes) -> bytes:
    """Every part with its length in front, so that no two sequences of parts look alike."""
    digest = hashlib.sha256()
    for part in (name.encode(), *parts):
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.digest()


def _tensor_parts(tensor: Tensor) -> Iterator[bytes]:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise Uncacheable(f"a tensor of layout {tensor.layout} on {tensor.device} has no fingerprint")
    yield repr((str(tensor.dtype), tuple(tensor.shape))).encode()
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    yield flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _own_state(container: Any) -> Iterator[bytes]:
    """What an instance of a subclass carries besides its items."""
    if vars_of := getattr(container, "__dict__", None):
        yield _digest(vars_of)
