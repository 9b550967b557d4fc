"""What the tests see of the inside: evaluations of the network, the noise that a sampler was given; and a switch for memory.

It is kept on an object of the host's. What a node keeps itself is put back after every question.
"""

import sys

import comfy.samplers
from aiohttp import web
from server import PromptServer

server = PromptServer.instance
server.seen_by_tiny_models = []
server.sampled_noise = server.noise_to_give = None


def seen():
    return PromptServer.instance.seen_by_tiny_models


@server.routes.get("/noise_order_test/seen")
async def seen_so_far(request):
    found, PromptServer.instance.seen_by_tiny_models = seen(), []
    return web.json_response(found)


def _recording(sample):
    def recorded(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
        PromptServer.instance.sampled_noise = noise.clone()
        return sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs)

    return recorded


comfy.samplers.KSAMPLER.sample = _recording(comfy.samplers.KSAMPLER.sample)


@server.routes.get("/noise_order_test/keep_noise")
async def keep_noise(request):
    """The noise of the last sampler is the one that is given from now on."""
    PromptServer.instance.noise_to_give = PromptServer.instance.sampled_noise
    return web.json_response(None)


@server.routes.get("/noise_order_test/remember/{what}")
async def remember(request):
    """Whether Noise Order gives remembered answers: "answers" or "nothing"."""
    answers = next(module.Answers for name, module in sys.modules.items() if name.endswith("lib_noiseorder.answers"))
    if not hasattr(answers, "usual_recall"):
        answers.usual_recall = answers.recall
    answers.recall = answers.usual_recall if request.match_info["what"] == "answers" else lambda self, question, x: None
    return web.json_response(request.match_info["what"])
