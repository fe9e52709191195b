"""The conventional networks that baselines.py compares with: timm's, as large or as costly as is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spikesearch.config import ScoringConfig, TrainConfig
from spikesearch.data import DataBundle
from spikesearch.data.bundle import Split
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.network import calibrate_network
from spikesearch.space.architecture import Architecture
from spikesearch.train import Trainer
from spikesearch.train.strategies import SingleStrategy

MAX_TOKENS = 64  # of the ViT


@dataclass(frozen=True)
class Family:
    """Networks of one kind that differ in width alone.

    Args:
        name: Of the kind.
        step: Widths are multiples of it.
        build: Returns an untrained network of a width.
    """

    name: str
    step: int
    build: Callable[[int], nn.Module]

    def nearest(self, target: float, measure: Callable[[nn.Module], float]) -> int:
        """Return the width whose network measures nearest to the target, by ratio; ``measure`` grows with the width."""
        width = self.step
        while measure(self.build(width)) < target:
            width += self.step
        widths = [width] if width == self.step else [width - self.step, width]
        return min(widths, key=lambda each: abs(math.log(measure(self.build(each)) / target)))

    def seeded(self, width: int, seed: int) -> nn.Module:
        """Return a network whose weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(width)


def families(like: Architecture, data: DataBundle) -> tuple[Family, Family]:
    """Return ViTs with the depth, heads and MLP ratio of a spiking network, and ResNets of three stages of a block."""
    block = like.blocks[0]
    size, channels, classes = data.image_size, data.in_channels, data.num_classes

    def vit(width: int) -> nn.Module:
        return VisionTransformer(
            img_size=size,
            patch_size=patch_size(size),
            in_chans=channels,
            num_classes=classes,
            embed_dim=width,
            depth=like.depth,
            num_heads=block.num_heads,
            mlp_ratio=block.mlp_ratio,
            class_token=False,
            global_pool="avg",
        )

    def resnet(width: int) -> nn.Module:
        block_of: Any = BasicBlock  # timm says that it wants an instance, and wants the class
        net: Any = ResNet(
            block_of, (1, 1, 1), num_classes=classes, in_chans=channels, channels=(width, 2 * width, 4 * width)
        )
        # As usual for small images: three stages, and a stem that keeps their size. timm's always has 64 channels.
        net.conv1, net.bn1, net.maxpool = (
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.Identity(),
        )
        net.layer1, net.layer4 = nn.Sequential(BasicBlock(width, width)), nn.Identity()
        net.init_weights()
        return net

    return Family("ViT", block.num_heads, vit), Family("ResNet", 1, resnet)


def patch_size(image_size: int) -> int:
    """Return the smallest patch, of 2 pixels or more, that divides an image into 64 tokens or fewer."""
    return next(
        patch
        for patch in range(2, image_size + 1)
        if image_size % patch == 0 and (image_size // patch) ** 2 <= MAX_TOKENS
    )


@torch.no_grad()
def count_macs(net: nn.Module, data: DataBundle) -> int:
    """Return the multiply-accumulates of one sample: convolutions, linear layers and attention products."""
    was_training = net.training
    sample = torch.zeros(1, data.in_channels, data.image_size, data.image_size, device=next(net.parameters()).device)
    # the fused attention of a CPU is one operation that the counter does not know
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net.eval()(sample)
    net.train(was_training)
    return int(counter.get_total_flops()) // 2


def train_alone(
    net: nn.Module,
    data: DataBundle,
    recipe: TrainConfig,
    scoring: ScoringConfig,
    *,
    seed: int,
    identity: dict[str, Any],
    folder: Path,
    device: str,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train as a plain spiking network is trained, batch-norms calibrated at the end; return network and history."""
    trainer = Trainer(
        net,
        SingleStrategy(),
        data.train,
        recipe,
        num_classes=data.num_classes,
        seed=seed,
        identity={**identity, "data": data.fingerprint},
        folder=folder,
        device=device,
    )
    history = trainer.run(title="", progress=False)
    final = trainer.final.eval()
    calibrate_network(final, calibration_images(data, scoring).to(device))
    return final, history


@torch.no_grad()
def accuracy(net: nn.Module, split: Split, batch_size: int) -> float:
    """Return the fraction of right answers."""
    device = next(net.parameters()).device
    correct = 0
    for positions in torch.arange(len(split)).split(batch_size):
        answers = net(split.images(positions).to(device)).argmax(-1).cpu()
        correct += int((answers == split.labels[positions]).sum())
    return correct / len(split)
