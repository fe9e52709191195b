"""Published millijoules, from the rates and counts that were printed with them: what docs/published.md tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spikesearch.energy import EnergyModel
from spikesearch.energy.activity import Activity
from spikesearch.energy.measure import measure_activity
from spikesearch.nn import Spikformer
from spikesearch.space import Architecture, BlockSpec, StemSpec

PAGE = Path(__file__).parents[2] / "docs" / "published.md"

# Spikingformer-8-512 on ImageNet, test_spikingformer-8-512_eg.log of TheBrainLab/Spikingformer: percent of spikes that
# enter the convolutions of the stem, and of every block: q, k and v together, proj, fc1, fc2; the rates of q, k, v.
STEM = (25.8312565, 15.3364436, 13.1065373, 12.9557331)
BLOCKS = (
    (17.6595751, 29.7803004, 26.7676900, 3.28870974, 0.17230188630404062, 0.03626344770312309, 0.06957707978010177),
    (33.7953024, 30.9584658, 33.0194005, 2.96453710, 0.11627475060462952, 0.040295450145006184, 0.07173207724809647),
    (34.2222987, 31.4189673, 34.7303054, 2.55983278, 0.10669307922124864, 0.044414592387676234, 0.07524623577594756),
    (34.4263662, 29.0892771, 34.6611222, 1.92913754, 0.08188644799470902, 0.05000199048876763, 0.0768778057050705),
    (34.3272679, 20.9885448, 36.0386227, 1.42090094, 0.06365273276925086, 0.04325467040181161, 0.07054187965631485),
    (35.9286898, 16.5693003, 35.9497969, 0.952562647, 0.07711239219903945, 0.0311313860142231, 0.07321582739830017),
    (34.2288006, 10.6833842, 32.2695614, 0.568941609, 0.07023756886482238, 0.024202287513613703, 0.07348622434139251),
    (31.7671993, 9.47712146, 29.9233030, 1.37684836, 0.09727698216676713, 0.02812242347121239, 0.07954712931871415),
)


def imagenet_network(width: int, heads: int, depth: int) -> Spikformer:
    arch = Architecture(width, 4, StemSpec(1.0, 2.0), (BlockSpec(heads, 4.0, 1.0, 2.0),) * depth)
    shape = {"in_channels": 3, "image_size": 224, "num_classes": 1000, "pool_stages": (0, 1, 2, 3)}
    return Spikformer(arch, **shape, residual="membrane").eval()


@torch.no_grad()
def activity_of(net: Spikformer) -> Activity:
    with measure_activity(net) as activity:
        net(torch.zeros(1, 3, 224, 224))
    return activity


@pytest.mark.slow
def test_spikingformer_8_512_from_the_rates_of_every_layer() -> None:
    activity = activity_of(imagenet_network(512, 8, 1))
    rates = dict(zip((f"stem.stages.{i}.conv" for i in (1, 2, 3)), STEM, strict=False)) | {"stem.rpe.conv": STEM[3]}
    layers, products = {}, {}
    for name, layer in activity.layers.items():
        if not name.startswith("blocks."):
            layers[name] = replace(layer, total=rates.get(name, 0.0) / 100 * layer.elements)
    for number, (qkv, proj, fc1, fc2, q, k, v) in enumerate(BLOCKS):  # blocks have one shape: the first stands for all
        for name, rate in (("attn.qkv", qkv), ("attn.proj", proj), ("mlp.fc1", fc1), ("mlp.fc2", fc2)):
            layer = activity.layers[f"blocks.0.{name}.linear"]
            layers[f"blocks.{number}.{name}.linear"] = replace(layer, total=rate / 100 * layer.elements)
        product = activity.attention["blocks.0.attn.product"]
        q, k, v = (rate * product.elements for rate in (q, k, v))
        products[f"blocks.{number}.attn.product"] = replace(product, q=q, k=k, v=v)
    report = EnergyModel("spikformer").price(replace(activity, layers=layers, attention=products))
    assert report.macs == 347_329_512 - 1000, "the head's biases"
    assert report.acs == pytest.approx(6.51754094076244e9, rel=2e-3), "biases of proj, fc1 and fc2"
    assert report.total_uJ / 1000 == pytest.approx(7.463502601886196, rel=2e-3)
    assert f"{report.total_uJ / 1000:.3f}" in PAGE.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "heads", "accumulates", "millijoules"), [(384, 8, 3.88e9, 4.69), (768, 12, 12.54e9, 13.68)]
)
def test_the_other_spikingformers_from_their_printed_accumulates(
    width: int, heads: int, accumulates: float, millijoules: float
) -> None:
    """MACs follow from the shape of the first convolution and the head, whatever the depth."""
    report = EnergyModel("spikformer").price(activity_of(imagenet_network(width, heads, 1)))
    reproduced = (report.macs * 4.6 + accumulates * 0.9) * 1e-9
    assert reproduced == pytest.approx(millijoules, abs=0.006)
    assert f"{reproduced:.3f}" in PAGE.read_text()


def test_spikformer_4_384_on_cifar10_from_one_log() -> None:
    """ZK-Zhou/spikformer issue 23: one network, 0.246 mJ as printed and 5.19 mJ where sums of spikes are multiplied."""
    arch = Architecture(384, 4, StemSpec(1.0, 2.0), (BlockSpec(12, 4.0, 1.0, 2.0),) * 4)
    net = Spikformer(arch, in_channels=3, image_size=32, num_classes=10).eval()
    x = torch.randn(1, 3, 32, 32)
    published = EnergyModel("spikformer").report(net, x)
    strict = {line.name: line for line in EnergyModel("strict").report(net, x).layers}
    macs = published.macs + 10  # the head's biases
    assert macs == 0.005312266e9
    as_printed = (macs * 4.6 + 0.2458512465306023e9 * 0.9) * 1e-9
    assert as_printed == pytest.approx(0.24570254547754208, abs=1e-9)
    whole = (1_073_133_322 * 4.6 + 284_837_097.97817653 * 0.9) * 1e-9
    graded = sum(line.macs for name, line in strict.items() if "qkv" in name or "fc1" in name)
    assert graded == 4 * 4 * 64 * 384 * (3 * 384 + 4 * 384)
    assert (graded + macs) / 1_073_133_322 == pytest.approx(0.99, abs=0.001), "what is left are batch-norms"
    page = PAGE.read_text()
    assert f"{as_printed:.4f}" in page
    assert f"{whole:.2f}" in page
