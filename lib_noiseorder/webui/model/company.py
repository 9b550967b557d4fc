"""What other extensions put on the model's calls, and asking the model without it.

The model is asked at noise levels and with latents that the sampler never passes. Whatever counts steps or keeps features must
not see that, and what it keeps cannot be known. So callbacks, replaced functions and hooks are taken off for the time of a
question and put back after it; where that cannot be done, nothing is asked.
"""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
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


class CannotAsk(Exception):
    """Why the model is not asked, in a sentence for the user."""


def listening(names: tuple[str, ...]) -> bool:
    """Whether an extension has registered any of the hosts' callbacks of these names."""
    return any(_callbacks().get(name) for name in names)


def is_the_hosts(hook: Any) -> bool:
    """Whether a hook on the network is the host's own: it moves weights about, or measures the latent for token merging."""
    return getattr(hook, "__module__", "") in ("modules.lowvram", "tomesd.patch")


def check_can_be_asked(network: nn.Module, guided_denoiser: Any, options: Mapping[str, Any]) -> None:
    """
    Args:
        options: the patches that take part in the model's answers, by name.

    Raises:
        CannotAsk: an extension has replaced a function of a class that every call goes through, or wrapped the model as step
            caches do: that cannot be taken off.
    """
    functions = [(f"{kind.__name__}.{name}", one) for kind in _classes(network) for name, one in vars(kind).items()]
    functions += [(f"{kind.__name__}.forward", vars(kind).get("forward")) for kind in type(guided_denoiser).__mro__]
    for name, function in [*functions, (_WRAPPER, options.get(_WRAPPER))]:
        file = _file_of(function)
        if file.startswith(extensions_dir + os.sep) and _KEEPS_NOTHING not in file.lower():
            extension = Path(file).relative_to(extensions_dir).parts[0]
            raise CannotAsk(f"the extension {extension} replaces {name} and would count the questions")


@contextmanager
def left_out(network: nn.Module) -> Iterator[None]:
    """Ask the model without what other extensions put on its calls; ControlNet stays."""
    with ExitStack() as put_back:
        callbacks = _callbacks()
        for name in BEFORE_THE_CALL + AFTER_THE_CALL:
            if callbacks.get(name):
                put_back.callback(partial(callbacks.__setitem__, name, callbacks[name]))
                callbacks[name] = []
        for module in network.modules():
            replaced = vars(module).get("forward")
            if replaced is not None and _KEEPS_NOTHING not in _file_of(replaced).lower():
                put_back.callback(partial(vars(module).__setitem__, "forward", vars(module).pop("forward")))
            for hooks in _HOOKS:
                kept = OrderedDict((key, hook) for key, hook in vars(module)[hooks].items() if is_the_hosts(hook))
                if len(kept) < len(vars(module)[hooks]):
                    put_back.enter_context(value_replaced(module, hooks, kept))
        yield


def _callbacks() -> dict[str, list[Any]]:
    return getattr(sys.modules.get("modules.script_callbacks"), "callback_map", {})


def _classes(network: nn.Module) -> set[type]:
    return {kind for module in network.modules() for kind in type(module).__mro__}


def _file_of(function: Any) -> str:
    """Where a function was written; empty for what is none."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return getattr(code, "co_filename", "")
