"""Published networks as architectures: sizes against the papers, by hand where they differ; scaling; round trips."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from spikesearch.config.study_file import ModelConfig, SpaceConfig
from spikesearch.errors import SpaceError
from spikesearch.nn.units import Form, network_units
from spikesearch.space import Architecture, SearchSpace, presets
from spikesearch.space.presets import Preset

# What the papers' own code counts, and what it has and a preset has not; less than nothing is what it lacks.
# C are widths, LN layer norms, BN batch-norms. Summed by hand.
COUNTED: dict[str, tuple[int, dict[str, int]]] = {
    "spikformer-4-384": (
        9_330_874,
        {"unused LN": 4 * 2 * 2 * 384, "biases of q, k, v, projection and MLP": 4 * (3 + 1 + 4 + 1) * 384},
    ),
    "spikingformer-4-384": (
        9_326_266,
        {"unused LN": 4 * 2 * 2 * 384, "biases of projection and MLP": 4 * (1 + 4 + 1) * 384},
    ),
    "sdt-v1-2-512": (
        10_279_716,
        {"unused convolution over heads": 2 * 8 * 8, "biases of projection and MLP": 2 * (1 + 4 + 1) * 512},
    ),
    "sdt-v1-8-384": (
        16_816_536,
        {"unused convolution over heads": 8 * 8 * 8, "biases of projection and MLP": 8 * (1 + 4 + 1) * 384},
    ),
    "qkformer-4-384": (
        6_740_884,
        {
            "1 x 1 shortcuts of embeddings": 48 * 96 + 96 * 192 + 192 * 384,
            "their BN": 2 * (96 + 192 + 384),
            "second convolution, from 48 instead of 96": 9 * (48 - 96) * 96,
            "biases of projection and MLP": 6 * 96 + 6 * 192 + 2 * 6 * 384,
        },
    ),
    "qkformer-10-384": (
        16_473_688,
        {
            "first convolution, 3 x 3 instead of 7 x 7": (9 - 49) * 3 * 48,
            "convolution from 48 to 96 and its BN": 9 * 48 * 96 + 2 * 96,
            "1 x 1 shortcuts of embeddings": 48 * 96 + 96 * 192 + 192 * 384,
            "their BN": 2 * (96 + 192 + 384),
            "biases of projection and MLP": 6 * 96 + 2 * 6 * 192 + 7 * 6 * 384,
        },
    ),
    "max-former-4-384": (
        6_568_282,
        {
            "1 x 1 shortcuts of embeddings": 48 * 96 + 96 * 192 + 192 * 384,
            "their BN": 2 * (96 + 192 + 384),
            "second convolution, from 48 instead of 96": 9 * (48 - 96) * 96,
            "pointwise layer behind the depthwise one, and its BN": -(192 * 192 + 2 * 192),
            "bias of the depthwise one": 192,
            "biases of projection and MLP": 5 * 96 + 5 * 192 + 2 * 6 * 384,
        },
    ),
    "max-former-10-384": (
        16_237_240,
        {
            "first convolution, 3 x 3 instead of 7 x 7": (9 - 49) * 3 * 48,
            "convolution from 48 to 96 and its BN": 9 * 48 * 96 + 2 * 96,
            "1 x 1 shortcuts of embeddings": 48 * 96 + 96 * 192 + 192 * 384,
            "their BN": 2 * (96 + 192 + 384),
            "depthwise 7 x 7 and 5 x 5 instead of 3 x 3": (49 - 9) * 96 + 2 * (25 - 9) * 192,
            "pointwise layers behind the depthwise ones, and their BN": -(96 * 96 + 2 * 96 + 2 * (192 * 192 + 2 * 192)),
            "biases of the depthwise ones": 96 + 2 * 192,
            "biases of projection and MLP": 5 * 96 + 2 * 5 * 192 + 7 * 6 * 384,
        },
    ),
    "ms-resnet18": (
        11_693_736,
        {
            "1 x 1 shortcuts": 64 * 64 + 64 * 128 + 128 * 256 + 256 * 512,
            "their BN": 2 * (64 + 128 + 256 + 512),
        },
    ),
}
for _name, _counted, _widths in (
    ("sdt-v2-8-256", 15_112_208, (32, 64, 128, 256, 360)),
    ("sdt-v2-8-384", 31_333_864, (48, 96, 192, 384, 480)),
    ("sdt-v2-8-512", 55_350_248, (64, 128, 256, 512, 640)),
):
    _convolutional = (*_widths[:3], _widths[2])
    _attentive = 6 * _widths[3:4] + 2 * _widths[4:]
    COUNTED[_name] = (
        _counted,
        {
            "first convolution, 7 x 7 instead of 3 x 3": (49 - 9) * 3 * _widths[0],
            "biases of strided convolutions": sum(_widths),
            # 1 x 1 to 2 C, BN, 7 x 7, 1 x 1 back, BN; not 3 x 3, BN, 1 x 1, BN
            "separable convolutions": sum(4 * c * c + (98 + 6) * c - (c * c + (9 + 4) * c) for c in _convolutional),
            # two 3 x 3 to and from 4 C; not one at C, BN, and two layers
            "3 x 3 convolutions for MLP": sum(72 * c * c - (9 * c * c + 2 * c + 8 * c * c) for c in _convolutional),
            # 1 x 1, BN, 3 x 3 of every channel, 1 x 1, two BN; not one layer and its BN
            "q, k, v, projection": sum(4 * (2 * c * c + (9 + 6) * c - (c * c + 2 * c)) for c in _attentive),
            "biases of MLP": sum(5 * c for c in _attentive),
        },
    )
WITHIN_A_HUNDREDTH = [name for name in presets.names() if not name.startswith("sdt-v2") and name != "ms-resnet18"]
SMALL: dict[str, dict[str, Any]] = {
    "spikformer-4-384": {"depths": 2},
    "spikingformer-4-384": {"depths": (2,)},
    "sdt-v1-2-512": {"depths": 1},
    "sdt-v2-8-384": {"embed_dim": 80, "depths": (1, 0, 1, 2, 0), "stem_stride": 1},
    "qkformer-4-384": {"depths": (1, 1, 1)},
    "max-former-4-384": {"depths": (1, 1, 1), "stem_stride": 1},
    "ms-resnet18": {"num_heads": None, "depths": (2, 2, 1, 0), "stem_stride": 1},
}


def count(preset: Preset) -> int:
    assert preset.published is not None
    form = Form(preset.published.in_channels, preset.published.num_classes, **preset.model)
    return sum(unit.parameters for unit in network_units(preset.arch, form))


@pytest.mark.parametrize("name", WITHIN_A_HUNDREDTH)
def test_parameters_are_within_a_hundredth_of_the_published(name: str) -> None:
    preset = presets.get(name)
    assert preset.published is not None
    assert count(preset) == pytest.approx(preset.published.parameters, rel=0.01)


@pytest.mark.parametrize("name", COUNTED)
def test_the_difference_in_parameters_is_explained_line_by_line(name: str) -> None:
    preset = presets.get(name)
    counted, lines = COUNTED[name]
    assert preset.published is not None
    assert counted == pytest.approx(preset.published.parameters, rel=0.002)  # printed with three digits or four
    assert counted - count(preset) == sum(lines.values())


@pytest.mark.parametrize("name", presets.names())
def test_it_survives_json_study_file_key_and_parameters(name: str) -> None:
    preset = presets.get(name)
    again = Architecture.from_dict(json.loads(json.dumps(preset.arch.to_dict())))
    assert (again, again.key) == (preset.arch, preset.arch.key)
    written = yaml.safe_dump({"space": preset.space().to_dict(), "model": preset.model})
    read = yaml.safe_load(written)
    space = SpaceConfig(**read["space"]).search_space()
    assert space == preset.space()
    assert preset.arch in space
    assert space.architecture(space.params(preset.arch)) == preset.arch
    assert ModelConfig(**read["model"]).model_dump() == {"pool_stages": None, **preset.model}
    assert (space.largest.embed_dim, space.largest.depths) == (preset.arch.embed_dim, preset.arch.depths)
    assert space.largest.time_steps == preset.arch.time_steps
    assert preset.published is not None
    preset.check_image_size(preset.published.image_size)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("image_size", [8, 28, 32])
def test_it_is_scaled_to_a_budget(name: str, image_size: int) -> None:
    given = {"embed_dim": 64, "time_steps": 2, "num_heads": 4, **SMALL[name]}
    preset = presets.get(name, **given)
    preset.check_image_size(image_size)
    assert preset.published is None
    assert preset.arch.embed_dim == given["embed_dim"]
    assert preset.arch.time_steps == 2
    assert {block.num_heads for block in preset.arch.blocks} <= {0, 4}
    assert preset.model.get("stem_stride", 1) == 1
    assert count_small(preset) < 500_000
    assert isinstance(preset.space(), SearchSpace)
    assert preset.arch in preset.space()


def count_small(preset: Preset) -> int:
    return sum(unit.parameters for unit in network_units(preset.arch, Form(1, 10, **preset.model)))


def test_stages_keep_their_width_and_those_of_depth_0_go() -> None:
    assert presets.get("ms-resnet18").arch.widths == (64, 128, 256, 512)
    three = presets.get("ms-resnet18", depths=(2, 2, 2, 0))
    assert (three.arch.widths, three.depths, three.arch.depths) == ((64, 128, 256), (2, 2, 2), (4, 3, 3))
    assert presets.get("qkformer-4-384", depths=(1, 1, 0)).arch.stem.channels == 48
    only = presets.get("ms-resnet18", depths=(0, 0, 2, 0), embed_dim=24).arch
    assert (only.stages, only.widths, [block.mixer for block in only.blocks]) == ((), (24,), ["conv"] * 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "spikfromer-4-384"}, "no preset 'spikfromer-4-384'; did you mean 'spikformer-4-384' or "),
        ({"name": "max-former"}, "did you mean 'max-former-4-384' or 'max-former-10-384' or "),
        ({"name": ""}, "There is no preset ''. `spikesearch space presets` lists them all"),
        ({"name": "qkformer-4-384", "depths": 4}, "`depths` of 'qkformer-4-384' must be 3 numbers, .* but got 4"),
        ({"name": "qkformer-4-384", "depths": (0, 0, 0)}, "must be 3 numbers, .* but got 0, 0, 0"),
        ({"name": "spikformer-4-384", "depths": 0}, "`depths` of 'spikformer-4-384' must be one number above 0"),
        ({"name": "spikformer-4-384", "depths": 1.5}, "`depths` must hold whole numbers, but got 1.5"),
        ({"name": "qkformer-4-384", "embed_dim": 48}, "no 'qkformer-4-384' in this size: .*8 does not divide 12"),
        ({"name": "spikformer-4-384", "embed_dim": 0}, "no 'spikformer-4-384' in this size: `embed_dim` must be a pos"),
        ({"name": "spikformer-4-384", "time_steps": 0}, "in this size: `time_steps` must be at least 1"),
        ({"name": "spikformer-4-384", "stem_stride": 2}, "`stem_stride` must be left out: .* begins with patch"),
        ({"name": "ms-resnet18", "stem_stride": 0}, "`stem_stride` must be at least 1, but got 0"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        presets.get(**options)


def test_images_that_are_too_small_are_refused() -> None:
    preset = presets.get("ms-resnet18")
    preset.check_image_size(33)
    refusal = (
        "needs images of 33 x 33 pixels or more, but got 28 x 28: .* stride 4, stage 3 .* `stem_stride` below 4 or"
    )
    with pytest.raises(SpaceError, match=refusal):
        preset.check_image_size(28)
    presets.get("ms-resnet18", stem_stride=2).check_image_size(28)
    presets.get("spikformer-4-384").check_image_size(8)
    with pytest.raises(SpaceError, match=r"stage 0 would have one position\. Give a `stem_stride` below 4, or take"):
        preset.check_image_size(4)


def test_nothing_of_it_needs_torch() -> None:
    program = (
        "import sys\nfrom spikesearch.space import presets\n"
        "[presets.get(name).space() for name in presets.names()]\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
