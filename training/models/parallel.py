"""Data-parallel training (`accelerate launch`): each process takes a share of a step, and gradients are summed.

A loss is a sum divided by the whole step's count, so the gradients of the shares add up to the gradient of one process.
Only the adapter's gradients are communicated, by one all-reduce per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")


def processes() -> int:
    """The number of processes that train together; 1 without `accelerate launch`."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return processes() == 1 or distributed.get_rank() == 0


def wait_for_all() -> None:
    """Wait until every process has reached this call."""
    if processes() > 1:
        distributed.barrier()


def own_share(items: Sequence[T]) -> Sequence[T]:
    """Every n-th item, starting at this process's number."""
    return items[distributed.get_rank() :: processes()] if processes() > 1 else items


def from_first(value: T) -> T:
    """Broadcast the first process's value (samples can differ in the last digit between machines)."""
    if processes() == 1:
        return value
    held: list[T | None] = [value if is_first() else None]
    distributed.broadcast_object_list(held, src=0)
    return held[0]  # type: ignore[return-value]


def add_up_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """All-reduce the gradients in one message. A process without a share adds zeros."""
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
    """Sums over all processes, by name; a process can lack a name."""
    if processes() == 1:
        return values
    found: list[dict[str, float] | None] = [None] * processes()
    distributed.all_gather_object(found, values)
    totals: dict[str, float] = {}
    for part in found:
        for name, value in (part or {}).items():
            totals[name] = totals.get(name, 0.0) + value
    return totals
