"""Running a study of recipes: trial after trial, reported and pruned between epochs, resumed after a kill."""

from __future__ import annotations

import logging
import math
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from spikesearch.energy import energy_model
from spikesearch.errors import StudyError
from spikesearch.recipe.study import FINISHED, RecipeStudy
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.network import calibrate_network, score_network
from spikesearch.streams import RECIPES
from spikesearch.study import provenance
from spikesearch.study.assembly import load_data_of
from spikesearch.study.attributes import DIVERGED, ENERGY, ORIGIN, RETRY_OF, RUN_DIR, WORKER
from spikesearch.study.checks import check_device, check_folder
from spikesearch.study.folder import claim, run_folder
from spikesearch.study.resolve import Target, find
from spikesearch.study.session import Session
from spikesearch.study.worker import Worker, running_here
from spikesearch.train.checkpoint import CheckpointFolder
from spikesearch.train.network import plain_copy, train_network

if TYPE_CHECKING:
    from torch import Tensor

    from spikesearch.nn import Spikformer

_log = logging.getLogger(__name__)

STARTUP_TRIALS = 5  # per bracket of Hyperband, before TPE has a model
REDUCTION = 3


def run_recipe_study(
    name: str | Target,
    *,
    storage: str | BaseStorage | None = None,
    n_trials: int | None = None,
    timeout: float | None = None,
    run_dir: str | Path | None = None,
    device: str = "cpu",
    download: bool = False,
    progress: bool = True,
) -> optuna.Study:
    """Do what is left of a study of recipes.

    Several calls may work on one study at once. A trial whose process died is repeated from its last checkpoint.

    Args:
        name: Name of the recipe study, or the study as it was found.
        storage: As for :func:`spikesearch.load_study`.
        n_trials: Trials to finish in this call; by default as many as the study lacks.
        timeout: Seconds after which no trial is started.
        run_dir: Folder of the study's files, where it is not the usual one.
        device: Where to train and score.
        download: As for :func:`spikesearch.run_study`.
        progress: Whether to show progress on stderr.

    Returns:
        The study.

    Raises:
        SpikesearchError: If the study, its data or its supernet are missing or others.
    """
    if n_trials is not None and n_trials < 1:
        raise StudyError(f"`n_trials` must be at least 1, but got {n_trials}.")
    if timeout is not None and not 0 < timeout < math.inf:
        raise StudyError(f"`timeout` must be above 0 seconds and finite, but got {timeout}.")
    target = name if isinstance(name, Target) else find(name, storage)
    store, study = target.store, target.existing
    about = RecipeStudy.of(study)
    check_device(device)
    folder = run_folder(store.url, target.name, run_dir, study.user_attrs.get(RUN_DIR))
    check_folder(folder)
    data = load_data_of(about.config, download=download)
    net = about.start(store, data, device)
    session = Session(store, study, about.config, folder, device, data)
    with session.lock():
        about.check_origin(study, store, data)
        if store.url is not None:  # a study in memory cannot come back for its files
            claim(folder, study)
    provenance.verify_versions(study)
    study.pruner = optuna.pruners.HyperbandPruner(
        min_resource=1, max_resource=about.config.train.epochs, reduction_factor=REDUCTION
    )
    images = calibration_images(data, about.config.scoring).to(device)
    deadline = None if timeout is None else time.monotonic() + timeout
    run = uuid.uuid4().hex[:12]
    search = _RecipeSearch(session, about, net, images, progress, run)
    ended = 0
    with session.expected(), running_here(run):
        while deadline is None or time.monotonic() < deadline:
            if n_trials is not None and ended >= n_trials:
                break
            trial = search.next_trial(limited=n_trials is None)
            if trial is None:
                break
            search.run(trial)
            ended += 1
    return study


