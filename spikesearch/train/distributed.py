"""Several processes that train one network, started by ``torchrun`` or ``accelerate launch``.

Every process holds the whole network and trains it on its share of every batch; what they compute is added up once a
step, so that all of them hold the same weights at all times.

That sum is an explicit one instead of ``DistributedDataParallel``'s, which is made for one backward pass per step
through all parameters. A step of a supernet has several passes through different parts of it: wrapped, every pass but
the last needs ``no_sync``, every step a search for the parameters that no pass has used, and the running batch-norm
statistics a broadcast of their own. One sum over gradients and statistics gives the same gradients with fewer messages.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from spikesearch.errors import TeamError

T = TypeVar("T")


class TeamLostError(TeamError):
    """Another process has ended."""


_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# The first process may have to wait until another run has trained the same supernet, and the rest with it. A process
# that dies is not noticed by this, but because its connections break and because its launcher ends the others.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Team:
    """The processes that train a network together; alone, nothing is sent anywhere.

    Args:
        rank: Number of this process, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reads and writes files and talks to the user."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return which of ``count`` things are this process's: shares are contiguous, as equal as possible."""
        return shares(count, self.size)[self.rank]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors by their sums over the processes: in all processes the same, bit for bit.

        Raises:
            TeamLostError: If another process is gone.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._send(dist.all_reduce, flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def summed(self, tensor: Tensor) -> Tensor:
        """Return the sum over the processes, with a gradient."""
        result: Tensor = _Sum.apply(tensor, self)
        return result

    def from_first(self, value: T) -> T:
        """Return what the first process passes; what the others pass does not matter.

        Raises:
            TeamLostError: If another process is gone.
        """
        if self.size == 1:
            return value
        values = [value]
        self._send(dist.broadcast_object_list, values)
        return values[0]

    def wait(self) -> None:
        """Wait until all processes are here.

        Raises:
            TeamLostError: If another process is gone.
        """
        if self.size > 1:
            self._send(dist.barrier)

    def _send(self, collective: Callable[..., Any], *arguments: Any) -> None:
        try:
            collective(*arguments)
        except RuntimeError as error:
            raise TeamLostError(
                f"Process {self.rank} has lost one of the {self.size} that train together, which may have said why; "
                "the same command goes on from the last checkpoint."
            ) from error


class _Sum(torch.autograd.Function):
    """The sum over a team's processes; each of them has a loss, so that the gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, team: Team) -> Tensor:
        ctx.team = team
        total = tensor.clone()
        team.add_up([total])
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone()
        ctx.team.add_up([total])
        return total, None


def shares(count: int, parts: int) -> list[slice]:
    """Cut ``count`` things into contiguous parts whose sizes differ by one at most."""
    bounds = [part * count // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def started() -> Team:
    """Return what the launcher of this process says of its team; nothing has been sent yet."""
    if not all(name in os.environ for name in _VARIABLES):
        return Team()
    return Team(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def forget() -> None:
    """Make this process, and those that it starts, work alone from now on: the others of the team have ended."""
    for name in _VARIABLES:
        os.environ.pop(name, None)


def own_device(device: str | torch.device) -> torch.device:
    """Return where this process of the team computes: every process of a machine has a GPU of its own.

    Args:
        device: What the user asked for; ``cuda`` stands for one GPU per process.

    Raises:
        TeamError: If a GPU is asked for by its number, or there are fewer than processes.
    """
    device = torch.device(device)
    if started().size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise TeamError(f"`device` must be cuda, without a number, when several processes train, but got {device}.")
    local = int(os.environ.get("LOCAL_RANK", 0))
    if local >= torch.cuda.device_count():
        raise TeamError(
            f"More processes were started on this machine than it has GPUs ({torch.cuda.device_count()}); start one "
            "for each."
        )
    return torch.device("cuda", local)


@contextmanager
def gathered(device: str | torch.device) -> Iterator[tuple[Team, torch.device]]:
    """Connect the processes that were started together, inside a ``with`` block that all of them enter and leave.

    Where they are connected already, as in a program of the user's that has called ``init_process_group``, they stay
    so. A process that was started by itself is a team of one.

    Args:
        device: See :func:`own_device`.

    Yields:
        The team, and where this process computes.

    Raises:
        TeamError: If they cannot be connected.
    """
    device = own_device(device)
    if dist.is_available() and dist.is_initialized():
        team = Team(dist.get_rank(), dist.get_world_size())
        yield team, device
        team.wait()
        return
    team = started()
    if team.size == 1:
        yield team, device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TeamError(f"The {team.size} processes cannot be connected: {reason}") from error
    try:
        yield team, device
        team.wait()
    finally:
        dist.destroy_process_group()
