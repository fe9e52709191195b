"""Optuna's database storage with three operations of a trial in one transaction each.

Optuna writes a trial gene by gene and attribute by attribute, one transaction each; for a genome of twenty genes that
is most of the time a trial costs, and a process that dies in between leaves half a trial. Here a trial is created with
all its genes, claimed from the queue, and finished with all its attributes and values, in one transaction each.

This overrides private code of Optuna. It is used only if every private name that it needs exists (``storage_class``);
otherwise whoever writes trials takes the same steps through Optuna's public interface. The tests run Optuna's own
storage suite on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.distributions import check_distribution_compatibility, distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from sqlalchemy.orm import Session

try:
    from optuna.storages._rdb import models
    from optuna.storages._rdb.storage import _create_scoped_session
except ImportError:  # another Optuna
    models = None  # type: ignore[assignment]

NEEDED = {
    "TrialModel": (
        *("trial_id", "number", "study_id", "state", "_datetime_start_utc", "_datetime_complete_utc"),
        *("datetime_start", "datetime_complete", "count_past_trials"),
    ),
    "TrialParamModel": ("trial_id", "param_name", "param_value", "distribution_json"),
    "TrialValueModel": ("trial_id", "objective", "value", "value_type", "value_to_stored_repr"),
    "TrialUserAttributeModel": ("trial_id", "key", "value_json"),
    "TrialSystemAttributeModel": ("trial_id", "key", "value_json"),
}
_DIALECTS = ("sqlite", "postgresql")


def storage_class() -> type[RDBStorage]:
    """Return :class:`GenomeStorage` where this Optuna has what it needs, else Optuna's own class."""
    if models is None or not all(hasattr(RDBStorage, name) for name in ("_get_prepared_new_trial", "delete_study")):
        return RDBStorage
    for model, columns in NEEDED.items():
        if not all(hasattr(getattr(models, model, None), column) for column in columns):
            return RDBStorage
    return GenomeStorage


class GenomeStorage(RDBStorage):
    """Optuna's ``RDBStorage`` that writes trials whole; the tables are the same."""

    # (study, parameter) -> JSON of a distribution that the study already holds
    _known_distributions: dict[tuple[int, str], str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known_distributions = {}

    def delete_study(self, study_id: int) -> None:
        """Delete a study and forget its distributions, because databases use an id again."""
        self._known_distributions = {k: v for k, v in self._known_distributions.items() if k[0] != study_id}
        super().delete_study(study_id)

    def claim_trial(self, trial_id: int, user_attrs: Mapping[str, Any]) -> bool:
        """Take a waiting trial: RUNNING, with these attributes, or False if somebody else was faster."""
        with _create_scoped_session(self.scoped_session) as session:
            if not self._move(session, trial_id, TrialState.WAITING, TrialState.RUNNING):
                return False
            self._insert_attrs(session, models.TrialUserAttributeModel, trial_id, user_attrs)
        return True

    def finish_trial(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        user_attrs: Mapping[str, Any],
        system_attrs: Mapping[str, Any],
    ) -> bool:
        """Finish a running trial with all that is known of it, or return False if it is not running any more."""
        with _create_scoped_session(self.scoped_session) as session:
            if not self._move(session, trial_id, TrialState.RUNNING, state):
                return False
            self._insert_values(session, trial_id, values)
            self._insert_attrs(session, models.TrialUserAttributeModel, trial_id, user_attrs)
            self._insert_attrs(session, models.TrialSystemAttributeModel, trial_id, system_attrs)
        return True

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> models.TrialModel:
        # Called by Optuna within the transaction that locks the study's row; it commits what is added here.
        whole = template_trial is not None and not template_trial.intermediate_values
        if not whole or self.engine.name not in _DIALECTS:
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        assert template_trial is not None  # for type checkers
        trial: Any = models.TrialModel(
            study_id=study_id,
            number=None,
            state=template_trial.state,
            datetime_start=template_trial.datetime_start,
            datetime_complete=template_trial.datetime_complete,
        )
        session.add(trial)
        session.flush()  # from here on the transaction holds SQLite's write lock, so that the count below is exact
        trial.number = trial.count_past_trials(session)
        self._insert_params(session, study_id, trial.trial_id, template_trial)
        self._insert_values(session, trial.trial_id, template_trial.values)
        self._insert_attrs(session, models.TrialUserAttributeModel, trial.trial_id, template_trial.user_attrs)
        self._insert_attrs(session, models.TrialSystemAttributeModel, trial.trial_id, template_trial.system_attrs)
        return cast("models.TrialModel", trial)

    def _move(self, session: Session, trial_id: int, old: TrialState, new: TrialState) -> bool:
        # One conditional UPDATE: of two processes that both saw the old state, exactly one changes a row.
        from sqlalchemy import update

        now = datetime.now(UTC).replace(tzinfo=None)  # the tables hold naive UTC
        when = {"_datetime_start_utc": now} if new == TrialState.RUNNING else {"_datetime_complete_utc": now}
        statement = (
            update(models.TrialModel)
            .where(models.TrialModel.trial_id == trial_id, models.TrialModel.state == old)
            .values(state=new, **when)
            .execution_options(synchronize_session=False)
        )
        return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined]

    def _insert_params(self, session: Session, study_id: int, trial_id: int, template: FrozenTrial) -> None:
        from sqlalchemy import insert

        rows = []
        for name, value in template.params.items():
            distribution = template.distributions[name]
            text = distribution_to_json(distribution)
            self._check_distribution(session, study_id, trial_id, name, text)
            rows.append(
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(value),
                    "distribution_json": text,
                }
            )
        if rows:
            session.execute(insert(models.TrialParamModel), rows)

    def _check_distribution(self, session: Session, study_id: int, trial_id: int, name: str, text: str) -> None:
        if self._known_distributions.get((study_id, name)) == text:
            return
        record = (
            session.query(models.TrialParamModel.distribution_json)
            .join(models.TrialModel)
            .filter(models.TrialModel.study_id == study_id, models.TrialParamModel.param_name == name)
            .first()
        )
        if record is not None:
            check_distribution_compatibility(json_to_distribution(record[0]), json_to_distribution(text))
            # Only what a committed transaction has written may be remembered.
            self._known_distributions[(study_id, name)] = record[0]

    def _insert_values(self, session: Session, trial_id: int, values: Sequence[float] | None) -> None:
        from sqlalchemy import insert

        rows = []
        for objective, value in enumerate(values or ()):
            stored, kind = models.TrialValueModel.value_to_stored_repr(value)
            rows.append({"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind})
        if rows:
            session.execute(insert(models.TrialValueModel), rows)

    def _insert_attrs(self, session: Session, model: Any, trial_id: int, attrs: Mapping[str, Any]) -> None:
        if not attrs:
            return
        rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]
        session.execute(_upsert(model, self.engine.name), rows)


@cache  # building the statement takes longer than executing it
def _upsert(model: Any, dialect: str) -> Any:
    """Return the statement that inserts an attribute or replaces its value."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    elif dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    else:
        raise optuna.exceptions.StorageInternalError(f"{dialect} is not one of {', '.join(_DIALECTS)}.")
    statement = insert(model)
    return statement.on_conflict_do_update(
        index_elements=[model.trial_id, model.key], set_={"value_json": statement.excluded.value_json}
    )
