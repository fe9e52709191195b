"""Time constants that are learnt, one per layer of neurons."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate

from spikesearch.config import StudyConfig
from spikesearch.energy import CONVENTIONS, EnergyModel
from spikesearch.errors import ConfigError, SpaceError
from spikesearch.nn import Supernet, count_parameters
from spikesearch.nn.fast import fast_copy
from spikesearch.nn.lif import SURROGATE_SLOPE, LearnedTau, lif
from spikesearch.space import Architecture, SearchSpace
from spikesearch.space.genes import LEARNED_TAU

LISTS = {
    "embed_dims": [16, 32],
    "depths": [1, 2],
    "num_heads": [2],
    "mlp_ratios": [1, 2],
    "v_thresholds": [0.6, 1.0],
    "taus": "learned",
    "time_steps": [2, 3],
    "mixers": ["ssa", "conv", "qk"],
}
RESIDUALS = ("add", "membrane", "normed")


def supernet(residual: str) -> Supernet:
    torch.manual_seed(5)
    net = Supernet(SearchSpace.from_dict(LISTS), in_channels=1, image_size=8, num_classes=4, residual=residual)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, LearnedTau):
                module.w.uniform_(-1.5, 1.5)
    return net


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_spikingjellys_parametric_node(steps: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    images = (3 * torch.rand(steps * 4, 3, 6, 6)).to(memory_format=layout).unflatten(0, (steps, 4))
    x = images.detach().requires_grad_(True)
    learned = LearnedTau()
    with torch.no_grad():
        learned.w.fill_(0.4)
    node = neuron.ParametricLIFNode(
        decay_input=True,
        v_reset=0.0,
        surrogate_function=surrogate.Sigmoid(alpha=SURROGATE_SLOPE),
        detach_reset=True,
        step_mode="m",
    )
    with torch.no_grad():
        node.w.fill_(0.4)
    other = images.detach().clone().requires_grad_(True)
    weights = torch.rand(images.shape)
    ours = lif(x, tau=learned(), v_threshold=1.0)
    (ours * weights).sum().backward()
    theirs = node(other)
    (theirs * weights).sum().backward()
    assert 0 < float(ours.detach().mean()) < 1
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learned.w.grad, node.w.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_extracted_networks_are_bit_equal_and_have_the_constants(residual: str) -> None:
    net = supernet(residual).eval()
    images = torch.rand(3, 1, 8, 8)
    for index in range(0, net.space.size, net.space.size // 9 + 1):
        arch = net.space.at(index)
        stats = net.calibrate(arch, torch.rand(16, 1, 8, 8))
        plain = net.extract(arch, stats)
        with net.subnet(arch, stats):
            assert torch.equal(net(images), plain(images))
        assert torch.equal(fast_copy(plain).eval()(images), plain(images))
        assert count_parameters(plain) == net.count_parameters(arch)
        constants = {float(m().detach()) for m in plain.modules() if isinstance(m, LearnedTau)}
        assert len(constants) > 4  # a layer each
        assert min(constants) > 1


@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
def test_subnets_cost_what_extracted_networks_cost(convention: str) -> None:
    net, model, images = supernet("normed").eval(), EnergyModel(convention), torch.rand(4, 1, 8, 8)
    for module in net.modules():
        if isinstance(module, LearnedTau):
            torch.nn.init.zeros_(module.w)  # 2, a power of two
    arch = net.space.largest
    stats = net.calibrate(arch, torch.rand(16, 1, 8, 8))
    with net.subnet(arch, stats):
        inherited = model.report(net, images).total_uJ
    assert inherited == pytest.approx(model.report(net.extract(arch, stats), images).total_uJ)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_training_moves_the_constants_of_supernet_and_network(residual: str) -> None:
    shared = supernet(residual)
    arch = shared.space.largest
    plain = shared.extract(arch)
    for net in (shared, plain, fast_copy(plain)):
        before = copy.deepcopy(net.state_dict())
        net.train()
        optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
        with shared.subnet(arch):
            torch.nn.functional.cross_entropy(net(torch.rand(8, 1, 8, 8)), torch.randint(4, (8,))).backward()
        optimiser.step()
        moved = [name for name, value in net.state_dict().items() if name.endswith(".w") and value != before[name]]
        assert len(moved) > 4


def test_the_gene_is_written_as_a_word_and_has_no_other_choice() -> None:
    space = SearchSpace.from_dict(LISTS)
    assert space.taus == (LEARNED_TAU,)
    assert SearchSpace.from_dict({**LISTS, "taus": ["learned"]}) == space
    assert SearchSpace.from_dict(space.to_dict()) == space
    arch = space.largest
    assert Architecture.from_dict(arch.to_dict()) == arch
    assert arch in space
    with pytest.raises(SpaceError, match="`taus` must be numbers, or `learned` alone"):
        SearchSpace.from_dict({**LISTS, "taus": ["learned", 2.0]})
    with pytest.raises(SpaceError, match="`taus` must hold finite numbers, but got 'learnt'"):
        SearchSpace.from_dict({**LISTS, "taus": ["learnt"]})


def test_a_study_file_may_say_it(tmp_path: Path) -> None:
    content = {
        "name": "x",
        "data": {"kind": "digits"},
        "space": LISTS,
        "train": {"epochs": 1},
        "search": {"n_trials": 5},
    }
    config = StudyConfig.from_dict(content)
    assert config.space.search_space() == SearchSpace.from_dict(LISTS)
    assert StudyConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match=r"`space\.taus` must be a list of choices or 'learned', but got 'learnt'"):
        StudyConfig.from_dict({**content, "space": {**LISTS, "taus": "learnt"}})
