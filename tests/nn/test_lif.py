"""The stateless LIF against SpikingJelly's, compiled and not."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import surrogate
from spikingjelly.activation_based.functional import lif_multi_step
from spikingjelly.activation_based.neuron import LIFNode

from spikesearch.nn import kernel as kernel_module
from spikesearch.nn import lif as lif_module
from spikesearch.nn.fast import fast_copy
from spikesearch.nn.lif import ElasticLIF, ElasticStreamLIF, PlainLIF, StreamLIF, lif, set_surrogate_slope
from tests.nn.conftest import SPACE


@pytest.fixture(params=["compiled", "eager"])
def engine(request, monkeypatch):
    if request.param == "eager":
        monkeypatch.setattr(lif_module, "lif_kernel", lambda: None)
    elif kernel_module.lif_kernel() is None:
        pytest.skip("no C compiler here")
    return request.param


def spikingjelly(x: torch.Tensor, tau: float, v_threshold: float, alpha: float = 4.0) -> torch.Tensor:
    spikes, _, _ = lif_multi_step(
        x, torch.zeros_like(x[0]), tau, True, v_threshold, 0.0, surrogate.Sigmoid(alpha=alpha), True
    )
    return spikes


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize("tau", [1.25, 2.0, 10.0])
@pytest.mark.parametrize("v_threshold", [0.5, 1.4])
def test_spikes_equal_and_gradients_agree_with_spikingjelly(engine, steps, tau, v_threshold):
    x = (2 * tau * torch.randn(steps, 3, 5, 700)).requires_grad_()
    reference = x.detach().clone().requires_grad_()
    ours, theirs = lif(x, tau=tau, v_threshold=v_threshold), spikingjelly(reference, tau, v_threshold)
    assert 0 < float(theirs.detach().mean()) < 1
    assert torch.equal(ours, theirs)
    upstream = torch.randn_like(ours)
    ours.backward(upstream)
    theirs.backward(upstream)
    torch.testing.assert_close(x.grad, reference.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("slope", [0.5, 2.0, 25.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_another_slope_changes_the_gradient_alone(engine, slope, steps):
    x = (4 * torch.randn(steps, 3, 700)).requires_grad_()
    reference = x.detach().clone().requires_grad_()
    ours = lif(x, tau=2.0, v_threshold=0.8, surrogate_slope=slope)
    theirs = spikingjelly(reference, 2.0, 0.8, alpha=slope)
    assert torch.equal(ours, theirs)
    upstream = torch.randn_like(ours)
    ours.backward(upstream)
    theirs.backward(upstream)
    torch.testing.assert_close(x.grad, reference.grad, rtol=0, atol=1e-6 * max(slope, 4))
    assert not torch.allclose(x.grad, torch.autograd.grad(lif(x, tau=2.0, v_threshold=0.8), x, upstream)[0], atol=1e-2)


def test_the_slope_of_a_network_is_that_of_all_its_neurons(supernet):
    """SpikingJelly's nodes, given the slope one by one, are the oracle."""
    slope, arch, x = 9.0, SPACE.largest, torch.randn(6, 1, 8, 8)
    net = supernet.extract(arch).train()
    fast = fast_copy(net)
    for node in net.modules():
        if isinstance(node, LIFNode):
            node.surrogate_function.alpha *= slope / 4  # times the gain, of neurons that read a stream
    net(x).square().sum().backward()
    before = fast(x)
    with set_surrogate_slope(fast, slope):
        after = fast(x)
        after.square().sum().backward()
    assert torch.equal(before, after)
    for (name, parameter), twin in zip(net.named_parameters(), fast.parameters(), strict=True):
        assert (twin.grad - parameter.grad).norm() <= 1e-2 * parameter.grad.norm() + 1e-5, name
    first = torch.autograd.grad(fast(x).square().sum(), fast.stem.stages[0].conv.weight)[0]
    assert not torch.allclose(first, fast.stem.stages[0].conv.weight.grad), "the slope is that of before again"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("repeated", [False, True])
