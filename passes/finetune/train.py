"""The training loop of `finetune`: what is done in a step, in an epoch, and what a checkpoint holds."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...ir.diagnostics import error
from .network import Network

__all__ = ["Plan", "train"]

LIMITS = (6.0, 8.0, 10.0)  # deviations beyond which values are cut off in the guard steps, in turns
LOOKED = 12_000  # samples that are looked at for those that lie furthest out, a tenth of which is HARD
HARD = 3 / 8  # of the samples of a guard step are of those
GUARD_RATE, GUARD_PENALTY, GUARD_AVERAGE = 2e-4, 2.0, 0.99  # of the guard steps, whatever those of the epochs are
AGAIN = 150  # steps after which they are looked for again
SHIFT = 4  # pixels that a crop may move an image by, as is usual for CIFAR


class Plan(Protocol):
    """Of the options of `finetune`, those that training knows."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def penalty(self) -> float: ...
    @property
    def distill(self) -> float: ...
    @property
    def ramp(self) -> float: ...
    @property
    def settle(self) -> float: ...
    @property
    def average(self) -> float: ...
    @property
    def guard(self) -> int: ...
    @property
    def augment(self) -> str: ...
    @property
    def seed(self) -> int: ...


@dataclass
class _State:
    """What an interrupted run goes on from."""

    epoch: int
    losses: list[float]
    optimiser: Any
    averaged: dict[str, Any]


