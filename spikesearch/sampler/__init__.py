"""Optuna samplers for spiking architectures, and the strategies that they are made of.

Nothing here imports torch, nor any code of a study: it works on any Optuna study.
"""

from __future__ import annotations

from spikesearch.sampler.crossover import BlockCrossover, Crossover, UniformCrossover
from spikesearch.sampler.design import InitialDesign, SpaceFillingDesign
from spikesearch.sampler.duplicates import DuplicateHandling, UnseenOnly
from spikesearch.sampler.errors import SamplerError, SpaceExhaustedError
from spikesearch.sampler.esnn import ESNNSampler
from spikesearch.sampler.mutation import ArchitectureMutation, GeneMutation, Mutation
from spikesearch.sampler.selection import CrowdingSelection, FAEBSelection, Selection
from spikesearch.sampler.surrogate import GaussianProcessSurrogate, Situation, Surrogate

__all__ = [
    "ArchitectureMutation",
    "BlockCrossover",
    "Crossover",
    "CrowdingSelection",
    "DuplicateHandling",
    "ESNNSampler",
    "FAEBSelection",
    "GaussianProcessSurrogate",
    "GeneMutation",
    "InitialDesign",
    "Mutation",
    "SamplerError",
    "Selection",
    "Situation",
    "SpaceExhaustedError",
    "SpaceFillingDesign",
    "Surrogate",
    "UniformCrossover",
    "UnseenOnly",
]
