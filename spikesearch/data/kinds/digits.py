"""scikit-learn's handwritten digits: 1,797 real 8x8 grey images in 10 classes, part of scikit-learn itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from spikesearch.config.data import DataSection, Section
from spikesearch.data.kind import Kind, register
from spikesearch.streams import AFFINE

if TYPE_CHECKING:
    import numpy as np
    import torch

    from spikesearch.data.bundle import SampleStore, Source


class DigitsAugment(Section):
    """Small random affine maps, suited to 8x8 images.

    Args:
        shift: Largest shift in pixels, each way.
        rotate: Largest rotation in degrees, each way.
        scale: Largest relative change of size, each way.
    """

    shift: Annotated[float, Field(ge=0, le=4)] = 0.8
    rotate: Annotated[float, Field(ge=0, le=45)] = 10.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1


class DigitsData(DataSection):
    """scikit-learn's 1,797 handwritten digits, 8x8, grey. Needs no file and no download."""

    kind: Literal["digits"]
    augment: DigitsAugment | None = DigitsAugment()


@dataclass(frozen=True)
class AffineAugmenter:
    """Random shift, rotation and scaling by bilinear interpolation; outside the image is background (0)."""

    config: DigitsAugment

    def raw(self, store: SampleStore, positions: np.ndarray, key: tuple[int, ...]) -> torch.Tensor:
        """See :class:`spikesearch.data.bundle.Augmenter`."""
        import torch
        from torch.nn import functional

        from spikesearch.data.keyed import uniforms

        images = store.raw(positions).float()
        draws = uniforms(AFFINE.key(*key), positions, 4).float() * 2 - 1
        angle = draws[:, 0] * math.radians(self.config.rotate)
        zoom = 1 + draws[:, 1] * self.config.scale
        # affine_grid works in units of half an image
        shift = draws[:, 2:] * self.config.shift * 2 / images.shape[-1]
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        rows = [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
        grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, align_corners=False)

    def normalised(self, samples: torch.Tensor, positions: np.ndarray, key: tuple[int, ...]) -> torch.Tensor:
        """Return the samples as they are."""
        return samples


def load(config: DigitsData) -> Source:
    """Return all digits; raw values 0 to 16."""
    import numpy as np
    from sklearn.datasets import load_digits

    from spikesearch.data.bundle import ArrayStore, Source

    data = load_digits()
    images = data.images.astype(np.uint8)[:, None]
    settings = config.augment
    augment = None if settings is None else lambda _: AffineAugmenter(settings)
    names = tuple(str(name) for name in data.target_names)
    return Source(ArrayStore(images), data.target.astype(np.int64), names, augment=augment)


register(Kind("digits", DigitsData, "scikit-learn's 1,797 handwritten digits, 8x8", "nothing", load))
