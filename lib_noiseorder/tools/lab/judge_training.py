"""Training of the lab's judge: a small CLIP of both worlds that says how well a picture shows a text.

It learns from renderings whose scene is known, blurred, ghosted and faint as early predictions are, and from what the worlds'
models predict of noised renderings. Near misses are the point: a CLIP that only ever told a cat from a house would not ask
which of the two is red.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model import clean
from .judge_folder import IMAGE_SIZE, LONGEST, MEAN, STD, new_model, write_texts
from .judge_lessons import COLOURS, KINDS, ROLES, SHOWN, SLOTS, VOCABULARIES, Family, agree, family, slots
from .model import LabModel
from .optimiser import Averaged, Log, LossLog, Optimiser, clock, require_time

_FAMILIES = 4
"""Of each world in a batch."""
_PREDICTED = 0.3
"""Share of the families whose pictures are a model's predictions."""
_TIME_TO_PREDICT = 0.05
"""Share of the time in which those are made, before the training begins."""
_AIDED_UNTIL = 0.7
"""Share of the time after which the judge learns without aids."""
_SPREAD = 10.0
"""What embeddings, whose length is 1, are multiplied by before they are read."""
_LEARNING_RATE = 3e-3
_EMA = 0.995
_SAVE_SECONDS = 120
_INNER = re.compile(r"layers\.\d+\..*(proj|fc\d)\.weight")
_WARMEST = 4.6
"""The most that the logarithm of the scale may be, as in CLIP."""


def train_judge(minutes: float, seed: int, out: Path, log: Log) -> None:
    """Train the judge, and write its folder; the averaged weights are saved every two minutes.

    Args:
        minutes: wall-clock time.
        out: the folder.

    Raises:
        OSError: a file cannot be written.
        ValueError: minutes not positive.
    """
    require_time(minutes)
    from transformers import CLIPTokenizer

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    write_texts(out)
    tokenizer = CLIPTokenizer.from_pretrained(out, local_files_only=True)
    model = new_model()
    average = copy.deepcopy(model)
    aids = Aids(model)
    named = [*model.named_parameters(), *aids.named_parameters("aids")]
    optimiser = Optimiser(named, _INNER, _LEARNING_RATE)
    averaged, losses = Averaged(model.parameters(), average.parameters(), _EMA), LossLog(log, "judge")
    predicted = _predicted_families(minutes * _TIME_TO_PREDICT, rng)
    log(f"judge: {sum(map(len, predicted.values()))} families of predictions")
    saved = time.monotonic()
    step = 0
    for step, share in clock(minutes * (1 - _TIME_TO_PREDICT)):
        families = [_next_family(name, predicted[name], rng) for name in VOCABULARIES for _ in range(_FAMILIES)]
        loss = judge_loss(model, tokenizer, families, rng, aids if share < _AIDED_UNTIL else None)
        loss.backward()
        optimiser.step(step, share)
        with torch.no_grad():
            model.logit_scale.clamp_(max=_WARMEST)
        averaged.update(step)
        losses.add(step, share, loss.item())
        if time.monotonic() - saved > _SAVE_SECONDS:
            _save(average, out)
            saved = time.monotonic()
    _save(average, out)
    log(f"judge: {step + 1} steps, written {out}")


_CLASSES = (1 + len(KINDS), 1 + len(COLOURS), 1 + ROLES)
"""Of what is in a patch; the first of each: nothing."""


class Aids(nn.Module):
    """What reads the judge while it learns, and is thrown away then: what is where in a picture, and what picture or text say.

    Which colour belongs to which thing, and which thing is left of which, is learnt many times sooner so.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.where = nn.Linear(model.config.vision_config.hidden_size, sum(_CLASSES))
        self.said = nn.Linear(model.config.projection_dim, sum(SLOTS))

    def forward(self, answer: Any, families: Sequence[Family], shown: Tensor) -> Tensor:
        """Cross-entropy, for a CLIP's answer about the families; `shown` [P] is the text that each picture shows."""
        meant = torch.tensor([slots(VOCABULARIES[one.world], prompt) for one in families for prompt in one.prompts])
        named = shown >= 0
        embeddings = torch.cat([answer.image_embeds[named], answer.text_embeds])
        said = self.said(_SPREAD * embeddings).split(SLOTS, 1)
        truth = torch.cat([meant[shown[named]], meant]).unbind(1)
        loss = torch.stack([F.cross_entropy(logits, values) for logits, values in zip(said, truth)]).mean()
        return loss + self._where(answer.vision_model_output[0][:, 1:], families)

    def _where(self, patches: Tensor, families: Sequence[Family]) -> Tensor:
        """Of kind, colour and role in every patch [P, patches, width] of the renderings that show a prompt."""
        losses = [patches.new_zeros(())]
        for one, mine in zip(families, patches.split(len(SHOWN))):
            if one.seen is not None:
                seen = self.where(mine[: one.seen.shape[1]]).flatten(0, 1).split(_CLASSES, 1)
                for logits, truth in zip(seen, one.seen):
                    weight = torch.ones(logits.shape[1])
                    weight[0] = 0.1  # nearly every patch is empty
                    losses.append(F.cross_entropy(logits, torch.from_numpy(truth).flatten(), weight))
        return torch.stack(losses).sum() / len(families)


