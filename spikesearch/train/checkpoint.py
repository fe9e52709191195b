"""Checkpoints: tensors in safetensors, everything else in JSON, a folder each, complete or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from spikesearch.errors import CheckpointError
from spikesearch.io import atomic_write_bytes, atomic_write_json, not_writable, read_json, sync_folder

FORMAT_VERSION = 1
_TENSORS, _FACTS = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A state that training can continue from.

    Args:
        tensors: All tensors by name.
        facts: Plain JSON: at least ``identity`` and ``epoch``.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of a module's state: 64 hexadecimal digits."""
    return tensors_hash(module.state_dict())


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of some tensors: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, atomically."""
    atomic_write_bytes(path, _serialise(tensors))


def load_tensors(path: Path, *, if_missing: str | None = None, if_corrupt: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        path: The file.
        if_missing: What to do then, for the message; by default what helps with a checkpoint.
        if_corrupt: Likewise.

    Raises:
        CheckpointError: If it is missing or not a whole safetensors file.
    """
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; {if_missing or _remedy(path)}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt ({error}); {if_corrupt or _remedy(path)}") from None


def load_facts(path: Path) -> dict[str, Any]:
    """Read the JSON half of a checkpoint.

    Raises:
        CheckpointError: If it is missing, not JSON, or written by a newer version of spikesearch.
    """
    facts = read_json(path, error=CheckpointError, remedy=_remedy(path))
    if not isinstance(facts, dict) or not isinstance(facts.get("format_version"), int):
        raise CheckpointError(f"{path} is not a checkpoint of spikesearch.")
    if facts["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {facts['format_version']}, newer than this spikesearch understands "
            f"({FORMAT_VERSION}); upgrade spikesearch."
        )
    return facts


def save_weights(folder: Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write ``name.safetensors``, then ``name.json``, whose presence says that the pair is complete."""
    save_tensors(folder / f"{name}.safetensors", tensors)
    described = {"format_version": FORMAT_VERSION, "weights_hash": tensors_hash(tensors), **facts}
    atomic_write_json(folder / f"{name}.json", described)


def load_weights(folder: Path, name: str) -> Checkpoint:
    """Read what :func:`save_weights` wrote and verify that the two files belong together.

    Raises:
        CheckpointError: If a file is missing, corrupt or of a newer version, or the hash does not match.
    """
    facts = load_facts(folder / f"{name}.json")
    tensors = load_tensors(folder / f"{name}.safetensors")
    if tensors_hash(tensors) != facts.get("weights_hash"):
        raise CheckpointError(
            f"{folder / name}.safetensors does not hold the weights that {name}.json describes; "
            + _remedy(folder / name)
        )
    return Checkpoint(tensors, facts)


class CheckpointFolder:
    """The resumable states of one training; only the newest is kept.

    Args:
        folder: Created when the first state is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a state: a kill at any moment leaves this one or the one before."""
        target = self.folder / f"epoch-{checkpoint.facts['epoch']:06d}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=self.folder, prefix=".writing-"))
        except OSError as error:
            raise not_writable(self.folder, error) from error
        try:
            save_weights(scratch, "state", checkpoint.tensors, checkpoint.facts)
            if target.exists():
                shutil.rmtree(target)
            os.replace(scratch, target)
            sync_folder(self.folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        for other in self.folder.iterdir():
            if other != target:
                shutil.rmtree(other, ignore_errors=True)

    def load(self, identity: Mapping[str, Any]) -> Checkpoint | None:
        """Return the newest state, or ``None`` if there is none.

        Args:
            identity: What the training is (space, data, recipe, seed); the state has to have been written by the same.

        Raises:
            CheckpointError: If the state is corrupt, or belongs to another training.
        """
        newest = self._newest()
        if newest is None:
            return None
        checkpoint = load_weights(newest, "state")
        check_identity(newest, checkpoint.facts, identity)
        return checkpoint

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise what :meth:`load` would of a state that belongs to another training, without reading its tensors."""
        newest = self._newest()
        if newest is None:
            return
        try:
            facts = load_facts(newest / _FACTS)
        except CheckpointError:
            if newest.exists():
                raise
            return  # a training that is running has just replaced it by a newer one
        check_identity(newest, facts, identity)

    def _newest(self) -> Path | None:
        return max(self.folder.glob("epoch-*"), default=None) if self.folder.is_dir() else None

    def delete(self) -> None:
        """Remove all states."""
        shutil.rmtree(self.folder, ignore_errors=True)


def check_identity(path: Path, facts: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse weights that were trained on something else.

    Raises:
        CheckpointError: The message names the first thing that differs.
    """
    stored = facts.get("identity")
    stored = stored if isinstance(stored, dict) else {}
    wanted = json.loads(json.dumps(identity))
    for key in {**stored, **wanted}:
        if stored.get(key) != wanted.get(key):
            raise CheckpointError(
                f"{path} belongs to another training: its `{key}` is {_short(stored.get(key))}, but here it is "
                f"{_short(wanted.get(key))}. Use another study name or --run-dir; if nobody needs that training any "
                f"more, remove {path} to train anew."
            )


def _remedy(path: Path) -> str:
    state = path.parent.name.startswith("epoch-")  # a folder for nothing else; that of a study holds more
    return f"restore it, or delete {path.parent if state else f'{path.parent / path.stem}.*'} to start anew."


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _serialise(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
