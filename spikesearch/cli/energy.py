"""``spikesearch energy``: what a network spends, under every convention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from spikesearch.cli.output import (
    DeviceOption,
    Format,
    FormatOption,
    RunDirOption,
    StorageOption,
    TrialOption,
    emit,
    print_table,
)
from spikesearch.cli.subnet import SplitChoice

if TYPE_CHECKING:
    from spikesearch.subnet.energy import Drift, MeasuredNetwork


def energy(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help="Name of a study, or module:factory of any torch network.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder or study file: what a module:factory is measured on; for a study, other recordings of its "
            "classes, to compare with."
        ),
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="45nm-fp32, 45nm-int8, loihi1, spinnaker2, or a YAML file.")
    ] = None,
    storage: StorageOption = None,
    trial: TrialOption = None,
    split: Annotated[SplitChoice, typer.Option(help="Which samples of a study.")] = SplitChoice.search,
    run_dir: RunDirOption = None,
    device: DeviceOption = "cpu",
    chosen: FormatOption = Format.table,
) -> None:
    """Measure a network on real samples and price what it does, under every convention."""
    from spikesearch.study.checks import check_device
    from spikesearch.study.session import open_trained
    from spikesearch.subnet.energy import module_energy, subnet_drift, subnet_energy

    if ":" in network:
        if data is None:
            raise typer.BadParameter("--data must say what a module:factory is measured on")
        check_device(device)
        _print_network(module_energy(network, data, hardware=hardware, device=device), chosen)
        return
    trained = open_trained(network, storage=storage, run_dir=run_dir, device=device)
    if data is None:
        _print_network(subnet_energy(trained, trial, split.value, hardware=hardware), chosen)
    else:
        _print_drift(subnet_drift(trained, trial, split.value, data, hardware=hardware), chosen)


def _print_network(measured: MeasuredNetwork, chosen: Format) -> None:
    def table(measured: MeasuredNetwork) -> None:
        print(f"{measured.name}: accuracy {measured.accuracy:.2%} on {measured.samples}")
        for report in measured.reports:
            print()
            print(report.table())

    emit(
        measured,
        chosen,
        table=table,
        value=lambda measured: (f"{report.convention} {report.total_uJ}" for report in measured.reports),
        data=lambda measured: measured.to_dict(),
    )


def _print_drift(drift: Drift, chosen: Format) -> None:
    def table(drift: Drift) -> None:
        own, other = drift.own, drift.other
        columns = ("", own.samples, other.samples)
        rates = [report.mean_firing_rate for report in (own.reports[0], other.reports[0])]
        rows: list[tuple[object, ...]] = [
            ("accuracy %", f"{100 * own.accuracy:.2f}", f"{100 * other.accuracy:.2f}"),
            ("mean firing rate", *(f"{rate:.4f}" for rate in rates)),
        ]
        for mine, theirs in zip(own.reports, other.reports, strict=True):
            rows.append((f"uJ, {mine.convention}", f"{mine.total_uJ:.4g}", f"{theirs.total_uJ:.4g}"))
            if mine.unpacked_uJ is not None and theirs.unpacked_uJ is not None:
                rows.append(
                    (f"uJ, {mine.convention}, unpacked", f"{mine.unpacked_uJ:.4g}", f"{theirs.unpacked_uJ:.4g}")
                )
        rows += [(f"rate into {name}", f"{mine:.4f}", f"{theirs:.4f}") for name, mine, theirs in drift.rates()]
        print_table(own.name, columns, rows)

    emit(
        drift,
        chosen,
        table=table,
        value=lambda drift: (
            f"{mine.convention} {mine.total_uJ} {theirs.total_uJ}"
            for mine, theirs in zip(drift.own.reports, drift.other.reports, strict=True)
        ),
        data=lambda drift: drift.to_dict(),
    )
