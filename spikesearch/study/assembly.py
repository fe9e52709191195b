"""What a study file stands for, built: its data, its supernet before and after training, its sampler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from spikesearch.config import StudyConfig
    from spikesearch.data import DataBundle
    from spikesearch.device.limits import DeviceLimits
    from spikesearch.nn import Supernet
    from spikesearch.sampler import ESNNSampler


def load_data_of(config: StudyConfig, *, download: bool = False) -> DataBundle:
    """Read the data of a study file; ``download`` as for :func:`spikesearch.data.load_data`."""
    from spikesearch.data import load_data

    return load_data(config.data, seed=config.seed, download=download)


def new_supernet(config: StudyConfig, data: DataBundle) -> Supernet:
    """Build the untrained supernet of a study file.

    Raises:
        SpikesearchError: If no network of the space fits the images.
    """
    from spikesearch.nn import Supernet

    stages = config.model.pool_stages
    return Supernet(
        config.space.search_space(),
        in_channels=data.in_channels,
        image_size=data.image_size,
        num_classes=data.num_classes,
        pool_stages=None if stages is None else tuple(stages),
        residual=config.model.residual,
        stem=config.model.stem,
        stem_stride=config.model.stem_stride,
    )


def train_supernet_of(
    config: StudyConfig, data: DataBundle, run_dir: Path, device: str | torch.device, *, progress: bool
) -> Supernet:
    """Train the supernet of a study file; see :func:`spikesearch.train.train_supernet`."""
    from spikesearch.energy import energy_model
    from spikesearch.train import train_supernet

    return train_supernet(
        new_supernet(config, data),
        data,
        config.train,
        seed=config.seed,
        run_dir=run_dir,
        energy_model=energy_model(config.scoring),
        device=device,
        progress=progress,
    )


def sampler_arguments(config: StudyConfig) -> dict[str, Any]:
    """Return the keyword arguments of the study's ESNNSampler, without the space."""
    search = config.search
    return {
        "population_size": search.population_size,
        "crossover_prob": search.crossover_prob,
        "mutation_prob": search.mutation_prob,
        "surrogate": search.surrogate,
        "seed": config.seed,
    }


def make_sampler(config: StudyConfig, limits: DeviceLimits | None = None) -> ESNNSampler:
    """Return the sampler that a study file asks for.

    Args:
        config: The study file.
        limits: Of the device; the sampler proposes nothing beyond them.
    """
    from spikesearch.sampler import ESNNSampler

    known = None if limits is None else limits.known_constraints()
    return ESNNSampler(config.space.search_space(), **sampler_arguments(config), known_constraints=known)


def device_limits(config: StudyConfig, supernet: Supernet) -> DeviceLimits:
    """Return the limits of the device that a study is for.

    Args:
        config: The study file.
        supernet: Its supernet, trained or not.
    """
    from spikesearch.device.limits import DeviceLimits, plan_of

    return DeviceLimits(config, plan_of(supernet, static=getattr(config.data, "frames", None) is None))
