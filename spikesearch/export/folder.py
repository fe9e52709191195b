"""A network as a folder: weights in safetensors, everything else in JSON; complete or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from spikesearch.errors import CheckpointError, ExportError, StorageError
from spikesearch.io import atomic_write_bytes, atomic_write_json, read_described, sync_folder, user_path
from spikesearch.nn import Spikformer
from spikesearch.nn.lif import StatelessNeuron
from spikesearch.nn.network import SETTINGS
from spikesearch.space import Architecture
from spikesearch.train.checkpoint import load_tensors, tensors_hash, weights_hash

FORMAT = "spikesearch-network"
FORMAT_VERSION = 1
_ADVICE = "choose another --output, or remove it."
WEIGHTS, FACTS, CARD = "model.safetensors", "model.json", "README.md"


def save_network(folder: str | Path, net: Spikformer, facts: Mapping[str, Any]) -> Path:
    """Write a network to a folder: ``model.safetensors`` and ``model.json``.

    The folder appears complete or not at all. A folder that holds the same network is replaced.

    Args:
        folder: Folder to write; its parents are created.
        net: The network, on any device.
        facts: What else is known of it, in plain JSON types: where it comes from, accuracy, names of the classes.

    Returns:
        The folder.

    Raises:
        ExportError: If the folder holds something else.
        StorageError: If it cannot be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> from spikesearch import SearchSpace, Spikformer
        >>> space = SearchSpace((16,), (1,), (2,), (2,), (1.0,), (2.0,), (2,))
        >>> net = Spikformer(space.largest, in_channels=1, image_size=8, num_classes=10)
        >>> folder = save_network(f"{mkdtemp()}/net", net, {"class_names": [str(i) for i in range(10)]})
        >>> load_network(folder).arch == net.arch
        True
    """
    folder = user_path(folder, "The folder")
    if any(isinstance(module, StatelessNeuron) for module in net.modules()):
        raise ExportError("A fused or fast copy cannot be saved: save the network that it was made from.")
    description = describe(net, facts)
    with new_folder(folder, description) as scratch:
        write_weights(scratch, net)
        atomic_write_json(scratch / FACTS, description)
    return folder


def load_network(folder: str | Path) -> Spikformer:
    """Read what :func:`save_network` wrote: the same logits in evaluation mode, bit for bit.

    Args:
        folder: A folder with ``model.safetensors`` and ``model.json``.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        CheckpointError: If the folder is missing, corrupt, of a newer version or of something else.
    """
    folder = user_path(folder, "The folder", CheckpointError)
    facts = read_facts(folder)
    path = folder / WEIGHTS
    tensors = load_tensors(
        path,
        if_missing="export the network with `--to safetensors` to load it with spikesearch.",
        if_corrupt="write the network again.",
    )
    if tensors_hash(tensors) != facts.get("weights_hash"):
        raise CheckpointError(f"{path} does not hold the weights that {FACTS} describes; write the network again.")
    net = _build(folder / FACTS, facts)
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit the architecture in {FACTS}: {reason[:200]}") from None
    return net.eval()


def read_facts(folder: str | Path) -> dict[str, Any]:
    """Return what ``model.json`` of an exported folder says.

    Raises:
        CheckpointError: If it is missing, corrupt, of a newer version or of something else.
    """
    folder = user_path(folder, "The folder", CheckpointError)
    path = folder / FACTS
    what = f"holds no network: {FACTS} is missing" if folder.exists() else "does not exist"
    return read_described(
        path,
        "a network",
        (FORMAT, FORMAT_VERSION),
        remedy="write the network again.",
        missing=f"{folder} {what}; `spikesearch subnet export` writes one.",
    )


def describe(net: Spikformer, facts: Mapping[str, Any], files: Iterable[str] = (FACTS, WEIGHTS)) -> dict[str, Any]:
    """Return the content of ``model.json`` for a folder of these files."""
    own = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "files": sorted(files),
        "weights_hash": weights_hash(net),
        "architecture": net.arch.to_dict(),
        "model": net.plain_settings,
    }
    return {**own, **{key: value for key, value in facts.items() if key not in own}}


def write_weights(folder: Path, net: nn.Module) -> None:
    """Write ``model.safetensors``."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    atomic_write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))


@contextmanager
def new_folder(folder: Path, description: Mapping[str, Any]) -> Iterator[Path]:
    """Give a folder to write into, and put it in the place of ``folder`` when the block ends without an error.

    Args:
        folder: Where the files shall be.
        description: The coming ``model.json``; a folder with the same network may be replaced.

    Raises:
        ExportError: If ``folder`` holds something else.
        StorageError: If it cannot be written.
    """
    refuse_other(folder, description)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise StorageError(f"Cannot write {folder}: {error.strerror}. Choose a folder that is writable.") from error
    try:
        (scratch / "new").mkdir()  # with the usual mode; a temporary folder is private
        yield scratch / "new"
        _swap(scratch / "new", folder, scratch / "old")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _swap(new: Path, folder: Path, old: Path) -> None:
    try:
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(new, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
        sync_folder(folder.parent)
    except OSError as error:
        raise StorageError(f"Cannot write {folder}: {error.strerror}. Choose a folder that is writable.") from error


def network_in(folder: Path) -> dict[str, Any] | None:
    """Return the ``model.json`` of a folder that a network shall be written to; ``None`` if there is nothing yet.

    Raises:
        ExportError: If there is something other than a network.
        StorageError: If the folder would lie below a file.
    """
    if not folder.exists():
        above = next((path for path in folder.absolute().parents if path.exists()), None)
        if above is not None and not above.is_dir():
            raise StorageError(f"Cannot write {folder}: {above} is a file. Choose a folder that is writable.")
        return None
    if not folder.is_dir():
        raise ExportError(f"{folder} is a file; {_ADVICE}")
    if next(folder.iterdir(), None) is None:
        return None
    try:
        return read_facts(folder)
    except CheckpointError:
        raise ExportError(f"{folder} is not empty and holds no network of spikesearch; {_ADVICE}") from None


def refuse_other(
    folder: Path, description: Mapping[str, Any], keys: Iterable[str] = ("weights_hash", "architecture", "model")
) -> None:
    """Raise what :func:`new_folder` would because of what a folder holds.

    Args:
        folder: The folder; need not exist.
        description: The coming ``model.json``, or as much of it as is known.
        keys: Which keys of it must be those of the network that is there.

    Raises:
        ExportError: If the folder holds something else.
    """
    before = network_in(folder)
    if before is None:
        return
    if any(before.get(key) != description.get(key) for key in keys):
        raise ExportError(f"{folder} holds another network; {_ADVICE}")
    if before.get("files") != description["files"]:
        raise ExportError(f"{folder} holds the same network in another format; {_ADVICE}")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in description["files"])
    if foreign:
        raise ExportError(f"{folder} also holds {foreign[0]}, which would be lost; {_ADVICE}")


def _build(path: Path, facts: Mapping[str, Any]) -> Spikformer:
    try:
        arch = Architecture.from_dict(facts["architecture"])
        known = {name: value for name, value in facts["model"].items() if value is not None}
        unknown = sorted(known.keys() - set(SETTINGS))
        if not unknown:
            if "pool_stages" in known:
                known["pool_stages"] = tuple(known["pool_stages"])
            return Spikformer(arch, **known)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is corrupt ({error}); write the network again.") from None
    raise CheckpointError(f"{path} has an unknown `model.{unknown[0]}`; upgrade spikesearch.")
