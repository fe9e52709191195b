"""Calling what the user knows: objectives and constraints that are functions of the parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from spikesearch.sampler.errors import SamplerError


def known_value(
    what: str, function: Callable[[dict[str, Any]], float], params: Mapping[str, Any], *, nan: bool = False
) -> float:
    """Call a known objective or constraint.

    Args:
        what: What it is, for messages, such as "constraint `size`".
        function: The function.
        params: Optuna parameters; the function gets a copy.
        nan: Whether NaN is a legal answer.

    Raises:
        SamplerError: If the function looks for a parameter that is absent, or does not return a number.

    Example:
        >>> known_value("constraint `size`", lambda params: params["n"] - 3, {"n": 5})
        2.0
    """
    try:
        value = function(dict(params))
    except KeyError as error:
        raise SamplerError(
            f"The known {what} must cope with parameters that are absent (a trial has only those that it asked for), "
            f"but got KeyError {error} for {dict(params)!r}. Use `params.get(name, default)`."
        ) from error
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise SamplerError(f"The known {what} must return a number, but got {value!r} for {dict(params)!r}.") from None
    if math.isnan(number) and not nan:
        raise SamplerError(f"The known {what} must return a number, but got NaN for {dict(params)!r}.")
    return number
