"""What search brings: against hand-made spiking networks, other ways to search, and conventional networks.

    python benchmarks/baselines.py --first-seed 20 --json benchmarks/results/baselines.json
    python benchmarks/baselines.py --study fashion-mnist-small-spikformer --data-root DATA --folder RUN --json FILE

On the same splits, augmentation, recipe and number of updates, for every seed:

- the hand-made Spikformer: the largest architecture of the space, trained alone, at every T of the space; also for
  twice as many updates, as our fine-tuned network has with those of the supernet;
- a ViT and a ResNet of timm, once with as many parameters as it, once with the energy of our recommended network. Their
  learning rate is the best of three on the search split: the recipe was made for spiking networks;
- architectures with inherited weights, as many for each way to choose: by the study (ESNN), at random, and at random
  among the uniform ones, whose blocks are equal; also all uniform ones, if they are not too many;
- ours: the recommended network, inherited, fine-tuned, and trained from scratch; also fine-tuned with the energy in the
  loss, beside the hand-made one trained with that, which tells what the loss brings without a search.

Networks are chosen on the search split, and energies are measured on it; the test split is read for what is called
"test". With ``--folder`` everything is kept there, and the same command goes on after an interruption. Figures over
seeds are means with a 95 % interval (Student's t); a seed changes the splits, the weights and the search.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from parts.baselines_arms import Arm, InheritedScores, is_uniform, search_arms, uniform_grid
from parts.baselines_figure import baselines_figure
from parts.baselines_networks import Family, accuracy, count_macs, families, train_alone
from parts.harness import Report, interval, kept, parser, shown, study_file

from spikesearch.config import StudyConfig, TrainConfig
from spikesearch.data import DataBundle, load_data
from spikesearch.energy import Convention, energy_model
from spikesearch.export import load_network
from spikesearch.export.folder import read_facts
from spikesearch.io import atomic_write_bytes
from spikesearch.nn import Spikformer, count_parameters
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.network import calibrate_network, score_network
from spikesearch.space import Architecture
from spikesearch.study.results import TrialResult
from spikesearch.study.run import run_study
from spikesearch.study.session import Session, open_trained
from spikesearch.subnet.retrain import retrain_subnet
from spikesearch.train.checkpoint import CheckpointFolder
from spikesearch.train.network import Source, fresh_network, train_network
from spikesearch.train.supernet import supernet_facts

LEARNING_RATES = (1.0, 0.3, 0.1)  # of the recipe's, for conventional networks
EQUAL_ENERGY = (0.25, 0.5, 1.0)  # of the reference's
GRID_LIMIT = 1000  # uniform architectures
TUNED, SCRATCH = "ESNN, fine-tuned", "ESNN, from scratch"
TWICE = "largest alone, twice"
ENERGY_WEIGHTS = (0.02, 0.05)  # of the energy in the loss

Row = dict[str, Any]


def saving(name: str, weight: float) -> str:
    """Return the name of a network that was trained with the energy in its loss."""
    return f"{name}, saving {weight:g}"


HAND_MADE_SAVING = saving("largest alone", ENERGY_WEIGHTS[-1])


def main() -> None:
    """Run the seeds and print table and claims."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--study", default="digits-spikformer", help="id or path of a study file of one stage, of images"
    )
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--first-seed", type=int, default=0)
    arguments.add_argument("--data-root", type=Path, help="folder that holds the folder of the study's data")
    arguments.add_argument("--folder", type=Path, help="where to keep studies and trainings; by default nowhere")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="draw accuracy against energy there, as PNG")
    args = arguments.parse_args()
    config = study_file(args.study, args.data_root)
    if config.space.search_space().stages:
        arguments.error("--study must name a study of one stage; benchmarks/fronts.py compares those of several.")
    if load_data(config.data, seed=config.seed).frames is not None:
        arguments.error("--study must name a study of images; a ViT and a ResNet know no event frames.")
    rates: tuple[float, ...] = LEARNING_RATES
    seeds, limit = args.seeds, GRID_LIMIT
    if args.quick:
        train = config.train.model_copy(update={"epochs": 2})
        search = config.search.model_copy(update={"n_trials": 8})
        config = config.model_copy(update={"train": train, "search": search})
        seeds, rates, limit = 1, rates[:1], 0
    report = Report("baselines", args.quick)
    with contextlib.ExitStack() as stack:
        root = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spikesearch-baselines-")))
        runs = []
        for seed in range(args.first_seed, args.first_seed + seeds):
            folder = root.resolve() / f"seed{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            runs.append(Seed(searched(config, seed, folder, args.device), folder, args.device, rates, limit).run())
    table(runs)
    space = config.space.search_space()
    claims(report, runs, f"largest alone, T {space.largest.time_steps}")
    report.details = {
        "study": config.name,
        "epochs": config.train.epochs,
        "n_trials": config.search.n_trials,
        "uniform_architectures": len(list(uniform_grid(space))),
        "architectures": space.size,
        "searched_convention": config.scoring.convention,
        "seeds": runs,
    }
    report.write(args.json)
    if args.figure is not None:
        atomic_write_bytes(args.figure, baselines_figure(runs, config.name))


