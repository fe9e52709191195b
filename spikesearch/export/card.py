"""The model card: what a network is, what it was trained and judged on, what it costs, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spikesearch.device.size import DeviceSize
from spikesearch.energy import EnergyReport
from spikesearch.nn import Spikformer, count_parameters
from spikesearch.space.residual import RESIDUALS
from spikesearch.tables import markdown_table


def model_card(
    net: Spikformer,
    usage: str,
    description: Mapping[str, Any],
    energies: Sequence[EnergyReport],
    *,
    language: str = "python",
) -> str:
    """Return the text of ``README.md``.

    Args:
        net: The network.
        usage: Code that loads ``FOLDER`` and runs it.
        description: Content of ``model.json``. Used where present: ``study``, ``trial``, ``weights``, ``class_names``,
            ``normalisation``, ``frames``, ``data``, ``accuracy``, ``test_accuracy``, ``int8``, ``device``,
            ``supernet_hash``, ``versions``, ``check``.
        energies: Reports on the same samples, one per convention.
        language: Of ``usage``; what is no Python takes raw samples.
    """
    title = description.get("study") or f"spikformer-{net.arch.key}"
    number = f", trial {description['trial']}" if description.get("trial") is not None else ""
    parts = [
        [f"# {title}{number}", "", _introduction(net, description)],
        ["## Use", "", f"```{language}", usage, "```", "", _input(net, description, raw=language != "python")],
        _architecture(net),
        _data(description),
        _accuracy(description),
        _device(description),
        *([_energy(energies)] if energies else []),
        _provenance(description),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _introduction(net: Spikformer, description: Mapping[str, Any]) -> str:
    arch = net.arch
    weights = f", weights {description['weights']}" if description.get("weights") else ""
    return (
        f"A Spikformer with {count_parameters(net):,} parameters: width {arch.embed_dim}, {arch.depth} "
        f"{'block' if arch.depth == 1 else 'blocks'}, {arch.time_steps} time steps{weights}."
    )


def _input(net: Spikformer, description: Mapping[str, Any], *, raw: bool) -> str:
    size = f"{net.in_channels}, {net.image_size}, {net.image_size}"
    frames = description.get("frames")
    if raw:
        what = (
            f"[{size}]`: raw 8-bit pixels"
            if frames is None
            else (
                f"[{net.arch.time_steps}, {size}]`: counts of events, the {frames} frames of a recording added up to "
                f"{net.arch.time_steps} and what is above 255 taken for 255"
            )
        )
        return f"A sample is unsigned bytes `{what}; logits are {net.num_classes} signed 32-bit integers."
    shape = f"[N, {size}]" if frames is None else f"[N, {frames}, {size}]"
    text = f"`images` is float32 `{shape}`"
    if normalisation := description.get("normalisation"):
        mean, std = (", ".join(f"{value:.6g}" for value in normalisation[key]) for key in ("mean", "std"))
        what = "8-bit pixels" if frames is None else "event counts"
        text += f", made from raw {what} as (raw - mean) / std with mean {mean} and std {std} per channel"
    return text + f"; `logits` is `[N, {net.num_classes}]`."


def _architecture(net: Spikformer) -> list[str]:
    arch = net.arch
    stages = ", ".join(str(stage) for stage in net.pool_stages) or "none"
    return [
        "## Architecture",
        "",
        *markdown_table(*arch.table()),
        "",
        f"Stem stages that end in a max-pooling: {stages}. Residual connections: {RESIDUALS[net.residual].title}. "
        f"Key: `{arch.key}`.",
    ]


def _data(description: Mapping[str, Any]) -> list[str]:
    data, classes = description.get("data"), description.get("class_names")
    lines = ["## Data", ""]
    if data:
        lines.append(f"{data['summary']}.")
        if data.get("splits"):
            rows = [(name, f"{count:,}", _SPLIT_USE.get(name, "")) for name, count in data["splits"].items()]
            lines += ["", *markdown_table(("split", "samples", "used for"), rows)]
    if classes:
        shown = [str(name) for name in classes[:20]]
        more = f" and {len(classes) - 20} more" if len(classes) > 20 else ""
        lines += ["", f"Classes, in the order of the logits: {', '.join(shown)}{more}."]
    return lines if len(lines) > 2 else []


def _accuracy(description: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, split, what in (
        ("test_accuracy", "test", "nothing was chosen on it"),
        ("accuracy", "search", "the architecture was chosen on it, so it flatters"),
    ):
        if description.get(name) is not None:
            rows.append((split, f"{description[name]:.2%}", what))
    if integers := description.get("int8"):
        rows.append((integers["split"], f"{integers['accuracy']:.2%}", "in integers; the others are of float32"))
    return ["## Accuracy", "", *markdown_table(("split", "accuracy", ""), rows)] if rows else []


def _device(description: Mapping[str, Any]) -> list[str]:
    size = description.get("device")
    return ["## On a device", "", *(f"- {line}" for line in DeviceSize(**size).lines())] if size else []


def _energy(energies: Sequence[EnergyReport]) -> list[str]:
    first = energies[0]
    once = any(e.first_layer_once_uJ is not None for e in energies)
    rows: list[tuple[str, ...]] = [
        (
            f"`{e.convention}`",
            f"{e.total_uJ:.4f}" + ("" if e.unpacked_uJ is None else f" to {e.unpacked_uJ:.4f}"),
            f"{e.macs:,.0f}",
            f"{e.acs:,.0f}",
            e.prices,
            *(["" if e.first_layer_once_uJ is None else f"{e.first_layer_once_uJ:.4f}"] if once else []),
        )
        for e in energies
    ]
    header: tuple[str, ...] = ("convention", "microjoules per sample", "MACs", "ACs", "prices")
    if once:
        header = (*header, "first layer counted once")
    lines = [
        "## Energy",
        "",
        f"Counted operations of one sample at the activity measured on {first.n_images:,} samples, times the prices of "
        f"`{first.hardware}`. Only the convention `memory` counts reads and writes, from packed ones to single ones.",
        "",
        *markdown_table(header, rows),
        "",
        *(f"- {line}" for line in first.comparison.lines()),
        *(f"- {e.convention}: not priced: {what}" for e in energies for what in e.unpriced),
    ]
    for report in energies:
        rows = [
            (
                f"`{layer.name}`",
                f"{layer.input_rate:.4f}",
                f"{layer.macs:,.0f}",
                f"{layer.acs:,.0f}",
                f"{layer.energy_uJ:.4f}",
            )
            for layer in report.layers
        ]
        header = ("layer", "input rate", "MACs", "ACs", "microjoules")
        lines += ["", f"### Convention `{report.convention}`, by layer", "", *markdown_table(header, rows)]
    return lines


def _provenance(description: Mapping[str, Any]) -> list[str]:
    rows = [
        ("study", description.get("study")),
        ("trial", description.get("trial")),
        ("weights", description.get("weights_hash")),
        ("supernet", description.get("supernet_hash")),
        ("data", (description.get("data") or {}).get("fingerprint")),
        ("versions", ", ".join(f"{name} {version}" for name, version in (description.get("versions") or {}).items())),
    ]
    if check := description.get("check"):
        rows.append(("check", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in check.items())))
    return ["## Provenance", "", *(f"- {name}: {value}" for name, value in rows if value not in (None, ""))]


_SPLIT_USE = {
    "train": "weights and batch-norm statistics",
    "search": "scores of the trials",
    "test": "the final number only",
}
