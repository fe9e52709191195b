"""Make proposals.json, beside this file: the architectures that a real search proposed, in its order.

    python benchmarks/tables/scoring_proposals.py

Runs a whole study (``run_study``: supernet training, ESNN sampler, inherited scores) on the space of
``benchmarks/scoring.py`` and keeps its first 200 architectures. The images are scikit-learn's 8x8 digits, because 200
scores on 32x32 images would take hours: which genes a child shares with its parents depends on the space, the sampler
and the ranking of the trials, not on the size of the images. Takes some minutes; committed once and then left alone, so
that the benchmark always replays the same list.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from spikesearch import Architecture, SearchSpace, run_study
from spikesearch.config import StudyConfig
from spikesearch.io import atomic_write_text
from spikesearch.versions import package_versions

FILE = Path(__file__).with_name("proposals.json")
COUNT = 200
SPACE = {
    "embed_dims": [96, 144, 192],
    "depths": [1, 2, 3, 4],
    "num_heads": [4, 8, 12],
    "mlp_ratios": [2, 3, 4],
    "v_thresholds": [0.6, 1.0, 1.4],
    "taus": [1.25, 2.0, 4.0],
    "time_steps": [1, 2, 3, 4],
}
STUDY: dict[str, Any] = {
    "name": "proposals",
    "seed": 0,
    "data": {"kind": "digits"},
    "space": SPACE,
    "model": {"pool_stages": [3]},
    "train": {"epochs": 10, "batch_size": 64, "lr": 3e-3, "random_subnets": 1},
    "scoring": {"calibration_images": 128},
    "search": {"n_trials": COUNT},
}


def load() -> tuple[SearchSpace, list[Architecture]]:
    """Return the space and the committed list."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    space = SearchSpace(**{name: tuple(choices) for name, choices in content["study"]["space"].items()})
    return space, [Architecture.from_dict(item) for item in content["proposals"]]


def main() -> None:
    torch.set_num_threads(1)
    config = StudyConfig.from_dict(STUDY)
    space = config.space.search_space()
    with tempfile.TemporaryDirectory() as folder:
        study = run_study(config, storage=f"sqlite:///{folder}/study.db", run_dir=folder)
        trials = sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number)[:COUNT]
    content = {
        "what": " ".join((__doc__ or "").split("\n\n")[2].split()),
        "versions": package_versions(),
        "study": STUDY,
        "values": [[round(value, 6) for value in trial.values] for trial in trials],
        "proposals": [space.architecture(trial.params).to_dict() for trial in trials],
    }
    head = json.dumps({key: value for key, value in content.items() if key not in ("proposals", "values")}, indent=1)
    lines = ",\n".join(json.dumps(item) for item in content["proposals"])
    atomic_write_text(
        FILE, f'{head[:-2]},\n "values": {json.dumps(content["values"])},\n "proposals": [\n{lines}\n ]\n}}\n'
    )
    print(f"{len(trials)} proposals, {len({trial.params['embed_dim'] for trial in trials})} widths -> {FILE}")


if __name__ == "__main__":
    main()
