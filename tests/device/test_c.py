"""The C program against the integer reference: every layer, every logit, compiled with all warnings as errors."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from spikesearch import Architecture, BlockSpec, Spikformer
from spikesearch.device import Normalisation, Program, quantise
from spikesearch.device.build import build_layout
from spikesearch.device.c.project import FLAGS, check_project, identifier, write_project
from spikesearch.device.c.source import c_source
from spikesearch.device.size import STACK, device_size, layout_size
from spikesearch.errors import ExportError
from spikesearch.space import StageSpec, StemSpec
from tests.device.networks import CASES, Case, network, program

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
needs_make = pytest.mark.skipif(shutil.which("cc") is None or shutil.which("make") is None, reason="there is no make")
SANITISED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def outcome(folder: Path, flags: Sequence[str] = ("-O2",), compiler: str = "cc") -> str:
    """Compile the program with its test, run it, and return what it prints."""
    macro = next(line.split()[1][:-2] for line in (folder / "network.h").read_text().splitlines() if "#ifndef" in line)
    command = [compiler, *FLAGS.split(), *flags, f"-D{macro}_CHECK", "network.c", "main.c", "-o", "own_check"]
    subprocess.run(command, cwd=folder, check=True)
    return subprocess.run([folder / "own_check"], capture_output=True, text=True, check=False).stdout


@cache
def works(*flags: str) -> bool:
    """Whether the compiler can make programs with some flags, and they run."""
    command = ["cc", "-x", "c", "-", "-o", "/dev/null", *flags]
    source = '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n'
    with tempfile.TemporaryDirectory() as folder:  # some flags leave files
        ended = subprocess.run(command, input=source, text=True, cwd=folder, capture_output=True, check=False)
    return ended.returncode == 0


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_layer_and_logit_agrees(case: Case, tmp_path: Path) -> None:
    write_project(program(case), tmp_path, network(case)[1][:20], prefix="net")
    assert outcome(tmp_path) == "20 vectors, 0 differences\n"


@needs_compiler
@pytest.mark.parametrize("case", CASES[1::5], ids=str)
def test_sanitisers_find_nothing(case: Case, tmp_path: Path) -> None:
    if not works(*SANITISED):
        pytest.skip("the compiler has no sanitisers")
    write_project(program(case), tmp_path, network(case)[1][:4], prefix="net")
    assert outcome(tmp_path, SANITISED) == "4 vectors, 0 differences\n"


@needs_compiler
@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_32_bits_compute_the_same(case: Case, tmp_path: Path) -> None:
    if not works("-m32"):
        pytest.skip("there is no 32-bit libc")
    write_project(program(case), tmp_path, network(case)[1][:10], prefix="net")
    assert outcome(tmp_path, ["-m32", "-O3"]) == "10 vectors, 0 differences\n"


@needs_compiler
@pytest.mark.parametrize("case", CASES[3::7], ids=str)
def test_without_builtins_of_a_compiler(case: Case, tmp_path: Path) -> None:
    write_project(program(case), tmp_path, network(case)[1][:10], prefix="net")
    assert outcome(tmp_path, ["-DNET_PORTABLE"]) == "10 vectors, 0 differences\n"


@needs_compiler
@pytest.mark.parametrize("case", [case for case in CASES if case.stem == "sps" and not case.events], ids=str)
def test_32_bits_for_currents_and_saturation(case: Case, tmp_path: Path) -> None:
    """Arrays as they may be, not as a quantiser would choose them: thresholds that are hit, sums that overflow."""
    narrow = program(case)
    rng = np.random.default_rng(0)
    for wide in (False, True):
        form = narrow.layout.form
        layout = build_layout(
            narrow.layout.arch, form, image_size=9, pool_stages=tuple(narrow.model["pool_stages"]), wide=wide
        )
        arrays = dict(narrow.arrays)
        for name, array in arrays.items():
            if name.endswith(".threshold"):
                arrays[name] = array.astype(np.int32 if wide else np.int16)
            elif name.endswith(".bias") and f"{name[:-5]}.weight" in arrays and name != "head.bias":
                arrays[name] = rng.integers(-(2**17), 2**17, array.shape, dtype=np.int32)
            elif name.endswith(".bias") and name != "head.bias":
                arrays[name] = array.astype(np.int32 if wide else np.int16)
        loud = Program(layout, narrow.model, arrays, narrow.mean, narrow.std)
        ((_, trace),) = loud.traces(network(case)[1][:10])
        assert wide or trace.saturations
        write_project(loud, tmp_path, network(case)[1][:10], prefix="loud")
        assert outcome(tmp_path, SANITISED if works(*SANITISED) else ["-O2"]) == "10 vectors, 0 differences\n"


@cache
def trained_like_digits() -> tuple[Program, torch.Tensor]:
    """The shape of the study ``digits``, and all digits."""
    images = torch.from_numpy(load_digits().images).float()[:, None].mul(255 / 16).floor()
    mean, std = float(images.mean()), float(images.std())
    samples = (images - mean) / std
    blocks = tuple(BlockSpec(heads, 1.0, 1.0, 2.0, mixer) for mixer, heads in (("conv", 0), ("dwconv", 0), ("ssa", 2)))
    stages = (StageSpec(0.5, 2, 0.0, 0.0), StageSpec(1.0, 1, 1.0, 2.0))
    torch.manual_seed(0)
    net = Spikformer(
        Architecture(64, 1, StemSpec(1.0, 2.0, 16), blocks, stages),
        in_channels=1,
        image_size=8,
        num_classes=10,
        residual="normed",
        stem="conv",
        stem_stride=1,
    )
    with torch.no_grad():
        for batch in samples.split(256):
            net(batch)
    return quantise(net.eval(), samples[:256], normalisation=Normalisation([mean], [std])), samples


@needs_make
def test_a_thousand_digits(tmp_path: Path) -> None:
    integers, samples = trained_like_digits()
    write_project(integers, tmp_path, samples[:1000], prefix="digits")
    made = subprocess.run(["make", "check"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert made.stdout.endswith("1000 vectors, 0 differences\n")


@needs_make
def test_one_wrong_number_fails_the_check(tmp_path: Path) -> None:
    integers, samples = trained_like_digits()
    write_project(integers, tmp_path, samples[:5], prefix="digits")
    source = tmp_path / "network.c"
    text = source.read_text()
    place = text.index("stem.embed.bias, 16 */")
    start = text.index("{", place)
    source.write_text(text[:start] + "{\n    -4000 + " + text[start + 1 :].lstrip())
    made = subprocess.run(["make", "check"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode != 0
    assert "stem.embed currents differ" in made.stdout


@needs_compiler
@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_sizes_from_shapes_are_those_of_the_compiled_program(case: Case, tmp_path: Path) -> None:
    """Constants and memory are exact to the byte; the rest of the object is code."""
    if shutil.which("nm") is None:
        pytest.skip("there is no nm")
    integers = program(case)
    write_project(integers, tmp_path, network(case)[1][:1], prefix="net")
    compile_only = ["cc", *FLAGS.split(), "-Os", "-c", "network.c", "-o", "network.o"]
    subprocess.run(compile_only, cwd=tmp_path, check=True)
    listing = subprocess.run(["nm", "-S", "network.o"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    symbols = re.findall(r"^[0-9a-f]+ ([0-9a-f]+) (\w) (\w+)$", listing, flags=re.MULTILINE)
    constants = sum(int(size, 16) for size, kind, name in symbols if re.fullmatch(r"net_c\d+", name))
    memory = sum(int(size, 16) for size, kind, _ in symbols if kind in "bBdD")
    size = layout_size(integers.layout)
    assert (constants, memory) == (size.flash, size.ram)
    if not integers.layout.wide:
        assert device_size(case.arch, integers.model, static=not case.events) == size


@needs_compiler
@pytest.mark.parametrize("case", CASES[::6], ids=str)
def test_the_stack_is_small(case: Case, tmp_path: Path) -> None:
    """Even if every function that is left after inlining called the next."""
    if not works("-fstack-usage"):
        pytest.skip("the compiler does not tell")
    write_project(program(case), tmp_path, network(case)[1][:1], prefix="net")
    command = ["cc", *FLAGS.split(), "-Os", "-fstack-usage", "-c", "network.c", "-o", "network.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    usage = {}
    for line in (tmp_path / "network.su").read_text().splitlines():
        place, size, kind = line.split("\t")
        assert "dynamic" not in kind or "bounded" in kind
        usage[place.rpartition(":")[2]] = int(size)
    entry = [usage.get(f"net_{name}", 0) for name in ("classify", "run", "step")]
    operations = [size for name, size in usage.items() if re.fullmatch(r"net_op\d+", name)]
    kernels = sorted((size for name, size in usage.items() if f"net_{name}" not in entry), reverse=True)[:2]
    assert sum(entry) + max(operations, default=0) + sum(kernels) <= STACK


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_cplusplus_calls_the_program(tmp_path: Path) -> None:
    write_project(program(CASES[0]), tmp_path, network(CASES[0])[1][:1], prefix="net")
    (tmp_path / "own.cpp").write_text(
        '#include "network.h"\nstatic uint8_t x[NET_INPUT_BYTES];\nint main() { return net_classify(x) > 100; }\n'
    )
    for command in (["gcc", "-c", "network.c"], ["g++", "-Wall", "-Werror", "own.cpp", "network.o", "-o", "own"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run(["./own"], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("program_text", "message"),
    [("exit 3", "ended with status 3 before it said anything"), ("kill -9 $$", "ended with status -9 before it said")],
)
def test_a_check_that_dies_is_one_clear_sentence(
    program_text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, tools = tmp_path / "project", tmp_path / "tools"
    project.mkdir()
    tools.mkdir()
    write_project(program(CASES[0]), project, network(CASES[0])[1][:1], prefix="net")
    compiler = tools / "cc"  # "compiles" into a script
    compiler.write_text(
        f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n'
        f"printf '#!/bin/sh\\n%s\\n' '{program_text}' > \"$2\"; chmod +x \"$2\"\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    with pytest.raises(ExportError, match=message):
        check_project(project)


def test_the_text_depends_on_the_network_alone(tmp_path: Path) -> None:
    case = CASES[0]
    again = replace(program(case), facts={"another": 1})
    assert c_source(again, "net") == c_source(program(case), "net")
    text = c_source(again, "net").source
    assert "float" not in text
    assert "double" not in text
    assert re.findall(r"#include (\S+)", text) == ['"network.h"', "<string.h>"]
    assert not re.search(r"\b(malloc|calloc|free|printf)\b", text)
    functions = re.findall(r"^(?:static )?(?:void|int|u?int\d+_t) (\w+)\(", text, flags=re.MULTILINE)
    assert len(functions) > 10
    assert all(name.startswith("net_") for name in functions)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("digits_3", "digits_3"), ("My study-1", "my_study_1"), ("3", "net_3"), ("é!", "net_")],
)
def test_a_name_becomes_an_identifier(text: str, expected: str) -> None:
    assert identifier(text) == expected
