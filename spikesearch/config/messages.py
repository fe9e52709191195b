"""What a wrong study file is answered with: one line that names the keys, what was expected and what was got."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from spikesearch.config.data import DataSection, NoNumber
from spikesearch.errors import nearest_name
from spikesearch.extensions import DATA_KINDS

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def explain(error: ValidationError, model: type[BaseModel], content: Mapping[str, object]) -> str:
    """Say in one line what a validation found: of every mistake the key, what was expected and what was got.

    Args:
        error: What pydantic raised.
        model: The model that was validated.
        content: What was validated.
    """
    errors = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    mistakes, meant = [], set()
    for item in errors:
        loc = item["loc"]
        if item["type"] == "extra_forbidden":
            known = _known_keys(model, content, loc[:-1])
            nearest = nearest_name(str(loc[-1]), known)
            meant |= {(*loc[:-1], nearest)} if nearest is not None else set()
            mistakes.append(_unknown_key(loc, known, nearest))
        elif item["type"] != "missing" or loc not in meant:  # what an unknown key is the misspelling of
            mistakes.append(_explain(item))
    mistakes = list(dict.fromkeys(mistakes))
    if len(mistakes) == 1:
        return mistakes[0]
    return f"{len(mistakes)} mistakes. " + " ".join(f"({i}) {mistake}" for i, mistake in enumerate(mistakes, 1))


def _unknown_key(loc: tuple[int | str, ...], known: list[str], nearest: str | None) -> str:
    where = f"`{_dotted(loc[:-1])}` has" if len(loc) > 1 else "there is"
    hint = f"did you mean {nearest!r}?" if nearest is not None else f"known keys are {', '.join(known)}"
    return f"{where} no key {str(loc[-1])!r}; {hint}"


def _explain(item: ErrorDetails) -> str:
    """Say what one error of a validation is, but for an unknown key."""
    loc, kind, got = item["loc"], item["type"], item["input"]
    key = _dotted(loc)
    if kind == "missing":
        return f"`{key}` is missing."
    if isinstance(got, NoNumber):
        place = got.reason.split("`")[1]
        section = key.removesuffix(place).rstrip(".")
        return f"{section}: {got.reason}" if section else got.reason
    if kind == "invalid_key" or loc[-1:] == ("[key]",):  # pydantic's word for the key of a free mapping
        parents = loc[: -2 if loc[-1] == "[key]" else -1]
        where = f"`{_dotted(parents)}` has" if parents else "there is"
        return f"{where} the key {got!r}, but a key must be text; put it in quotes, or remove it."
    if kind == "string_too_short":
        return f"`{key}` must not be empty."
    if kind == "value_error":
        message = str(item["ctx"]["error"])
        return (
            f"`{key}` {message}"
            if message.startswith(("must", "may", "is missing"))
            else f"{key}: {message}"
            if key
            else message
        )
    hint = " Write null for nothing." if isinstance(got, str) and got.lower() == "none" else ""
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return f"`{key}` must be a mapping of keys, but got {show(got)}.{hint}"
    if kind == "string_pattern_mismatch":
        return f"`{key}` must be letters, digits, dots, dashes and underscores, but got {show(got)}."
    if kind == "string_type" and isinstance(got, int | float):
        hint = " Put it in quotes to make it text."
    expected = re.split(", (?:unable|got|not) | after ", item["msg"].partition(" should ")[2])[0]
    return f"`{key}` must {expected.replace('tuple', 'list')}, but got {show(got)}.{hint}"


def _dotted(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _known_keys(model: type[BaseModel], content: Any, loc: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in loc:
        current = _model_of(current.model_fields[part].annotation) if _is_model(current) else None
        content = content[part]
        if current is DataSection:
            current = DATA_KINDS[content["kind"]].model
    return list(current.model_fields) if _is_model(current) else []


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _model_of(annotation: Any) -> Any:
    # `Model | None` stands for Model
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        models = [part for part in typing.get_args(annotation) if _is_model(part)]
        return models[0] if len(models) == 1 else annotation
    return annotation


def show(value: Any) -> str:
    """Return a value as it is shown in messages, cut to one line of reasonable length."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
