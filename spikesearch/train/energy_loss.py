"""Energy as a part of the loss, so that training lowers firing rates where accuracy needs no spikes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spikesearch.energy import EnergyModel
from spikesearch.energy.activity import Activity
from spikesearch.energy.measure import measure_activity

_RAMP = 0.5  # of a training, in which the weight grows


class EnergyLoss:
    """The logarithm of the energy of a forward pass, with a gradient for the weights that made the spikes.

    Cross-entropy is the mean of ``-log p`` over the probabilities p of the right class. With ``weight`` times this
    added to it, training works towards a high ``p * energy ** -weight``: F_AEB, with p for the accuracy and the weight
    for beta. The energy is that of a batch (or a part of one, where it is computed in parts) in training mode, counted
    as :class:`~spikesearch.EnergyModel` counts it, and differentiated through the surrogate of the spikes. As a
    logarithm it needs no unit, and asks every subnet of a supernet for the same relative saving.

    A network that has not learnt anything yet saves most by never firing again. The weight therefore grows linearly,
    from 0, over the first half of a training.

    Args:
        net: A :class:`~spikesearch.Spikformer` with stateless neurons, or a :class:`~spikesearch.Supernet`.
        weight: Above 0. In the end, halving the energy is worth ``0.69 * weight`` of cross-entropy.
        model: Prices the operations.

    Attributes:
        progress: Share of the training that is done, to be kept up to date.
        energies: Of every forward pass, in microjoules per sample; for the caller to read, and to empty.
    """

    def __init__(self, net: nn.Module, weight: float, model: EnergyModel) -> None:
        self._net = net
        self._weight = weight
        self._model = model
        self._activity = Activity()
        self.progress = 1.0
        self.energies: list[Tensor] = []

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Record the forward passes inside a ``with`` block.

        Raises:
            ValueError: If the network is none that :class:`~spikesearch.EnergyModel` knows.
        """
        with measure_activity(self._net, differentiable=True) as self._activity:
            yield

    def __call__(self) -> Tensor:
        """Return the weight times the logarithm of the energy of the forward pass since the last call.

        Raises:
            ValueError: If there was none.
        """
        energy = torch.as_tensor(self._model.price_part(self._activity.take()))
        self.energies.append(energy.detach())
        return self._weight * min(1.0, self.progress / _RAMP) * energy.log()
