"""Conditioning as the hosts hold it: per picture the prompts joined by AND, each as a schedule over the steps."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


class Scheduled(NamedTuple):
    end_at_step: int
    cond: torch.Tensor


@dataclass
class Composable:
    schedules: list[Scheduled]
    weight: float = 1.0


@dataclass
class MulticondLearnedConditioning:
    shape: Any
    batch: list[list[Composable]]


def scheduled(tokens, steps):
    return [[Scheduled(steps, row)] for row in tokens]


def multicond(tokens, steps):
    return MulticondLearnedConditioning((len(tokens),), [[Composable(entries)] for entries in scheduled(tokens, steps)])


def reconstruct(schedules, step):
    """The tokens [B, …] of a list of schedules at a step."""
    return torch.stack([next(entry.cond for entry in entries if step <= entry.end_at_step) for entries in schedules])


def reconstruct_multicond(cond, step):
    return reconstruct([parts[0].schedules for parts in cond.batch], step)


def get_learned_conditioning_prompt_schedules(prompts, steps):
    """Of the hosts' prompt editing "[from:to:when]" alone."""
    last = [re.sub(r"\[(?:[^:\]]*:)?([^:\]]*):[^\]]*\]", r"\1", prompt) for prompt in prompts]
    return [[[steps, prompt]] for prompt in last]


def parse_prompt_attention(text):
    """Of the hosts' weights "(text:1.2)" alone."""
    parts = re.findall(r"\(([^():]*):([\d.]+)\)|([^()]+)", text)
    return [[weighted or plain, float(weight or 1)] for weighted, weight, plain in parts]
