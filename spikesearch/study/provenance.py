"""Where a study's results come from, kept in the study itself and verified before it is continued.

A study mixes scores that were taken on different days, perhaps by different people. They are comparable only if the
space, the data, the supernet and the way of scoring are the same, so a change of any of them is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any, Literal

from spikesearch.config import StudyConfig
from spikesearch.errors import StudyError
from spikesearch.study.assembly import sampler_arguments
from spikesearch.study.attributes import (
    DIVERGED,
    RECIPE,
    SAMPLER,
    SCHEMA,
    STUDY_FILE,
    STUDY_ID,
    SUPERNET_HASH,
    VERSIONS,
)
from spikesearch.study.folder import new_study_id
from spikesearch.versions import package_versions

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
METRIC_NAMES = ("accuracy", "energy_uJ")

StudyKind = Literal["architecture", "recipe"]
"""What a study searches."""

# What may change from one run of a study to the next: names, places, budgets and how results are shown. Where the data
# lie and how much of them is kept in memory may change as well, and so may what happens to files that cannot be read:
# that the same samples are used, none more and none less, is verified by their fingerprint.
_FREE = {
    *("name", "storage", "report", "schema_version", "search.n_trials", "scoring.cache_mb"),
    *("train.checkpoint_every_epochs", "train.compile"),
    *("data.path", "data.cache", "data.memory_mb", "data.download", "data.skip_unreadable"),
}


def describe(config: StudyConfig) -> dict[str, Any]:
    """Return the user attributes of a new study."""
    return {
        STUDY_ID: new_study_id(),
        SCHEMA: SCHEMA_VERSION,
        STUDY_FILE: config.to_dict(),
        SAMPLER: {"name": "ESNNSampler", "arguments": sampler_arguments(config)},
        VERSIONS: package_versions(),
    }


def kind_of(study: optuna.Study) -> StudyKind | None:
    """Return what a study searches; ``None`` if it was not made by spikesearch, or is not complete yet."""
    attrs = study.user_attrs
    if RECIPE in attrs:
        return "recipe"
    return "architecture" if STUDY_FILE in attrs else None


def stored_config(study: optuna.Study) -> StudyConfig:
    """Return the study file that a study was made with, as it is stored in the study.

    Raises:
        StudyError: If the study was not made by spikesearch, or by a newer one.
    """
    attrs, kind = study.user_attrs, kind_of(study)
    if kind == "recipe":
        name = study.study_name
        raise StudyError(
            f"The study {name!r} is one of recipes, not of architectures: `study run` and `study show` take it, and "
            f"`subnet retrain STUDY --recipe-from {name}` uses its best recipe."
        )
    if kind is None:
        raise StudyError(
            f"The study {study.study_name!r} was not made by spikesearch; `spikesearch study list` tells which were."
        )
    schema = attrs.get(SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA_VERSION:
        raise StudyError(
            f"The study {study.study_name!r} has `{SCHEMA}` {schema!r}, newer than this spikesearch understands "
            f"({SCHEMA_VERSION}); upgrade spikesearch."
        )
    return StudyConfig.from_dict(attrs[STUDY_FILE], where=f"study {study.study_name!r}")


def verify_config(study: optuna.Study, config: StudyConfig) -> None:
    """Refuse to continue a study with settings that make its scores incomparable; warn of other package versions.

    Raises:
        StudyError: Naming the first key that differs.
    """
    if kind_of(study) is None:
        raise StudyError(f"The study {study.study_name!r} was not made by spikesearch; choose another --study-name.")
    stored = stored_config(study)
    changed = difference(stored.to_dict(), config.to_dict(), free={"train"} if has_diverged(study) else set())
    if changed is not None:
        key, old, new = changed
        raise StudyError(
            f"The study {study.study_name!r} was made with `{key}` {_show(old)}, but got {_show(new)}; its trials "
            "would not be comparable. Restore the key, or give --study-name to start another study."
        )
    verify_versions(study)


def has_diverged(study: optuna.Study) -> bool:
    """Tell whether the training of a study's supernet has diverged, so that there is nothing to be comparable with."""
    return DIVERGED in study.user_attrs and SUPERNET_HASH not in study.user_attrs


def verify_versions(study: optuna.Study) -> None:
    """Log a warning for every package whose version differs from the one that the study was made with."""
    stored = study.user_attrs.get(VERSIONS, {})
    for package, now in package_versions().items():
        before = stored.get(package, now)
        if before != now:
            _log.warning("The study %r was made with %s %s; this is %s.", study.study_name, package, before, now)


def difference(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Set[str] = frozenset()
) -> tuple[str, Any, Any] | None:
    """Return the first key, with both values, that differs and must not; keys are dotted.

    Args:
        old: A study file.
        new: Another.
        free: What may differ beside what always may.
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    for key in [*before, *(key for key in after if key not in before)]:
        if _is_free(key, _FREE | free):
            continue
        if before.get(key) != after.get(key):
            return key, before.get(key), after.get(key)
    return None


def set_once(study: optuna.Study, key: str, value: str, what: str) -> None:
    """Store a study attribute, or check that it holds this value.

    Args:
        study: A study that is locked by the caller.
        key: Name of the attribute.
        value: What it must be.
        what: What differs, and what to do about it, for the message.

    Raises:
        StudyError: If the study holds another value.
    """
    stored = study.user_attrs.get(key)
    if stored is None:
        study.set_user_attr(key, value)
    elif stored != value:
        raise StudyError(f"The study {study.study_name!r} was made with `{key}` {stored}, but got {value}: {what}")


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value if value != {} else None


def _is_free(key: str, free: Set[str]) -> bool:
    parts = key.split(".")
    return any(".".join(parts[: i + 1]) in free for i in range(len(parts)))


def _show(value: object) -> str:
    return "nothing" if value is None else repr(value)
