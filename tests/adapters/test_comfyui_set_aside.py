"""What other nodes keep is put back as it was, whatever it is kept in; what cannot be is named."""

import functools
import itertools
import random
import threading
from collections import deque

import numpy as np
import pytest
import torch

from lib_noiseorder.adapters.comfyui.set_aside import SetAside, random_states_kept

kept_in_a_global = {"steps": []}
number_in_a_global = 0


class Holder:
    shared = 0

    def __init__(self):
        self.steps, self.cache, self.features, self.number = [], {}, torch.zeros(3), 0

    def call(self):
        self.steps.append(1)
        self.cache["more"] = {"deeper": [1]}
        self.features += 1
        self.features_of_this_call = torch.ones(2)
        self.number += 1
        Holder.shared += 1

    def state(self):
        return repr((vars(self), Holder.shared))


class Slotted:
    __slots__ = ("number",)

    def __init__(self):
        self.number = 0

    def call(self):
        self.number += 1

    def state(self):
        return self.number


def closure():
    number, cells = 0, []

    def call():
        nonlocal number
        number += 1
        cells.append(number)

    return call, lambda: (number, list(cells))


def in_globals():
    def call():
        global number_in_a_global
        number_in_a_global += 1
        kept_in_a_global["steps"].append(1)

    return call, lambda: repr((number_in_a_global, kept_in_a_global))


def on_a_network():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    network.register_buffer("count", torch.zeros(()))

    def call():
        network[1].last = torch.ones(1)
        network[0].forward = lambda x: x
        network.register_forward_hook(lambda *args: None)
        network.count += 1

    def state():
        return repr([(sorted(vars(module)), list(module._forward_hooks)) for module in network.modules()]), network.count.item()

    return call, state


def in_an_array():
    array, queue, some, generator, dice = np.zeros(2), deque([1]), {1}, torch.Generator(), random.Random(1)

    def call():
        array[0] += 1
        queue.append(2)
        some.add(3)
        torch.rand(1, generator=generator)
        dice.random()

    return call, lambda: repr((array, queue, some, generator.get_state().tolist(), dice.getstate()))


def bound(kind):
    holder = kind()
    return holder.call, holder.state


@pytest.mark.parametrize(
    "make",
    [closure, in_globals, on_a_network, in_an_array, functools.partial(bound, Holder), functools.partial(bound, Slotted)],
)
@pytest.mark.parametrize("wrapped", [lambda call: call, lambda call: {"wrappers": [functools.partial(call)]}])
def test_what_a_call_keeps_is_put_back(make, wrapped):
    call, state = make()
    call()
    before = state()
    aside = SetAside(wrapped(call))
    assert aside.unknown is None
    for _ in range(2):
        call()
        assert state() != before, "the call keeps something"
        aside.put_back()
        assert state() == before


@pytest.mark.parametrize("kept", [itertools.count(), iter([1]), (number for number in range(3))])
def test_what_cannot_be_set_aside_is_named(kept):
    def wrapper():
        next(kept)

    unknown = SetAside([wrapper]).unknown
    assert unknown is not None and "wrapper holds a " in unknown and "cannot be set aside" in unknown


def test_a_lock_and_the_way_to_itself_are_no_hindrance():
    around = []
    around.append(around)
    assert SetAside(around, threading.Lock(), {"self": around}).unknown is None


def test_what_other_threads_work_with_is_left_to_them():
    class Server:
        __module__ = "server"

    server = Server()
    server.queue = [1]
    aside = SetAside({"where prompts are queued": server})
    server.queue.append(2)
    aside.put_back()
    assert aside.unknown is None and server.queue == [1, 2]


def test_weights_stay_where_they_are():
    network = torch.nn.Linear(2, 2)
    aside = SetAside(network)
    with torch.no_grad():
        network.weight.fill_(7)
    aside.put_back()
    assert (network.weight == 7).all(), "weights are loaded and moved by the host"


def test_no_random_state_is_advanced():
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())

    before = states()
    with random_states_kept(torch.device("cpu")):
        torch.rand(3), random.random(), np.random.rand()
        assert states() != before
    assert states() == before
