"""What the user means by ``study run X``: a study, a path or a shipped study file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from spikesearch.config import StudyConfig, find_study_file, load_study_file, shipped_study_files
from spikesearch.errors import ConfigError, ConfigNotFoundError, StudyError, StudyNotFoundError, did_you_mean
from spikesearch.io import user_path
from spikesearch.study import provenance
from spikesearch.study.store import Store, check_name, find_study, store_of, store_with

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage


@dataclass(frozen=True)
class Target:
    """A study to work on, as it was found; whoever has one need not look again.

    Args:
        name: Its name.
        store: Its storage.
        study: The study, without its sampler; ``None`` if it is still to be made.
        file: The study file that the user gave; ``None`` if the study was named.
    """

    name: str
    store: Store
    study: optuna.Study | None
    file: StudyConfig | None = None

    @property
    def kind(self) -> provenance.StudyKind:
        """What the study searches; a study file makes one of architectures."""
        kind = None if self.file is not None or self.study is None else provenance.kind_of(self.study)
        return kind or "architecture"

    @cached_property
    def config(self) -> StudyConfig:
        """The study file to run it with.

        Raises:
            StudyError: If the study was named and is not one of architectures.
        """
        return self.file or provenance.stored_config(self.existing)

    @property
    def existing(self) -> optuna.Study:
        """The study, where it is known to exist."""
        assert self.study is not None
        return self.study


def resolve(
    what: str | Path | StudyConfig, *, storage: str | BaseStorage | None = None, study_name: str | None = None
) -> Target:
    """Find out what to run.

    Args:
        what: A study file that has been read; or the name of a study, else a path, else the id of a shipped study file.
        storage: URL given by the user, or an open Optuna storage.
        study_name: Name given by the user; ``what`` is then a study file.

    Raises:
        StudyError: If ``what`` means two things.
        ConfigNotFoundError: If it means nothing.
        ConfigError: If the study file is malformed.
    """
    if isinstance(what, StudyConfig) or study_name is not None:
        config = what if isinstance(what, StudyConfig) else load_study_file(find_study_file(what))
        return _from_file(config, store_of(storage, from_file=config.storage), study_name)
    text = str(what)
    store = store_of(storage)
    path = user_path(text, "STUDY", ConfigError)
    shipped = shipped_study_files()
    known = store.study_names()
    if text in known:
        return _from_name(text, store, path.is_file(), shipped.get(text))
    if path.is_file() and text in shipped:
        raise StudyError(
            f"{text!r} is both a file here and the id of a shipped study file; say ./{text} for the first, or "
            f"{shipped[text]} for the second."
        )
    if not path.is_file() and text not in shipped and not (text and path.is_dir()):
        elsewhere = _elsewhere(text) if storage is None and text else None
        if elsewhere is not None:
            return elsewhere
        everything = [*known, *shipped]
        raise ConfigNotFoundError(
            f"There is no study, study file or shipped study file {text!r} (studies in {store.name}: "
            f"{', '.join(known) or 'none'}; shipped: {', '.join(shipped) or 'none'}){did_you_mean(text, everything)}"
        )
    config = load_study_file(find_study_file(what))
    return _from_file(config, store if config.storage is None else store_of(storage, from_file=config.storage))


def find(name: str, storage: str | BaseStorage | None = None) -> Target:
    """Find a study that exists, by its name alone.

    Raises:
        StudyNotFoundError: If there is no such study; the message names the nearest.
        StorageError: If the storage cannot be opened.
    """
    store = store_with(name, storage)
    return Target(name, store, find_study(store, name))


def _elsewhere(name: str) -> Target | None:
    """Return the study of a name whose storage a study file in the working directory names."""
    try:
        return find(name)
    except StudyNotFoundError:
        return None


def _from_name(name: str, store: Store, is_path: bool, shipped: Path | None) -> Target:
    target = Target(name, store, find_study(store, name))
    if target.kind == "recipe":
        return target
    if is_path:
        raise StudyError(
            f"{name!r} is both a study in {store.name} and a file here; say ./{name} for the file, or go to another "
            "folder for the study."
        )
    if shipped is not None:
        changed = provenance.difference(target.config.to_dict(), load_study_file(shipped).to_dict())
        if changed is not None:
            raise StudyError(
                f"{name!r} is both a study in {store.name} and the id of a shipped study file that differs in "
                f"`{changed[0]}`; name the study's own file with --study-name {name}, or give --study-name for another "
                "study."
            )
    return target


def _from_file(config: StudyConfig, store: Store, study_name: str | None = None) -> Target:
    name = check_name(config.name if study_name is None else study_name)
    return Target(name, store, find_study(store, name) if store.has(name) else None, config)
