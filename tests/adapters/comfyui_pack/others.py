"""Nodes as other packs have them: what keeps something from step to step, looks at the whole batch, or cannot be set aside."""

import itertools

import comfy.controlnet
import comfy.hooks
import comfy.patcher_extension
import node_helpers
import torch
from server import PromptServer

server = PromptServer.instance
steps_seen = {"calls": 0}
"""A counter that a module keeps."""


class OnModel:
    """MODEL → MODEL; `how` puts something on a clone."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        model = model.clone()
        self.how(model)
        return (model,)


def fading(number):
    """What a picture is multiplied by in the call of this number: another one in each."""
    return 1 + 0.02 * number


class ClosureCounter(OnModel):
    """A wrapper around the network that counts its calls in a closure."""

    def how(self, model):
        calls = 0

        def wrapper(executor, *args, **kwargs):
            nonlocal calls
            calls += 1
            return executor(*args, **kwargs) * fading(calls)

        def start(patcher):
            nonlocal calls
            calls = 0

        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "closure", wrapper)
        model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_PRE_RUN, "closure", start)


class GlobalCounter(OnModel):
    """The same in a module's global dictionary, with its own method as the wrapper."""

    def how(self, model):
        def start(patcher):
            steps_seen["calls"] = 0

        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "global", self.wrapper)
        model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_PRE_RUN, "global", start)

    def wrapper(self, executor, *args, **kwargs):
        steps_seen["calls"] += 1
        return executor(*args, **kwargs) * fading(steps_seen["calls"])


class NetworkCounter(OnModel):
    """A step cache's way: a function around the model's call that keeps what it needs as attributes of the network."""

    def how(self, model):
        def start(patcher):
            patcher.model.diffusion_model.last_output = None

        def wrapper(apply_model, args):
            network = model.model.diffusion_model
            output = apply_model(args["input"], args["timestep"], **args["c"])
            last = getattr(network, "last_output", None)
            network.last_output = output.clone()
            return output if last is None or last.shape != output.shape else 0.9 * output + 0.1 * last

        model.set_model_unet_function_wrapper(wrapper)
        model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_PRE_RUN, "network", start)


class RandomWrapper(OnModel):
    """Draws from the global generators at every call."""

    def how(self, model):
        def wrapper(executor, *args, **kwargs):
            return executor(*args, **kwargs) * (1 + 0.05 * torch.rand(1).item())

        def start(patcher):
            torch.manual_seed(0)

        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "random", wrapper)
        model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_PRE_RUN, "random", start)


class StepCacheInOptions(OnModel):
    """TeaCache's way: what it keeps stands in the options that are handed down to the network, by conditioning."""

    def how(self, model):
        model.model_options["transformer_options"]["step cache"] = kept = {"calls": 0}

        def start(patcher):
            kept.clear()
            kept["calls"] = 0

        def wrapper(executor, x, timestep, context, *args, **kwargs):
            options = next(value for value in (*args, *kwargs.values()) if isinstance(value, dict) and "step cache" in value)
            state = options["step cache"]
            state["calls"] += 1
            key = f"residual {options['cond_or_uncond']}"
            if state["calls"] % 3 and state.get(key) is not None and state[key].shape == x.shape:
                return x + state[key]
            output = executor(x, timestep, context, *args, **kwargs)
            state[key] = output - x
            return output

        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "cache", wrapper)
        model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_PRE_RUN, "cache", start)


class FirstBlockCache(OnModel):
    """WaveSpeed's way: a block's forward is replaced while sampling, and its state stands in a closure."""

    def how(self, model):
        state = {"calls": 0, "features": None}

        def start(patcher):
            network = patcher.model.diffusion_model
            block = (getattr(network, "blocks", None) or getattr(network, "double_blocks", None) or [network.middle_block])[0]
            state.update(calls=0, features=None, block=block, usual=block.forward)

            def forward(*args, **kwargs):
                state["calls"] += 1
                output = state["usual"](*args, **kwargs)
                first = output[0] if isinstance(output, tuple) else output
                if state["features"] is not None and state["features"].shape == first.shape:
                    first = 0.8 * first + 0.2 * state["features"]
                state["features"] = first.clone()
                return (first, *output[1:]) if isinstance(output, tuple) else first

            block.forward = forward

        def end(patcher):
            del state["block"].forward

        model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_PRE_RUN, "block", start)
        model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_CLEANUP, "block", end)


class ReplacedMethod(OnModel):
    """A method of the network other than `forward` is replaced on it, by one that counts its calls."""

    def how(self, model):
        network = model.model.diffusion_model
        name = "forward_orig" if hasattr(network, "forward_orig") else "_forward"
        usual, calls = getattr(network, name), 0

        def start(patcher):
            nonlocal calls
            calls = 0

        def counting(*args, **kwargs):
            nonlocal calls
            calls += 1
            return usual(*args, **kwargs) * fading(calls)

        setattr(network, name, counting)
        model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_PRE_RUN, "method", start)


