"""Spikes and sums of spikes in as few bits as they need, without loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """A float32 tensor of small whole numbers, kept in main memory; anything else is kept as it is.

    Args:
        planes: Bit planes, lowest first, eight values per byte, uint8 ``[planes, ceil(n / 8)]``; none if all are 0.
        raw: The values themselves where they are not whole numbers from 0 to 255.
        shape: Of the tensor.
    """

    planes: np.ndarray
    raw: np.ndarray | None
    shape: torch.Size

    @property
    def nbytes(self) -> int:
        """Memory of the values."""
        return int(self.planes.nbytes + (0 if self.raw is None else self.raw.nbytes))

    @property
    def largest(self) -> int:
        """A bound of the values."""
        return 2 ** len(self.planes) - 1

    def bytes(self) -> np.ndarray:
        """Return the whole numbers, uint8, flat."""
        count = self.shape.numel()
        if not len(self.planes):
            return np.zeros(count, np.uint8)
        result: np.ndarray = np.unpackbits(self.planes[0], count=count)
        for power, plane in enumerate(self.planes[1:], start=1):
            bits = np.unpackbits(plane, count=count)
            result |= np.left_shift(bits, power, out=bits)
        return result


def pack(x: Tensor) -> Packed:
    """Pack a tensor; :func:`unpack_sum` of it alone gives the same tensor, contiguous.

    Args:
        x: float32, any shape, any device.
    """
    values = x.detach().cpu().contiguous().view(-1).numpy()
    with np.errstate(invalid="ignore"):  # values that no byte can hold
        small = values.astype(np.uint8)
    if x.dtype != torch.float32 or not np.array_equal(small, values) or _has_negative_zero(values, small):
        return Packed(np.empty((0, 0), np.uint8), values.copy(), x.shape)
    width = int(small.max(initial=0)).bit_length()
    if width == 1:
        return Packed(np.packbits(small)[None], None, x.shape)
    planes = [np.packbits(small & np.uint8(1 << power)) for power in range(width)]  # packbits asks for non-zero
    return Packed(np.stack(planes) if planes else np.empty((0, 0), np.uint8), None, x.shape)


def unpack_sum(parts: Sequence[Packed], device: torch.device | str = "cpu") -> Tensor:
    """Return the sum of packed tensors of one shape, added from the first to the last, bit for bit as float32.

    Args:
        parts: At least one.
        device: Where the result is wanted.
    """
    # Fresh memory of torch: products may differ in the last bit where memory is aligned otherwise.
    total = torch.empty(parts[0].shape)
    flat = total.view(-1).numpy()
    if all(part.raw is None for part in parts) and sum(part.largest for part in parts) <= 255:
        small = parts[0].bytes()
        for part in parts[1:]:
            small += part.bytes()
        flat[:] = small
    else:
        flat[:] = _values(parts[0])
        for part in parts[1:]:
            flat += _values(part)
    return total.to(device)


def _values(part: Packed) -> np.ndarray:
    return part.bytes() if part.raw is None else part.raw


def _has_negative_zero(values: np.ndarray, small: np.ndarray) -> bool:
    # equal to 0, but another bit pattern; the only whole number from 0 to 255 that has two
    return bool(np.signbit(values).any()) if not small.all() else False
