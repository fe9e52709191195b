"""What the user means by ``study run X``: a study, a path or a shipped study file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spikesearch.config import StudyConfig, find_study_file, load_study_file, shipped_study_files
from spikesearch.errors import ConfigError, ConfigNotFoundError, StudyError, did_you_mean
from spikesearch.io import user_path
from spikesearch.storage.urls import resolve_url, storage_exists
from spikesearch.study import provenance
from spikesearch.study.store import check_name, find_study, open_store


@dataclass(frozen=True)
class Target:
    """A study to work on.

    Args:
        name: Its name.
        config: The study file to run it with.
        url: Its storage; ``None`` for one in memory.
        exists: Whether the storage holds it already.
    """

    name: str
    config: StudyConfig
    url: str | None
    exists: bool


def resolve(what: str | Path | StudyConfig, *, storage: str | None = None, study_name: str | None = None) -> Target:
    """Find out what to run.

    Args:
        what: A study file that has been read; or the name of a study, else a path, else the id of a shipped study file.
        storage: URL given by the user.
        study_name: Name given by the user; ``what`` is then a study file.

    Raises:
        StudyError: If ``what`` means two things.
        ConfigNotFoundError: If it means nothing.
        ConfigError: If the study file is malformed.
    """
    if isinstance(what, StudyConfig):
        return _from_config(what, storage, study_name)
    text = str(what)
    if study_name is not None:
        return _from_config(load_study_file(find_study_file(what)), storage, study_name)
    url = resolve_url(storage)
    path = user_path(text, "STUDY", ConfigError)
    is_path = path.is_file()
    shipped = shipped_study_files()
    known = _study_names(url)
    if text in known:
        return _from_study(text, url, is_path, shipped.get(text))
    if is_path and text in shipped:
        raise StudyError(
            f"{text!r} is both a file here and the id of a shipped study file; say ./{text} for the first, or "
            f"{shipped[text]} for the second."
        )
    if not is_path and text not in shipped and not (text and path.is_dir()):
        everything = [*known, *shipped]
        raise ConfigNotFoundError(
            f"There is no study, study file or shipped study file {text!r} (studies in {url}: "
            f"{', '.join(known) or 'none'}; shipped: {', '.join(shipped) or 'none'}){did_you_mean(text, everything)}"
        )
    return _from_config(load_study_file(find_study_file(what)), storage, None)


def _from_study(name: str, url: str, is_path: bool, shipped: Path | None) -> Target:
    if is_path:
        raise StudyError(
            f"{name!r} is both a study in {url} and a file here; say ./{name} for the file, or go to another folder "
            "for the study."
        )
    config = provenance.stored_config(find_study(open_store(url, create=False), name))
    if shipped is not None:
        changed = provenance.difference(config.to_dict(), load_study_file(shipped).to_dict())
        if changed is not None:
            raise StudyError(
                f"{name!r} is both a study in {url} and the id of a shipped study file that differs in `{changed[0]}`; "
                f"name the study's own file with --study-name {name}, or give --study-name for another study."
            )
    return Target(name, config, url, exists=True)


def _from_config(config: StudyConfig, storage: str | None, study_name: str | None) -> Target:
    name = check_name(config.name if study_name is None else study_name)
    url = resolve_url(storage, config.storage)
    return Target(name, config, url, exists=name in _study_names(url))


def _study_names(url: str) -> list[str]:
    return open_store(url, create=False).study_names() if storage_exists(url) else []