# --- one seed -------------------------------------------------------------------------------------


def searched(config: StudyConfig, seed: int, folder: Path, device: str) -> Session:
    """Return the finished study of a seed."""
    storage = f"sqlite:///{folder / 'spikesearch.db'}"
    run_study(config.model_copy(update={"seed": seed}), storage=storage, device=device, progress=False)
    return open_trained(config.name, storage=storage, device=device)


@dataclass(frozen=True)
class Seed:
    """One seed: a study of its own, and what it is compared with.

    Args:
        trained: The study, finished.
        folder: Where everything is kept.
        device: Where to compute.
        rates: Learning rates of conventional networks, over the recipe's.
        grid_limit: Up to how many uniform architectures are all scored.
    """

    trained: Session
    folder: Path
    device: str
    rates: tuple[float, ...]
    grid_limit: int

    @property
    def config(self) -> StudyConfig:
        return self.trained.config

    @property
    def data(self) -> DataBundle:
        return self.trained.data

    def run(self) -> Row:
        """Do everything that is not done yet; return the figures in plain JSON types."""
        arms = self.arms()
        networks = self.networks(arms)
        print(f"seed {self.config.seed}")
        for name, row in networks.items():
            print(
                f"  {name:<34} {row['params']:>9,} parameters  search {100 * row['search']:.2f}  "
                f"test {100 * row['test']:.2f}  {row['spikformer']:.3f} / {row['strict']:.3f} uJ",
                flush=True,
            )
        return {
            "seed": self.config.seed,
            "arms": {arm.name: self.arm_facts(arm) for arm in arms},
            "networks": networks,
        }

    # --- architectures that share the supernet ---

    def arms(self) -> list[Arm]:
        scores = InheritedScores(self.trained.scorer(), self.config.constraints, self.folder / "scores.json")
        return search_arms(self.config, self.trained.results().trials, scores, grid_limit=self.grid_limit)

    def arm_facts(self, arm: Arm) -> Row:
        best = arm.recommended
        within = {str(share): arm.within(share) for share in EQUAL_ENERGY}
        return {
            "trials": len(arm.trials),
            "hypervolume": arm.hypervolume,
            "recommended": self.tested(best),
            "recommended_is_uniform": is_uniform(best.architecture),
            "equal_energy": {share: None if trial is None else self.tested(trial) for share, trial in within.items()},
            "front": arm.front,
        }

    def tested(self, trial: TrialResult) -> Row:
        """Return a trial's figures with inherited weights."""

        def test() -> Row:
            return {"test": self.trained.scorer().score(trial.architecture, "test").accuracy}

        return {
            "architecture": trial.describe(),
            "search": trial.accuracy,
            "energy_uJ": trial.energy_uJ,
            **kept(self.folder / f"test-{trial.architecture.key}.json", test),
        }

    # --- networks ---

    def networks(self, arms: list[Arm]) -> dict[str, Row]:
        largest = self.config.space.search_space().largest
        rows: dict[str, Row] = {}
        for steps in self.config.space.search_space().time_steps:
            arch = Architecture(largest.embed_dim, steps, largest.stem, largest.blocks)
            rows[f"largest alone, T {steps}"] = self.kept(f"alone-T{steps}", partial(self.alone, arch))
        rows[TWICE] = self.kept("alone-twice", lambda: self.alone(largest, times=2))
        esnn = arms[0].recommended
        params = self.trained.scorer().count_parameters(largest)
        macs = esnn.energy_uJ * 1e6 / self.config.scoring.mac_pj
        for family in families(largest, self.data):
            width = family.nearest(params, count_parameters)
            rows[f"{family.name}, equal parameters"] = self.conventional(family, width)
            width = family.nearest(macs, lambda net: count_macs(net, self.data))
            rows[f"{family.name}, our energy"] = self.conventional(family, width)
        rows["largest, inherited"] = self.inherited(largest)
        for arm in arms:
            rows[f"{arm.name}, inherited"] = self.inherited(arm.recommended.architecture)
        rows[TUNED] = self.kept("fine-tuned", lambda: self.retrained(esnn, "inherited"))
        rows[SCRATCH] = self.kept("from-scratch", lambda: self.retrained(esnn, "scratch"))
        for weight in ENERGY_WEIGHTS:
            tuned = partial(self.retrained, esnn, "inherited", weight)
            rows[saving(TUNED, weight)] = self.kept(f"fine-tuned-{weight}", tuned)
        alone = partial(self.alone, largest, energy_weight=ENERGY_WEIGHTS[-1])
        rows[HAND_MADE_SAVING] = self.kept(f"alone-{ENERGY_WEIGHTS[-1]}", alone)
        return rows

    def kept(self, name: str, make: Callable[[], Row]) -> Row:
        return kept(self.folder / f"network-{name}.json", make)

    def alone(self, arch: Architecture, times: int = 1, energy_weight: float = 0.0) -> Row:
        """Train an architecture from new weights, for the epochs of the recipe or a multiple of them."""
        changes = {"epochs": times * self.config.train.epochs, "energy_weight": energy_weight}
        recipe = self.config.train.model_copy(update=changes)
        checkpoints = self.folder / f"checkpoints-{arch.key}-{times}-{energy_weight}"
        done = train_network(
            fresh_network(self.trained.scorer().extract(arch), self.config.seed),
            self.data,
            recipe,
            seed=self.config.seed,
            folder=checkpoints,
            energy_model=energy_model(self.config.scoring),
            device=self.device,
            progress=False,
        )
        calibrate_network(done.net, calibration_images(self.data, self.config.scoring).to(self.device))
        row = self.measured(done.net, work(recipe, self.data, done.history))
        done.checkpoints.delete()
        return row

    def inherited(self, arch: Architecture) -> Row:
        history = supernet_facts(self.trained.folder)["history"]

        def make() -> Row:
            return self.measured(self.trained.scorer().extract(arch), work(self.config.train, self.data, history))

        return self.kept(f"inherited-{arch.key}", make)

    def retrained(self, trial: TrialResult, source: Source, energy_weight: float = 0.0) -> Row:
        folder = retrain_subnet(
            self.trained, trial.number, source=source, energy_weight=energy_weight, progress=False
        ).folder
        cost = work(self.config.train, self.data, read_facts(folder)["history"])
        if source == "inherited":
            before = work(self.config.train, self.data, supernet_facts(self.trained.folder)["history"])
            cost = {key: cost[key] + before[key] for key in cost}
        return self.measured(load_network(folder).to(self.device), cost)

    def measured(self, net: Spikformer, cost: Row) -> Row:
        """Return accuracy on both splits, and energy on the search split under both conventions."""
        scoring = self.config.scoring
        scores = {
            convention: score_network(net, self.data, scoring.model_copy(update={"convention": convention}))
            for convention in get_args(Convention)
        }
        search = scores[scoring.convention]
        return {
            "architecture": net.arch.to_dict(),
            "params": search.params,
            "search": search.accuracy,
            "test": score_network(net, self.data, scoring, "test").accuracy,
            **{convention: score.energy_uJ for convention, score in scores.items()},
            **cost,
        }

    def conventional(self, family: Family, width: int) -> Row:
        """Train a conventional network with every learning rate; return that which is best on the search split."""
        rows = [
            self.kept(f"{family.name}-{width}-{rate}", partial(self._conventional, family, width, rate))
            for rate in self.rates
        ]
        return max(rows, key=lambda row: row["search"])

    def _conventional(self, family: Family, width: int, rate: float) -> Row:
        config = self.config
        recipe = config.train.model_copy(update={"lr": config.train.lr * rate, "energy_weight": 0.0})
        checkpoints = self.folder / f"checkpoints-{family.name}-{width}-{rate}"
        net, history = train_alone(
            family.seeded(width, config.seed),
            self.data,
            recipe,
            config.scoring,
            seed=config.seed,
            identity={"family": family.name, "width": width},
            folder=checkpoints,
            device=self.device,
        )
        energy = count_macs(net, self.data) * config.scoring.mac_pj * 1e-6
        row = {
            "width": width,
            "lr": recipe.lr,
            "params": count_parameters(net),
            **{name: accuracy(net, getattr(self.data, name), config.scoring.batch_size) for name in ("search", "test")},
            **dict.fromkeys(get_args(Convention), energy),
            **work(recipe, self.data, history),
        }
        CheckpointFolder(checkpoints).delete()
        return row


