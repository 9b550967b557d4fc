"""A tiny extension for the tests: does to a job what goes wrong in real life, and tells what is left behind.

Its API argument is one object; every key is a fault, done once per job:

    raise_in    "package.module:Name.attribute" raises whenever it is called
    error       what it raises: "RuntimeError" (also without this key) or "OutOfMemoryError"
    answers     [first, last, kind]: the network's answers first…last, counted from 1, are "nan", "inf", "memory" or "error"
    state       [name, k]: state.name becomes True after the k-th answer
    hook        this extension's own hook of that name raises
    swap        the checkpoint of that name is loaded in `process_batch`, after Noise Order has armed the noise
    reload      k: "Reload UI" after the k-th answer
    attributes  {name: value}: set on the job before the batch; "absent" removes one
    memory_for  the network is out of memory for more rows at once than that, while Noise Order asks
    company     how an extension takes part in the model's calls, counts them and acts by their number; see `keep_company`
"""

import collections
import functools
import gc
import importlib
import os
import sys
import types

import gradio
import torch
from modules import script_callbacks, scripts, shared

BLOCKS = ("ResidualBlock", "ResBlock", "ResnetBlock", "FinalLayer", "LastLayer")
"""Classes of the hosts' networks that make one tensor of one, which no norm behind it makes what it was."""

counted = set()
undo = []
last = {"left": [], "comments": [], "seen": 0}


def failure(name):
    return torch.cuda.OutOfMemoryError("CUDA out of memory.") if name == "OutOfMemoryError" else RuntimeError("sabotage")


def replace(owner, name, value):
    original = vars(owner)[name]
    setattr(owner, name, value)
    undo.append(lambda: setattr(owner, name, original))


@torch.inference_mode()  # some hosts' weights are made in it and can be written only there
def clean_up():
    while undo:
        undo.pop()()


def raise_in(place, error):
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))

    def fail(*args, **kwargs):
        raise failure(error)

    replace(owner, name, fail)


def network_of(sd_model):
    objects = getattr(sd_model, "forge_objects", None)
    return (objects.unet.model if objects else sd_model.model).diffusion_model


def count(network):
    """Count on the class, once and for all, in code that looks like the host's: nothing may hang on the network itself."""
    kind = type(network)
    if not hasattr(kind, "rows_counted"):
        forward = kind.forward

        def counting(self, x, *args, **kwargs):
            if kind.memory_for is not None and len(x) > kind.memory_for and shared.state.textinfo:
                raise failure("OutOfMemoryError")
            kind.rows_counted += len(x)
            kind.calls_counted.append(len(x))
            answer = forward(self, x, *args, **kwargs)
            return answer if kind.answered is None else kind.answered.by(answer)

        counting.__code__ = counting.__code__.replace(co_filename=forward.__code__.co_filename)
        kind.forward, kind.rows_counted, kind.calls_counted, kind.memory_for = counting, 0, [], None
        kind.answered = None
    counted.add(kind)


def spoiled(kind, answer):
    if kind == "memory":
        raise failure("OutOfMemoryError")
    if kind == "error":
        raise failure("RuntimeError")
    return answer * float("nan") if kind == "nan" else answer / 0


def reload_ui():
    if hasattr(shared.state, "server_command"):
        shared.state.server_command = "restart"
    else:
        for name in [name for name in sys.modules if name.startswith("double_")]:
            del sys.modules[name]


def watch_answers(network, plan):
    asked = []

    def answered(answer):
        asked.append(1)
        first, final, kind = plan.get("answers", (1, 0, ""))
        name, at = plan.get("state", ("", 0))
        if len(asked) == at:
            setattr(shared.state, name, True)
        if len(asked) == plan.get("reload"):
            reload_ui()
        return spoiled(kind, answer) if first <= len(asked) <= final else answer

    type(network).answered = types.SimpleNamespace(by=answered)  # no function of the class's own
    undo.append(lambda: setattr(type(network), "answered", None))


