"""The integer reference against an independent implementation of the same numbers, and against the float network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from spikesearch.device import Program
from spikesearch.device.build import build_layout
from spikesearch.device.layout import Fire
from spikesearch.device.qdq import qdq_model
from spikesearch.device.reference import rounded, saturated
from spikesearch.device.replay import replay
from spikesearch.energy import EnergyModel
from spikesearch.errors import DataError
from spikesearch.nn.modules import UnitModule
from tests.device.networks import CASES, FRAMES, Case, network, program


@pytest.mark.parametrize("case", CASES, ids=str)
def test_onnx_runtime_computes_the_same_logits(case: Case) -> None:
    """The graph is written operation by operation in ONNX, and run by somebody else's kernels."""
    integers, (_, samples) = program(case), network(case)
    model = qdq_model(integers, frames=FRAMES if case.events else None, opset=18, names=("x", "y"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["y"], {"x": samples.numpy()})
    units = np.rint(logits / integers.logit)  # the scales of the head are no whole numbers: half a unit may tip
    assert np.abs(units - integers.run(samples)).max() <= 1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_currents_are_those_of_the_float_network_within_the_bound_of_their_rounding(case: Case) -> None:
    """Given the same spikes, a layer may differ by half a step per active weight, and by the roundings behind it."""
    integers, (net, samples) = program(case), network(case)
    ((_, trace),) = integers.traces(samples[:8], currents=True)
    floats: dict[str, torch.Tensor] = {}
    twin = replay(net, integers)
    for name, module in twin.named_modules():
        if isinstance(module, UnitModule):
            module.op.register_forward_hook(lambda m, args, out, n=name: floats.update({f"{n} in": args[0]}))
            module.bn.register_forward_hook(lambda m, args, out, n=name: floats.update({n: out}))
    with torch.no_grad():
        twin(samples[:8])
    compared = 0
    for layer in integers.layout.layers:
        if layer.neurons is None or layer.source == "input":
            continue
        lif = net.get_submodule(layer.neurons.name)
        threshold = lif.v_threshold * (lif.tau if case.time_steps == 1 else 1)
        unit = threshold / int(integers.arrays[f"{layer.neurons.name}.threshold"][0])
        scale = np.ldexp(
            integers.arrays[f"{layer.name}.multiplier"].astype(float),
            -integers.arrays[f"{layer.name}.shift"].astype(int),
        )
        expected = floats[layer.name].double().numpy()
        steps = len(trace.currents[layer.name])
        if layer.conv:
            expected = expected.reshape(steps, 8, layer.outputs, -1).swapaxes(2, 3)
        active = floats[f"{layer.name} in"].double()
        if layer.conv:
            kernel = torch.ones(layer.weight_shape, dtype=torch.float64)
            groups = layer.inputs if layer.depthwise else 1
            sums = torch.nn.functional.conv2d(active, kernel, None, layer.stride, layer.size // 2, groups=groups)
            bound = sums.reshape(steps, 8, layer.outputs, -1).transpose(2, 3).numpy()
        else:
            bound = active.sum(-1, keepdim=True).numpy()
        got = trace.currents[layer.name].reshape(steps, 8, -1, layer.outputs) * unit
        slack = bound.reshape(steps, 8, got.shape[2], -1) * scale * unit * (0.5 + 127 * 2**-14)
        assert (np.abs(got - expected.reshape(got.shape)) <= slack + 1.01 * unit + 1e-4).all(), layer.name
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_the_energy_of_a_replay_is_that_of_the_integer_spikes(case: Case) -> None:
    integers, (net, samples) = program(case), network(case)
    twin = replay(net, integers)
    report = EnergyModel().report(twin, samples[:8])
    ((_, trace),) = integers.traces(samples[:8], spikes=True)
    spikes = sum(float(values.sum()) for values in trace.spikes.values())
    neurons = sum(values.size for values in trace.spikes.values())
    assert report.mean_firing_rate == pytest.approx(spikes / neurons)
    with torch.no_grad():
        logits = twin(samples[:8])
    assert np.array_equal(logits.numpy().argmax(-1), integers.run(samples[:8]).argmax(-1))


@pytest.mark.parametrize("case", CASES[::7], ids=str)
def test_a_sample_does_not_depend_on_the_others(case: Case) -> None:
    integers, (_, samples) = program(case), network(case)
    alone = np.concatenate([integers.run(sample[None]) for sample in samples[:3]])
    assert np.array_equal(integers.run(samples)[:3], alone)


def test_most_samples_keep_their_class() -> None:
    for case in CASES:
        if case.residual != "normed":  # of random networks; where every neuron is near its threshold, few do
            net, samples = network(case)
            with torch.no_grad():
                same = net(samples).argmax(-1).numpy() == program(case).run(samples).argmax(-1)
            assert same.mean() > 0.7, case


@pytest.mark.parametrize("value", [-9, -8, -7, -5, -4, -3, -1, 0, 1, 3, 4, 5, 7, 8])
def test_a_shift_rounds_to_the_nearest_and_halves_upwards(value: int) -> None:
    assert rounded(np.array([value]), 3)[0] == int(np.floor(value / 8 + 0.5))
    assert rounded(np.array([value]), 0)[0] == value


def test_what_leaves_the_range_stays_at_its_end() -> None:
    assert saturated(np.array([-40000, -32768, 5, 40000]), 32767).tolist() == [-32768, -32768, 5, 32767]


def test_a_stream_that_overflows_saturates_and_is_counted() -> None:
    case = Case("membrane", "sps", 3, 1.7, False)
    integers, (_, samples) = program(case), network(case)
    name = "blocks.0.mlp.fc2.bias"
    loud = replace(integers, arrays=integers.arrays | {name: np.full_like(integers.arrays[name], 2**20)})
    ((_, trace),) = loud.traces(samples[:4], spikes=True)
    assert trace.saturations >= 3 * 4 * 16
    ((_, before),) = integers.traces(samples[:4], spikes=True)
    reader = next(op.neurons.name for op in integers.layout.step if isinstance(op, Fire) and "blocks.1" in op.target)
    assert trace.spikes[reader].mean() > before.spikes[reader].mean()


def test_raw_bytes_and_normalised_samples_are_the_same_samples() -> None:
    case = Case("membrane", "conv", 1, 2.0, False)
    integers, (_, samples) = program(case), network(case)
    raw = (samples * 60 + 100.3).round().numpy().astype(np.uint8)
    assert np.array_equal(integers.run(raw), integers.run(samples))


def test_frames_are_added_up_and_saturate() -> None:
    case = Case("membrane", "conv", 3, 1.7, True)
    integers = program(case)
    raw = np.zeros((1, FRAMES, 2, 11, 11), np.uint8)
    raw[0, :, 0, 4, 4] = [1, 2, 3, 200, 200]
    assert integers.raw(raw)[0, :, 0, 4, 4].tolist() == [1, 5, 255]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 3, 11, 11), r"`samples` must have the shape \[N, 2, 11, 11\], but got \[4, 3, 11, 11\]"),
        ((0, 2, 11, 11), r"but got \[0, 2, 11, 11\]"),
        ((4, 5, 2, 11, 11), r"must have the shape"),
    ],
)
def test_samples_of_another_shape_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        program(Case("membrane", "conv", 1, 2.0, False)).run(np.zeros(shape, np.uint8))


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(DataError, match="at least 3 frames"):
        program(Case("membrane", "conv", 3, 1.7, True)).run(np.zeros((1, 2, 2, 11, 11), np.uint8))


def test_with_one_time_step_nothing_is_kept_but_the_sums_of_the_head() -> None:
    integers: Program = program(Case("normed", "conv", 1, 2.0, False))
    layout = integers.layout
    again = build_layout(layout.arch, layout.form, image_size=11)
    assert [buffer.name for buffer in again.buffers.values() if buffer.kept] == ["sums"]
