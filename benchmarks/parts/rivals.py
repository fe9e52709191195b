"""Conventional networks at a budget: what somebody with the same data would train instead of a spiking network."""

from __future__ import annotations

from typing import Any

from parts.baselines_networks import Family, patch_size
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from spikesearch.data import DataBundle

VIT_DEPTH, VIT_HEADS, VIT_RATIO = 2, 2, 2
EXPANSION = 4  # of inverted residuals


class Counts(nn.Module):
    """A network of images that sees recordings ``[N, F, C, H, W]`` as counts per pixel."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images, or of recordings."""
        logits: Tensor = self.net(x.sum(1) if x.ndim == 5 else x)
        return logits


def rivals(data: DataBundle) -> list[Family]:
    """Return families of conventional networks, each of which differs in width alone.

    ResNets of three stages of a block, as usual for small images, with a first convolution that keeps the size of the
    image and with one that halves it, as ours may; inverted residuals (Sandler et al., "MobileNetV2", CVPR 2018) in
    three stages behind a halving convolution; ViTs of two blocks, where the image can be cut into patches.
    """
    families = [
        Family("ResNet", 1, lambda width: resnet(data, width, stride=1)),
        Family("ResNet, halved", 1, lambda width: resnet(data, width, stride=2)),
        Family("inverted residuals", 1, lambda width: inverted(data, width)),
    ]
    if any(data.image_size % patch == 0 for patch in range(2, data.image_size)):
        families.append(Family("ViT", VIT_HEADS, lambda width: vit(data, width)))
    return families


def resnet(data: DataBundle, width: int, *, stride: int) -> nn.Module:
    """Return a ResNet of three stages of one basic block."""
    block: Any = BasicBlock  # timm says that it wants an instance, and wants the class
    net: Any = ResNet(
        block,
        (1, 1, 1),
        num_classes=data.num_classes,
        in_chans=data.in_channels,
        channels=(width, 2 * width, 4 * width),
    )
    net.conv1, net.bn1, net.maxpool = (
        nn.Conv2d(data.in_channels, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.Identity(),
    )
    net.layer1, net.layer4 = nn.Sequential(BasicBlock(width, width)), nn.Identity()
    net.init_weights()
    return Counts(net)


def inverted(data: DataBundle, width: int) -> nn.Module:
    """Return three inverted residuals of widths w, 2w, 4w."""
    return Counts(
        nn.Sequential(
            nn.Conv2d(data.in_channels, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(inplace=True),
            InvertedResidual(width, width, exp_ratio=EXPANSION, act_layer=nn.ReLU6),
            InvertedResidual(width, 2 * width, stride=2, exp_ratio=EXPANSION, act_layer=nn.ReLU6),
            InvertedResidual(2 * width, 4 * width, stride=2, exp_ratio=EXPANSION, act_layer=nn.ReLU6),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, data.num_classes),
        )
    )


def vit(data: DataBundle, width: int) -> nn.Module:
    """Return a ViT of two blocks, with 64 tokens or fewer."""
    return Counts(
        VisionTransformer(
            img_size=data.image_size,
            patch_size=patch_size(data.image_size),
            in_chans=data.in_channels,
            num_classes=data.num_classes,
            embed_dim=width,
            depth=VIT_DEPTH,
            num_heads=VIT_HEADS,
            mlp_ratio=VIT_RATIO,
            class_token=False,
            global_pool="avg",
        )
    )
