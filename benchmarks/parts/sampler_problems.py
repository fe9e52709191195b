"""The problems on which `sampler.py` compares samplers: tables of trained networks, toys and test functions.

A problem asks an Optuna trial for its parameters and returns its objective values; `share` turns what a run has seen
into a number that is 1 for everything there is to find.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from parts.harness import data_folder

from spikesearch.fitness import hypervolume
from spikesearch.space import Architecture, SearchSpace

Values = tuple[float, float]
Direction = Literal["minimize", "maximize"]
MACRO_FILE = "nas-bench-macro/nas-bench-macro_cifar10.json"
DIGITS_TABLE = Path(__file__).parents[1] / "results" / "digits_table.json"


class Problem(ABC):
    """One problem with two objectives.

    Attributes:
        name: Its name in the tables.
        directions: As Optuna wants them.
        space: The search space, for those samplers that can use one; None for most problems.
        known_objectives: Objectives that can be computed from the parameters, for the rows with known cost.
    """

    name: str
    directions: Sequence[Direction] = ("minimize", "minimize")
    space: SearchSpace | None = None
    known_objectives: Mapping[int, Callable[[dict[str, Any]], float]] = {}
    reference: tuple[float, float] = (1.0, 1.0)
    maximum: float = 1.0

    @abstractmethod
    def __call__(self, trial: optuna.trial.BaseTrial) -> Values:
        """Ask for the parameters and return the objective values."""

    def losses(self, values: np.ndarray) -> np.ndarray:
        """Return normalised losses, to be minimised within the reference point; shapes [n, 2]."""
        return values

    def share(self, values: Sequence[Values]) -> float:
        """Return the hypervolume of what was seen as a share of the largest possible one."""
        return hypervolume(self.losses(np.array(values, dtype=float)), self.reference) / self.maximum


class Table(Problem):
    """Every value of a finite problem: error against cost, normalised as the docstring of `sampler.py` says."""

    def __init__(self, errors: np.ndarray, costs: np.ndarray) -> None:
        self._best, self._largest = float(errors.min()), float(costs.max())
        self.maximum = hypervolume(self.losses(np.stack([errors, costs], axis=1)), self.reference)

    def losses(self, values: np.ndarray) -> np.ndarray:
        error = np.clip((values[:, 0] - self._best) / 0.30, 0.0, 1.0)
        return np.stack([error, values[:, 1] / self._largest], axis=1)


class MacroTable(Table):
    """NAS-Bench-Macro: 3 choices in each of 8 layers, 6,561 convolutional networks trained on CIFAR-10 (Su et al.,
    2021).

    Args:
        cost: `flops` or `params`.
    """

    def __init__(self, cost: str = "flops") -> None:
        self.name = f"NAS-Bench-Macro ({cost})"
        rows = json.loads((data_folder() / MACRO_FILE).read_text())
        self._rows = {key: (1 - row["mean_acc"] / 100, float(row[cost])) for key, row in rows.items()}
        self.known_objectives = {1: lambda params: self._rows["".join(params[f"layer{i}"] for i in range(8))][1]}
        super().__init__(*np.array(list(self._rows.values())).T)

    def __call__(self, trial: optuna.trial.BaseTrial) -> Values:
        return self._rows["".join(trial.suggest_categorical(f"layer{i}", ("0", "1", "2")) for i in range(8))]


class DigitsTable(Table):
    """Spiking networks of a small space on real digits, scored with inherited weights: accuracy against energy.

    Args:
        path: A JSON file: `space` (choices), `rows` of `{params, accuracy, energy}`.
        use_space: Whether samplers may know the space.
    """

    directions: Sequence[Direction] = ("maximize", "minimize")

    def __init__(self, path: Path = DIGITS_TABLE, *, use_space: bool = True) -> None:
        self.name = "digits" if use_space else "digits, space not told"
        content = json.loads(path.read_text())
        rows = content["rows"]
        self._space = SearchSpace.from_dict(content["space"])
        self.space = self._space if use_space else None
        self._rows = {
            self._space.architecture(row["params"]).key: (float(row["accuracy"]), float(row["energy"])) for row in rows
        }
        accuracy, energy = np.array(list(self._rows.values())).T
        super().__init__(1 - accuracy, energy)
        self.known_objectives = {1: lambda params: self._rows[self._space.architecture(params).key][1]}

    def __call__(self, trial: optuna.trial.BaseTrial) -> Values:
        key = self._space.suggest(trial).key
        if key not in self._rows:
            raise optuna.TrialPruned  # the table may be a sample of the space
        return self._rows[key]

    def share(self, values: Sequence[Values]) -> float:
        array = np.array(values, dtype=float)
        return super().share(np.stack([1 - array[:, 0], array[:, 1]], axis=1))  # type: ignore[arg-type]


class RuggedTable(Table):
    """A made-up table whose genes interact (an NK landscape, Kauffman 1989): 10 genes of 4 choices, cost
    multiplicative.

    Args:
        seed: Which landscape.
        interactions: With how many other genes each gene interacts.
    """

    def __init__(self, seed: int = 0, interactions: int = 1) -> None:
        self.name = f"rugged table {seed}"
        rng = np.random.default_rng([seed, 77])
        self._partners = [
            [g, *rng.choice(np.delete(np.arange(10), g), interactions, False).tolist()] for g in range(10)
        ]
        self._tables = rng.random((10, *[4] * (interactions + 1)))
        self._weights = rng.dirichlet(np.ones(10))
        self._costs = np.cumsum(rng.random((10, 4)), axis=1) / 4 * rng.random((10, 1)) * 1.5
        genes = np.stack(np.unravel_index(np.arange(4**10), (4,) * 10), axis=1)
        super().__init__(*self._values(genes).T)
        self.known_objectives = {1: lambda params: float(self._values(_row(params))[0, 1])}

    def _values(self, genes: np.ndarray) -> np.ndarray:
        cost = np.exp(sum(self._costs[g][genes[:, g]] for g in range(10)))
        quality = sum(
            self._weights[g] * self._tables[(g, *(genes[:, p] for p in partners))]
            for g, partners in enumerate(self._partners)
        )
        error = 0.05 + 0.45 * (1 - quality) - 0.06 * np.log(cost)
        return np.stack([error, cost], axis=1)

    def __call__(self, trial: optuna.trial.BaseTrial) -> Values:
        params = {f"gene{g}": trial.suggest_categorical(f"gene{g}", ("a", "b", "c", "d")) for g in range(10)}
        error, cost = self._values(_row(params))[0]
        return float(error), float(cost)


def _row(params: Mapping[str, Any]) -> np.ndarray:
    return np.array([["abcd".index(params[f"gene{g}"]) for g in range(10)]])


class ConditionalToy(Problem):
    """A made-up spiking transformer of 4 to 12 blocks with four genes each, 21 to 53 parameters of which 21 always
    exist.

    Accuracy grows with capacity and saturates, every block has a time constant and a threshold that suit its place, and
    neighbouring blocks like similar thresholds. Energy adds up over blocks and is multiplied by time steps and
    activity.

    Args:
        use_space: Whether samplers may know the space.
    """

    directions: Sequence[Direction] = ("maximize", "minimize")
    reference = (1.0, 1.0)

    def __init__(self, *, use_space: bool = True) -> None:
        self.name = "conditional toy" if use_space else "conditional toy, space not told"
        self._space = SearchSpace(
            embed_dims=(192, 256, 320, 384),
            depths=tuple(range(4, 13)),
            num_heads=(4, 8, 16),
            mlp_ratios=(1, 2, 3, 4),
            v_thresholds=(0.5, 0.75, 1.0, 1.25, 1.5),
            taus=(1.25, 1.5, 2.0, 3.0, 4.0),
            time_steps=(1, 2, 4, 6),
        )
        self.space = self._space if use_space else None
        self._largest = self.energy(self._space.largest)
        self.known_objectives = {1: lambda params: self.energy(self._space.architecture(params))}

    def energy(self, arch: Architecture) -> float:
        """Return the made-up energy of an architecture."""
        blocks = sum((4 + 2 * b.mlp_ratio) * (0.25 / b.v_threshold + 0.05 * b.tau) for b in arch.blocks)
        return arch.embed_dim**2 * arch.time_steps * (blocks + 4.0) / 1e6

    def accuracy(self, arch: Architecture) -> float:
        """Return the made-up accuracy of an architecture."""
        fit = []
        before = arch.stem.v_threshold
        for i, block in enumerate(arch.blocks):
            wish = 1.5 + 1.5 * math.sin(1.3 * i) ** 2
            heads = 1.0 if block.num_heads == (4, 8, 16)[(i // 2) % 3] else 0.8
            similar = math.exp(-abs(block.v_threshold - before))
            fit.append(heads * math.exp(-((math.log(block.tau / wish)) ** 2)) * (0.6 + 0.4 * similar))
            before = block.v_threshold
        capacity = sum(f * (1 + b.mlp_ratio / 4) for f, b in zip(fit, arch.blocks, strict=True))
        capacity *= (arch.embed_dim / 384) ** 0.5 * (1 - 0.5 ** (arch.time_steps**0.7))
        return 1 - math.exp(-0.25 * capacity)

    def __call__(self, trial: optuna.trial.BaseTrial) -> Values:
        arch = self._space.suggest(trial)
        return self.accuracy(arch), self.energy(arch)

    def losses(self, values: np.ndarray) -> np.ndarray:
        return np.stack([1 - values[:, 0], values[:, 1] / self._largest], axis=1)


class MixedZDT(Problem):
    """ZDT1 (Zitzler, Deb & Thiele, 2000) with every other variable on a grid of 11 integers; 12 variables."""

    name = "ZDT1, mixed integer"
    reference = (1.1, 6.0)

    def __init__(self) -> None:
        first = np.linspace(0, 1, 2001)
        self.maximum = hypervolume(np.stack([first, 1 - np.sqrt(first)], axis=1), self.reference)

    def __call__(self, trial: optuna.trial.BaseTrial) -> Values:
        x = [trial.suggest_float("x0", 0, 1)]
        for i in range(1, 12):
            x.append(trial.suggest_int(f"x{i}", 0, 10) / 10 if i % 2 else trial.suggest_float(f"x{i}", 0, 1))
        g = 1 + 9 * sum(x[1:]) / 11
        return x[0], g * (1 - math.sqrt(x[0] / g))


class MixedQuadratics(Problem):
    """Two functions with different optima in the manner of BBOB-biobj-mixint (Tusar et al., 2019).

    A rotated ellipsoid and a shifted Rastrigin function of 10 variables: 2 binary, 3 with 8 values, 1 on a logarithmic
    scale, 4 continuous. Values enter through their logarithm; the largest hypervolume is not known, so 1 stands for the
    reference box.

    Args:
        seed: Which instance.
    """

    reference = (6.0, 6.0)
    maximum = 36.0

    def __init__(self, seed: int = 0) -> None:
        self.name = f"mixed-integer ellipsoid and Rastrigin {seed}"
        rng = np.random.default_rng([seed, 99])
        self._rotation = np.linalg.qr(rng.normal(size=(10, 10)))[0]
        self._optima = rng.uniform(-3, 3, size=(2, 10))

    def __call__(self, trial: optuna.trial.BaseTrial) -> Values:
        x = [4.0 * trial.suggest_int(f"binary{i}", 0, 1) - 2 for i in range(2)]
        x += [trial.suggest_int(f"integer{i}", 0, 7) * 10 / 7 - 5 for i in range(3)]
        x += [2 * math.log10(trial.suggest_float("scale", 1e-2, 1e2, log=True))]
        x += [trial.suggest_float(f"real{i}", -5, 5) for i in range(4)]
        first = self._rotation @ (np.array(x) - self._optima[0])
        second = np.array(x) - self._optima[1]
        ellipsoid = float(np.sum(10 ** np.linspace(0, 2, 10) * first**2))
        rastrigin = float(np.sum(second**2 - 10 * np.cos(2 * np.pi * second) + 10))
        return math.log10(1 + ellipsoid), math.log10(1 + rastrigin)
