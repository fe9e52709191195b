"""The regression model of the surrogate: a Gaussian process on the features of genomes, one per objective."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Kernel


@dataclass(frozen=True)
class KernelChoice:
    """What is chosen by marginal likelihood, from a few values each.

    Attributes:
        logarithm: Whether the logarithm of the target is modelled: sums of genes' effects become products.
        linear: Share of the prior variance that is linear in the features, the rest is smooth.
        length: Length scale of the smooth part, in root mean square distances between rows.
        noise: Noise variance as a share of the target's variance.
    """

    logarithm: bool = False
    linear: float = 0.5
    length: float = 1.0
    noise: float = 1e-2


# In this order: each is settled before the next is tried, which costs a sum of fits instead of a product.
ALTERNATIVES: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("logarithm", (True,)),
    ("linear", (0.0, 0.9)),
    ("noise", (1e-4, 1e-1)),
    ("length", (0.5, 2.0)),
)
WORTH_A_LOGARITHM = 2.0  # how many times the smallest target the largest must be


class GaussianProcess:
    """A Gaussian process with a kernel that is fixed before the fit, so that the same rows give the same model.

    Args:
        choice: The kernel.
    """

    def __init__(self, choice: KernelChoice) -> None:
        self.choice = choice

    def fit(self, features: np.ndarray, target: np.ndarray) -> GaussianProcess:
        """Fit to rows.

        Args:
            features: Shape ``[rows, features]``.
            target: Finite, and above 0 if the choice says ``logarithm``; shape ``[rows]``.
        """
        scaled = np.log(target) if self.choice.logarithm else target
        self._center = float(scaled.mean())
        self._scale = float(scaled.std()) or 1.0
        self._process = GaussianProcessRegressor(
            _kernel(self.choice, features), alpha=self.choice.noise, optimizer=None, copy_X_train=False
        ).fit(features, (scaled - self._center) / self._scale)
        return self

    @property
    def log_likelihood(self) -> float:
        """Logarithm of the marginal likelihood of the standardised rows."""
        return float(self._process.log_marginal_likelihood_value_)

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the target (without noise); shapes ``[rows]``."""
        mean, std = self._process.predict(features, return_std=True)
        mean, std = mean * self._scale + self._center, std * self._scale
        if not self.choice.logarithm:
            return mean, std
        # Moments of the log-normal distribution; the bound keeps a wild extrapolation finite.
        variance = np.minimum(std**2, 4.0)
        mean = np.exp(np.minimum(mean + variance / 2, 600.0))
        return mean, mean * np.sqrt(np.expm1(variance))


def choose_kernel(features: np.ndarray, target: np.ndarray) -> KernelChoice:
    """Choose a kernel for these rows by marginal likelihood, one property after the other.

    Args:
        features: Shape ``[rows, features]``.
        target: Finite; shape ``[rows]``.
    """
    best = KernelChoice()
    if target.max() <= target.min():
        return best
    best_likelihood = _likelihood(best, features, target)
    for name, values in ALTERNATIVES:
        if name == "logarithm" and not (target.min() > 0 and target.max() > WORTH_A_LOGARITHM * target.min()):
            continue
        current = best
        for value in values:
            trial = replace(current, **{name: value})  # type: ignore[arg-type]
            likelihood = _likelihood(trial, features, target)
            if likelihood > best_likelihood:
                best, best_likelihood = trial, likelihood
    return best


def _likelihood(choice: KernelChoice, features: np.ndarray, target: np.ndarray) -> float:
    """Log likelihood of the target itself, comparable between transformations of it."""
    model = GaussianProcess(choice).fit(features, target)
    jacobian = -len(target) * np.log(model._scale) - (np.log(target).sum() if choice.logarithm else 0.0)
    return model.log_likelihood + float(jacobian)


def _kernel(choice: KernelChoice, features: np.ndarray) -> Kernel:
    distance = np.sqrt(2 * features.var(axis=0).sum()) or 1.0
    smooth = ConstantKernel(1 - choice.linear, "fixed") * RBF(choice.length * distance, "fixed")
    if not choice.linear:
        return smooth
    size = float((features**2).sum(axis=1).mean()) or 1.0
    return smooth + ConstantKernel(choice.linear / size, "fixed") * DotProduct(np.sqrt(0.1 * size), "fixed")
