"""What other nodes keep, set aside while the model is asked, and put back: step counters, cached features, schedules.

A node takes part in sampling by functions and objects: closures, methods, partial functions, modules with attributes of their
own. Whatever is reachable from them and may change is written down here. A question then leaves no trace, and every question
finds things as the sampler will. What cannot be written down is named by `unknown`: then the model must not be asked.
"""

from __future__ import annotations

import enum
import functools
import logging
import random
import re
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
import torch
from torch import Tensor, nn

_MOST_OBJECTS = 100_000
_MOST_BYTES = 1 << 28
"""Of tensors that are copied. Larger ones come last and are weights: those are not written to while sampling."""
_HARMLESS = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type(...), enum.Enum, UUID, PurePath, re.Pattern,
    logging.Logger, types.BuiltinFunctionType, types.MethodWrapperType, types.ModuleType, types.GenericAlias, weakref.ref,
    np.generic, np.dtype, torch.dtype, torch.device, torch.Size, property, type, types.MappingProxyType,
    types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType, types.MethodDescriptorType,
)  # fmt: skip
_OF_A_MODULE = ("_parameters", "_modules", "_non_persistent_buffers_set")
"""What a network's module is, not what somebody keeps on it."""
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_HOSTS_OWN = ("comfy", "comfy_api", "comfy_execution", "comfy_config", "nodes", "execution", "server", "app", "latent_preview")
_NOT_FOLLOWED = (
    "torch.", "typing.", "unittest.", "_abc.", "_thread.", "threading.", "comfy.hooks.", "comfy.model_patcher.", "comfy.sd.",
    "comfy.model_management.", "comfy.supported_models.", "comfy.supported_models_base.", "comfy.weight_adapter.",
    "server.", "execution.", "app.", "comfy_execution.", "aiohttp.", "asyncio.", "concurrent.", "queue.",
)  # fmt: skip
"""Where objects come from that questions do not change, that the host itself puts right, or that other threads work with: the
host's server and queue above all, which go on meanwhile."""
_OURS = __name__.rpartition("adapters.")[0]
_GONE: Any = object()