def judge_loss(
    model: nn.Module, tokenizer: Any, families: Sequence[Family], rng: np.random.Generator, aids: Aids | None = None
) -> Tensor:
    """How badly the model tells what belongs together: every picture among the texts, every text among the pictures.

    Both are asked among all of the batch, and once more among the family alone. The aids' loss is added.
    """
    pixels = torch.cat([to_pixels(blemished(_channels_first(one.pictures), rng)) for one in families])
    texts = [str(prompt) for one in families for prompt in one.prompts]
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
    answer = model(**tokens, pixel_values=pixels)
    logits = answer.logits_per_image
    shown, wrong, own_family = _truth(families)
    named = (shown >= 0).nonzero().flatten()
    right = logits[named, shown[named]]
    loss = logits.new_zeros(())
    for among in (wrong, wrong & own_family):
        others = logits.masked_fill(~among, -torch.inf)
        loss = loss + F.softplus(others.logsumexp(1)[named] - right).mean()
        loss = loss + F.softplus(others.logsumexp(0)[shown[named]] - right).mean()
    return loss / 4 if aids is None else loss / 4 + aids(answer, families, shown)


def _truth(families: Sequence[Family]) -> tuple[Tensor, Tensor, Tensor]:
    """The text that each picture shows [P] (−1: none), and which texts it does not show, and which are of its family [P, T].

    What a spoiled picture shows is known as far as its own family's first text goes.
    """
    count = len(families[0].prompts)
    shown = torch.tensor([number * count + which if which >= 0 else -1 for number in range(len(families)) for which in SHOWN])
    own_family = torch.eye(len(families), dtype=torch.bool)
    own_family = own_family.repeat_interleave(len(SHOWN), 0).repeat_interleave(count, 1)
    of = [(one.world, prompt) for one in families for prompt in one.prompts]
    differ = torch.tensor([[world != w or not agree(VOCABULARIES[w], prompt, p) for w, p in of] for world, prompt in of])
    wrong = differ[shown]
    first = torch.arange(len(of)) % count == 0
    return shown, torch.where((shown >= 0)[:, None], wrong, own_family & first), own_family


def blemished(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures [B, 3, H, W] in 0..1 of any size as a judge may meet them, all about equally bad.

    Twice there, blurred, faint, brighter or darker, noisy, resampled.
    """
    some, size = (len(x), 1, 1, 1), x.shape[-1]

    def random(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, some)).float()

    if rng.random() < 0.35:
        ways = torch.eye(2, 3).repeat(len(x), 1, 1)
        ways[:, :, 2] = torch.from_numpy(rng.uniform(-0.35, 0.35, (len(x), 2))).float()
        grid = F.affine_grid(ways, list(x.shape), align_corners=False)
        ghost = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        x = torch.lerp(x, ghost, random(0, 0.45))
    if rng.random() < 0.6:
        x = _blurred(x, 0.3 + 2.7 * rng.random() ** 2 * size / IMAGE_SIZE)
    if rng.random() < 0.7:
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + random(-0.12, 0.12) + (x - mean) * (rng.uniform(0.5, 1.2) + random(-0.1, 0.1))
    if rng.random() < 0.6:
        x = x + torch.randn_like(x) * random(0, 0.1)
        x = x + F.interpolate(torch.randn(len(x), 3, 6, 6), x.shape[-2:], mode="bicubic") * random(0, 0.06)
    if rng.random() < 0.5:
        between = int(rng.choice([16, 20, 24, 28, 48, 64, 96]))
        x = F.interpolate(x, (between, between), mode=str(rng.choice(["bilinear", "bicubic"])), antialias=True)
    return x.clamp(0, 1)


def to_pixels(pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in 0..1 as the network takes them: what the folder's image processor does."""
    if pictures.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
        pictures = F.interpolate(pictures, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True).clamp(0, 1)
    return (pictures - MEAN) / STD


def _blurred(x: Tensor, deviation: float) -> Tensor:
    """Gaussian blur, its deviation in pixels."""
    reach = max(1, round(2.5 * deviation))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), weights, groups=3)
    return F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), weights.transpose(2, 3), groups=3)


def _next_family(name: str, predicted: Sequence[Family], rng: np.random.Generator) -> Family:
    if predicted and rng.random() < _PREDICTED:
        return predicted[int(rng.integers(len(predicted)))]
    return family(name, rng)


def _predicted_families(minutes: float, rng: np.random.Generator) -> dict[str, list[Family]]:
    """By world: families whose pictures are predictions of its models, asked for the first prompt of each."""
    made: dict[str, list[Family]] = {name: [] for name in VOCABULARIES}
    models = {name: [LabModel(kind, world=name) for kind in ("eps", "flow")] for name in VOCABULARIES}
    for step, share in clock(minutes):
        name = list(made)[share > 0.3]  # the second world's models take longer
        made[name].append(_predicted(models[name][step % 2], family(name, rng), rng))
    return made


def _predicted(model: LabModel, one: Family, rng: np.random.Generator) -> Family:
    """The family with what the model, asked for the first prompt under guidance, sees in its pictures under noise."""
    pictures = np.round(one.pictures.clip(0, 1) * 255).astype(np.uint8)
    x0 = model.world.to_latent(pictures)
    timestep = float(rng.uniform(0.03, 0.85))
    level = model.level(timestep)
    x = level.alpha * x0 + level.sigma * torch.randn_like(x0)
    x0 = clean(model.guided(x, timestep, model.tokens([one.prompts[0]] * len(x))), x, level, model.parameterisation)
    module = VOCABULARIES[one.world].module
    pictures = (x0 * module.STD + module.MEAN).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return Family(one.world, one.prompts, pictures)


def _channels_first(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def _save(model: Any, out: Path) -> None:
    copy.deepcopy(model).half().save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)
