"""An integer network: the operations of a layout, with integers for weights, scales, thresholds and leaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from spikesearch.device.build import build_layout
from spikesearch.device.layout import LARGEST, Layout
from spikesearch.device.reference import Array, Reference, Trace
from spikesearch.errors import CheckpointError, DataError, ExportError
from spikesearch.io import atomic_write_bytes, atomic_write_json, read_described, user_path
from spikesearch.nn.units import HEAD, Form, frame_bounds
from spikesearch.space.architecture import Architecture
from spikesearch.space.residual import RESIDUALS

if TYPE_CHECKING:
    from torch import Tensor

    Samples = Tensor | ArrayLike

FORMAT, FORMAT_VERSION = "spikesearch-program", 1
TENSORS, DESCRIPTION = "program.safetensors", "program.json"
BATCH = 64

LIMIT, WIDE_LIMIT = 2**15 - 1, 2**24 - 1  # of currents and potentials in 16 and in 32 bits
LARGEST_SUM = 2**31 - 1
LARGEST_CURRENT = 2**30  # what is added to a stream must not leave 32 bits
LARGEST_MULTIPLIER = 2**15 - 1
LARGEST_SHIFT = 47  # a product has fewer than 47 bits
LEAK_SHIFT = 14  # of a time constant that is no power of two


@dataclass
class Program:
    """A quantised network. Its numbers are what :class:`~spikesearch.device.reference.Reference` computes.

    Args:
        layout: The operations.
        model: Keyword arguments of the network that it was made of, beside the architecture, in plain JSON types.
        arrays: Integers, by name: ``<layer>.weight`` (int8, ``[outputs, inputs]``, of a convolution
            ``[outputs, inputs, height, width]``), ``<layer>.multiplier`` (int16), ``<layer>.shift`` (uint8) and
            ``<layer>.bias`` (int32) per output; ``<neurons>.threshold`` and ``<neurons>.bias`` per channel, or a single
            threshold; ``<neurons>.leak`` (int32: multiplier and shift); ``input.zero`` (uint8 per channel).
        mean: Of every input channel: a sample is ``(byte - mean) / std``.
        std: Of every input channel.
        logit: What one unit of a logit is worth.
        facts: What else is known, in plain JSON types.

    Raises:
        ExportError: If an array is missing or of another shape or type, or sums could leave 32 bits.
    """

    layout: Layout
    model: Mapping[str, Any]
    arrays: dict[str, Array]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    logit: float = 1.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = dict(array_shapes(self.layout))
        for name, (shape, dtype) in expected.items():
            array = self.arrays.get(name)
            if array is None or array.shape != shape or array.dtype != dtype:
                got = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise ExportError(f"`arrays` must hold {name!r} as {dtype} {list(shape)}, but got {got}.")
        unknown = sorted(self.arrays.keys() - expected.keys())
        if unknown:
            raise ExportError(f"`arrays` must hold what the network has, but {unknown[0]!r} is no part of it.")
        self._prove()

    @property
    def limit(self) -> int:
        """The largest current or potential; the smallest is ``-limit - 1``."""
        return WIDE_LIMIT if self.layout.wide else LIMIT

    @cached_property
    def sum_bounds(self) -> dict[str, int]:
        """The largest absolute value that a sum of a layer can have, whatever enters."""
        largest = {layer.name: self.layout.largest(layer.source) for layer in self.layout.layers}
        largest[HEAD] = self.layout.head.largest
        return {name: int(self._weight_sums(name).max()) * value for name, value in largest.items()}

    def _weight_sums(self, name: str) -> NDArray[np.int64]:
        weight = self.arrays[f"{name}.weight"].astype(np.int64)
        sums: NDArray[np.int64] = np.abs(weight).reshape(len(weight), -1).sum(1)
        return sums

    def _prove(self) -> None:
        """Make sure that no sum, product or current of a layer can leave its range, and no count a byte."""
        if not RESIDUALS[self.layout.form.residual].currents and self.layout.largest_count > LARGEST:
            raise ExportError(
                f"The stream may count {self.layout.largest_count} spikes, more than a byte holds; use fewer blocks."
            )
        for name, bound in self.sum_bounds.items():
            multiplier, shift, bias = (
                self.arrays[f"{name}.{part}"].astype(np.int64) for part in ("multiplier", "shift", "bias")
            )
            if bound > LARGEST_SUM or int(multiplier.min()) < 0 or int(shift.max()) > LARGEST_SHIFT:
                raise ExportError(f"Sums of `{name}` may reach {bound}, more than 32 bits hold; use fewer channels.")
            currents = ((bound * multiplier) >> shift) + 1 + np.abs(bias)
            if int(currents.max()) > LARGEST_CURRENT:
                raise ExportError(
                    f"Currents of `{name}` may reach {int(currents.max())}, more than {LARGEST_CURRENT}; a threshold "
                    "is very small against its weights. Train the network on, or choose another trial."
                )

    # --- running ------------------------------------------------------------------------------------------------------

    def run(self, samples: Samples) -> NDArray[np.int32]:
        """Return logits ``[N, classes]`` in units of :attr:`logit`.

        Args:
            samples: What the network takes: normalised images ``[N, C, H, W]`` or event frames ``[N, F, C, H, W]``; or
                raw ones, as unsigned bytes.

        Raises:
            DataError: If they have another shape.
        """
        return np.concatenate([logits for logits, _ in self.traces(samples)])

    def traces(
        self, samples: Samples, *, currents: bool = False, spikes: bool = False
    ) -> Iterator[tuple[NDArray[np.int32], Trace]]:
        """Yield logits and what the layers did, batch by batch.

        Args:
            samples: See :meth:`run`.
            currents: Whether to keep the currents of every layer.
            spikes: Whether to keep the spikes of all neurons.
        """
        raw = self.raw(samples)
        reference = Reference(self, keep_currents=currents, keep_spikes=spikes)
        for start in range(0, len(raw), BATCH):
            yield reference.run(raw[start : start + BATCH])

    def raw(self, samples: Samples) -> NDArray[np.uint8]:
        """Return samples as the program takes them: unsigned bytes ``[N, steps, C, H, W]``, one step of an image.

        Counts of adjacent event frames are added up where there are more frames than time steps. What does not fit
        into a byte saturates.

        Args:
            samples: See :meth:`run`.
        """
        x = np.asarray(samples)
        layout = self.layout
        size = (layout.form.in_channels, layout.image_size, layout.image_size)
        dims = 4 if layout.static else 5
        if x.ndim != dims or x.shape[-3:] != size or not len(x):
            shape = ", ".join(str(value) for value in size)
            frames = "" if layout.static else "frames, "
            raise DataError(f"`samples` must have the shape [N, {frames}{shape}], but got {list(x.shape)}.")
        if x.dtype != np.uint8:
            mean, std = (np.asarray(value, np.float64)[:, None, None] for value in (self.mean, self.std))
            x = np.rint(x.astype(np.float64) * std + mean)
        if layout.static:
            x = x[:, None]
        elif x.shape[1] < layout.arch.time_steps:
            raise DataError(
                f"`samples` must have at least {layout.arch.time_steps} frames, as many as there are time steps, but "
                f"got {x.shape[1]}."
            )
        else:
            x = merge_frames(x.astype(np.float64), layout.arch.time_steps)
        raw: NDArray[np.uint8] = np.clip(x, 0, LARGEST).astype(np.uint8)
        return raw

    # --- files --------------------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        """Return the content of ``program.json``: everything but the arrays, in plain JSON types."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "architecture": self.layout.arch.to_dict(),
            "model": dict(self.model),
            "static": self.layout.static,
            "wide": self.layout.wide,
            "mean": list(self.mean),
            "std": list(self.std),
            "logit": self.logit,
            "facts": dict(self.facts),
        }

    def save(self, folder: str | Path) -> None:
        """Write ``program.safetensors`` and ``program.json`` into an existing folder."""
        path = user_path(folder, "The folder")
        atomic_write_bytes(path / TENSORS, self.tensors())
        atomic_write_json(path / DESCRIPTION, self.description())

    def tensors(self) -> bytes:
        """Return the content of ``program.safetensors``."""
        return save({name: np.ascontiguousarray(array) for name, array in sorted(self.arrays.items())})

    @classmethod
    def load(cls, folder: str | Path) -> Program:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: If a file is missing, corrupt, of a newer version or of something else.
        """
        path = user_path(folder, "The folder", CheckpointError)
        about = read_described(
            path / DESCRIPTION,
            "a program",
            (FORMAT, FORMAT_VERSION),
            remedy="quantise the network again.",
            missing=f"{path} holds no {DESCRIPTION}; `spikesearch subnet quantise` writes one.",
        )
        try:
            arrays = load((path / TENSORS).read_bytes())
        except OSError as error:
            raise CheckpointError(
                f"Cannot read {path / TENSORS}: {error.strerror}; quantise the network again."
            ) from None
        except SafetensorError as error:
            raise CheckpointError(f"{path / TENSORS} is corrupt ({error}); quantise the network again.") from None
        try:
            layout = model_layout(
                Architecture.from_dict(about["architecture"]),
                about["model"],
                static=about["static"],
                wide=about["wide"],
            )
            numbers = (tuple(map(float, about["mean"])), tuple(map(float, about["std"])), float(about["logit"]))
            return cls(layout, about["model"], arrays, *numbers, about["facts"])
        except (KeyError, TypeError, ValueError) as error:  # ours are among them
            raise CheckpointError(f"{path} holds no whole program: {error} Quantise the network again.") from None


def merge_frames(x: NDArray[np.float64], time_steps: int) -> NDArray[np.float64]:
    """Add up adjacent frames ``[N, F, ...]`` down to as many as there are time steps; none is dropped."""
    bounds = pairwise(frame_bounds(x.shape[1], time_steps))
    return np.stack([x[:, start:end].sum(1) for start, end in bounds], 1)


def model_layout(arch: Architecture, model: Mapping[str, Any], *, static: bool = True, wide: bool = False) -> Layout:
    """Return the layout of a network from its settings.

    Args:
        arch: The architecture.
        model: Keyword arguments of :class:`~spikesearch.Spikformer`.
        static: Whether samples are images; else event frames.
        wide: See :func:`~spikesearch.device.build.build_layout`.
    """
    form = Form(
        model["in_channels"],
        model["num_classes"],
        model["residual"],
        model.get("stem", "sps"),
        model.get("stem_stride", 1),
    )
    return build_layout(
        arch,
        form,
        image_size=model["image_size"],
        pool_stages=tuple(model["pool_stages"]),
        static=static,
        wide=wide,
    )


def array_shapes(layout: Layout) -> Iterator[tuple[str, tuple[tuple[int, ...], np.dtype[Any]]]]:
    """Yield names, shapes and types of the arrays that a network has."""
    value = np.dtype(np.int32 if layout.wide else np.int16)
    yield "input.zero", ((layout.form.in_channels,), np.dtype(np.uint8))
    weights = [(layer.name, layer.weight_shape) for layer in layout.layers]
    for name, shape in [*weights, (HEAD, (layout.head.outputs, layout.head.inputs))]:
        yield f"{name}.weight", (shape, np.dtype(np.int8))
        yield f"{name}.multiplier", (shape[:1], np.dtype(np.int16))
        yield f"{name}.shift", (shape[:1], np.dtype(np.uint8))
        yield f"{name}.bias", (shape[:1], np.dtype(np.int32))
    for neurons in layout.neurons:
        yield f"{neurons.name}.threshold", ((neurons.channels if neurons.own else 1,), value)
        if neurons.biased:
            yield f"{neurons.name}.bias", ((neurons.channels,), value)
        if neurons.potential is not None:
            yield f"{neurons.name}.leak", ((2,), np.dtype(np.int32))