def train(
    network: Network,
    x: Any,
    labels: Any,
    plan: Plan,
    torch: Any,
    checkpoint: Path | None,
    identity: str,
    tell: Callable[[str], None],
) -> list[float]:
    """Train in place; the mean loss of every epoch. With a file, an interrupted run goes on where it stopped.

    `identity` names the run; IG0552 if the file is of another one.
    """
    parameters = list(network.parameters.values())
    optimiser = torch.optim.Adam(parameters, plan.rate)
    state = _State(0, [], optimiser, {})
    if checkpoint is not None and checkpoint.exists():
        _restore(network, state, checkpoint, identity, torch)
        tell(f"goes on after epoch {state.epoch} of {plan.epochs}")
    per_epoch = -(-len(x) // plan.batch)
    steps = per_epoch * plan.epochs
    network.momentum = max(network.momentum, min(1.0, 10 / steps))  # moments of a short run must keep up
    for epoch in range(state.epoch, plan.epochs):
        random = np.random.default_rng([plan.seed, epoch])  # so a run that goes on is the run that was not interrupted
        order = random.permutation(len(x))
        total = 0.0
        for i in range(per_epoch):
            at = (epoch * per_epoch + i) / steps
            for group in optimiser.param_groups:
                group["lr"] = plan.rate * min(1.0, at * 50 + 0.02) * (1 + math.cos(math.pi * at)) / 2
            chosen = torch.from_numpy(order[i * plan.batch : (i + 1) * plan.batch])
            share = min(1.0, (epoch * per_epoch + i + 1) / max(1.0, plan.ramp * steps))
            images = augmented(x[chosen], plan.augment, random, torch)
            right = None if labels is None else labels[chosen]
            settled = at >= 1 - plan.settle or len(chosen) == 1
            loss = _loss(network, images, right, share, plan, torch, batch=not settled, weight=plan.penalty)
            optimiser.zero_grad()
            loss.backward()
            if not math.isfinite(float(loss.detach())):  # an outlier in a settled network: it teaches nothing
                continue
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            total += float(loss.detach())
            if plan.average and at >= 1 - plan.settle:
                since = (at - 1 + plan.settle) * steps  # a short memory at first forgets the start
                _average(network, state.averaged, min(plan.average, (1 + since) / (10 + since)), torch)
        state.epoch, state.losses = epoch + 1, [*state.losses, total / per_epoch]
        tell(f"epoch {epoch + 1} of {plan.epochs}: loss {state.losses[-1]:.4g}")
        if checkpoint is not None:
            _keep(network, state, checkpoint, identity, torch)
    _take(network, state.averaged, torch)
    if plan.guard:
        _guard(network, x, labels, plan, torch, tell)
    return state.losses


def _guard(network: Network, x: Any, labels: Any, plan: Plan, torch: Any, tell: Callable[[str], None]) -> None:
    """The last steps, which pull in what is still out of range: one value too far out is the end of a sample.

    Such samples are few, so they are looked for, and take a part of each batch (hard examples, Shrivastava et al.
    2016). Values are cut off further out, so that what outliers do to the layers after them is seen; their penalty
    grows linearly beyond one deviation, or one of them would be the whole gradient.
    """
    parameters = list(network.parameters.values())
    network.part, network.linear = 1, True
    optimiser = torch.optim.Adam(parameters, GUARD_RATE, betas=(0.9, 0.99))
    random = np.random.default_rng([plan.seed, plan.epochs, plan.guard])
    averaged: dict[str, Any] = {}
    for step in range(plan.guard):
        if step % AGAIN == 0:
            some = random.permutation(len(x))[:LOOKED]
            network.limit = min(LIMITS)
            out = network.furthest(x, some, plan.batch)
            hard = some[np.argsort(-out, kind="stable")[: max(1, len(some) // 10)]]
            tell(
                f"step {step} of {plan.guard} of the guard: values reach {np.quantile(out, 0.99):.1f} deviations (99 %)"
            )
        for group in optimiser.param_groups:
            group["lr"] = GUARD_RATE * (1 + math.cos(math.pi * step / plan.guard)) / 2
        network.limit = LIMITS[step % len(LIMITS)]
        size = min(plan.batch, len(x))
        few = int(size * HARD)
        chosen = np.concatenate([random.choice(hard, few), random.choice(len(x), size - few)])
        at = torch.from_numpy(chosen)
        images = augmented(x[at], plan.augment, random, torch)
        right = None if labels is None else labels[at]
        loss = _loss(network, images, right, 1.0, plan, torch, batch=False, weight=GUARD_PENALTY)
        optimiser.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        if math.isfinite(float(loss.detach()) + norm):
            optimiser.step()
        _average(network, averaged, min(GUARD_AVERAGE, (1 + step) / (10 + step)), torch)
    _take(network, averaged, torch)


def _loss(
    network: Network, x: Any, labels: Any, share: float, plan: Plan, torch: Any, batch: bool, weight: float
) -> Any:
    functional = torch.nn.functional
    kept = 1.0 if labels is None else plan.distill
    out, outside = network.run(x, share, batch=batch, limited=True)
    loss = weight * outside
    if kept:
        with torch.no_grad():
            teacher = network.run(x, 0.0, original=True)[0]
        answers = functional.log_softmax(out, -1), functional.log_softmax(teacher, -1)
        loss = loss + kept * functional.kl_div(*answers, log_target=True, reduction="batchmean")
    if labels is not None and kept < 1:
        loss = loss + (1 - kept) * functional.cross_entropy(out, labels)
    return loss


def augmented(x: Any, how: str, random: np.random.Generator, torch: Any) -> Any:
    """Images turned left to right by chance, and with `crop` moved by up to 4 pixels, 0 where nothing was."""
    if how == "none" or x.ndim != 4:
        return x
    turned = torch.from_numpy(random.random(len(x)) < 0.5)
    x = torch.where(turned[:, None, None, None], x.flip(-1), x)
    if how == "flip":
        return x
    height, width = x.shape[2:]
    wide = torch.nn.functional.pad(x, (SHIFT,) * 4)
    by = random.integers(0, 2 * SHIFT + 1, (len(x), 2))
    return torch.stack([wide[i, :, d : d + height, r : r + width] for i, (d, r) in enumerate(by.tolist())])


def _average(network: Network, averaged: dict[str, Any], decay: float, torch: Any) -> None:
    """The exponential moving average of everything trained."""
    with torch.no_grad():
        for name, tensor in network.tensors.items():
            if name not in averaged:
                averaged[name] = tensor.detach().clone()
            else:
                averaged[name].lerp_(tensor, 1 - decay)


def _take(network: Network, averaged: Mapping[str, Any], torch: Any) -> None:
    with torch.no_grad():
        for name, tensor in averaged.items():
            network.tensors[name].copy_(tensor)


def _keep(network: Network, state: _State, file: Path, identity: str, torch: Any) -> None:
    part = file.with_name(file.name + ".part")
    tensors = {name: t.detach() for name, t in network.tensors.items()}
    found = {"epoch": state.epoch, "losses": state.losses, "averaged": state.averaged, "tensors": tensors}
    torch.save({**found, "optimiser": state.optimiser.state_dict(), "identity": identity}, part)
    os.replace(part, file)


def _restore(network: Network, state: _State, file: Path, identity: str, torch: Any) -> None:
    try:
        found = torch.load(file, weights_only=True)
    except Exception as e:  # torch has no error of its own for files that are none of its
        raise error("IG0552", f"`{file}` is no checkpoint: {e}", hint="delete it, or name another file") from None
    if found.get("identity") != identity:
        what = f"`{file}` is of another run: its network, options or data differ"
        raise error("IG0552", what, hint="delete it, or name another file")
    with torch.no_grad():
        for name, tensor in network.tensors.items():
            tensor.copy_(found["tensors"][name])
    state.optimiser.load_state_dict(found["optimiser"])
    state.epoch, state.losses, state.averaged = found["epoch"], found["losses"], found["averaged"]
