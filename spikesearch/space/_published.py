"""The published networks that there are presets of: families in blocks of ours, and the sizes that papers print.

Sizes are those of the code that belongs to a paper, which was counted; nothing of it was copied. The numbers of
parameters are the printed ones, to which these counts round. Of Spikformer and Spikingformer the code tells the heads
of one size only: the others have heads as wide, of 32 channels (small images) or 64 (ImageNet).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Published:
    """What a paper prints of a network.

    Args:
        parameters: Its number of parameters, to the digits that are printed.
        image_size: Height and width of the images that they are printed for, in pixels.
        num_classes: Number of classes of these.
        in_channels: Channels of these.
    """

    parameters: int
    image_size: int
    num_classes: int
    in_channels: int = 3


@dataclass(frozen=True)
class Block:
    """A block, but for what a size decides."""

    mixer: str
    mlp_ratio: float = 4.0
    heads: bool = False


@dataclass(frozen=True)
class Stage:
    """A stage of the published network, in blocks of ours.

    Args:
        width: Share of the width.
        blocks: What stands for one of its blocks.
        before: What stands in front of them.
        led: So many of the first blocks are the convolution that leads into the stage.
    """

    width: Fraction
    blocks: tuple[Block, ...]
    before: tuple[Block, ...] = ()
    led: int = 0


@dataclass(frozen=True)
class Family:
    """Networks that differ in size alone.

    Args:
        paper: Where they were published.
        residual: What residual connections carry.
        stages: Their stages.
        differs: See :class:`Preset`.
        stem_share: Channels of a stem of one convolution over the width; 0: as many as the first stage has.
        tau: Of all neurons.
    """

    paper: str
    residual: str
    stages: tuple[Stage, ...]
    differs: tuple[str, ...]
    stem_share: Fraction = Fraction(0)
    tau: float = 2.0


@dataclass(frozen=True)
class Size:
    """A family in one published size; without a stride, it begins with patch splitting."""

    family: Family
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: int
    time_steps: int
    published: Published
    stem_stride: int | None = None


_SSA = Block("ssa", heads=True)
_QK = Block("qk", heads=True)
_CONV, _DEPTHWISE = Block("conv", 0.0), Block("dwconv", 0.0)
_ONE = Fraction(1)


def _one(block: Block) -> tuple[Stage, ...]:
    return (Stage(_ONE, (block,)),)


def _resnet() -> tuple[Stage, ...]:
    return tuple(Stage(Fraction(1, part), (_CONV, _CONV), led=1) for part in (8, 4, 2, 1))


def _meta(widths: Sequence[int]) -> tuple[Stage, ...]:
    """Return the stages of Meta-SpikeFormer: two of convolutions at first, then attention."""
    conv = (_DEPTHWISE, Block("conv"))
    return tuple(
        Stage(Fraction(width, widths[-1]), conv if number < 3 else (_SSA,)) for number, width in enumerate(widths)
    )


_BIASES = "Linear layers in front of a batch-norm have no bias, which it would remove."
_UNUSED = "There is no layer norm, which the published code has but does not use."
_POOLED = (
    "A strided convolution leads into a stage instead of one that is followed by a max-pooling, and its shortcut is "
    "pooled and repeated instead of a strided 1 x 1 convolution."
)

_SPIKFORMER = Family("Zhou et al., Spikformer, ICLR 2023", "add", _one(_SSA), (_BIASES, _UNUSED))
_SPIKINGFORMER = Family(
    "Zhou et al., Spikingformer, 2023",
    "membrane",
    _one(_SSA),
    (
        "The last convolution of the stem is added to the stream, which it replaces in the paper, and poolings are "
        "behind the convolutions instead of in front of the next.",
        "Neurons read the stream in front of the head, too.",
        _BIASES,
        _UNUSED,
    ),
)
_SDT_V1 = Family(
    "Yao et al., Spike-driven Transformer, NeurIPS 2023",
    "membrane",
    _one(_SSA),
    (
        "Spiking self-attention stands for spike-driven self-attention, which masks q by the spikes of a sum of k * v "
        "over the tokens; both have the same weights.",
        _BIASES,
        "There is no convolution over the heads, which the published code has but does not use.",
    ),
)
_META_DIFFERS = (
    "A `dwconv` and a `conv` with an MLP stand for each convolutional block: a depthwise convolution of 3 x 3 instead "
    "of 7 x 7 and without expansion, and a 3 x 3 convolution and two linear layers instead of two 3 x 3 convolutions.",
    "q, k, v and the projection are linear layers instead of re-parametrised convolutions.",
    "The way into the last stage halves the resolution, which the paper keeps.",
    "Ways into stages have a pooled shortcut, which the paper has not.",
    "Neurons read the stream in front of the average of the head instead of behind it.",
    _BIASES,
)
_META_PAPER = "Yao et al., Spike-driven Transformer V2, ICLR 2024"
_SDT_V2 = Family(_META_PAPER, "membrane", _meta((48, 96, 192, 384, 480)), _META_DIFFERS)
_SDT_V2_SMALL = Family(_META_PAPER, "membrane", _meta((32, 64, 128, 256, 360)), _META_DIFFERS)


def _hierarchy(first: Stage, second: Block, third: Block) -> tuple[Stage, ...]:
    """Return three stages of which the later ones begin with the second convolution of their patch embedding."""
    half = Stage(Fraction(1, 2), (second,), before=(_CONV,))
    return (first, half, Stage(_ONE, (third,), before=(_CONV,)))


_EMBEDDING = (
    "The convolutions of a patch embedding are a way into a stage and a `conv` block, each with a shortcut of its own, "
    "at the width of the stage."
)
_QUARTER = Fraction(1, 4)
_EIGHTH = Fraction(1, 8)
_QKFORMER = Family(
    "Zhou et al., QKFormer, NeurIPS 2024",
    "add",
    _hierarchy(Stage(_QUARTER, (_QK,), before=(_CONV,)), _QK, _SSA),
    (
        _EMBEDDING,
        _POOLED,
        _BIASES,
    ),
    stem_share=_EIGHTH,
)
_MAX_DIFFERS = (
    _EMBEDDING,
    "The way into a stage is a strided convolution with a shortcut that averages; the paper has max-poolings, of which "
    "its thesis speaks, behind a convolution and behind the 1 x 1 convolution of the shortcut.",
    "A pointwise layer follows the depthwise convolution, which is 3 x 3 everywhere (ImageNet: 7 x 7 and 5 x 5).",
    _BIASES,
)
_MAX_PAPER = "Fang et al., Max-Former, NeurIPS 2025"
_DWCONV = Block("dwconv")
_MAX_FORMER = Family(
    _MAX_PAPER,
    "membrane",
    _hierarchy(Stage(_QUARTER, (Block("conv"),)), _DWCONV, _SSA),
    _MAX_DIFFERS,
    stem_share=_EIGHTH,
)
_MAX_FORMER_LARGE = Family(
    _MAX_PAPER,
    "membrane",
    _hierarchy(Stage(_QUARTER, (_DWCONV,), before=(_CONV,)), _DWCONV, _SSA),
    _MAX_DIFFERS,
    stem_share=_EIGHTH,
)
_MS_RESNET = Family(
    "Hu et al., MS-ResNet, TNNLS 2024",
    "membrane",
    _resnet(),
    (
        "Every convolution has a shortcut of its own, where the paper has one for two.",
        "The stem strides by 4, where it strides by 2 and the first block again.",
        "Shortcuts into stages are pooled and repeated instead of strided 1 x 1 convolutions.",
        "Neurons lose three quarters of their potential in a step, as published. Their threshold is 1 instead of 0.5, "
        "which batch-norms make up for, but 1.5 where they read the stream; and branches do not begin at 0.",
    ),
    tau=4 / 3,
)


def _cifar(parameters: int, num_classes: int = 10) -> Published:
    return Published(parameters, 32, num_classes)


def _imagenet(parameters: int) -> Published:
    return Published(parameters, 224, 1000)


_GESTURES = Published(2_570_000, 128, 10, in_channels=2)
PRESETS = {
    "spikformer-2-256": Size(_SPIKFORMER, 256, (2,), 16, 16, _GESTURES),
    "spikformer-4-256": Size(_SPIKFORMER, 256, (4,), 8, 4, _cifar(4_150_000)),
    "spikformer-2-384": Size(_SPIKFORMER, 384, (2,), 12, 4, _cifar(5_760_000)),
    "spikformer-4-384": Size(_SPIKFORMER, 384, (4,), 12, 4, _cifar(9_320_000)),
    "spikformer-8-384": Size(_SPIKFORMER, 384, (8,), 6, 4, _imagenet(16_810_000)),
    "spikformer-8-512": Size(_SPIKFORMER, 512, (8,), 8, 4, _imagenet(29_680_000)),
    "spikformer-10-512": Size(_SPIKFORMER, 512, (10,), 8, 4, _imagenet(36_010_000)),
    "spikformer-8-768": Size(_SPIKFORMER, 768, (8,), 12, 4, _imagenet(66_340_000)),
    "spikingformer-2-256": Size(_SPIKINGFORMER, 256, (2,), 16, 16, _GESTURES),
    "spikingformer-4-256": Size(_SPIKINGFORMER, 256, (4,), 8, 4, _cifar(4_150_000)),
    "spikingformer-2-384": Size(_SPIKINGFORMER, 384, (2,), 12, 4, _cifar(5_760_000)),
    "spikingformer-4-384": Size(_SPIKINGFORMER, 384, (4,), 12, 4, _cifar(9_320_000)),
    "spikingformer-8-384": Size(_SPIKINGFORMER, 384, (8,), 6, 4, _imagenet(16_810_000)),
    "spikingformer-8-512": Size(_SPIKINGFORMER, 512, (8,), 8, 4, _imagenet(29_680_000)),
    "spikingformer-8-768": Size(_SPIKINGFORMER, 768, (8,), 12, 4, _imagenet(66_340_000)),
    "sdt-v1-2-256": Size(_SDT_V1, 256, (2,), 8, 4, _cifar(2_570_000)),
    "sdt-v1-2-512": Size(_SDT_V1, 512, (2,), 8, 4, _cifar(10_280_000, 100)),
    "sdt-v1-8-384": Size(_SDT_V1, 384, (8,), 8, 4, _imagenet(16_810_000)),
    "sdt-v1-6-512": Size(_SDT_V1, 512, (6,), 8, 4, _imagenet(23_370_000)),
    "sdt-v1-8-512": Size(_SDT_V1, 512, (8,), 8, 4, _imagenet(29_680_000)),
    "sdt-v1-10-512": Size(_SDT_V1, 512, (10,), 8, 4, _imagenet(36_010_000)),
    "sdt-v1-8-768": Size(_SDT_V1, 768, (8,), 8, 4, _imagenet(66_340_000)),
    "sdt-v2-8-256": Size(_SDT_V2_SMALL, 360, (1, 1, 2, 6, 2), 8, 4, _imagenet(15_100_000), 2),
    "sdt-v2-8-384": Size(_SDT_V2, 480, (1, 1, 2, 6, 2), 8, 4, _imagenet(31_300_000), 2),
    "sdt-v2-8-512": Size(_SDT_V2, 640, (1, 1, 2, 6, 2), 8, 4, _imagenet(55_400_000), 2),
    "qkformer-4-384": Size(_QKFORMER, 384, (1, 1, 2), 8, 4, _cifar(6_740_000, 100), 1),
    "qkformer-10-384": Size(_QKFORMER, 384, (1, 2, 7), 6, 4, _imagenet(16_470_000), 4),
    "qkformer-10-512": Size(_QKFORMER, 512, (1, 2, 7), 8, 4, _imagenet(29_080_000), 4),
    "qkformer-10-768": Size(_QKFORMER, 768, (1, 2, 7), 12, 4, _imagenet(64_960_000), 4),
    "max-former-4-384": Size(_MAX_FORMER, 384, (1, 1, 2), 8, 4, _cifar(6_570_000), 1),
    "max-former-10-384": Size(_MAX_FORMER_LARGE, 384, (1, 2, 7), 6, 4, _imagenet(16_230_000), 4),
    "max-former-10-512": Size(_MAX_FORMER_LARGE, 512, (1, 2, 7), 8, 4, _imagenet(28_650_000), 4),
    "max-former-10-768": Size(_MAX_FORMER_LARGE, 768, (1, 2, 7), 12, 4, _imagenet(63_990_000), 4),
    "ms-resnet18": Size(_MS_RESNET, 512, (2, 2, 2, 2), 0, 6, _imagenet(11_690_000), 4),
    "ms-resnet34": Size(_MS_RESNET, 512, (3, 4, 6, 3), 0, 6, _imagenet(21_800_000), 4),
}
