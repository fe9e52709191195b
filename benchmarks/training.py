"""Speed of one extracted Spikformer, in use and in training, against SpikingJelly's own of equal size.

    python benchmarks/training.py [--repeats 9] [--batch 32] [--threads N] [--quick] [--json FILE]

Width 192, 2 blocks, 12 heads, MLP ratio 4, 4 time steps, colour images of 32 x 32, 10 classes. All rows run in turn in
one process; ratios are of medians. The two networks differ where facts differ: SpikingJelly pools before the neurons of
the stem, ours behind them, as published. A training step is forward, cross-entropy, backward and AdamW. Peak memory is
what a process of its own adds to its resident set during three training steps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from parts.harness import Report, parser, resident_rise
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer as SpikingJellySpikformer
from torch import Tensor, nn

from spikesearch import Architecture, BlockSpec, Spikformer
from spikesearch.nn import count_parameters, fuse
from spikesearch.nn.fast import fast_copy
from spikesearch.space.architecture import StemSpec

SIZE, CLASSES, STEPS, WIDTH, HEADS, DEPTH = 32, 10, 4, 192, 12, 2
THEIRS = "SpikingJelly, float32"


def main() -> None:
    """Measure and print the claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=9)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--threads", type=int, help="threads of torch")
    args = arguments.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.quick:
        args.repeats, args.batch = 2, 4
    report = Report("training", args.quick)
    report.details = {"batch": args.batch, "repeats": args.repeats, "threads": torch.get_num_threads()}
    ours, theirs = networks()
    print(f"{count_parameters(ours):,} and {count_parameters(theirs):,} parameters, {torch.get_num_threads()} threads")
    in_use(report, args)
    training(report, args)
    report.write(args.json)


def networks() -> tuple[Spikformer, nn.Module]:
    """Return ours and SpikingJelly's, with batch-norm statistics of noise, so that neurons fire."""
    torch.manual_seed(0)
    blocks = tuple(BlockSpec(num_heads=HEADS, mlp_ratio=4, v_threshold=1.0, tau=2.0) for _ in range(DEPTH))
    arch = Architecture(embed_dim=WIDTH, time_steps=STEPS, stem=StemSpec(1.0, 2.0), blocks=blocks)
    ours = Spikformer(arch, in_channels=3, image_size=SIZE, num_classes=CLASSES)
    theirs = SpikingJellySpikformer(
        T=STEPS,
        in_channels=3,
        img_size_h=SIZE,
        img_size_w=SIZE,
        patch_size=4,
        num_classes=CLASSES,
        embed_dims=WIDTH,
        num_heads=HEADS,
        mlp_ratio=4.0,
        depths=DEPTH,
    )
    for net in (ours, theirs):
        with torch.no_grad():
            for _ in range(10):
                net.train()(torch.randn(8, 3, SIZE, SIZE))
                functional.reset_net(net)
    return ours, theirs


def their_logits(net: nn.Module, x: Tensor) -> Tensor:
    """Run SpikingJelly's network: it keeps its state, and its output has a time axis."""
    functional.reset_net(net)
    logits: Tensor = net(x).mean(0)
    return logits


def half(run: Callable[[], Any]) -> Callable[[], Any]:
    """Return ``run`` under bfloat16 autocast."""

    def inside() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return run()

    return inside


def medians(rows: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Time all rows in turn and return the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for repeat in range(repeats + 1):  # the first round warms up
        for name, run in rows.items():
            began = time.perf_counter()
            run()
            if repeat:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def show(report: Report, what: str, seconds: dict[str, float]) -> None:
    report.details[what] = seconds
    for name, value in seconds.items():
        print(
            f"  {what}, {name}: {1e3 * value:.0f} ms, {seconds[THEIRS] / value:.2f} times SpikingJelly's speed",
            flush=True,
        )


def in_use(report: Report, args: argparse.Namespace) -> None:
    """Compare forward passes in evaluation mode."""
    ours, theirs = networks()
    plain, fused, theirs = ours.eval(), fuse(ours.eval()), theirs.eval()
    x = torch.randn(args.batch, 3, SIZE, SIZE)
    rows = {
        THEIRS: lambda: their_logits(theirs, x),
        "SpikingJelly, bfloat16": half(lambda: their_logits(theirs, x)),
        "extracted, float32": lambda: plain(x),
        "fused, float32": lambda: fused(x),
        "fused, bfloat16": half(lambda: fused(x)),
    }
    with torch.no_grad():
        seconds = medians(rows, args.repeats)
    show(report, "in use", seconds)
    equal, best = (seconds[THEIRS] / seconds[name] for name in ("fused, float32", "fused, bfloat16"))
    same = seconds["SpikingJelly, bfloat16"] / seconds["fused, bfloat16"]
    report.claim("in use, float32: times SpikingJelly's speed", round(equal, 2), "1.3", verdict(args, equal >= 1.3))
    report.claim("in use, our fastest against its default", round(best, 2), "2.5", verdict(args, best >= 2.5))
    report.claim("in use, both in bfloat16", round(same, 2))


def training(report: Report, args: argparse.Namespace) -> None:
    """Compare training steps, and the memory that they take."""
    ours, theirs = networks()
    x, labels = torch.randn(args.batch, 3, SIZE, SIZE), torch.arange(args.batch) % CLASSES
    fast = fast_copy(ours)
    rows = {
        THEIRS: step(theirs, lambda: their_logits(theirs, x), labels),
        "SpikingJelly, bfloat16": step(theirs, half(lambda: their_logits(theirs, x)), labels),
        "ours, float32": step(fast, lambda: fast(x), labels),
        "ours, bfloat16": step(fast, half(lambda: fast(x)), labels),
    }
    seconds = medians(rows, args.repeats)
    show(report, "training", seconds)
    equal, best = (seconds[THEIRS] / seconds[name] for name in ("ours, float32", "ours, bfloat16"))
    report.claim("training, float32: times SpikingJelly's speed", round(equal, 2), "1.4", verdict(args, equal >= 1.4))
    report.claim("training, our fastest against its default", round(best, 2), "2.2", verdict(args, best >= 2.2))
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        mine, other = (pool.apply(peak_memory, (kind, args.batch)) for kind in ("ours", "theirs"))
    report.claim(
        "training, float32: peak memory over SpikingJelly's",
        f"{mine / other:.2f} ({mine:.0f} against {other:.0f} MiB)",
        "at most 1",
        verdict(args, mine <= other),
    )


def verdict(args: argparse.Namespace, met: bool) -> bool | None:
    """Return nothing for the short form."""
    return None if args.quick else met


def step(net: nn.Module, forward: Callable[[], Tensor], labels: Tensor) -> Callable[[], None]:
    """Return a training step."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def run() -> None:
        net.train()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(forward().float(), labels).backward()
        optimizer.step()

    return run


def peak_memory(kind: str, batch: int) -> float:
    """Return by how many MiB three training steps raise the peak of this process."""
    torch.set_num_threads(1)
    ours, theirs = networks()
    x, labels = torch.randn(batch, 3, SIZE, SIZE), torch.arange(batch) % CLASSES
    net = fast_copy(ours) if kind == "ours" else theirs
    run = step(net, (lambda: net(x)) if kind == "ours" else (lambda: their_logits(net, x)), labels)
    with resident_rise() as rise:
        for _ in range(3):
            run()
    return rise[0]


if __name__ == "__main__":
    main()
