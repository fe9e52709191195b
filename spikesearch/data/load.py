"""From the ``data`` section of a study file to three splits."""

from __future__ import annotations

from pathlib import Path

from spikesearch.config import expand_path, resolve_path
from spikesearch.config.data import DataSection
from spikesearch.data.bundle import DataBundle, Source, bundle
from spikesearch.data.kind import KINDS
from spikesearch.data.splits import split_indices
from spikesearch.errors import DataError, DataNotFoundError
from spikesearch.io import not_writable


def load_data(config: DataSection, *, seed: int, base_dir: Path = Path(), download: bool = False) -> DataBundle:
    """Read data, divide it and say what a network needs to know of it.

    Args:
        config: The ``data`` section of a study file.
        seed: Seed of the division, unless ``data.splits.seed`` is set.
        base_dir: Folder that a relative ``data.path`` is looked for in first; then the working directory.
        download: Fetch what is missing, if the kind of data can be fetched, as if ``data.download`` were true.

    Raises:
        DataNotFoundError: If ``data.path`` does not exist.
        DataError: If the data cannot be used; the message names the file.
    """
    if download and hasattr(config, "download"):
        config = config.model_copy(update={"download": True})
    source = load_source(config, base_dir)
    try:
        indices = split_indices(
            source.labels,
            config.splits,
            seed=seed if config.splits.seed is None else config.splits.seed,
            defined_test=source.defined_test,
            class_names=source.class_names,
        )
    except DataError as error:
        path = getattr(config, "path", None)
        raise DataError(str(error) if path is None else f"{path}: {error}") from None
    return bundle(source, indices)


def load_source(config: DataSection, base_dir: Path = Path()) -> Source:
    """Read data without dividing them; see :func:`load_data`."""
    path = getattr(config, "path", None)
    if path is not None:
        existing = resolve_path(path, base_dir)
        if existing is None and getattr(config, "download", False):
            existing = (base_dir / expand_path(path)).resolve()
            try:
                existing.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise not_writable(existing, error) from None
        if existing is None:
            raise DataNotFoundError(_missing(config.kind, path, base_dir))
        config = config.model_copy(update={"path": str(existing)})
    return KINDS[config.kind].load(config)


def _missing(kind: str, path: str, base_dir: Path) -> str:
    looked_in = dict.fromkeys(str(folder) for folder in (base_dir.resolve(), Path.cwd()))
    where = "" if Path(path).is_absolute() else " in " + " nor in ".join(looked_in)
    return (
        f"`data.path` is {path!r}, but there is no such file or folder{where}. Kind {kind!r} needs "
        f"{KINDS[kind].needs}. Put the data there or change `data.path`."
    )