def keep_company(how, sd_model):
    """Take part in the model's calls as extensions do: see every one, count it, and act by its number.

    "cfg_denoiser", "cfg_denoised", "cfg_after_cfg": a callback of the host's. "forward", "block": a replaced function that
    gives every other time what it gave before, as step caches do. "hook", "pre_hook" on a block; "class": a class's own
    function. "weights": a callback after every call changes the weights. "apply_model": the function around the network,
    replaced on its object. "pre_cfg", "conditioning", "patch": functions among Forge's patches.
    """
    network = network_of(sd_model)
    block = next(one for one in network.modules() if type(one).__name__ in BLOCKS)
    kept = {}

    def number():
        last["seen"] += 1
        return last["seen"]

    def stronger(tensor):
        return tensor * (1 + 0.02 * number())

    def cached(forward):
        def caching(*args, **kwargs):
            shape = args[0].shape
            if number() % 2 == 0 and kept.get("shape") == shape:
                return kept["answer"]
            kept.update(shape=shape, answer=forward(*args, **kwargs))
            return kept["answer"]

        return caching

    def callback(params):
        if how == "weights":
            weight = next(one for one in network.parameters() if one.ndim > 1)
            undo.append(functools.partial(put_back, weight, weight.data.clone()))
            weight.data *= 1 + 0.1 * number()
        elif how == "cfg_denoised":  # A1111 takes no other tensor from it
            params.x.copy_(stronger(params.x))
        else:
            params.x = stronger(params.x)

    if how in ("hook", "pre_hook"):
        hook = {"hook": lambda _, args, answer: stronger(answer), "pre_hook": lambda _, args: (stronger(args[0]), *args[1:])}[
            how
        ]
        register = block.register_forward_hook if how == "hook" else block.register_forward_pre_hook
        undo.append(register(hook).remove)
    elif how in ("forward", "block"):
        owner = network if how == "forward" else block
        owner.forward = cached(owner.forward)
        undo.append(lambda: vars(owner).pop("forward"))
    elif how == "apply_model":
        objects = getattr(sd_model, "forge_objects", None)
        owner = objects.unet.model if objects else sd_model
        if hasattr(owner, "apply_model"):
            apply_model = owner.apply_model
            owner.apply_model = lambda *args, **kwargs: stronger(apply_model(*args, **kwargs))
            undo.append(lambda: vars(owner).pop("apply_model"))
    elif how in ("pre_cfg", "conditioning", "patch"):
        if hasattr(sd_model, "forge_objects"):
            add_patch(how, sd_model.forge_objects.unet, stronger)
    elif how == "class":
        forward = type(block).forward

        def counting(self, *args, **kwargs):
            return stronger(forward(self, *args, **kwargs))

        replace(type(block), "forward", counting)
    else:
        register = "on_cfg_after_cfg" if how == "weights" else f"on_{how}"
        getattr(script_callbacks, register)(callback)
        undo.append(lambda: script_callbacks.remove_callbacks_for_function(callback))


@torch.inference_mode()
def put_back(weight, values):
    """Forge's weights are tensors of inference."""
    weight.data.copy_(values)


def add_patch(how, unet, stronger):
    """As Forge's own methods for it do, on a copy of the patches."""
    before = unet.model_options
    options = unet.model_options = {**before}
    undo.append(lambda: setattr(unet, "model_options", before))
    if how == "pre_cfg":
        options["sampler_pre_cfg_function"] = [
            *before.get("sampler_pre_cfg_function", []),
            lambda model, cond, uncond, x, sigma, options: (model, cond, uncond, stronger(x), sigma, options),
        ]
    elif how == "conditioning":
        options["conditioning_modifiers"] = [
            *before.get("conditioning_modifiers", []),
            lambda model, x, *others: (model, stronger(x), *others),
        ]
    else:
        told = before.get("transformer_options", {})
        patches = {**told.get("patches", {}), "input_block_patch": [lambda h, options: stronger(h)]}
        options["transformer_options"] = {**told, "patches": patches}


