"""Learning in several processes (`accelerate launch`): each takes a share of a step, all get its gradient.

A loss is a sum that is divided by the whole step's count, so the gradients of the shares add up to the gradient of one
process: data parallelism is one all-reduce of the adapter's factors a step. The frozen weights are never sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")


def processes() -> int:
    """How many processes learn together; 1 where none were launched."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes files and talks to people."""
    return processes() == 1 or distributed.get_rank() == 0


def wait_for_all() -> None:
    """Return when every process is here."""
    if processes() > 1:
        distributed.barrier()


def own_share(items: Sequence[T]) -> Sequence[T]:
    """Every n-th item, from this process's number on."""
    return items[distributed.get_rank() :: processes()] if processes() > 1 else items


def from_first(value: T) -> T:
    """The first process's value, in all of them (what is sampled differs in the last digit between machines)."""
    if processes() == 1:
        return value
    held: list[T | None] = [value if is_first() else None]
    distributed.broadcast_object_list(held, src=0)
    return held[0]  # type: ignore[return-value]


def add_up_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Give every process the sum of all processes' gradients, in one message. A process without a share adds zeros."""
    if processes() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    distributed.all_reduce(flat)
    at = 0
    for parameter in parameters:
        assert parameter.grad is not None
        count = parameter.numel()
        parameter.grad.copy_(flat[at : at + count].view_as(parameter))
        at += count


def add_up(values: dict[str, float]) -> dict[str, float]:
    """Sums over all processes, name by name; a process may lack a name."""
    if processes() == 1:
        return values
    found: list[dict[str, float] | None] = [None] * processes()
    distributed.all_gather_object(found, values)
    totals: dict[str, float] = {}
    for part in found:
        for name, value in (part or {}).items():
            totals[name] = totals.get(name, 0.0) + value
    return totals
