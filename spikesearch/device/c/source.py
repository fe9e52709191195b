"""The C99 program of an integer network: a header and a source file, the same text for the same network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from numpy.typing import NDArray

from spikesearch.device.c.checks import check_names
from spikesearch.device.layout import (
    INPUT,
    SUMS,
    Attention,
    Buffer,
    Count,
    Fire,
    Mask,
    Neurons,
    Operation,
    Pool,
    Shortcut,
    Sum,
    Tile,
    WeightLayer,
)
from spikesearch.device.program import Program
from spikesearch.device.size import constants, layout_size, plan_arena, scratch_name
from spikesearch.nn.units import HEAD

HEADER, SOURCE = "network.h", "network.c"
_NUMBERS_PER_LINE = 20


@dataclass(frozen=True)
class CSource:
    """Text of the program.

    Args:
        header: Of ``network.h``.
        source: Of ``network.c``.
        checks: Names of what has a checksum, in their order: currents of layers, spikes of neurons, the head.
    """

    header: str
    source: str
    checks: tuple[str, ...]


def c_source(program: Program, prefix: str) -> CSource:
    """Return the program.

    Args:
        program: The integer network.
        prefix: How all names begin; a C identifier in small letters.
    """
    writer = _Writer(program, prefix)
    return CSource(writer.header(), writer.source(), tuple(writer.checks))


@cache
def _kernels() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the text of every kernel, and the names of those that it calls."""
    text = files(__package__).joinpath("kernels.c").read_text(encoding="utf-8")
    parts = re.split(r"^/\* kernel (\w+): ", text, flags=re.MULTILINE)[1:]
    found = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        about, _, code = body.partition(" */\n")
        what, _, needs = about.partition("; needs ")
        found[name] = (f"/* {what} */\n{code.strip()}\n", tuple(needs.split()))
    return found


