"""Random images in the form of a data set: what scoring costs does not depend on what they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from spikesearch.data.bundle import DataBundle


class Noise:
    """Random images, in the form of a :class:`spikesearch.data.Split`."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % 10
        self._images = torch.randn(count, 3, size, size, generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        return self._images[torch.as_tensor(np.asarray(indices))]

    def augmented(self, indices: Sequence[int] | np.ndarray | torch.Tensor, key: tuple[int, ...]) -> torch.Tensor:
        return self.images(indices)

    def batches(self, size: int) -> Iterator[tuple[range, torch.Tensor, torch.Tensor]]:
        for start in range(0, len(self), size):
            positions = range(start, min(start + size, len(self)))
            yield positions, self.images(positions), self.labels[start : positions.stop]


def noise_bundle(*, search: int, calibration: int, size: int) -> DataBundle:
    """Return colour images of 10 classes.

    Args:
        search: Images of the search split.
        calibration: Images of the training split.
        size: Height and width, in pixels.
    """
    return DataBundle(
        train=Noise(calibration, size, 0),
        search=Noise(search, size, 1),
        test=Noise(1, size, 2),
        num_classes=10,
        in_channels=3,
        image_size=size,
        frames=None,
        class_names=tuple("0123456789"),
        fingerprint="noise",
    )
