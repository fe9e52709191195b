"""``spikesearch doctor``: what is wrong with a study, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikesearch.cli.output import (
    DeviceOption,
    Format,
    FormatOption,
    RunDirOption,
    StorageOption,
    emit,
    quiet_optuna,
)
from spikesearch.cli.study import NameArgument

if TYPE_CHECKING:
    from spikesearch.audit.finding import Finding


def doctor(
    name: NameArgument,
    storage: StorageOption = None,
    run_dir: RunDirOption = None,
    device: DeviceOption = "cpu",
    chosen: FormatOption = Format.table,
) -> None:
    """Look for what most often spoils a study and say what to do; findings are no error."""
    from spikesearch.audit.doctor import diagnose
    from spikesearch.study.session import open_trained

    quiet_optuna()
    findings = diagnose(open_trained(name, storage=storage, run_dir=run_dir, device=device))

    def table(findings: list[Finding]) -> None:
        for finding in findings:
            print(f"{finding.kind}: {finding.where}\n  {finding.found}\n  -> {finding.advice}")
        if not findings:
            print(
                f"Nothing found in study {name}: no dead or saturated layer, no drift of batch-norms, the largest "
                "network no worse than the smallest, no sample in two splits, no front at the borders of the space, no "
                "mixer that never pays."
            )

    emit(
        findings,
        chosen,
        table=table,
        value=lambda findings: (finding.kind for finding in findings),
        data=lambda findings: [finding.to_dict() for finding in findings],
    )