class ReplacedForAll(OnModel):
    """The same for all networks of a kind, while sampling."""

    def how(self, model):
        _, kind, *_ = type(model.model.diffusion_model).__mro__  # the tests' own comes first
        name = "forward_orig" if hasattr(kind, "forward_orig") else "_forward"
        usual, calls = getattr(kind, name), 0

        def counting(*args, **kwargs):
            nonlocal calls
            calls += 1
            return usual(*args, **kwargs) * fading(calls)

        def start(patcher):
            nonlocal calls
            calls = 0
            setattr(kind, name, counting)

        def end(patcher):
            setattr(kind, name, usual)

        model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_PRE_RUN, "kind", start)
        model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_CLEANUP, "kind", end)


class CountingGuidance(OnModel):
    """Guidance that fades from call to call, and keeps the last answer without the prompt."""

    def how(self, model):
        kept = {"calls": 0, "uncond": None}

        def start(patcher):
            kept.update(calls=0, uncond=None)

        def guided(args):
            kept["calls"] += 1
            return args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"] / fading(kept["calls"])

        def after(args):
            last, kept["uncond"] = kept["uncond"], args["uncond_denoised"]
            return args["denoised"] if last is None else 0.9 * args["denoised"] + 0.1 * last

        model.set_model_sampler_cfg_function(guided)
        model.set_model_sampler_post_cfg_function(after)
        model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_PRE_RUN, "guided", start)


class StepCallback(OnModel):
    """Told of every call by the host, it works on what is shown to the network; it also knows the host's server."""

    def how(self, model):
        steps = []

        def start(patcher):
            steps.clear()

        def told(patcher, timestep):
            steps.append(float(timestep[0]))
            server.queued_by_a_test = len(steps)

        def wrapper(executor, x, *args, **kwargs):
            return executor(x * fading(len(set(steps))), *args, **kwargs)

        callbacks = comfy.patcher_extension.CallbacksMP
        model.add_callback_with_key(callbacks.ON_PRE_RUN, "steps", start)
        model.add_callback_with_key(callbacks.ON_PREPARE_STATE, "steps", told)
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "steps", wrapper)


class NoWayBack(OnModel):
    """Counts with an iterator, which nobody can set aside."""

    def how(self, model):
        def wrapper(executor, *args, **kwargs):
            next(number)
            return executor(*args, **kwargs)

        number = itertools.count()
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "iterator", wrapper)


class SharedAttention(OnModel):
    """The pictures of a batch share their keys and values."""

    def how(self, model):
        def shared(q, k, v, extra_options):
            return q, (k + k.mean(0, keepdim=True)) / 2, (v + v.mean(0, keepdim=True)) / 2

        model.set_model_attn1_patch(shared)


class GivenNoise(OnModel):
    """The sampler starts from the noise that was kept for it."""

    def how(self, model):
        given = PromptServer.instance.noise_to_give.clone()

        def wrapper(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
            return executor(guider, sigmas, extra_args, callback, given, *args, **kwargs)

        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, "given", wrapper)


class HookedPrompt:
    """A prompt with a LoRA that is at full strength at first, and gone from 40 % on."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "patch", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "prompt": ("CONDITIONING",)}}

    def patch(self, model, prompt):
        weights = model.model.state_dict()
        name = next(
            name
            for name, value in weights.items()
            if "attn1.to_v.weight" in name or "qkv.weight" in name or "self_attn.v" in name
        )
        rows, columns = weights[name].shape
        key = name.removesuffix(".weight")
        lora = {f"{key}.lora_up.weight": torch.ones(rows, 1), f"{key}.lora_down.weight": torch.ones(1, columns)}
        hooks = comfy.hooks.create_hook_lora(lora, 1.0, 1.0)
        keyframes = comfy.hooks.HookKeyframeGroup()
        keyframes.add(comfy.hooks.HookKeyframe(1.0, 0.0))
        keyframes.add(comfy.hooks.HookKeyframe(0.0, 0.4))
        hooks.set_keyframes_on_hooks(keyframes)
        return (node_helpers.conditioning_set_values(prompt, {"hooks": hooks}),)


class TinyControl(comfy.controlnet.ControlBase):
    """A ControlNet that adds a constant, within its range; it keeps its prepared hint from its first call on."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        if self.timestep_range is not None and not self.timestep_range[0] >= t[0] >= self.timestep_range[1]:
            return None
        if self.cond_hint is None:
            self.cond_hint = torch.full((1,), 0.5)
        return {"input": [], "middle": [self.cond_hint * torch.ones(1, 1, 1, 1)], "output": []}

    def copy(self):
        control = TinyControl()
        self.copy_to(control)
        return control


class ControlledPrompt:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "patch", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"prompt": ("CONDITIONING",)}}

    def patch(self, prompt):
        control = TinyControl().set_cond_hint(torch.zeros(1, 3, 8, 8), 1.0, (0.0, 0.5))
        return (node_helpers.conditioning_set_values(prompt, {"control": control, "control_apply_to_uncond": True}),)


NODE_CLASS_MAPPINGS = {
    kind.__name__: kind
    for kind in (
        ClosureCounter, GlobalCounter, NetworkCounter, RandomWrapper, NoWayBack, SharedAttention, GivenNoise, HookedPrompt,
        ControlledPrompt, StepCacheInOptions, FirstBlockCache, ReplacedMethod, ReplacedForAll, CountingGuidance, StepCallback,
    )
}  # fmt: skip
