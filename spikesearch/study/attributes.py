"""The names under which spikesearch keeps things in Optuna's user attributes. They are a file format: they stay."""

from __future__ import annotations

from spikesearch.racing import Dominated

# --- of a study -------------------------------------------------------------------------------------------------------

SCHEMA = "schema_version"
STUDY_FILE = "study_file"  # of a study of architectures
RECIPE = "recipe"  # of a study of recipes, instead
SAMPLER = "sampler"
VERSIONS = "versions"
STUDY_ID = "identity"  # tells studies of one name in two storages apart
DATA_FINGERPRINT = "data_fingerprint"
MAJORITY_SHARE = "majority_share"  # of the search split's most frequent class
SUPERNET_HASH = "supernet_hash"
REFERENCE_ENERGY = "reference_energy_uJ"
RUN_DIR = "run_dir"
SIGN_OF_LIFE = "sign_of_life"  # when the process that scores the reference wrote last that it is at work
TEST_PREFIX = "test:"  # and the key of an architecture: its score on the test split
RETRAINED_PREFIX = "retrained:"  # and the key of a training: the scores of the network

# --- of a trial -------------------------------------------------------------------------------------------------------

ARCH = "arch"
WORKER = "worker"

# a COMPLETE one; the last is Optuna's constraints in one number, because optuna-dashboard does not show them
F_AEB = "f_aeb"
PARAMS, MACS, ACS, MEAN_FIRING_RATE = MEASURED = ("params", "macs", "acs", "mean_firing_rate")
FEASIBLE = "feasible"

# one that was interrupted, or repeats such a trial
RETRY_OF, RETRIED_BY, DEATHS = "retry_of", "retried_by", "deaths"

# one that failed, or was pruned because another trial has its architecture
REASON = "reason"
DUPLICATE_OF = "duplicate_of"

# What belongs to one attempt, and is not copied to its repetition: also the bounds of a lost race, which may have been
# stored before the process died.
OF_ONE_ATTEMPT = frozenset({WORKER, ARCH, RETRY_OF, RETRIED_BY, DEATHS, REASON, *Dominated.NAMES})

# one of a study of recipes: the first of its repetitions, whose checkpoints it has; whether it diverged (which is also
# said of a study, of the training of its supernet); its energy
ORIGIN, DIVERGED, ENERGY = "origin", "diverged", "energy_uJ"
