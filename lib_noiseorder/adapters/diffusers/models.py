"""The denoising models inside a diffusers pipeline: which they are, how they are called, and who else has a say in them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...answers import hooked, is_replaced, replaced

_INPUTS = ("hidden_states", "sample", "x")
_KEEPS_NOTHING = ("layerwise_casting", "group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")
"""diffusers' own hooks that only move or cast weights."""


def denoising_models(pipe: Any) -> dict[str, nn.Module]:
    """The models that predict noise or velocity, by name."""
    names = [name for name in inspect.signature(type(pipe).__init__).parameters if "unet" in name or "transformer" in name]
    found = {name: getattr(pipe, name, None) for name in names}
    return {name: model for name, model in found.items() if isinstance(model, nn.Module)}


def other_models(pipe: Any) -> dict[str, nn.Module]:
    """Encoders, ControlNets and whatever else a pipeline asks besides its denoising models, by name."""
    known = denoising_models(pipe)
    found = {name: getattr(pipe, name, None) for name in inspect.signature(type(pipe).__init__).parameters}
    return {name: model for name, model in found.items() if isinstance(model, nn.Module) and name not in known}


@contextmanager
def calls_replaced(models: Mapping[str, nn.Module], replacement: Callable[..., Any]) -> Iterator[None]:
    """Shadow every model's call on the instance by replacement(name, original, …): hooks are heard only if the original is."""
    with ExitStack() as stack:
        for name, model in models.items():
            for function in ("_call_impl", "_compiled_call_impl"):
                if getattr(model, function, None) is not None:
                    stack.enter_context(replaced(model, function, _named(name, replacement)))
        yield


def _named(name: str, replacement: Callable[..., Any]) -> Callable[..., Any]:
    return lambda original, *args, **kwargs: replacement(name, original, *args, **kwargs)


class ModelCall:
    """One call of a denoising model, in slots of one row per picture: with the prompt, without it, and so on.

    Attributes:
        slots: how many there are.
        splits: whether a slot's arguments can be told from the others'.
    """

    def __init__(self, args: tuple, kwargs: dict[str, Any], pictures: int):
        self._args, self._kwargs, self._pictures = args, kwargs, pictures
        self._name = None if args else next((name for name in _INPUTS if name in kwargs), None)
        if not args and self._name is None:
            raise TypeError("no latents among its model's arguments")
        self._shown = args[0] if self._name is None else kwargs[self._name]
        self.as_list = type(self._shown) is list
        self._rows = len(self._shown)
        self.slots = self._rows // pictures
        if self._rows % pictures or not self.slots:
            raise TypeError(f"its model sees {self._rows} latents for {pictures} pictures")
        self.splits = self.slots == 1 or not _crosswise((args, kwargs), self._rows, self._shown)

    def latents(self, slot: int) -> Tensor:
        """What the model is shown there [B, …]."""
        rows = self._shown[self._of(slot)]
        return torch.stack(rows) if self.as_list else rows

    def part(self, slot: int) -> tuple[tuple, dict[str, Any]]:
        """Positional and named arguments of this slot alone."""
        if self.slots == 1:
            return self._args, self._kwargs
        return _part((self._args, self._kwargs), self._rows, self._of(slot), self.as_list)

    def question(self, slot: int) -> Any:
        """Everything but the latents that the answer of this slot depends on."""
        args, kwargs = self.part(slot)
        if self._name is None:
            return (*args[1:],), dict(kwargs)
        return args, {name: value for name, value in kwargs.items() if name != self._name}

    def _of(self, slot: int) -> slice:
        return slice(slot * self._pictures, (slot + 1) * self._pictures)


def _part(value: Any, rows: int, part: slice, lists: bool) -> Any:
    """The rows of a batch's arguments, all the way down; what has not `rows` rows stays as it is."""
    if isinstance(value, Tensor):
        return value[part] if value.ndim > 0 and len(value) == rows else value
    if isinstance(value, dict):
        return {key: _part(entry, rows, part, lists) for key, entry in value.items()}
    if lists and type(value) is list and len(value) == rows:  # a model that takes its batch as a list
        return value[part]
    if type(value) in (list, tuple):
        return type(value)(_part(entry, rows, part, lists) for entry in value)
    return value


def _crosswise(value: Any, rows: int, latents: Any) -> bool:
    """Whether an argument may have its pictures along its second axis."""
    if isinstance(value, Tensor):
        return value is not latents and value.ndim > 1 and value.shape[1] == rows
    if isinstance(value, dict):
        value = list(value.values())
    return type(value) in (list, tuple) and any(_crosswise(entry, rows, latents) for entry in value)


