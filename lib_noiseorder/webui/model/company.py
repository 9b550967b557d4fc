"""What other extensions put on the model's calls, and asking the model without it.

The model is asked at noise levels and with latents that the sampler never passes. Whatever counts steps or keeps features must
not see that, and what it keeps cannot be known. So callbacks, replaced functions, hooks and patches are taken off for the time
of a question and put back after it; where that cannot be done, nothing is asked.
"""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from modules.paths_internal import extensions_dir
from torch import nn

from ...answers import value_replaced

BEFORE_THE_CALL = ("callbacks_cfg_denoiser",)
AFTER_THE_CALL = ("callbacks_cfg_denoised", "callbacks_cfg_after_cfg")
_WRAPPER = "model_function_wrapper"
"""Forge's name for a function around the whole model."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_KEEPS_NOTHING = "controlnet"
"""Part of the file names of ControlNet: what it adds depends on the question alone, and without it the question would be about
another picture."""
_COMPILES = "sd_forge_compile"
"""Part of the file name of what compiles the network in Forge Neo: the answers are the network's."""


class CannotAsk(Exception):
    """Why the model is not asked, in a sentence for the user."""


def listening(names: tuple[str, ...]) -> bool:
    """Whether an extension has registered any of the hosts' callbacks of these names."""
    return any(_callbacks().get(name) for name in names)


def is_the_hosts(hook: Any) -> bool:
    """Whether a hook on the network is the host's own: it moves weights about, or measures the latent for token merging."""
    return getattr(hook, "__module__", "") in ("modules.lowvram", "tomesd.patch")


def calls_otherwise(around: Any) -> bool:
    """Whether somebody has replaced the `apply_model` of the object around the network, other than to compile it."""
    replaced = vars(around).get("apply_model")
    return replaced is not None and not any(_COMPILES in file for file in _files_of(replaced))


def check_can_be_asked(network: nn.Module, guided_denoiser: Any, around: Any, options: Mapping[str, Any]) -> None:
    """
    Args:
        around: the object whose `apply_model` calls the network.
        options: the patches that take part in the model's answers, by name.

    Raises:
        CannotAsk: an extension has replaced a function of a class that every call goes through, or wrapped the model as step
            caches do: that cannot be taken off.
    """
    functions = [(f"{kind.__name__}.{name}", one) for kind in _classes(network) for name, one in vars(kind).items()]
    for owner, name in ((guided_denoiser, "forward"), (around, "apply_model")):
        functions += [(f"{kind.__name__}.{name}", vars(kind).get(name)) for kind in type(owner).__mro__]
    for name, function in [*functions, (_WRAPPER, options.get(_WRAPPER))]:
        if extension := _extension_of(function):
            raise CannotAsk(f"the extension {extension} replaces {name} and would count the questions")


def without_extensions(options: Any) -> Any:
    """A host's patches, dictionaries and lists all the way down, without the functions of extensions.

    A container that has none is given as it is: of another kind than the sampler's, it would be another question.
    """
    if isinstance(options, dict):
        kept: Any = {key: without_extensions(value) for key, value in options.items() if not _extension_of(value)}
        return options if _identical(kept.values(), options.values()) else kept
    if isinstance(options, (list, tuple)):
        kept = [without_extensions(value) for value in options if not _extension_of(value)]
        return options if _identical(kept, options) else type(options)(kept)
    return options


@contextmanager
def left_out(network: nn.Module, around: Any) -> Iterator[None]:
    """Ask the model without what other extensions put on its calls; ControlNet stays.

    Args:
        around: the object whose `apply_model` calls the network.
    """
    with ExitStack() as put_back:
        callbacks = _callbacks()
        for name in BEFORE_THE_CALL + AFTER_THE_CALL:
            if callbacks.get(name):
                put_back.callback(partial(callbacks.__setitem__, name, callbacks[name]))
                callbacks[name] = []
        if _extension_of(vars(around).get("apply_model")):
            put_back.callback(partial(vars(around).__setitem__, "apply_model", vars(around).pop("apply_model")))
        for module in network.modules():
            for name in [name for name, value in vars(module).items() if _is_in_the_way(module, name, value)]:
                put_back.callback(partial(vars(module).__setitem__, name, vars(module).pop(name)))
            for hooks in _HOOKS:
                kept = OrderedDict((key, hook) for key, hook in vars(module)[hooks].items() if is_the_hosts(hook))
                if len(kept) < len(vars(module)[hooks]):
                    put_back.enter_context(value_replaced(module, hooks, kept))
        yield


def _callbacks() -> dict[str, list[Any]]:
    return getattr(sys.modules.get("modules.script_callbacks"), "callback_map", {})


def _classes(network: nn.Module) -> set[type]:
    return {kind for module in network.modules() for kind in type(module).__mro__}


def _identical(some: Collection[Any], others: Collection[Any]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others))


def _is_in_the_way(module: nn.Module, name: str, value: Any) -> bool:
    """Whether a function has been put in the place of a module's method: of `forward` anybody's, of others an extension's."""
    if name == "forward":
        return not any(_KEEPS_NOTHING in file.lower() for file in _files_of(value))
    return callable(value) and callable(getattr(type(module), name, None)) and _extension_of(value) is not None


def _extension_of(function: Any) -> str | None:
    """The extension that a function, or an object called as one, is of; None for the host's, ControlNet's and values."""
    for file in _files_of(function):
        if file.startswith(extensions_dir + os.sep) and _KEEPS_NOTHING not in file.lower():
            return Path(file).relative_to(extensions_dir).parts[0]
    return None


def _files_of(function: Any) -> Iterator[str]:
    """Where a function was written, and those that it wraps; nothing for what is none."""
    seen: list[Any] = []
    while function is not None and not any(function is one for one in seen):
        seen.append(function)
        if isinstance(function, partial):
            function = function.func
            continue
        if not isinstance(function, (FunctionType, MethodType, type)):  # an object that is called, or a module
            for name in ("__call__", "forward"):
                yield from _code_files(getattr(type(function), name, None))
        yield from _code_files(function)
        function = getattr(function, "__wrapped__", None)


def _code_files(function: Any) -> Iterable[str]:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return () if code is None else (code.co_filename,)