class _Writer:
    """Writes functions for operations, and arrays."""

    def __init__(self, program: Program, prefix: str) -> None:
        self.program = program
        self.layout = program.layout
        self.prefix = prefix
        self.upper = prefix.upper()
        self.checks = check_names(self.layout)
        self.arena = plan_arena(self.layout)
        self.size = layout_size(self.layout)
        self.used: set[str] = set()
        self.arrays = {name: f"{prefix}_c{i}" for i, (name, _) in enumerate(constants(self.layout))}
        self.current = "int32_t" if self.layout.wide else "int16_t"
        self.steps = self.layout.arch.time_steps

    # --- the header -----------------------------------------------------------------------------------------------

    def header(self) -> str:
        """Return ``network.h``."""
        u, p, layout = self.upper, self.prefix, self.layout
        frames = "one image" if layout.static else f"{self.steps} event frames, counts saturate at 255"
        form, side = layout.form, layout.image_size
        stream = (
            f"""
/* The same frame by frame: begin, then step with each of the {self.steps} frames, then finish. */
void {p}_begin(void);
void {p}_step(const uint8_t *frame);
void {p}_finish(int32_t logits[{u}_CLASSES]);
"""
            if not layout.static
            else ""
        )
        return f"""/* A spiking network in integers. Written by spikesearch; see README.md. */
#ifndef {u}_H
#define {u}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {u}_CLASSES {form.num_classes}
#define {u}_TIME_STEPS {self.steps}
#define {u}_INPUT_BYTES {self.size.input} /* {frames}: [{form.in_channels}][{side}][{side}] unsigned bytes */
#define {u}_FLASH_BYTES {self.size.flash} /* constants, beside the code */
#define {u}_RAM_BYTES {self.size.ram} /* the arena; nothing else is static */
#define {u}_CHECKS {len(self.checks)}

/* Computes the logits of a sample. It is not re-entrant: all calls share the arena. */
void {p}_run(const uint8_t input[{u}_INPUT_BYTES], int32_t logits[{u}_CLASSES]);

/* Returns the class with the largest logit. */
int {p}_classify(const uint8_t input[{u}_INPUT_BYTES]);
{stream}
#ifdef {u}_CHECK
extern uint32_t {p}_checks[{u}_CHECKS]; /* checksums of what every layer did in the last run */
#endif

#ifdef __cplusplus
}}
#endif

#endif
"""

    # --- the source -----------------------------------------------------------------------------------------------

    def source(self) -> str:
        """Return ``network.c``."""
        operations = [self._function(i, op) for i, op in enumerate(self.layout.operations)]
        main = self._main()
        arrays = [self._constant(name) for name in self.arrays]
        kernels = [text for name, (text, _) in _kernels().items() if name in self._closure()]
        parts = [
            f'#include "{HEADER}"\n\n#include <string.h>\n',
            self._memory(),
            *arrays,
            *(self._filled(text) for text in kernels),
            *operations,
            main,
        ]
        return "\n".join(parts)

    def _closure(self) -> set[str]:
        wanted, known = list(self.used), set[str]()
        while wanted:
            name = wanted.pop()
            if name not in known:
                known.add(name)
                wanted += _kernels()[name][1]
        return known

    def _filled(self, text: str) -> str:
        values = {
            "P": self.prefix,
            "p": self.prefix,
            "U": self.upper,
            "LIMIT": str(self.program.limit),
            "CURRENT": self.current,
            "PRODUCT": "int64_t" if self.layout.wide else "int32_t",
            "STATE": "int16_t" if any(b.width == 2 for b in self._states()) else "int32_t",
            "STEPS": str(self.steps),
            "CHECKS": f"{self.upper}_CHECKS",
        }
        return re.sub(r"@(\w+)@", lambda match: values[match[1]], text)

    def _states(self) -> Iterable[Buffer]:
        return (self.layout.buffers[op.state] for op in self.layout.step if isinstance(op, Attention) and op.state)

    def _memory(self) -> str:
        words = self.arena.nbytes // 4
        lines = [
            "/* All memory of the network: buffers that are not needed at the same time share their place. */",
            f"static union {{\n    uint32_t u32[{words}];\n    int32_t i32[{words}];\n    int16_t i16[{2 * words}];\n"
            f"    uint8_t u8[{4 * words}];\n}} {self.prefix}_arena;",
        ]
        for i, (name, offset) in enumerate(self.arena.offsets.items()):
            kind = self._type(name)
            lines.append(
                f"#define {self._place(i)} ({self.prefix}_arena.{kind} + {offset // _SIZES[kind]}) /* {name} */"
            )
        return "\n".join(lines) + "\n"

    def _type(self, name: str) -> str:
        buffer = self.layout.buffers.get(name)
        if buffer is None or buffer.kind == "sums":
            return "i32"
        own = "i16" if buffer.width == 2 else "i32"
        return {"bits": "u32", "counts": "u8", "currents": own, "potentials": own}[buffer.kind]

    def _place(self, position: int) -> str:
        return f"{self.upper}_B{position}"

    def _buffer(self, name: str | None) -> str:
        return "0" if name is None else self._place(list(self.arena.offsets).index(name))

    def _constant(self, name: str) -> str:
        array = self.program.arrays[name]
        if name.endswith(".weight"):
            array = device_order(name, array)
        kind = f"{'u' if array.dtype.kind == 'u' else ''}int{8 * array.dtype.itemsize}_t"
        numbers = [str(value) for value in array.ravel().tolist()]
        lines = [
            ", ".join(numbers[start : start + _NUMBERS_PER_LINE]) for start in range(0, len(numbers), _NUMBERS_PER_LINE)
        ]
        text = ",\n    ".join(lines)
        shape = " x ".join(map(str, array.shape))
        return f"/* {name}, {shape} */\nstatic const {kind} {self.arrays[name]}[{array.size}] = {{\n    {text}}};\n"

    def _call(self, kernel: str, *arguments: object) -> str:
        self.used.add(kernel)
        return f"{self.prefix}_{kernel}({', '.join(map(str, arguments))});"

    def _check(self, name: str) -> int:
        return self.checks.index(name)

    # --- operations -----------------------------------------------------------------------------------------------

    def _function(self, i: int, operation: Operation) -> str:
        frame = "const uint8_t *frame" if operation.source == INPUT else "void"
        name = getattr(operation, "name", None) or operation.target
        body = "\n".join(f"    {line}" if line else "" for line in self._body(operation))
        return f"/* {name} */\nstatic void {self.prefix}_op{i}({frame})\n{{\n{body}\n}}\n"

    def _body(self, operation: Operation) -> Iterator[str]:
        source, target = (self.layout.buffers[name] for name in (operation.source, operation.target))
        a = "" if operation.source == INPUT else self._buffer(source.name)
        b = self._buffer(target.name)
        match operation:
            case WeightLayer():
                yield from self._layer(operation, source, target)
            case Fire():
                neurons = operation.neurons
                own = [self.arrays.get(f"{neurons.name}.{part}", "0") for part in ("threshold", "bias")]
                threshold = 0 if neurons.own else self._number(neurons, "threshold", 0)
                state = self._buffer(neurons.potential)
                numbers = (own[0], threshold, own[1], *self._leak(neurons), self._check(f"{neurons.name} spikes"))
                yield self._call("fire_currents", a, b, state, source.positions, source.channels, *numbers)
            case Pool():
                kind = "pool_bits" if target.kind == "bits" else "pool_currents"
                yield self._call(kind, a, b, operation.side, source.words if target.kind == "bits" else source.channels)
            case Tile():
                if source.kind == "bits":
                    words = source.words
                    yield self._call("tile_bits", a, b, source.positions, words, source.channels, target.channels)
                else:
                    yield self._call("tile_currents", a, b, source.positions, source.channels, target.channels)
            case Shortcut():
                yield self._call(f"shortcut_{target.kind}", a, b, operation.side, source.channels, target.channels)
            case Count():
                yield self._call("count", a, b, source.positions, source.channels)
            case Attention():
                channels = target.channels // operation.heads
                state, product = self._buffer(operation.state), self._buffer(scratch_name(operation))
                shape = (target.positions, operation.heads, channels, self._check(f"{operation.name} spikes"))
                yield self._call("attend", a, b, state, product, *shape)
            case Mask():
                channels = target.channels // operation.heads
                check = self._check(f"{operation.name} spikes")
                yield self._call("mask", a, b, target.positions, operation.heads, channels, check)
            case Sum():
                yield self._call(f"sum_{source.kind}", a, b, source.positions, source.channels)
            case _:
                raise TypeError(f"There is no operation {type(operation).__name__}.")

    def _layer(self, layer: WeightLayer, source: Buffer, target: Buffer) -> Iterator[str]:
        sums = self._buffer(scratch_name(layer))
        clear = f"memset({sums}, 0, {layer.outputs} * sizeof *{sums});"
        if not layer.conv:
            yield "int at;"
            yield f"for (at = 0; at < {layer.positions}; at++) {{"
            yield f"    {clear}"
            yield f"    {self._gather(layer, source, sums, 'at', '')}"
            yield from (f"    {line}" for line in self._sink(layer, target, sums))
            yield "}"
            return
        side_out, pad, tap = round(layer.positions**0.5), layer.size // 2, layer.weight_shape[1] * layer.outputs
        yield "int y, x, dy, dx, at = 0;"
        yield f"for (y = {-pad}; y < {(side_out - 1) * layer.stride - pad + 1}; y += {layer.stride})"
        yield f"    for (x = {-pad}; x < {(side_out - 1) * layer.stride - pad + 1}; x += {layer.stride}, at++) {{"
        yield f"        {clear}"
        yield f"        for (dy = y < 0 ? -y : 0; dy < {layer.size} && y + dy < {layer.side}; dy++)"
        yield f"            for (dx = x < 0 ? -x : 0; dx < {layer.size} && x + dx < {layer.side}; dx++)"
        at, offset = f"((y + dy) * {layer.side} + x + dx)", f" + (dy * {layer.size} + dx) * {tap}"
        yield f"                {self._gather(layer, source, sums, at, offset)}"
        yield from (f"        {line}" for line in self._sink(layer, target, sums))
        yield "    }"

    def _gather(self, layer: WeightLayer, source: Buffer, sums: str, at: str, offset: str) -> str:
        weight = f"{self.arrays[f'{layer.name}.weight']}{offset}"
        own = "_own" if layer.depthwise else ""
        if source.kind == "pixels":
            zero = self.arrays["input.zero"]
            plane = self.layout.image_size**2
            return self._call("add_pixels", sums, f"frame + {at}", zero, weight, layer.inputs, layer.outputs, plane)
        place = f"{self._buffer(source.name)} + {at} * {source.words if source.kind == 'bits' else source.channels}"
        if source.kind == "bits":
            shape = (source.groups, source.channels // source.groups, layer.outputs)
            return self._call(f"add_bits{own}", sums, place, weight, *shape)
        return self._call(f"add_counts{own}", sums, place, weight, layer.inputs, layer.outputs)

    def _sink(self, layer: WeightLayer, target: Buffer, sums: str) -> Iterator[str]:
        arrays = (self.arrays[f"{layer.name}.{part}"] for part in ("multiplier", "shift", "bias"))
        yield self._call("scaled", sums, *arrays, layer.outputs, self._check(f"{layer.name} currents"))
        place, neurons = self._buffer(target.name), layer.neurons
        if neurons is None:
            kernel = "add" if layer.into else "store"
            yield self._call(kernel, sums, f"{place} + at * {target.channels}", target.channels)
            return
        state = "0" if neurons.potential is None else f"{self._buffer(neurons.potential)} + at * {layer.outputs}"
        yield self._call(
            "fire_sums",
            sums,
            f"{place} + at * {target.words}",
            state,
            target.groups,
            target.channels // target.groups,
            self._number(neurons, "threshold", 0),
            *self._leak(neurons),
            self._check(f"{neurons.name} spikes"),
        )

    def _number(self, neurons: Neurons, part: str, position: int) -> int:
        return int(self.program.arrays[f"{neurons.name}.{part}"][position])

    def _leak(self, neurons: Neurons) -> tuple[int, int]:
        if neurons.potential is None:
            return 0, 0
        return self._number(neurons, "leak", 0), self._number(neurons, "leak", 1)

    # --- the end --------------------------------------------------------------------------------------------------

    def _main(self) -> str:
        p, u, layout, head = self.prefix, self.upper, self.layout, self.layout.head
        names = {name: self.arrays[f"{HEAD}.{name}"] for name in ("weight", "multiplier", "shift", "bias")}
        fresh = [
            f"    memset({self._buffer(b.name)}, 0, {b.nbytes});"
            for b in layout.buffers.values()
            if b.kept and b.kind in ("potentials", "sums")
        ]
        numbers = [(op, i) for i, op in enumerate(layout.operations)]
        calls = {
            "once": [self._op(op, i) for op, i in numbers[: len(layout.once)]],
            "step": [self._op(op, i) for op, i in numbers[len(layout.once) :]],
        }
        scaled = self._call(
            "scaled",
            "logits",
            names["multiplier"],
            names["shift"],
            names["bias"],
            head.outputs,
            self._check(f"{HEAD} currents"),
        )
        own = "static " if layout.static else ""
        frame = any("(frame)" in call for call in calls["step"])
        step = "\n".join(calls["step"] if frame else ["    (void)frame;", *calls["step"]])
        size = self.size.input // (1 if layout.static else self.steps)
        loop = (
            f"    {p}_begin();\n"
            + "\n".join(call.replace("(frame)", "(input)") for call in calls["once"])
            + ("\n" if calls["once"] else "")
            + f"    for (t = 0; t < {u}_TIME_STEPS; t++)\n        {p}_step(input"
            + ("" if layout.static else f" + (long)t * {size}")
            + ");\n"
        )
        return f"""{own}void {p}_begin(void)
{{
#ifdef {u}_CHECK
    memset({p}_checks, 0, sizeof {p}_checks);
#endif
{chr(10).join(fresh)}
}}

{own}void {p}_step(const uint8_t *frame)
{{
{step}
}}

{own}void {p}_finish(int32_t logits[{u}_CLASSES])
{{
    const int8_t *weight = {names["weight"]};
    int i, k;
    for (k = 0; k < {head.outputs}; k++) {{
        logits[k] = 0;
        for (i = 0; i < {head.inputs}; i++)
            logits[k] += *weight++ * {self._buffer(SUMS)}[i];
    }}
    {scaled}
}}

void {p}_run(const uint8_t input[{u}_INPUT_BYTES], int32_t logits[{u}_CLASSES])
{{
    int t;
{loop}    {p}_finish(logits);
}}

int {p}_classify(const uint8_t input[{u}_INPUT_BYTES])
{{
    int32_t logits[{u}_CLASSES];
    int k, best = 0;
    {p}_run(input, logits);
    for (k = 1; k < {u}_CLASSES; k++)
        if (logits[k] > logits[best])
            best = k;
    return best;
}}
"""

    def _op(self, operation: Operation, i: int) -> str:
        return f"    {self.prefix}_op{i}({'frame' if operation.source == INPUT else ''});"


_SIZES = {"u32": 4, "i32": 4, "i16": 2, "u8": 1}


def device_order(name: str, weight: NDArray[Any]) -> NDArray[Any]:
    """Return a weight as the C program holds it.

    That is ``[height, width, inputs, outputs]`` of a convolution, ``[inputs, outputs]`` of a linear layer, so that what
    an input adds to all outputs lies together; the head stays ``[outputs, inputs]``.
    """
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    return weight if name == f"{HEAD}.weight" else weight.T