def left_on(p):
    """What Noise Order should have taken away with it."""
    left = [f"p.{name}" for name in vars(p) if "noise_order" in name]
    owners = {"p.rng": p.rng, "p.sampler": p.sampler, "denoiser": getattr(p.sampler, "model_wrap_cfg", None)}
    inner = getattr(owners["denoiser"], "inner_model", None) if owners["denoiser"] is not None else None
    owners |= {"inner model": inner, "network": network_of(p.sd_model)}
    ours = {"next", "sample", "sample_img2img", "forward", "combine_denoised", "apply_model"}
    for place, owner in owners.items():
        left += [f"{place}.{name}" for name in sorted(ours & set(getattr(owner, "__dict__", ())))]
    objects = getattr(p.sd_model, "forge_objects", None)
    if objects is not None and "sampler_post_cfg_function" in objects.unet.model_options:
        left.append("model_options")
    return left


def state():
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    rows, calls = sum(kind.rows_counted for kind in counted), [call for kind in counted for call in kind.calls_counted]
    return {"rows": rows, "calls": calls, **last, "resident": resident}


def alive():
    """What lives in this process: tensors, and objects of Noise Order's classes by name."""
    gc.collect()
    kinds = collections.Counter(type(thing) for thing in gc.get_objects())
    ours = {kind.__name__: count for kind, count in kinds.items() if str(kind.__module__).startswith("lib_noiseorder")}
    return {"tensors": kinds[torch.Tensor], "ours": ours}


class Sabotage(scripts.Script):
    def title(self):
        return "Sabotage"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gradio.Textbox(value="", label="Sabotage", visible=False)]

    def process(self, p, plan, *args):
        clean_up()
        last.update(left=["never finished"], comments=[], seen=0)
        plan = plan if isinstance(plan, dict) else {}
        network = network_of(p.sd_model)
        count(network)
        type(network).calls_counted, type(network).memory_for = [], plan.get("memory_for")
        if "raise_in" in plan:
            raise_in(plan["raise_in"], plan.get("error", "RuntimeError"))
        self.fail_if(plan, "process")

    def before_process_batch(self, p, plan, *args, **kwargs):
        plan = plan if isinstance(plan, dict) else {}
        for name, value in plan.get("attributes", {}).items():
            if value == "absent":
                vars(p).pop(name, None)
            else:
                setattr(p, name, value)
        self.fail_if(plan, "before_process_batch")

    def process_batch(self, p, plan, *args, **kwargs):
        plan = plan if isinstance(plan, dict) else {}
        if {"answers", "state", "reload"} & set(plan):
            watch_answers(network_of(p.sd_model), plan)
        if "swap" in plan:
            from modules import sd_models

            sd_models.reload_model_weights(info=sd_models.get_closet_checkpoint_match(plan["swap"]))
            count(network_of(p.sd_model))
        self.fail_if(plan, "process_batch")

    def process_before_every_sampling(self, p, plan, *args, **kwargs):
        if isinstance(plan, dict) and "company" in plan:
            keep_company(plan["company"], p.sd_model)
        self.fail_if(plan, "process_before_every_sampling")

    def postprocess_batch(self, p, plan, *args, **kwargs):
        self.fail_if(plan, "postprocess_batch")

    def postprocess(self, p, processed, plan, *args):
        clean_up()
        last.update(left=left_on(p), comments=list(p.comments) if isinstance(p.comments, dict) else [])
        self.fail_if(plan, "postprocess")

    def fail_if(self, plan, hook):
        if isinstance(plan, dict) and plan.get("hook") == hook:
            raise RuntimeError(f"another extension's {hook} fails")


def offer(_, app):
    app.add_api_route("/saboteur/state", state, methods=["GET"])
    app.add_api_route("/saboteur/alive", alive, methods=["GET"])


script_callbacks.on_app_started(offer)
