"""Studies of the second kind: which recipe trains one given architecture best.

A recipe study has one objective, the accuracy on the search split, and ordinary Optuna parts: TPE proposes, Hyperband
prunes between epochs. It is persistent like a search of architectures, and goes on after a kill.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from spikesearch.config import StudyConfig, TrainConfig
from spikesearch.errors import CheckpointError, StudyError
from spikesearch.io import read_json, user_path
from spikesearch.space import Architecture
from spikesearch.study import provenance
from spikesearch.study.assembly import load_data_of, new_supernet
from spikesearch.study.attributes import DATA_FINGERPRINT, ENERGY, RECIPE, STUDY_ID, SUPERNET_HASH, VERSIONS
from spikesearch.study.checks import check_data
from spikesearch.study.folder import new_study_id
from spikesearch.study.resolve import find, resolve
from spikesearch.study.results import find_trial
from spikesearch.study.session import open_study
from spikesearch.study.store import Store, check_name, find_study, is_begun, quietly, study_exists
from spikesearch.versions import package_versions

if TYPE_CHECKING:
    from spikesearch.data import DataBundle
    from spikesearch.nn import Spikformer
    from spikesearch.train.network import Source

_log = logging.getLogger(__name__)

KEYS = ("lr", "weight_decay", "label_smoothing", "mixup", "drop_path", "epochs", "surrogate_slope")
N_TRIALS = 30
EPOCHS_SHARE = 3  # a recipe takes at least a third of the study file's epochs
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class RecipeStudy:
    """What a recipe study is about; kept as one of its attributes.

    Args:
        config: The study file: data, scoring, and the recipe that the search begins with.
        architecture: What is trained.
        source: What training begins with.
        search: Name of the study whose supernet the ``inherited`` weights are from.
        n_trials: Finished or pruned trials that the study holds in the end.
        keys: Which keys of the recipe are searched.
    """

    config: StudyConfig
    architecture: Architecture
    source: Source
    search: str
    n_trials: int = N_TRIALS
    keys: tuple[str, ...] = KEYS

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the inverse of :meth:`of`."""
        return {
            "study_file": self.config.to_dict(),
            "architecture": self.architecture.to_dict(),
            "from": self.source,
            "search": self.search,
            "n_trials": self.n_trials,
            "keys": list(self.keys),
        }

    @classmethod
    def of(cls, study: optuna.Study) -> RecipeStudy:
        """Return what a study is about.

        Raises:
            StudyError: If it is no recipe study.
        """
        stored = study.user_attrs.get(RECIPE)
        if stored is None:
            raise StudyError(
                f"The study {study.study_name!r} is not one of recipes; `spikesearch study create --kind recipe` makes "
                "such a study."
            )
        return cls(
            StudyConfig.from_dict(stored["study_file"], where=f"study {study.study_name!r}"),
            Architecture.from_dict(stored["architecture"]),
            stored["from"],
            stored["search"],
            stored["n_trials"],
            tuple(stored["keys"]),
        )

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Return the ranges of the search, around the study file's recipe."""
        train = self.config.train
        ranges: dict[str, optuna.distributions.BaseDistribution] = {
            "lr": optuna.distributions.FloatDistribution(train.lr / 10, train.lr * 4, log=True),
            "weight_decay": optuna.distributions.FloatDistribution(1e-3, 0.3, log=True),
            "label_smoothing": optuna.distributions.FloatDistribution(0.0, 0.2),
            "mixup": optuna.distributions.FloatDistribution(0.0, 0.8),
            "drop_path": optuna.distributions.FloatDistribution(0.0, 0.3),
            "epochs": optuna.distributions.IntDistribution(max(1, train.epochs // EPOCHS_SHARE), train.epochs),
            "surrogate_slope": optuna.distributions.FloatDistribution(
                train.surrogate_slope / 4, train.surrogate_slope * 4, log=True
            ),
        }
        if self.architecture.depth == 1:
            del ranges["drop_path"]  # the first block is never skipped
        return {key: ranges[key] for key in self.keys if key in ranges}

    def first(self) -> dict[str, Any]:
        """Return the study file's own recipe, moved into the ranges."""
        values = {}
        for name, wide in self.distributions().items():
            assert isinstance(wide, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution)
            values[name] = min(max(getattr(self.config.train, name), wide.low), wide.high)
        return values

    def start(self, store: Store, data: DataBundle, device: str) -> Spikformer:
        """Return the network that every trial begins with.

        Raises:
            StudyError: If the weights are to be inherited from a supernet that is not there, or that was trained on
                other data: these may hold images of the search split that recipes are judged on.
        """
        from spikesearch.scoring import Scorer
        from spikesearch.train.network import fresh_network

        if self.source == "scratch":
            return fresh_network(new_supernet(self.config, data).extract(self.architecture), self.config.seed)
        search = open_study(self.search, storage=store.storage, device=device)
        supernet = search.supernet()
        with search.lock():
            provenance.set_once(
                search.study,
                DATA_FINGERPRINT,
                data.fingerprint,
                "weights of its supernet may have been trained on images that recipes would be judged on. Restore the "
                "data, or train from scratch (--from scratch).",
            )
        return Scorer(supernet, data, self.config.scoring, device=device).extract(self.architecture)

    def check_origin(self, study: optuna.Study, store: Store, data: DataBundle) -> None:
        """Record with a recipe study what its trials begin with and learn from, or verify it.

        The caller holds the study's lock and has got the network of :meth:`start`.

        Raises:
            StudyError: If the study was made with other data or another supernet.
        """
        check_data(study, data)
        if self.source == "inherited":
            provenance.set_once(
                study,
                SUPERNET_HASH,
                find_study(store, self.search).user_attrs[SUPERNET_HASH],
                f"the study {self.search!r} has another supernet now, and recipes with other weights to begin with "
                "would not be comparable. Restore that study and its files, or give --study-name to start another "
                "study of recipes.",
            )


def create_recipe_study(
    what: str | Path | StudyConfig,
    *,
    trial: int | None = None,
    arch: Architecture | None = None,
    source: Source = "inherited",
    storage: str | None = None,
    study_name: str | None = None,
    load_if_exists: bool = False,
    download: bool = False,
) -> optuna.Study:
    """Create a study of recipes; its first trial, the study file's own recipe, waits to be run.

    Args:
        what: A study of architectures, a study file, or the id of a shipped one.
        trial: The trial of that study whose architecture is trained; by default the recommended one.
        arch: The architecture, instead of a trial's; it must be in the space of the study file.
        source: What every trial begins with; ``inherited`` needs the trained supernet of the study.
        storage: Storage URL, as for :func:`spikesearch.create_study`; also that of the study of architectures.
        study_name: By default the study's name with ``-recipe``.
        load_if_exists: Return a study that exists, provided that it is about the same.
        download: As for :func:`spikesearch.run_study`.

    Raises:
        StudyError: If the study exists, or there is nothing to inherit from.
        SpaceError: If ``arch`` is not in the space.
    """
    if trial is not None and arch is not None:
        raise StudyError("`trial` and `arch` both say which architecture is meant; give one of them.")
    target = resolve(what, storage=storage)
    store = target.store
    if arch is None:
        if target.study is None:
            raise StudyError(
                f"There is no study {target.name!r} to take an architecture from; `spikesearch study run "
                f"{target.name}` makes it, or give one with --arch."
            )
        arch = find_trial(target.study, trial).architecture
    target.config.space.search_space().check(arch)
    about = RecipeStudy(target.config, arch, source, target.name)
    data = load_data_of(target.config, download=download)
    if source == "inherited" and target.study is None:
        raise StudyError(
            f"There is no study {target.name!r} to inherit weights from; train from scratch (--from scratch)."
        )
    about.start(store, data, "cpu")  # whatever is missing is found before anything is written
    return _create(
        store, check_name(f"{target.name}-recipe" if study_name is None else study_name), about, data, load_if_exists
    )


def _create(store: Store, name: str, about: RecipeStudy, data: DataBundle, load_if_exists: bool) -> optuna.Study:
    with store.lock(name):
        if store.has(name):
            study = find_study(store, name)
            if is_begun(study):
                if not load_if_exists:
                    raise study_exists(store, name)
                if RecipeStudy.of(study).to_dict() != about.to_dict():
                    raise StudyError(f"The study {name!r} is about something else; choose another --study-name.")
                about.check_origin(study, store, data)
                return study
        else:
            study = optuna.create_study(
                study_name=name,
                storage=store.storage,
                direction="maximize",
                sampler=optuna.samplers.RandomSampler(seed=0),
            )
        about.check_origin(study, store, data)
        quietly(study.set_metric_names, ["accuracy"])
        study.set_user_attr(STUDY_ID, new_study_id())
        study.set_user_attr(VERSIONS, package_versions())
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(about.first())
        study.set_user_attr(RECIPE, about.to_dict())  # last: says that the study is complete
        return study


def best_recipe(
    name: str, base: TrainConfig, *, storage: str | BaseStorage | None = None
) -> tuple[TrainConfig, RecipeStudy]:
    """Return a recipe with the values of a recipe study's best trial.

    Args:
        name: Name of the recipe study.
        base: Has every other key.
        storage: As for :func:`spikesearch.load_study`.

    Returns:
        The recipe, and what it was found for.

    Raises:
        StudyError: If it is no recipe study or no trial is COMPLETE.
    """
    study = find(name, storage).existing
    about = RecipeStudy.of(study)
    best = best_of(study)
    if best is None:
        raise StudyError(f"No trial of study {name!r} is COMPLETE yet; `spikesearch study run {name}` goes on.")
    return base.model_copy(update=dict(best.params)), about


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """Return the COMPLETE trial of the highest accuracy; of equals, the first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


def describe_recipes(study: optuna.Study, storage: str) -> dict[str, Any]:
    """Return the state of a recipe study in plain JSON types, best trials first."""
    about = RecipeStudy.of(study)
    trials = study.get_trials(deepcopy=False)
    best = best_of(study)
    ended = sorted((t for t in trials if t.state in FINISHED), key=_rank)
    return {
        "name": study.study_name,
        "kind": "recipe",
        "storage": storage,
        "architecture": about.architecture.to_dict(),
        "from": about.source,
        "states": {state.name.lower(): sum(t.state == state for t in trials) for state in TrialState},
        "best": None if best is None else best.number,
        "trials": [
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "accuracy": trial.value,
                "epochs_run": max(trial.intermediate_values, default=0),
                "energy_uJ": trial.user_attrs.get(ENERGY),
                "recipe": dict(trial.params),
            }
            for trial in ended
        ],
    }


def read_architecture(path: Path) -> Architecture:
    """Read an architecture from JSON: its own dictionary, or a ``model.json`` that holds one.

    Raises:
        CheckpointError: If the file is missing or holds none.
        SpaceError: If the architecture is impossible.
    """
    path = user_path(path, "`arch`", CheckpointError)
    remedy = "`spikesearch subnet extract` writes an architecture into model.json."
    content = read_json(path, error=CheckpointError, remedy=remedy)
    if isinstance(content, Mapping) and "architecture" in content:
        content = content["architecture"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds no architecture; {remedy}")
    return Architecture.from_dict(dict(content))


def _rank(trial: FrozenTrial) -> tuple[bool, float, int]:
    accuracy = trial.value if trial.value is not None else 0.0
    return trial.state != TrialState.COMPLETE, -accuracy, trial.number
