"""The command line: thin, no logic. Results on stdout, logs on stderr, one line for a user's mistake.

Nothing heavy is imported before a command runs: ``spikesearch --help`` needs neither torch nor Optuna.
"""

from __future__ import annotations

from spikesearch.cli.app import main

__all__ = ["main"]
