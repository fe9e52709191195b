"""What one training step of a supernet does: which subnets it trains, on which targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from spikesearch import streams
from spikesearch.nn import Supernet
from spikesearch.space import Architecture, SearchSpace

LossFunction = Callable[[Tensor, Tensor | None], Tensor]
"""Maps logits and targets ``[N, classes]``, or None for those of the batch, to the loss of the last forward pass."""


@dataclass(frozen=True)
class StepResult:
    """What a step reports: the loss and the logits ``[N, classes]`` of its first network, detached."""

    loss: float
    logits: Tensor


class Strategy(Protocol):
    """Runs forward and backward passes for one batch, or a part of it; the caller steps the optimiser."""

    def __call__(
        self, model: nn.Module, images: Tensor, loss: LossFunction, *, epoch: int, step: int, weight: float = 1.0
    ) -> StepResult:
        """Add gradients, times ``weight``, to ``model``; randomness depends on (seed, epoch, step) only."""


class ArchitectureDeck:
    """Draws architectures: depths and mixers from shuffled decks, so that all are trained equally often, then the rest.

    Every stage has a deck of its depths, and every place a deck of its mixers.

    Args:
        space: The search space.
        seed: Every draw depends on (seed, epoch, index) only.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self.seed = seed

    def draw(self, epoch: int, index: int) -> Architecture:
        """Return the architecture number ``index`` of an epoch."""
        depths = [
            int(
                self._card(streams.STAGE_DEPTHS, lists["depths"], epoch, index, stage)
                if stage
                else self._card(streams.DEPTHS, lists["depths"], epoch, index)
            )
            for stage, lists in enumerate(self.space.stage_lists)
        ]
        rng = streams.GENES.generator(self.seed, epoch, index)
        return self.space.sample_depths(rng, depths, self.mixers(epoch, index))

    def mixers(self, epoch: int, index: int) -> dict[str, str]:
        """Return the mixer of every place that has a choice, by name of the parameter."""
        places = [name for name, parameter in self.space.parameters.items() if parameter.gene.name == "mixer"]
        choices = [self.space.parameters[name].choices for name in places]
        return {
            name: str(self._card(streams.MIXERS, mixers, epoch, index, place))
            for place, (name, mixers) in enumerate(zip(places, choices, strict=True))
        }

    def with_mixers(self, arch: Architecture, epoch: int, index: int) -> Architecture:
        """Return an architecture with other mixers; heads that come with them are those of the reference."""
        mixers = self.mixers(epoch, index)
        return self.space.with_params(arch, mixers) if mixers else arch

    def _card(self, stream: streams.Stream, cards: Sequence[Any], epoch: int, index: int, *deck: int) -> Any:
        round_, card = divmod(index, len(cards))
        return cards[int(stream.generator(self.seed, epoch, round_, *deck).permutation(len(cards))[card])]


class SingleStrategy:
    """One plain network: an ordinary step."""

    def __call__(
        self, model: nn.Module, images: Tensor, loss: LossFunction, *, epoch: int, step: int, weight: float = 1.0
    ) -> StepResult:
        """See :class:`Strategy`."""
        return _train(model, images, loss, weight)


class UniformStrategy:
    """One random subnet per step (single-path one-shot; Guo et al., ECCV 2020)."""

    def __init__(self, space: SearchSpace, *, seed: int) -> None:
        self.deck = ArchitectureDeck(space, seed)

    def __call__(
        self, model: nn.Module, images: Tensor, loss: LossFunction, *, epoch: int, step: int, weight: float = 1.0
    ) -> StepResult:
        """See :class:`Strategy`."""
        with _supernet(model).subnet(self.deck.draw(epoch, step)):
            return _train(model, images, loss, weight)


class SandwichStrategy:
    """The largest, the smallest and some random subnets per step (Yu et al., "BigNAS", ECCV 2020).

    The step's gradient is the mean over these subnets. With several mixers, largest and smallest mean sizes: their
    mixers come from the deck, so that every mixer is trained as often as any other at its widest and at its narrowest.

    Args:
        space: The search space.
        seed: Seed of the random subnets.
        random_subnets: How many of them.
        distillation: Train all but the largest on the largest's detached, time-averaged predictions instead of the
            labels.
    """

    def __init__(self, space: SearchSpace, *, seed: int, random_subnets: int = 2, distillation: bool = False) -> None:
        self.deck = ArchitectureDeck(space, seed)
        self.random_subnets = random_subnets
        self.distillation = distillation

    def __call__(
        self, model: nn.Module, images: Tensor, loss: LossFunction, *, epoch: int, step: int, weight: float = 1.0
    ) -> StepResult:
        """See :class:`Strategy`."""
        supernet = _supernet(model)
        space = self.deck.space
        largest = self.deck.with_mixers(space.largest, epoch, 2 * step)
        others = [self.deck.with_mixers(space.smallest, epoch, 2 * step + 1)] if space.smallest != space.largest else []
        first = step * self.random_subnets
        others += [self.deck.draw(epoch, first + i) for i in range(self.random_subnets)]
        share = weight / (1 + len(others))
        with supernet.subnet(largest):
            result = _train(model, images, loss, share)
        targets = result.logits.softmax(-1) if self.distillation else None
        for arch in others:
            with supernet.subnet(arch):
                _train(model, images, loss, share, targets)
        return result


def _train(
    model: nn.Module, images: Tensor, loss: LossFunction, share: float = 1.0, targets: Tensor | None = None
) -> StepResult:
    logits = model(images)
    value = loss(logits, targets)
    (value * share).backward()
    return StepResult(float(value.detach()), logits.detach())


def _supernet(model: nn.Module) -> Supernet:
    if not isinstance(model, Supernet):
        raise TypeError(f"This strategy trains a Supernet, but got {type(model).__name__}.")
    return model
