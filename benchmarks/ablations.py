"""What each design choice of the staged convolutional networks is worth, taken away alone.

    python benchmarks/ablations.py --seeds 3 --folder RUN --json benchmarks/results/ablations.json

One network, `mm|cc|cc` at widths 16, 32 and 64 (c: a block of one 3x3 convolution; m: the same and an MLP of ratio 2),
is trained alone on Fashion-MNIST (12,000 images, 6 epochs); so is every variant of it, with the same recipe and seeds.
Accuracies and energies are those of the search split; the test split is not read. Differences are paired over seeds,
means with a 95 % interval (Student's t). With ``--folder`` everything is kept there, and the same command goes on after
an interruption. The data are looked for in `$SPIKESEARCH_DATA`, by default `../shared/data` beside the checkout.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts.harness import CONVENTIONS, Report, data_folder, kept, parser, shown, study_file
from torch import Tensor

from spikesearch.config import StudyConfig
from spikesearch.data import DataBundle, load_data
from spikesearch.nn import Spikformer, count_parameters
from spikesearch.nn.functional import Shortcut
from spikesearch.nn.mixers import Mixer, register
from spikesearch.nn.plan import Layer
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.network import calibrate_network, score_network
from spikesearch.space import Architecture, BlockSpec, StemSpec
from spikesearch.space.architecture import StageSpec
from spikesearch.train.network import fresh_network, train_network

STUDY = "fashion-mnist-small"
IMAGES, EPOCHS = 12_000, 6
BASE = "base"

Row = dict[str, Any]


class TwoConvolutions(Mixer):
    """Two convolutions under one shortcut, as in a residual network's basic block."""

    name = "two-convolutions"
    layers = (
        Layer("first", 1, 1, "conv", reads_stream=True),
        Layer("second", 1, 1, "conv", ends_branch=True),
    )


register(TwoConvolutions())


class NoShortcut(Shortcut):
    """Drops what the stream holds at the way into a stage."""

    def forward(self, x_seq: Tensor, width: int) -> Tensor:
        """Return zeros of the shape that the shortcut would have."""
        return 0 * super().forward(x_seq, width)


BLOCKS = {
    "c": ("conv", 0),
    "m": ("conv", 2),
    "p": ("two-convolutions", 0),
    "q": ("two-convolutions", 2),
    "a": ("ssa", 2),
    "k": ("qk", 2),
    "d": ("dwconv", 2),
}
HEADS = 4


@dataclass(frozen=True)
class Variant:
    """A network.

    Args:
        code: Letters of the blocks, stage by stage.
        residual: Kind of its residual connections.
        channels: Of the first convolution.
        steps: Time steps.
        stem: Kind of the stem.
        stride: Of the first convolution.
        shortcut: Whether ways into stages have one.
    """

    code: str = "mm|cc|cc"
    residual: str = "normed"
    channels: int = 16
    steps: int = 1
    stem: str = "conv"
    stride: int | None = 2
    shortcut: bool = True

    def build(self, data: DataBundle) -> Spikformer:
        """Return the network, with some first weights."""
        stages, blocks = self.code.split("|"), []
        for letter in "".join(stages):
            mixer, ratio = BLOCKS[letter]
            blocks.append(BlockSpec(HEADS if mixer in ("ssa", "qk") else 0, ratio, 1.0, 2.0, mixer=mixer))
        widths = [2.0 ** (i - len(stages) + 1) for i in range(len(stages))]
        specs = [
            StageSpec(width, len(stage), *((1.0, 2.0) if i else (0.0, 0.0)))
            for i, (width, stage) in enumerate(zip(widths, stages, strict=True))
        ]
        arch = Architecture(64, self.steps, StemSpec(1.0, 2.0, self.channels), tuple(blocks), stages=tuple(specs))
        stem: dict[str, Any] = {"stem": "conv", "stem_stride": self.stride} if self.stem == "conv" else {}
        net = Spikformer(
            arch,
            in_channels=data.in_channels,
            image_size=data.image_size,
            num_classes=data.num_classes,
            residual=self.residual,
            **stem,
        )
        if not self.shortcut:
            for down, _ in net.parts():
                if down is not None:
                    down.shortcut = NoShortcut(average=down.shortcut.average)
        return net