class ModelOutput(tuple):
    """A model's or a scheduler's answer for whoever indexes, unpacks or names it."""

    sample = prev_sample = property(lambda self: self[0])
    pred_original_sample = property(lambda self: self[1])


def as_output(slots: Sequence[Tensor], as_list: bool) -> ModelOutput:
    """The answers of a call's slots as its model gives them."""
    rows = torch.cat(list(slots))
    return ModelOutput((list(rows) if as_list else rows,))


def of_output(output: Any, slots: int) -> list[Tensor]:
    """The answers [B, …] of a call's slots."""
    rows = output if isinstance(output, Tensor) else output[0]
    rows = torch.stack(list(rows)) if isinstance(rows, (list, tuple)) else rows
    return list(rows.chunk(slots))


# -- who else has a say ------------------------------------------------------------------------------------------------


def why_not_asked(models: Mapping[str, nn.Module]) -> str | None:
    """What on the models may count or keep what it sees where nobody can put it back, in words; None if nothing.

    A model's own `forward` may be wrapped by anybody; offloading and diffusers' own hooks are known.
    """
    for model in models.values():
        for module in model.modules():
            if module is not model and is_replaced(module, "forward") and not _is_known(module):
                theirs = getattr(vars(module)["forward"], "__module__", None) or "?"
                return f"a forward of {theirs} in a {type(module).__name__} may keep what it sees"
    return None


def why_asked_as_a_whole(models: Mapping[str, nn.Module]) -> str | None:
    """What may look at the other rows of a call, in words: there no row is asked without the others."""
    for model in models.values():
        for module in model.modules():
            processor = getattr(module, "processor", None)
            kind = type(processor)
            if callable(processor) and (not kind.__module__.startswith("diffusers.models") or "PAG" in kind.__name__):
                return f"the attention processor {kind.__name__}"
            if _stateful_hooks(module):
                return f"the hook {_stateful_hooks(module)[0]}"
    return None


def why_not_remembered(models: Mapping[str, nn.Module]) -> str | None:
    """What else takes part in the models' answers, in words; None if nothing."""
    for name, model in models.items():
        if implemented_elsewhere(model):
            return f"another implementation of {name}"
        hook = hooked(model, lambda hook: str(getattr(hook, "__module__", "")).startswith("torch."))
        if hook:
            return hook
    return why_not_asked(models) or why_asked_as_a_whole(models)


def implemented_elsewhere(model: nn.Module) -> bool:
    """Whether the model's forward is another one than its class was written with, such as a step cache's."""
    own = vars(model).get("forward")
    function = getattr(own, "__func__", None) if getattr(own, "__self__", None) is model else None
    if function is not None and all(vars(kind).get("forward") is not function for kind in type(model).__mro__):
        return True
    for kind in type(model).__mro__:
        if "forward" in vars(kind):
            function = inspect.unwrap(vars(kind)["forward"])
            return getattr(function, "__module__", kind.__module__) != kind.__module__
    return False


class KeptState:
    """What models keep from call to call: diffusers' step caches, to be emptied; what another implementation of a model writes
    onto it or its class, such as a counter of steps, to be put back."""

    def __init__(self, models: Mapping[str, nn.Module]):
        modules = [module for model in models.values() for module in model.modules()]
        self._caches = [vars(module)["_diffusers_hook"] for module in modules if _stateful_hooks(module)]
        owners = [owner for model in models.values() if implemented_elsewhere(model) for owner in (model, type(model))]
        self._kept = [(owner, _plain(owner)) for owner in owners]

    def put_back(self) -> None:
        for cache in self._caches:
            cache.reset_stateful_hooks(recurse=False)
        for owner, kept in self._kept:
            for name in _plain(owner).keys() - kept.keys():
                delattr(owner, name)
            for name, value in kept.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)


def _plain(owner: Any) -> dict[str, Any]:
    kinds = (bool, int, float, str, Tensor, type(None))
    return {name: value for name, value in vars(owner).items() if isinstance(value, kinds) and not name.startswith("__")}


def _is_known(module: nn.Module) -> bool:
    return hasattr(module, "_hf_hook") or "_diffusers_hook" in vars(module)


def _stateful_hooks(module: nn.Module) -> list[str]:
    registry = vars(module).get("_diffusers_hook")
    return [] if registry is None else [name for name in registry.hooks if name not in _KEEPS_NOTHING]
