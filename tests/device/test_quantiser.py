"""Scales, thresholds, leaks and files of integer networks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from spikesearch import Architecture, BlockSpec, Spikformer
from spikesearch.device import Program, quantise
from spikesearch.device.quantiser import leak, round_weights
from spikesearch.errors import CheckpointError, DataError, ExportError
from spikesearch.nn.fast import fuse
from spikesearch.nn.lif import PlainLIF
from spikesearch.space import StemSpec
from tests.device.networks import CASES, Case, network, program
from tests.mixers import registered


@pytest.mark.parametrize(("tau", "expected"), [(2.0, (1, 1)), (4.0, (1, 2)), (16.0, (1, 4))])
def test_a_power_of_two_is_a_shift(tau: float, expected: tuple[int, int]) -> None:
    assert leak(tau) == expected


@pytest.mark.parametrize("tau", [1.0001, 1.25, 1.7, 3.0, 7.9, 100.0, 1000.0, 1e5])
def test_another_time_constant_is_a_multiplication_of_15_bits(tau: float) -> None:
    multiplier, shift = leak(tau)
    assert 0 < multiplier <= 2**14
    assert multiplier / 2**shift == pytest.approx(1 / tau, rel=2**-14)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_weight_uses_its_eight_bits(case: Case) -> None:
    integers = program(case)
    for name, array in integers.arrays.items():
        if name.endswith(".weight"):
            peaks = np.abs(array.astype(int)).reshape(len(array), -1).max(1)
            assert peaks.tolist() == [127] * len(array), name
        if name.endswith(".multiplier"):
            assert array.min() >= 2**14


@pytest.mark.parametrize("case", CASES[::4], ids=str)
def test_loaded_is_saved(case: Case, tmp_path: Path) -> None:
    integers, (_, samples) = program(case), network(case)
    integers.save(tmp_path)
    again = Program.load(tmp_path)
    assert again.layout == integers.layout
    assert again.description() == integers.description()
    assert np.array_equal(again.run(samples), integers.run(samples))
    assert {path.name for path in tmp_path.iterdir()} == {"program.json", "program.safetensors"}


def _edit(folder: Path, **values: object) -> None:
    path = folder / "program.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "program.json").unlink(), "holds no program.json"),
        (lambda folder: (folder / "program.json").write_text("{}"), "does not describe a program"),
        (lambda folder: _edit(folder, format_version=99), "upgrade spikesearch"),
        (lambda folder: (folder / "program.safetensors").unlink(), "Cannot read"),
        (lambda folder: (folder / "program.safetensors").write_bytes(b"x" * 40), "is corrupt"),
        (lambda folder: _edit(folder, model={}), "holds no whole program"),
        (lambda folder: _edit(folder, wide=True), "holds no whole program"),
    ],
)
def test_a_broken_folder_is_one_clear_sentence(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    program(CASES[0]).save(tmp_path)
    change(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        Program.load(tmp_path)


def test_arrays_that_could_overflow_are_refused() -> None:
    integers = program(CASES[0])
    name = "stem.stages.1.bias"
    with pytest.raises(ExportError, match=r"Currents of `stem\.stages\.1` may reach"):
        Program(
            integers.layout,
            integers.model,
            integers.arrays | {name: np.full_like(integers.arrays[name], 2**31 - 1)},
            integers.mean,
            integers.std,
        )


@pytest.mark.parametrize("time_steps", [1, 3])
def test_frames_that_are_added_up_do_not_saturate(time_steps: int) -> None:
    net, _ = network(Case("membrane", "conv", time_steps, 2.0, True))
    frames = torch.randint(0, 9, (8, 12, net.in_channels, net.image_size, net.image_size)).float()
    integers = quantise(net, frames)
    merged = frames.unflatten(1, (time_steps, -1)).sum(2).numpy()
    recovered = integers.raw(frames.numpy()) / np.reshape(integers.std, (-1, 1, 1))
    assert np.abs(recovered - merged).max() <= 12 / time_steps * 0.51 / min(integers.std)  # every frame is rounded
    assert integers.raw(frames.numpy()).max() == 255


def test_currents_that_a_multiplier_cannot_hold_are_refused() -> None:
    net, samples = network(Case("add", "conv", 1, 2.0, False))
    net = copy.deepcopy(net)
    neurons = next(module for module in net.modules() if isinstance(module, PlainLIF))
    neurons.v_threshold = 1e-9
    with pytest.raises(ExportError, match=r"Currents of `.*` (are up|may reach)"):
        quantise(net, samples)


def test_mistakes_of_a_user() -> None:
    net, samples = network(Case("membrane", "sps", 1, 2.0, False))
    with pytest.raises(ExportError, match="`bits` must be 8, but got 4"):
        quantise(net, samples, bits=4)
    with pytest.raises(DataError, match="at least one sample"):
        quantise(net, samples[:0])
    with pytest.raises(ExportError, match="quantise the network itself, no copy"):
        quantise(fuse(net), samples)
    events, recordings = network(Case("membrane", "sps", 3, 1.7, True))
    with pytest.raises(DataError, match="negative"):
        quantise(events, -recordings)


def test_a_mixer_that_it_does_not_know_is_named() -> None:
    with registered():
        arch = Architecture(24, 1, StemSpec(1.0, 2.0), (BlockSpec(2, 1.0, 1.0, 2.0, "headed"),))
        net = Spikformer(arch, in_channels=1, image_size=8, num_classes=3).eval()
        with pytest.raises(ExportError, match=r"cannot hold `blocks\.0\.headed`.* mixer 'headed'"):
            quantise(net, torch.rand(4, 1, 8, 8))


def test_without_a_normalisation_samples_get_eight_bits_between_their_extremes() -> None:
    net, samples = network(Case("membrane", "sps", 1, 2.0, False))
    integers = quantise(net, samples)
    raw = integers.raw(samples)
    assert (raw.min(), raw.max()) == (0, 255)
    with torch.no_grad():
        assert (net(samples).argmax(-1).numpy() == integers.run(samples).argmax(-1)).mean() > 0.9


def test_rounded_weights_are_those_of_the_program_and_have_the_gradient_of_the_weights() -> None:
    case = Case("membrane", "sps", 1, 2.0, False)
    net = Spikformer(case.arch, in_channels=2, image_size=9, num_classes=5, residual="membrane")
    net.load_state_dict(network(case)[0].state_dict())
    round_weights(net)
    layer = net.get_submodule("blocks.0.mlp.fc1.linear")
    assert isinstance(layer, nn.Linear)
    original = dict(net.named_parameters())["blocks.0.mlp.fc1.linear.parametrizations.weight.original"]
    steps = original.detach().abs().amax(1, keepdim=True) / 127
    signs = network(case)[0].get_submodule("blocks.0.mlp.fc1.bn").weight.sign().view(-1, 1)
    integers = torch.from_numpy(program(case).arrays["blocks.0.mlp.fc1.weight"]).float()
    assert torch.allclose(layer.weight.detach() / steps, integers * signs, atol=1e-3)
    (layer.weight * 3).sum().backward()
    assert original.grad is not None
    assert torch.equal(original.grad, torch.full_like(original, 3))