@dataclass(frozen=True)
class _RecipeSearch:
    """One process at work on a recipe study."""

    session: Session
    about: RecipeStudy
    net: Spikformer
    calibration: Tensor
    progress: bool
    run_id: str

    @property
    def study(self) -> optuna.Study:
        return self.session.study

    def next_trial(self, *, limited: bool) -> optuna.Trial | None:
        """Return a trial with a recipe; ``None`` if the study holds (or other processes run) as many as it shall."""
        with self.session.lock():
            self._repair()
            trials = self.study.get_trials(deepcopy=False)
            busy = sum(trial.state in (*FINISHED, TrialState.RUNNING) for trial in trials)
            if limited and busy >= self.about.n_trials:
                self._tell_of_other_machines(trials)
                return None
            # from (seed, number of the trial), never from how often the process was started
            seed = int(RECIPES.seed(self.about.config.seed, len(trials))[0])
            self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed)
            trial = self.study.ask(self.about.distributions())
            trial.set_user_attr(WORKER, Worker.here(self.run_id).to_dict())
            return trial

    def _tell_of_other_machines(self, trials: list[FrozenTrial]) -> None:
        for trial in trials:
            worker = Worker.of(trial)
            if trial.state == TrialState.RUNNING and worker is not None and not worker.on_this_host():
                _log.warning(
                    "Trial %d is run by process %d on %s. %s",
                    *(trial.number, worker.pid, worker.host, worker.remedy(self.study)),
                )

    def run(self, trial: optuna.Trial) -> None:
        """Train with the trial's recipe and tell its result."""
        recipe = self.about.config.train.model_copy(update=dict(trial.params))
        origin = int(trial.user_attrs.get(ORIGIN, trial.number))
        states = self.session.folder / "trials" / str(origin)
        reported = self._replay(trial)
        _log.info("Trial %d: %s", trial.number, ", ".join(f"{key} {value:.4g}" for key, value in trial.params.items()))

        def on_epoch(epoch: int, record: dict[str, float], module: nn.Module) -> None:
            accuracy = self._score(trial, module)
            if epoch not in reported:  # the process before died between report and checkpoint
                reported[epoch] = accuracy
                trial.report(accuracy, epoch)
            if epoch < recipe.epochs and trial.should_prune():
                raise optuna.TrialPruned

        try:
            train_network(
                self.net,
                self.session.data,
                recipe,
                seed=self.about.config.seed,
                folder=states,
                title=f"Trial {trial.number}",
                energy_model=energy_model(self.about.config.scoring),
                device=self.session.device,
                progress=self.progress,
                on_epoch=on_epoch,
            )
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except FloatingPointError as error:
            _log.warning("Trial %d: %s", trial.number, error)
            trial.set_user_attr(DIVERGED, True)
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, reported[recipe.epochs])
        CheckpointFolder(states).delete()

    def _score(self, trial: optuna.Trial, module: nn.Module) -> float:
        net = plain_copy(self.net, module)
        calibrate_network(net, self.calibration)
        score = score_network(net, self.session.data, self.about.config.scoring, "search")
        trial.set_user_attr(ENERGY, score.energy_uJ)
        return score.accuracy

    def _replay(self, trial: optuna.Trial) -> dict[int, float]:
        """Report again what the trial that this one repeats had reported."""
        before = trial.user_attrs.get(RETRY_OF)
        if before is None:
            return {}
        reported = dict(self.study.get_trials(deepcopy=False)[before].intermediate_values)
        for epoch, accuracy in sorted(reported.items()):
            trial.report(accuracy, epoch)
            trial.should_prune()  # takes the rungs at the same epochs: Hyperband counts the dead trial as a rival
        return reported

    def _repair(self) -> None:
        """Put the recipes of dead processes into the queue again; the study's lock is held."""
        trials = self.study.get_trials(deepcopy=False)
        repeated = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            if trial.state != TrialState.RUNNING or _lives(trial):
                continue
            params = trial.system_attrs.get("fixed_params", trial.params)
            if trial.number not in repeated and set(params) == set(self.about.distributions()):
                origin: dict[str, Any] = {RETRY_OF: trial.number, ORIGIN: trial.user_attrs.get(ORIGIN, trial.number)}
                self.study.enqueue_trial(params, user_attrs=origin)
            self.study.tell(trial.number, state=TrialState.FAIL)
            _log.warning("Trial %d was interrupted; it is repeated from its last checkpoint.", trial.number)


def _lives(trial: FrozenTrial) -> bool:
    # A trial gets its worker while the lock is held, so that one without is a dead process's.
    worker = Worker.of(trial)
    return worker is not None and worker.is_alive()
