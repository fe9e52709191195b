from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based.neuron import BaseNode
from torch import Tensor, nn

from spikesearch import Spikformer
from spikesearch.errors import ExportError
from spikesearch.export.portable import UnrolledLIF, agreement, portable
from spikesearch.nn.lif import PlainLIF


@settings(max_examples=60)
@given(
    tau=st.floats(1.01, 20.0),
    v_threshold=st.floats(0.05, 4.0),
    steps=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_unrolled_neurons_spike_as_those_of_spikingjelly(tau: float, v_threshold: float, steps: int, seed: int) -> None:
    x = torch.randn(steps, 4, 32, generator=torch.Generator().manual_seed(seed)) * 3
    assert torch.equal(UnrolledLIF(tau, v_threshold)(x), PlainLIF(v_threshold, tau)(x))


def test_a_neuron_at_its_threshold_fires() -> None:
    assert UnrolledLIF(2.0, 1.0)(torch.tensor([[2.0], [1.999]])).tolist() == [[1.0], [0.0]]


def test_the_copy_has_no_node_of_spikingjelly_and_the_original_keeps_its_own(net: Spikformer, digits: Tensor) -> None:
    nodes = sum(isinstance(module, BaseNode) for module in net.modules())
    plain = portable(net)
    assert not any(isinstance(module, BaseNode) for module in plain.modules())
    assert sum(isinstance(module, BaseNode) for module in net.modules()) == nodes > 0
    with torch.no_grad():
        assert torch.equal(plain(digits), net(digits))


def test_agreement_tells_what_was_compared(net: Spikformer, digits: Tensor) -> None:
    found = agreement(net, net, digits[:50], "The copy", exact=True)
    assert found == {"samples": 50, "same_class": 1.0, "largest_difference": 0.0}


def test_another_network_does_not_agree(net: Spikformer, digits: Tensor) -> None:
    other = copy.deepcopy(net)
    nn.init.normal_(other.get_parameter("head.weight"))
    with pytest.raises(ExportError, match=r"The copy does not compute .* samples get another class"):
        agreement(net, other, digits, "The copy")


def test_logits_that_are_all_a_little_off_do_not_agree(net: Spikformer, digits: Tensor) -> None:
    with pytest.raises(ExportError, match="0 of 1797 samples"):
        agreement(net, lambda x: net(x) * 1.2, digits, "The copy")


def test_a_tie_that_tips_is_forgiven_unless_all_bits_are_asked_for(net: Spikformer, digits: Tensor) -> None:
    def tip(x: Tensor) -> Tensor:
        logits = net(x).clone()
        logits[0] = logits[0].flip(0)
        return logits

    assert 0.99 <= agreement(net, tip, digits, "The copy")["same_class"] <= 1
    with pytest.raises(ExportError, match="does not compute"):
        agreement(net, tip, digits, "The copy", exact=True)


def test_a_fixed_batch_is_noticed(net: Spikformer, digits: Tensor) -> None:
    with pytest.raises(ExportError, match="batch of another size"):
        agreement(net, lambda x: net(digits), digits, "The copy")
    with pytest.raises(ExportError, match=r"logits \(1797, 9\) instead of \(1797, 10\)"):
        agreement(net, lambda x: net(x)[:, :9], digits, "The copy")