class SetAside:
    """Everything changeable that can be reached from some objects, as it was when this was made.

    Attributes:
        unknown: in words what holds something that cannot be set aside; None if nothing does.
    """

    def __init__(self, *roots: Any):
        """
        Args:
            roots: functions and objects of other nodes, and containers of such; networks too.
        """
        self.unknown: str | None = None
        self._put_back: list[Callable[[], None]] = []
        self._seen: dict[int, Any] = {}
        self._bytes = 0
        waiting = deque((root, _name(root)) for root in roots)
        while waiting and self.unknown is None:
            value, holder = waiting.popleft()
            if id(value) in self._seen or isinstance(value, _HARMLESS):
                continue
            self._seen[id(value)] = value  # kept alive, so that no other object gets its id
            if len(self._seen) > _MOST_OBJECTS:
                self.unknown = f"{holder} holds more than can be set aside"
            named = holder if isinstance(value, (dict, list, tuple, set, frozenset, deque)) else _name(value)
            waiting.extend((item, named) for item in self._inside(value, holder))

    def put_back(self) -> None:
        """Everything as it was."""
        for put_back in self._put_back:
            put_back()

    # -- one kind of object after the other --------------------------------------------------------------------------

    def _inside(self, value: Any, holder: str) -> Iterator[Any]:
        """Write down one object; gives what is in it."""
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, dict):
            self._put_back.append(functools.partial(_refill, value, dict(value)))
            yield from value.values()
        elif isinstance(value, (list, deque)):
            self._put_back.append(functools.partial(_refill_list, value, list(value)))
            yield from value
        elif isinstance(value, set):
            self._put_back.append(functools.partial(_refill, value, set(value)))
            yield from value
        elif isinstance(value, (tuple, frozenset)):
            yield from value
            yield from vars(value).values() if hasattr(value, "__dict__") else ()
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.MethodType):
            yield from (value.__self__, value.__func__)
        elif isinstance(value, functools.partial):
            yield from (value.func, value.args, value.keywords)
        elif isinstance(value, nn.Module):
            yield from self._module(value)
        elif isinstance(value, torch.Generator):
            self._put_back.append(functools.partial(_set_state, value, value.get_state()))
        elif isinstance(value, random.Random):
            self._put_back.append(functools.partial(value.setstate, value.getstate()))
        elif isinstance(value, np.ndarray):
            self._put_back.append(functools.partial(np.copyto, value, value.copy()))
        elif not f"{type(value).__module__}.".startswith(_NOT_FOLLOWED):
            yield from self._object(value, holder)

    def _tensor(self, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if isinstance(tensor, nn.Parameter) or self._bytes + size > _MOST_BYTES:
            return
        self._bytes += size
        kept = tensor.detach().clone()

        def put_back() -> None:
            if not torch.equal(tensor, kept):
                tensor.copy_(kept)

        self._put_back.append(put_back)

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        if function.__module__.startswith(_OURS):
            return
        for cell in function.__closure__ or ():
            content = _content(cell)
            self._put_back.append(functools.partial(_set_cell, cell, content))
            yield content
        yield from (function.__defaults__, function.__kwdefaults__, function.__dict__)
        if _is_known(function.__module__):
            return
        names = [name for name in _names(function.__code__) if name in function.__globals__]
        for name in names:
            yield from self._named(function.__globals__, name)
        for module in (function.__globals__[name] for name in names):
            if isinstance(module, types.ModuleType) and not _is_known(module.__name__):
                for name in set(_names(function.__code__)) & vars(module).keys():
                    yield from self._named(vars(module), name)

    def _named(self, place: dict[str, Any], name: str) -> Iterator[Any]:
        """A value that a function of another node looks up by its name, and may bind to something else."""
        value = place[name]
        if isinstance(value, types.ModuleType):
            return
        self._put_back.append(functools.partial(place.__setitem__, name, value))
        if isinstance(value, type) and not _is_known(value.__module__):
            yield from self._class(value)
        yield value

    def _class(self, kind: type) -> Iterator[Any]:
        own = {name: value for name, value in vars(kind).items() if not name.startswith(("__", "_abc_"))}

        def put_back() -> None:
            for name, value in own.items():
                if vars(kind).get(name, _GONE) is not value:
                    setattr(kind, name, value)

        self._put_back.append(put_back)
        yield from (value.__func__ if isinstance(value, (staticmethod, classmethod)) else value for value in own.values())

    def _module(self, module: nn.Module) -> Iterator[Any]:
        own = vars(module)
        kept = {name: value for name, value in own.items() if name not in _OF_A_MODULE}

        def put_back() -> None:
            for name in [name for name in own if name not in kept and name not in _OF_A_MODULE]:
                del own[name]
            own.update(kept)

        self._put_back.append(put_back)
        yield from (value for name, value in kept.items() if value or name not in _OF_EVERY_MODULE)
        yield from module._modules.values()
        if not _is_known(type(module).__module__):
            yield from self._class(type(module))
        if id(type(module)) not in self._seen:
            self._seen[id(type(module))] = type(module)
            yield from foreign_methods(type(module)).values()

    def _object(self, value: Any, holder: str) -> Iterator[Any]:
        kind = type(value)
        if kind is object:
            return
        slots = [name for each in kind.__mro__ for name in _slots(each) if hasattr(value, name)]
        if not hasattr(value, "__dict__") and not slots:
            self.unknown = f"{holder} holds a {kind.__module__}.{kind.__qualname__}, which cannot be set aside"
            return
        if hasattr(value, "__dict__"):
            yield vars(value)
        for name in slots:
            kept = getattr(value, name)
            self._put_back.append(functools.partial(object.__setattr__, value, name, kept))
            yield kept
        if not _is_known(kind.__module__):
            yield from self._class(kind)


class RandomStates:
    """The global random states, Python's, NumPy's and torch's, as they were when this was made."""

    def __init__(self, device: torch.device):
        self._device = device
        self._python, self._numpy, self._cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def put_back(self) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._cpu)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu, self._device)


@contextmanager
def random_states_kept(device: torch.device) -> Iterator[None]:
    """No random state is advanced by what happens in the block."""
    states = RandomStates(device)
    try:
        yield
    finally:
        states.put_back()


def _set_state(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(state)


def is_of_the_host(module: str) -> bool:
    """Whether a module is ComfyUI's own; it names those of its nodes by their files."""
    return module.partition(".")[0] in _HOSTS_OWN or PurePath(module).parent.name == "comfy_extras"


def foreign_methods(kind: type) -> dict[str, types.FunctionType]:
    """What other nodes have put in the place of methods of the host's, or of a package's, for all objects of a kind."""
    return {
        name: value
        for each in kind.__mro__
        if _is_known(each.__module__)
        for name, value in vars(each).items()
        if isinstance(value, types.FunctionType) and not _is_known(value.__module__)
    }


def _refill(container: Any, kept: Any) -> None:
    container.clear()
    container.update(kept)


def _refill_list(container: Any, kept: list[Any]) -> None:
    container.clear()
    container.extend(kept)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return _GONE


def _set_cell(cell: types.CellType, content: Any) -> None:
    if content is not _GONE:
        cell.cell_contents = content
    elif _content(cell) is not _GONE:
        del cell.cell_contents


def _names(code: types.CodeType) -> Iterator[str]:
    """The global names and attributes that a function uses, and the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return tuple(name for name in ((slots,) if isinstance(slots, str) else slots) if name not in ("__dict__", "__weakref__"))


def _is_known(module: str | None) -> bool:
    """Whether a module is the host's, Python's or an installed package's: none of these keeps steps in its globals."""
    module = module or ""
    if is_of_the_host(module) or module.partition(".")[0] in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _name(value: Any) -> str:
    """A function or object of another node, in words."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{PurePath(getattr(named, '__module__', None) or '?').name}.{getattr(named, '__qualname__', '?')}"
