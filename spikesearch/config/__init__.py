"""Study files: YAML in, checked sections out, and errors that name the key."""

from __future__ import annotations

from spikesearch.config.study_file import (
    ModelConfig,
    ReportConfig,
    ScoringConfig,
    SearchConfig,
    SpaceConfig,
    StudyConfig,
    TrainConfig,
    expand_path,
    find_study_file,
    load_study_file,
    resolve_path,
    shipped_study_files,
    storages_of_files,
)

__all__ = [
    "ModelConfig",
    "ReportConfig",
    "ScoringConfig",
    "SearchConfig",
    "SpaceConfig",
    "StudyConfig",
    "TrainConfig",
    "expand_path",
    "find_study_file",
    "load_study_file",
    "resolve_path",
    "shipped_study_files",
    "storages_of_files",
]
