"""What is lost by int8, and what the C program needs: bytes, microseconds here, instructions on a Cortex-M.

    python benchmarks/device.py --storage URL --studies digits digits-1 digits-2 --json FILE
    python benchmarks/device.py --quick

Of every study it takes the network that was retrained last, else the recommended one with inherited weights, and

- measures float32 and int8 on the test split, the second with the integer reference;
- compiles the C program and compares every layer and logit with that reference on up to 1,000 test samples;
- compares the sizes that are computed from shapes with those of the compiled program;
- times the C program against ONNX Runtime on the float network, both on one thread with single samples, in turns;
- counts instructions on QEMU's Cortex-M4 (Debian: gcc-arm-none-eabi, qemu-system-arm), if both are installed.

Studies whose names differ in a number at the end are seeds of one another: accuracy lost is their mean. Without
``--studies`` it runs the study ``digits``, in its short form with few epochs and trials.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from parts.device_programs import (
    CORTEX,
    MACHINE,
    PREFIX,
    compiled_sizes,
    cortex_instructions,
    has,
    host_program,
    interleaved,
    output,
)
from parts.harness import Report, parser, shown, study_file

from spikesearch.device import Program
from spikesearch.device.c.project import write_project
from spikesearch.export import export_network, load_network
from spikesearch.study import run_study
from spikesearch.study.session import Session, open_trained
from spikesearch.subnet.quantise import quantise_subnet

FLASH, RAM = 100_000, 64_000  # what the network of the digits may need
LOST = 0.2  # points
SPARSE = 0.25  # rate below which the C program shall be faster


def main() -> None:
    """Measure every study and print the claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--storage", help="URL of the studies; by default as for spikesearch")
    arguments.add_argument("--studies", nargs="+", metavar="NAME", default=[])
    args = arguments.parse_args()
    torch.set_num_threads(1)
    report = Report("device", args.quick)
    with tempfile.TemporaryDirectory(prefix="spikesearch-device-") as folder:
        root = Path(folder)
        names, storage = args.studies, args.storage
        if not names:
            names, storage = ["digits"], f"sqlite:///{root / 'spikesearch.db'}"
            run_study(own_study(quick=args.quick), storage=storage, progress=False)
        results = {name: measure(open_trained(name, storage=storage), root / name, args.quick) for name in names}
    claims(report, results)
    report.details = results
    report.write(args.json)


def own_study(*, quick: bool) -> Any:
    """Return the study that is run where none is named."""
    plain = study_file("digits", None, epochs=4 if quick else None).to_dict()
    if quick:
        plain["search"] |= {"n_trials": 4, "population_size": 2}
    return type(study_file("digits", None)).from_dict(plain)


def measure(session: Session, folder: Path, quick: bool) -> dict[str, Any]:
    """Return everything that is said of a study."""
    folder.mkdir(parents=True)
    retrained = sorted((session.folder / "retrained").glob("*/model.json"), key=lambda path: path.stat().st_mtime)
    network = retrained[-1].parent if retrained else None
    told = quantise_subnet(session, network=network, split="test", output=folder / "int8", progress=False)
    program, net = Program.load(told.folder), load_network(told.folder)
    test = session.data.test
    samples = test.images(range(min(len(test), 50 if quick else 1000)))
    c = folder / "c"
    c.mkdir()
    write_project(program, c, samples, prefix=PREFIX)
    differences = int(output(["make", "-s", "check"], c).split()[-2])
    result: dict[str, Any] = {
        **told.to_dict(),
        "folder": None if network is None else network.name,
        "architecture": net.arch.describe(),
        "samples": len(samples),
        "differences": differences,
        "compiled": {"host": compiled_sizes(c)},
    }
    exported = export_network(net, folder / "onnx", "onnx", samples=samples[:64])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    runtime = onnxruntime.InferenceSession(exported / "model.onnx", options, providers=["CPUExecutionProvider"])
    call, raw, number = host_program(c, program), program.raw(samples), iter(range(10**9))

    def c_program() -> object:
        return call(raw[next(number) % len(raw)])

    single = [sample[None].numpy() for sample in samples]

    def float_network() -> object:
        return runtime.run(None, {"images": single[next(number) % len(single)]})

    result["latency_us"] = interleaved({"c": c_program, "onnxruntime": float_network}, 20 if quick else 1000)
    if has(CORTEX[0], "arm-none-eabi-size"):
        result["compiled"]["cortex-m4"] = compiled_sizes(c, CORTEX)
        if has(MACHINE[0]):
            instructions, wrong = cortex_instructions(c, program.layout.form.num_classes)
            result["cortex-m4"] = {"instructions": instructions, "wrong_logits": wrong}
    return result


def claims(report: Report, results: dict[str, dict[str, Any]]) -> None:
    """State what was measured, study by study, and the means over seeds."""
    groups: dict[str, list[str]] = {}
    for name in results:
        groups.setdefault(re.sub(r"[-_]?\d+$", "", name), []).append(name)
    for group, names in groups.items():
        lost = 100 * np.array(
            [results[name]["float"]["accuracy"] - results[name]["int8"]["accuracy"] for name in names]
        )
        report.claim(
            f"{group}: test accuracy lost by int8, points", shown(lost), f"at most {LOST}", float(lost.mean()) <= LOST
        )
    for name, row in results.items():
        size, compiled = row["int8"]["size"], row["compiled"]["host"]
        report.claim(
            f"{name}: differences between C and reference, every layer of {row['samples']} samples",
            row["differences"],
            "0",
            row["differences"] == 0,
        )
        own = name.startswith("digits")
        report.claim(
            f"{name}: bytes of flash (constants) / RAM",
            f"{size['flash']:,} / {size['ram']:,}",
            f"under {FLASH:,} / {RAM:,}" if own else "",
            size["flash"] < FLASH and size["ram"] < RAM if own else None,
        )
        off = max(abs(compiled["constants"] / size["flash"] - 1), abs(compiled["ram"] / size["ram"] - 1))
        report.claim(f"{name}: computed sizes against compiled ones, off by", f"{off:.2%}", "within 2 %", off <= 0.02)
        for machine, sizes in row["compiled"].items():
            report.claim(f"{name}: bytes of code, {machine}", f"{sizes['code']:,}")
        latency, rate = row["latency_us"], row["int8"]["mean_firing_rate"]
        sparse = rate < SPARSE
        report.claim(
            f"{name}: microseconds per sample, C / ONNX Runtime float, one thread, rate {rate:.3f}",
            f"{latency['c']:.1f} / {latency['onnxruntime']:.1f}",
            f"faster at rates below {SPARSE}" if sparse else "",
            latency["c"] < latency["onnxruntime"] if sparse else None,
        )
        if "cortex-m4" in row:
            report.claim(f"{name}: instructions per sample on a Cortex-M4", f"{row['cortex-m4']['instructions']:,}")
            wrong = row["cortex-m4"]["wrong_logits"]
            report.claim(f"{name}: logits that differ there", wrong, "0", wrong == 0)


if __name__ == "__main__":
    main()