def work(recipe: TrainConfig, data: DataBundle, history: list[dict[str, float]]) -> Row:
    """Return updates of the weights and seconds of training; a supernet's update has several networks.

    The seconds are those of the median epoch, times their number: the process may have been stopped in one of them.
    """
    steps = max(1, len(data.train) // recipe.batch_size)
    images = steps * len(history) * min(recipe.batch_size, len(data.train))
    pace = np.median([epoch["images_per_s"] for epoch in history])
    return {"updates": steps * len(history), "seconds": round(images / float(pace), 1)}


# --- over the seeds -------------------------------------------------------------------------------


def column(runs: list[Row], network: str, key: str, factor: float = 1.0) -> np.ndarray:
    return factor * np.array([run["networks"][network][key] for run in runs])


def table(runs: list[Row]) -> None:
    print(f"Means over {len(runs)} seeds; energies in uJ under both conventions")
    print(f"  {'network':<34}{'parameters':>11}{'test, %':>17}{'spikformer':>19}{'strict':>19}{'updates':>9}{'s':>6}")
    for name in runs[0]["networks"]:
        values = {
            key: column(runs, name, key) for key in ("params", "test", "spikformer", "strict", "updates", "seconds")
        }
        print(
            f"  {name:<34}{values['params'].mean():>11,.0f}{shown(100 * values['test']):>17}"
            f"{shown(values['spikformer']):>19}{shown(values['strict']):>19}"
            f"{values['updates'].mean():>9.0f}{values['seconds'].mean():>6.0f}"
        )


def claims(report: Report, runs: list[Row], hand_made: str) -> None:
    for ours in (TUNED, SCRATCH, *(saving(TUNED, weight) for weight in ENERGY_WEIGHTS)):
        print(f"{ours}: our recommended network against others, test split")
        others = [name for name in runs[0]["networks"] if name.startswith(("ViT", "ResNet"))]
        for other in (hand_made, TWICE, HAND_MADE_SAVING, *others):
            points = column(runs, ours, "test", 100) - column(runs, other, "test", 100)
            lead(report, f"{ours} minus {other}, test points", points)
            for convention in get_args(Convention):
                ratio = column(runs, ours, convention) / column(runs, other, convention)
                report.claim(f"{ours}: energy over that of {other}, {convention}", shown(ratio, 3))
    print("ESNN against other ways to search, inherited weights")
    for name in list(runs[0]["arms"]):
        arms = [run["arms"][name] for run in runs]
        values = np.array([arm["hypervolume"] for arm in arms])
        report.claim(f"{name} ({arms[0]['trials']} trials): hypervolume", shown(values, 4))
    for name in list(runs[0]["arms"])[1:]:
        lead(report, f"ESNN minus {name}: hypervolume", difference(runs, name, lambda arm: arm["hypervolume"]), 4)
        points = 100 * difference(runs, name, lambda arm: arm["recommended"]["test"])
        lead(report, f"ESNN minus {name}: recommended, test points", points)
        ratio = np.array([run["arms"]["ESNN"]["recommended"]["energy_uJ"] for run in runs]) / np.array(
            [run["arms"][name]["recommended"]["energy_uJ"] for run in runs]
        )
        report.claim(f"ESNN over {name}: energy of the recommended", shown(ratio, 3))
        for share in map(str, EQUAL_ENERGY):
            if any(run["arms"][arm]["equal_energy"][share] is None for run in runs for arm in ("ESNN", name)):
                continue  # nothing so cheap was found
            for split in ("search", "test"):

                def best(arm: Any, share: str = share, split: str = split) -> float:
                    return float(arm["equal_energy"][share][split])

                points = 100 * difference(runs, name, best)
                claim = f"ESNN minus {name}: best at {share} of the reference's energy, {split} points"
                report.claim(claim, shown(points))
    uniform = sum(run["arms"]["ESNN"]["recommended_is_uniform"] for run in runs)
    report.claim("seeds in which ESNN recommends a uniform network", f"{uniform} of {len(runs)}")


def difference(runs: list[Row], name: str, value: Callable[[Row], float]) -> np.ndarray:
    """Return how much more ESNN has than another arm, per seed."""
    return np.array([value(run["arms"]["ESNN"]) - value(run["arms"][name]) for run in runs])


def lead(report: Report, claim: str, values: np.ndarray, digits: int = 2) -> None:
    """Claim a difference that ought to be above 0, the whole interval of it."""
    if len(values) == 1:
        report.claim(claim, shown(values, digits))
        return
    mean, half = interval(values)
    report.claim(claim, shown(values, digits), "interval above 0", mean - half > 0)


if __name__ == "__main__":
    main()