VARIANTS = {
    BASE: Variant(),
    "membrane without batch-norms of its own": Variant(residual="membrane"),
    "sums of spikes": Variant(residual="add"),
    "no pooled shortcut": Variant(shortcut=False),
    "two convolutions per shortcut": Variant(code="q|p|p"),
    "first convolution not strided": Variant(stride=1, channels=4),
    "patch splitting as the stem": Variant(stem="sps", channels=0),
    "8 first channels": Variant(channels=8),
    "4 first channels": Variant(channels=4),
    "T 2": Variant(steps=2),
    "convolutions alone": Variant(code="cc|cc|cc"),
    "attention late (ssa)": Variant(code="mm|cc|aa"),
    "attention late (qk)": Variant(code="mm|cc|kk"),
    "depthwise late": Variant(code="mm|cc|dd"),
}


def main() -> None:
    """Train every variant with every seed; print differences from the base."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--folder", type=Path, help="where to keep trainings; by default nowhere")
    args = arguments.parse_args()
    root = data_folder()
    if not (root / "fashion-mnist").exists():
        print(f"skipped: there is no fashion-mnist in {root}; name its folder with SPIKESEARCH_DATA.")
        return
    torch.set_num_threads(1)
    images, epochs = (600, 1) if args.quick else (IMAGES, EPOCHS)
    config = study_file(STUDY, root, epochs=epochs, max_train=images)
    variants = dict(list(VARIANTS.items())[:2]) if args.quick else VARIANTS
    report = Report("ablations", args.quick)
    rows: dict[str, list[Row]] = {name: [] for name in variants}
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spikesearch-ablations-")))
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(1 if args.quick else args.seeds):
            data = load_data(config.data, seed=seed)
            for name, variant in variants.items():
                make = partial(train, variant, data, config, seed, folder / f"checkpoints-{seed}")
                row = kept(folder / f"{seed}-{name.replace(' ', '-')}.json", make)
                print(f"  seed {seed}  {name:<40} {row}", flush=True)
                rows[name].append(row)
    claims(report, rows)
    report.details = {"images": images, "epochs": epochs, "rows": rows}
    report.write(args.json)


def train(variant: Variant, data: DataBundle, config: StudyConfig, seed: int, folder: Path) -> Row:
    """Train a network alone and score it on the search split."""
    training = train_network(
        fresh_network(variant.build(data), seed) if variant.shortcut else seeded(variant, data, seed),
        data,
        config.train,
        seed=seed,
        folder=folder,
        progress=False,
    )
    net = training.net
    calibrate_network(net, calibration_images(data, config.scoring))
    scores = {
        name: score_network(net, data, config.scoring.model_copy(update={"convention": name})) for name in CONVENTIONS
    }
    training.checkpoints.delete()
    return {
        "accuracy": scores["strict"].accuracy,
        **{name: score.energy_uJ for name, score in scores.items()},
        "params": count_parameters(net),
    }


def seeded(variant: Variant, data: DataBundle, seed: int) -> Spikformer:
    """Return a network whose first weights depend on the seed alone."""
    net = variant.build(data)
    net.load_state_dict(fresh_network(replace(variant, shortcut=True).build(data), seed).state_dict())
    return net


def claims(report: Report, rows: dict[str, list[Row]]) -> None:
    """State every variant's figures, and its differences from the base."""

    def column(name: str, key: str) -> np.ndarray:
        return np.array([row[key] for row in rows[name]])

    for name in rows:
        energies = " / ".join(shown(column(name, key), 3) for key in CONVENTIONS)
        report.claim(f"{name}: search accuracy, %", f"{shown(100 * column(name, 'accuracy'))} at {energies} uJ")
    for name in rows:
        if name == BASE:
            continue
        points = 100 * (column(name, "accuracy") - column(BASE, "accuracy"))
        ratios = " / ".join(shown(column(name, key) / column(BASE, key), 2) for key in CONVENTIONS)
        report.claim(f"{name}, against the base: points, and energy as a ratio", f"{shown(points)}, {ratios}")


if __name__ == "__main__":
    main()
