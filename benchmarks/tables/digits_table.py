"""Make a table of a small digits space: every architecture, scored with the inherited weights of one supernet.

    python benchmarks/tables/digits_table.py

writes benchmarks/results/digits_table.json, one of the tables on which `sampler.py` compares samplers. The space is a
part of that of studies/digits.yaml, whose supernet is trained for it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.progress import track

from spikesearch.config import find_study_file, load_study_file
from spikesearch.data import load_data
from spikesearch.io import atomic_write_json
from spikesearch.scoring import Scorer
from spikesearch.space import SearchSpace
from spikesearch.study.assembly import new_supernet
from spikesearch.train import train_supernet, weights_hash

SMALL = SearchSpace(
    embed_dims=(24, 32, 48),
    depths=(1, 2),
    num_heads=(2, 4),
    mlp_ratios=(1, 3),
    v_thresholds=(1.0,),
    taus=(1.25, 2.0),
    time_steps=(1, 2, 3),
)


def main() -> None:
    """Train, score, write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--output", type=Path, default=Path(__file__).parents[1] / "results" / "digits_table.json", metavar="FILE"
    )
    args = arguments.parse_args()
    config = load_study_file(find_study_file("digits-spikformer"))
    data = load_data(config.data, seed=config.seed)
    fresh = new_supernet(config, data)
    with tempfile.TemporaryDirectory(prefix="spikesearch-table-") as folder:
        supernet = train_supernet(fresh, data, config.train, seed=config.seed, run_dir=Path(folder))
    scorer = Scorer(supernet, data, config.scoring)
    rows = []
    for index in track(range(SMALL.size), description="Scoring"):
        arch = SMALL.at(index)
        score = scorer.score(arch)
        rows.append({"params": SMALL.params(arch), "accuracy": score.accuracy, "energy": score.energy_uJ})
    atomic_write_json(
        args.output,
        {
            "space": SMALL.to_dict(),
            "convention": config.scoring.convention,
            "data": data.fingerprint,
            "supernet": weights_hash(supernet),
            "rows": rows,
        },
    )
    print(f"{len(rows)} architectures in {args.output.name}")


if __name__ == "__main__":
    main()