def test_what_a_gpu_computes_is_what_a_cpu_computes(dtype, repeated):
    """On a GPU the function runs SpikingJelly's kernels; without one, the same call runs SpikingJelly's reference."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    step = (3 * torch.randn(1 if repeated else 3, 4, 90)).to(dtype)
    ours, theirs = step.clone().requires_grad_(), step.to(device).requires_grad_()
    expected = lif(ours.expand(3, -1, -1), tau=1.7, v_threshold=0.9, surrogate_slope=2.5)
    found = lif_module._spikingjelly(theirs.expand(3, -1, -1), 1.7, 0.9, 2.5)
    assert found.dtype == dtype
    assert (found.cpu() != expected).float().mean() <= (1e-3 if device == "cuda" else 0)  # rounding near the threshold
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    found.backward(upstream.to(device))
    torch.testing.assert_close(theirs.grad.cpu(), ours.grad, rtol=0, atol=1e-5 if dtype == torch.float32 else 5e-2)


@pytest.mark.parametrize("slope", [0.5, 4.0, 100.0])
def test_gradient_stays_finite_far_from_the_threshold(engine, slope):
    x = torch.tensor([[-3e4, -50.0, 50.0, 3e4]]).requires_grad_()
    lif(x, tau=2.0, v_threshold=1.0, surrogate_slope=slope).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert float(x.grad.abs().max()) < (1e-5 if slope < 1 else 1e-10)


@given(
    steps=st.integers(1, 6),
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    tau=st.floats(1.01, 20),
    v_threshold=st.floats(0.05, 3),
    seed=st.integers(0, 10_000),
)
def test_any_shape_and_gene_equals_spikingjelly(steps, shape, tau, v_threshold, seed):
    x = 2 * torch.randn(steps, *shape, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(lif(x, tau=tau, v_threshold=v_threshold), spikingjelly(x, tau, v_threshold))


def test_hand_computed_membrane(engine):
    # tau 2, threshold 1: h = .75; h = .75 + (1.5 - .75) / 2 = 1.125 fires; reset; h = 1 fires (threshold included)
    x = torch.tensor([1.5, 1.5, 2.0, -4.0])[:, None]
    assert lif(x, tau=2.0, v_threshold=1.0).flatten().tolist() == [0.0, 1.0, 1.0, 0.0]


def test_repeated_step_is_not_copied_and_layout_is_kept(engine):
    image = torch.randn(1, 2, 8, 6, 6).to(memory_format=torch.channels_last_3d)[0]
    step = image.contiguous(memory_format=torch.channels_last)
    repeated = step.unsqueeze(0).expand(4, *step.shape).requires_grad_()
    spikes = lif(repeated, tau=2.0, v_threshold=0.6)
    assert torch.equal(spikes, spikingjelly(repeated.detach().clone(), 2.0, 0.6))
    assert spikes[0].is_contiguous(memory_format=torch.channels_last)


def test_gradient_of_a_transposed_output(engine):
    x = torch.randn(3, 4, 5).requires_grad_()
    reference = x.detach().clone().requires_grad_()
    upstream = torch.randn(5, 4, 3)
    lif(x, tau=2.0, v_threshold=0.7).permute(2, 1, 0).backward(upstream)
    spikingjelly(reference, 2.0, 0.7).permute(2, 1, 0).backward(upstream)
    torch.testing.assert_close(x.grad, reference.grad, rtol=0, atol=1e-5)


def test_inputs_that_are_not_dense(engine):
    wide = torch.randn(3, 4, 10)
    assert torch.equal(lif(wide[..., ::2], tau=2.0, v_threshold=0.7), spikingjelly(wide[..., ::2], 2.0, 0.7))


@pytest.mark.parametrize("gradient", [False, True])
def test_the_membrane_of_half_precision_stays_float32(engine, gradient):
    currents = torch.randn(1, 40, 70).bfloat16()
    for half in (torch.randn(4, 40, 70).bfloat16(), currents.expand(4, 40, 70), currents[..., ::2].expand(4, 40, 35)):
        spikes = lif(half.detach().requires_grad_(gradient), tau=1.25, v_threshold=0.7)
        assert spikes.dtype == torch.bfloat16
        assert torch.equal(spikes.float(), spikingjelly(half.float(), 1.25, 0.7))


def test_nothing_is_remembered_between_calls():
    x = torch.full((2, 3), 0.9)
    first = lif(x, tau=2.0, v_threshold=0.6)
    assert torch.equal(first, lif(x, tau=2.0, v_threshold=0.6))


@pytest.mark.parametrize("wrong", [{"tau": 1.0}, {"v_threshold": 0.0}, {"surrogate_slope": 0.0}])
def test_impossible_neurons_are_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be above"):
        lif(torch.zeros(1, 1), **{"tau": 2.0, "v_threshold": 1.0, **wrong})


def test_plain_node_has_the_same_dynamics():
    x = 2 * torch.randn(5, 2, 30)
    assert torch.equal(PlainLIF(0.8, 3.0)(x), lif(x, tau=3.0, v_threshold=0.8))


def test_gain_starts_where_every_choice_fires_about_equally():
    node = ElasticLIF((0.6, 1.4), (1.25, 4.0))
    currents = torch.randn(1, 20_000)
    rates = []
    for v_threshold in node.v_thresholds:
        for tau in node.taus:
            assert node.gain(v_threshold, tau).item() == pytest.approx(v_threshold * tau / 2)
            rates.append(float(node(currents * node.gain(v_threshold, tau), v_threshold, tau).mean()))
    # one step: h = gain * x / tau reaches the threshold where x >= 2
    assert rates == pytest.approx([0.0228] * 4, abs=0.004)


def stream_pair(gain: float, v_threshold: float = 0.6, tau: float = 2.5) -> tuple[ElasticStreamLIF, StreamLIF]:
    """Elastic neurons with this gain, and the plain node that takes over their threshold."""
    elastic, plain = ElasticStreamLIF((v_threshold, 9.0), (tau,)), StreamLIF(v_threshold, tau)
    elastic.log_gain.data.fill_(math.log(gain))
    plain.load_state_dict({"_extra_state": torch.tensor(elastic.threshold(v_threshold, tau))})
    return elastic, plain


@pytest.mark.parametrize("gain", [0.3, 1.0, 2.7])
def test_neurons_of_a_stream_are_those_of_the_folded_threshold(engine, gain):
    elastic, plain = stream_pair(gain)
    assert plain.v_threshold == pytest.approx(0.6 / gain, rel=1e-6)
    assert plain.v_threshold == torch.tensor(plain.v_threshold).item()  # the very number that is saved
    x = 2 * torch.randn(6, 4, 500) / gain
    spikes = elastic.eval()(x, 0.6, 2.5)
    assert 0 < float(spikes.mean()) < 1
    assert torch.equal(spikes, plain(x))
    # what training computes differs by rounding at the threshold alone
    assert float((elastic.train()(x, 0.6, 2.5) == spikes).float().mean()) > 0.9999


def test_neurons_of_a_stream_have_the_gradients_of_the_gene(engine):
    """The derivative of gain * x times that of a neuron with the gene for a threshold, in all three forms."""
    elastic, plain = stream_pair(2.0)
    upstream = torch.randn(5, 3, 200)
    x = torch.randn(5, 3, 200)
    grads = []
    for neurons in (
        lambda x: elastic.train()(x, 0.6, 2.5),
        plain,
        lambda x: spikingjelly(2.0 * x, 2.5, 0.6),
    ):
        leaf = x.clone().requires_grad_()
        neurons(leaf).backward(upstream)
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[0], grads[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(grads[1], grads[2], rtol=0, atol=1e-5)
    # d(gain * x) / d(log gain) = gain * x; of the other choice nothing
    expected = (grads[2] * x).sum()
    assert elastic.log_gain.grad[0, 0].item() == pytest.approx(expected.item(), rel=1e-3)
    assert elastic.log_gain.grad[1, 0].item() == 0


def test_without_a_compiler_one_line_is_logged(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.INFO, logger="spikesearch"):
        assert kernel_module.lif_kernel.__wrapped__() is None
    assert len(caplog.records) == 1
    assert "C compiler" in caplog.text


def test_kernel_is_built_once_and_kept(monkeypatch, tmp_path):
    if kernel_module.lif_kernel() is None:
        pytest.skip("no C compiler here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernel_module.lif_kernel.__wrapped__() is not None
    (library,) = (tmp_path / "spikesearch").glob("lif-*.so")
    written = library.stat().st_mtime_ns
    monkeypatch.setenv("PATH", "")
    assert kernel_module.lif_kernel.__wrapped__() is not None
    assert library.stat().st_mtime_ns == written


def test_eager_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("SPIKESEARCH_LIF", "eager")
    assert kernel_module.lif_kernel.__wrapped__() is None
