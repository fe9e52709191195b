"""The regression model of the surrogate: a Gaussian process on the features of genomes, one per objective.

What it computes is what scikit-learn's ``GaussianProcessRegressor`` does with a sum of ``RBF`` and ``DotProduct``, and
the tests hold it against that. But that one evaluates and decomposes a kernel twice per fit, each time from the
features. Here the squared distances and products that all kernels are made of are computed once for all objectives and
all alternatives of a kernel, which makes a proposal several times cheaper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular


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
OFFSET = 0.1  # variance of the linear part's constant, in mean squared norms of the rows


@dataclass(frozen=True)
class Likeness:
    """How alike some points and the rows of a model are: all that a kernel needs to know.

    Attributes:
        products: Scalar products, in mean squared norms of the rows; shape ``[points, rows]``.
        distances: Squared distances, in mean squared distances between rows; shape ``[points, rows]``.
        norms: Squared norms of the points, in mean squared norms of the rows; shape ``[points]``.
    """

    products: np.ndarray
    distances: np.ndarray
    norms: np.ndarray

    def kernel(self, choice: KernelChoice) -> np.ndarray:
        """Return the prior covariances of the points with the rows, in units of the target's variance."""
        smooth = (1 - choice.linear) * np.exp(self.distances * (-0.5 / choice.length**2))
        return smooth + choice.linear * (OFFSET + self.products) if choice.linear else smooth

    def variance(self, choice: KernelChoice) -> np.ndarray:
        """Return the prior variances of the points."""
        return 1 - choice.linear + choice.linear * (OFFSET + self.norms)


class Rows:
    """What Gaussian processes are fitted to, without targets.

    Args:
        features: Shape ``[rows, features]``.

    Attributes:
        likeness: That of the rows with each other.
    """

    def __init__(self, features: np.ndarray) -> None:
        self._features = features
        self._norms = (features**2).sum(axis=1)
        self._size = float(self._norms.mean()) or 1.0
        self._spread = 2 * float(features.var(axis=0).sum()) or 1.0
        self.likeness = self.compare(features)

    def __len__(self) -> int:
        return len(self._features)

    def compare(self, features: np.ndarray) -> Likeness:
        """Return how alike points and the rows are.

        Args:
            features: Features of the points; shape ``[points, features]``.
        """
        norms = (features**2).sum(axis=1)
        products = features @ self._features.T
        distances = np.maximum(norms[:, None] + self._norms - 2 * products, 0.0)
        return Likeness(products / self._size, distances / self._spread, norms / self._size)


class GaussianProcess:
    """A Gaussian process with a kernel that is fixed before the fit, so that the same rows give the same model.

    Args:
        choice: The kernel.
    """

    def __init__(self, choice: KernelChoice) -> None:
        self.choice = choice

    def fit(self, rows: Rows, target: np.ndarray) -> GaussianProcess:
        """Fit to rows.

        Args:
            rows: The rows.
            target: Finite, and above 0 if the choice says ``logarithm``; shape ``[rows]``.
        """
        scaled = np.log(target) if self.choice.logarithm else target
        self._center = float(scaled.mean())
        self._scale = float(scaled.std()) or 1.0
        scaled = (scaled - self._center) / self._scale
        covariance = rows.likeness.kernel(self.choice)
        covariance[np.diag_indices(len(rows))] += self.choice.noise
        self._root = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        self._weights = cho_solve((self._root, True), scaled, check_finite=False)
        self.log_likelihood = float(
            -0.5 * scaled @ self._weights - np.log(self._root.diagonal()).sum() - 0.5 * len(rows) * np.log(2 * np.pi)
        )
        """Logarithm of the marginal likelihood of the standardised rows."""
        return self

    def predict(self, points: Likeness) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the target (without noise); shapes ``[points]``.

        Args:
            points: How alike the points and the rows are.
        """
        covariance = points.kernel(self.choice)
        mean = covariance @ self._weights * self._scale + self._center
        explained = solve_triangular(self._root, covariance.T, lower=True, overwrite_b=True, check_finite=False)
        variance = points.variance(self.choice) - np.einsum("ij,ij->j", explained, explained)
        std = np.sqrt(np.maximum(variance, 0.0)) * self._scale
        if not self.choice.logarithm:
            return mean, std
        # Moments of the log-normal distribution; the bound keeps a wild extrapolation finite.
        variance = np.minimum(std**2, 4.0)
        mean = np.exp(np.minimum(mean + variance / 2, 600.0))
        return mean, mean * np.sqrt(np.expm1(variance))


def choose_kernel(rows: Rows, target: np.ndarray) -> KernelChoice:
    """Choose a kernel for these rows by marginal likelihood, one property after the other.

    Args:
        rows: The rows.
        target: Finite; shape ``[rows]``.
    """
    best = KernelChoice()
    if target.max() <= target.min():
        return best
    best_likelihood = _likelihood(best, rows, target)
    for name, values in ALTERNATIVES:
        if name == "logarithm" and not (target.min() > 0 and target.max() > WORTH_A_LOGARITHM * target.min()):
            continue
        current = best
        for value in values:
            trial = replace(current, **{name: value})  # type: ignore[arg-type]
            likelihood = _likelihood(trial, rows, target)
            if likelihood > best_likelihood:
                best, best_likelihood = trial, likelihood
    return best


def _likelihood(choice: KernelChoice, rows: Rows, target: np.ndarray) -> float:
    """Log likelihood of the target itself, comparable between transformations of it."""
    model = GaussianProcess(choice).fit(rows, target)
    jacobian = -len(target) * np.log(model._scale) - (np.log(target).sum() if choice.logarithm else 0.0)
    return model.log_likelihood + float(jacobian)
