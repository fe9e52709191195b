"""Accuracy at equal energy: searched spiking networks against everything else that the same data could be given to.

    python benchmarks/fronts.py --study digits --budgets 0.25 0.5 1.0 --folder RUN --json FILE --figure FILE
    python benchmarks/fronts.py --study fashion-mnist --data-root DATA --budgets 0.5 1.0 1.5 --folder RUN --json FILE

For every seed, which changes splits, weights and searches, and every budget in microjoules per sample:

- *searched*: the study is run; the most accurate trial within the budget is fine-tuned;
- *random*, *uniform*: as many architectures of the same supernet, drawn at random, and those whose stages and blocks
  are all alike; chosen and fine-tuned likewise;
- *--against FILE*: another study file (a space of version 1) on the same data, run, chosen and fine-tuned likewise;
- *presets*: published networks, as wide as the budget allows, trained alone;
- conventional networks (ResNets, inverted residuals, ViTs) of that energy, trained with the best of three learning
  rates, each.

What is trained alone has as many updates as supernet and fine-tuning together. Networks fire otherwise once they are
fine-tuned; one that then needs more than the budget gives way to the best that is expected to keep it. All
is chosen on the search split; energies are measured on it, under both conventions; the test split is read once for each
network that is reported. With ``--folder`` everything is kept there, and the same command goes on after an
interruption. Figures over seeds are means with a 95 % interval (Student's t).
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts.baselines_arms import InheritedScores, random_architectures, some_of
from parts.baselines_networks import Family, accuracy, count_macs, train_alone
from parts.fronts_figure import fronts_figure
from parts.harness import AC_PJ, CONVENTIONS, MAC_PJ, Report, interval, kept, parser, shown, study_file
from parts.rivals import rivals

from spikesearch.config import StudyConfig, TrainConfig
from spikesearch.energy import EnergyModel, energy_model
from spikesearch.errors import SpaceError
from spikesearch.io import atomic_write_bytes
from spikesearch.nn import Spikformer, count_parameters
from spikesearch.scoring.calibration import calibration_images
from spikesearch.scoring.network import calibrate_network, score_network
from spikesearch.space import Architecture, SearchSpace, presets
from spikesearch.study.results import TrialResult
from spikesearch.study.run import run_study
from spikesearch.study.session import Session, open_trained
from spikesearch.train.checkpoint import CheckpointFolder
from spikesearch.train.network import fresh_network, train_network
from spikesearch.train.supernet import supernet_facts

LEARNING_RATES = (1.0, 0.3, 0.1)  # of the recipe's, for conventional networks
MOST_CHOICES = 4  # that are fine-tuned for a budget
RATE = 0.12  # spikes per neuron and time step that are expected of a preset
WIDTHS = (8, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256)  # of presets
ARMS = ("searched", "random", "uniform", "against", "presets", "conventional")

Row = dict[str, Any]


def main() -> None:
    """Run the seeds and print table and claims."""
    arguments = parser(__doc__)
    arguments.add_argument("--study", default="digits", help="id or path of a study file")
    arguments.add_argument("--against", help="id or path of another study file on the same data")
    arguments.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="microjoules per sample")
    arguments.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="what is run")
    arguments.add_argument("--tune-epochs", type=int, help="of the fine-tuning; by default the recipe's")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--first-seed", type=int, default=0)
    arguments.add_argument("--data-root", type=Path, help="folder that holds the folder of the study's data")
    arguments.add_argument("--folder", type=Path, help="where to keep studies and trainings; by default nowhere")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="draw accuracy over energy there, as PNG")
    args = arguments.parse_args()
    torch.set_num_threads(1)
    config = study_file(args.study, args.data_root)
    other = None if args.against is None else study_file(args.against, args.data_root)
    seeds, budgets, tune = args.seeds, args.budgets, args.tune_epochs or config.train.epochs
    if args.quick:
        config, other = shortened(config), None if other is None else shortened(other)
        seeds, budgets, tune = 1, budgets[:1], 2
    report = Report("fronts", args.quick)
    with contextlib.ExitStack() as stack:
        root = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spikesearch-fronts-")))
        runs = []
        for seed in range(args.first_seed, args.first_seed + seeds):
            folder = root.resolve() / f"seed{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            runs.append(Seed(config, other, seed, folder, args.device, tuple(budgets), tune, tuple(args.arms)).run())
    claims(report, runs, budgets)
    report.details = {
        "study": config.name,
        "epochs": config.train.epochs,
        "tune_epochs": tune,
        "n_trials": config.search.n_trials,
        "architectures": config.space.search_space().size,
        "seeds": runs,
    }
    report.write(args.json)
    if args.figure is not None:
        atomic_write_bytes(args.figure, fronts_figure(runs, config.name))


def shortened(config: StudyConfig) -> StudyConfig:
    train = config.train.model_copy(update={"epochs": 2})
    search = config.search.model_copy(update={"n_trials": 8})
    return config.model_copy(update={"train": train, "search": search})


# --- one seed -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seed:
    """One seed: a study of its own, and what it is compared with.

    Args:
        config: The study file.
        other: Another one on the same data, if any.
        seed: Of everything random.
        folder: Where everything is kept.
        device: Where to compute.
        budgets: In microjoules per sample, under the study's convention.
        tune_epochs: Of the fine-tuning.
        arms: What is run.
    """

    config: StudyConfig
    other: StudyConfig | None
    seed: int
    folder: Path
    device: str
    budgets: tuple[float, ...]
    tune_epochs: int
    arms: tuple[str, ...]

    def run(self) -> Row:
        """Do everything that is not done yet; return the figures in plain JSON types."""
        session = self.searched(self.config, "ours")
        networks: dict[str, dict[str, Row]] = {}
        for name, choose in self.choices(session).items():
            networks[name] = self.tuned(session, name, choose)
            self.show(name, networks[name])
        if "against" in self.arms and self.other is not None:
            against = self.searched(self.other, "against")
            networks["version 1"] = self.tuned(against, "against", list(against.results().trials))
            self.show("version 1", networks["version 1"])
        if "presets" in self.arms:
            for kind, name in published().items():
                networks[kind] = self.alone(session, name)
                self.show(kind, networks[kind])
        if "conventional" in self.arms:
            for family in rivals(session.data):
                networks[family.name] = {
                    str(budget): self.conventional(session, family, budget) for budget in self.budgets
                }
                self.show(family.name, networks[family.name])
        return {"seed": self.seed, "networks": networks}

    def show(self, name: str, rows: dict[str, Row]) -> None:
        for budget, row in rows.items():
            print(
                f"  seed {self.seed}  {name:<20} {budget:>5} uJ: {row['params']:>9,} parameters  "
                f"search {100 * row['search']:.2f}  test {100 * row['test']:.2f}  "
                f"{row['spikformer']:.3f} / {row['strict']:.3f} uJ  {row['seconds']:.0f} s",
                flush=True,
            )

    def searched(self, config: StudyConfig, name: str) -> Session:
        """Return a finished study."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        storage = f"sqlite:///{folder / 'spikesearch.db'}"
        run_study(config.model_copy(update={"seed": self.seed}), storage=storage, device=self.device, progress=False)
        return open_trained(config.name, storage=storage, device=self.device)

    def choices(self, session: Session) -> dict[str, list[TrialResult]]:
        """Return the scored architectures that each arm may choose from."""
        trials = session.results().trials
        scores = InheritedScores(session.scorer(), session.config.constraints, self.folder / "scores.json")
        space = session.space
        result: dict[str, list[TrialResult]] = {}
        if "searched" in self.arms:
            result["searched"] = list(trials)
        if "random" in self.arms:
            result["random"] = scores.trials(random_architectures(space, self.seed, len(trials)))
        if "uniform" in self.arms:
            grid = list(uniform(space))
            result["uniform"] = scores.trials(some_of(grid, space.largest, self.seed, len(trials)))
        return result

    def tuned(self, session: Session, arm: str, trials: Sequence[TrialResult]) -> dict[str, Row]:
        """Fine-tune the best within each budget; one that then needs more than that gives way to a cheaper one."""
        rows: dict[str, Row] = {}
        convention = session.config.scoring.convention
        ratio = 1.0
        for budget in sorted(self.budgets, reverse=True):
            for _ in range(MOST_CHOICES):
                allowed = [each for each in trials if each.feasible and each.energy_uJ * ratio <= budget]
                if not allowed:
                    break  # nothing so cheap was scored
                best = max(allowed, key=lambda each: (each.accuracy, -each.energy_uJ))
                name = f"{arm}-{best.architecture.key}"
                row = self.kept(name, partial(self.fine_tuned, session, best, name))
                ratio = row[convention] / best.energy_uJ
                if row[convention] <= budget:
                    rows[str(budget)] = row
                    break
        return {budget: rows[budget] for budget in map(str, self.budgets) if budget in rows}

    def fine_tuned(self, session: Session, trial: TrialResult, name: str) -> Row:
        recipe = session.config.train.model_copy(update={"epochs": self.tune_epochs})
        net = session.scorer().extract(trial.architecture)
        before = seconds(supernet_facts(session.folder)["history"], session)
        row = self.trained(session, net, recipe, name)
        return {
            **row,
            "seconds": row["seconds"] + before,
            "inherited": {"search": trial.accuracy, "energy_uJ": trial.energy_uJ},
        }

    def trained(self, session: Session, net: Spikformer, recipe: TrainConfig, name: str) -> Row:
        """Train a spiking network; return its figures."""
        scoring, data = session.config.scoring, session.data
        training = train_network(
            net,
            data,
            recipe,
            seed=self.seed,
            folder=self.folder / f"checkpoints-{name}",
            energy_model=energy_model(scoring),
            device=self.device,
            progress=False,
        )
        calibrate_network(training.net, calibration_images(data, scoring).to(self.device))
        row = {
            "architecture": training.net.arch.to_dict(),
            "describe": training.net.arch.describe(),
            "params": count_parameters(training.net),
            **{split: score_network(training.net, data, scoring, split).accuracy for split in ("search", "test")},
            **{
                name: score_network(training.net, data, scoring.model_copy(update={"convention": name})).energy_uJ
                for name in CONVENTIONS
            },
            "seconds": seconds(training.history, session),
        }
        training.checkpoints.delete()
        return row

    def alone(self, session: Session, name: str) -> dict[str, Row]:
        """Train a published network alone, as wide as each budget allows."""
        recipe = self.long_recipe()
        rows: dict[str, Row] = {}
        for budget in self.budgets:
            net = within(name, budget, session)
            if net is None:
                continue
            key = f"{name}-{net.arch.key}"
            start = fresh_network(net, self.seed)
            rows[str(budget)] = self.kept(key, partial(self.trained, session, start, recipe, key))
        return rows

    def long_recipe(self) -> TrainConfig:
        """Return the recipe of what is trained alone: as many updates as supernet and fine-tuning have."""
        return self.config.train.model_copy(update={"epochs": self.config.train.epochs + self.tune_epochs})

    def conventional(self, session: Session, family: Family, budget: float) -> Row:
        """Train a conventional network with every learning rate; return that which is best on the search split."""
        data = session.data
        macs = budget * 1e6 / MAC_PJ
        width = family.nearest(macs, lambda net: count_macs(net, data))
        rows = [
            self.kept(f"{family.name}-{width}-{rate}", partial(self._conventional, session, family, width, rate))
            for rate in LEARNING_RATES
        ]
        best = max(rows, key=lambda row: row["search"])
        return {**best, "seconds": sum(row["seconds"] for row in rows)}

    def _conventional(self, session: Session, family: Family, width: int, rate: float) -> Row:
        data, scoring = session.data, session.config.scoring
        recipe = self.long_recipe()
        recipe = recipe.model_copy(update={"lr": recipe.lr * rate, "energy_weight": 0.0})
        checkpoints = self.folder / f"checkpoints-{family.name}-{width}-{rate}"
        net, history = train_alone(
            family.seeded(width, self.seed),
            data,
            recipe,
            scoring,
            seed=self.seed,
            identity={"family": family.name, "width": width},
            folder=checkpoints,
            device=self.device,
        )
        energy = count_macs(net, data) * MAC_PJ * 1e-6
        row = {
            "width": width,
            "lr": recipe.lr,
            "params": count_parameters(net),
            **{name: accuracy(net, getattr(data, name), scoring.batch_size) for name in ("search", "test")},
            **dict.fromkeys(CONVENTIONS, energy),
            "seconds": seconds(history, session),
        }
        CheckpointFolder(checkpoints).delete()
        return row

    def kept(self, name: str, make: Callable[[], Row]) -> Row:
        return kept(self.folder / f"network-{name}.json", make)


def uniform(space: SearchSpace) -> Iterator[Architecture]:
    """Yield the architectures whose stages and blocks are all alike: one value of each gene."""
    values: dict[str, dict[Any, None]] = {}
    for parameter in space.parameters.values():
        values.setdefault(parameter.gene.name, {}).update(dict.fromkeys(parameter.choices))
    yielded: dict[Architecture, None] = {}
    for combination in product(*values.values()):
        alike = dict(zip(values, combination, strict=True))
        params = {name: alike[parameter.gene.name] for name, parameter in space.parameters.items()}
        with contextlib.suppress(SpaceError):  # a stage that does not offer it
            yielded.setdefault(space.architecture(params))
    yield from yielded


def published() -> dict[str, str]:
    """Return the first preset of every family, by the family's name; of families that are one network here, the first.

    Spikingformer and the first Spike-driven Transformer differ in their attention alone, which is the same here.
    """
    families: dict[str, str] = {}
    for name in presets.names():
        families.setdefault(re.sub(r"(-\d+-\d+|\d+)$", "", name), name)
    kinds: dict[tuple[Architecture, str], str] = {}
    for family, name in families.items():
        preset = presets.get(name, num_heads=2, time_steps=1)
        kinds.setdefault((preset.arch, repr(preset.model)), family)
    return {family: families[family] for family in kinds.values()}


def within(name: str, budget: float, session: Session) -> Spikformer | None:
    """Return a preset of a block per stage, as wide as a budget in microjoules allows; ``None`` if none is so cheap.

    How often it will fire is not known before it is trained; :data:`RATE` is assumed.
    """
    best = None
    for width in WIDTHS:
        net = next((net for stages in (4, 3, 2, 1) if (net := sized(name, width, stages, session)) is not None), None)
        if net is not None and expected_energy(net, session) <= budget:
            best = net
    return best


def sized(name: str, width: int, stages: int, session: Session) -> Spikformer | None:
    """Return a preset of some of its stages, a block each, at one time step or that of the recordings, if it exists."""
    data, most = session.data, len(presets.get(name).depths)
    steps = 1 if data.frames is None else max(session.space.time_steps)
    depths = (1,) * min(stages, most) + (0,) * (most - min(stages, most))
    try:
        preset = presets.get(name, embed_dim=width, depths=depths, time_steps=steps, num_heads=2)
        preset.check_image_size(data.image_size)
        return Spikformer(
            preset.arch,
            in_channels=data.in_channels,
            image_size=data.image_size,
            num_classes=data.num_classes,
            **preset.model,
        )
    except SpaceError:
        return None


def expected_energy(net: Spikformer, session: Session) -> float:
    """Return the energy, in microjoules per sample, of a network whose layers get spikes at :data:`RATE`."""
    sample = session.data.train.images(np.arange(1))
    report = EnergyModel("spikformer").report(net.eval(), sample)
    macs = sum(line.macs for line in report.layers)
    spikes = sum(line.dense_ops for line in report.layers if not line.macs)
    return (macs * MAC_PJ + RATE * spikes * AC_PJ) * 1e-6


def seconds(history: list[dict[str, float]], session: Session) -> float:
    """Return the seconds of a training: those of the median epoch, times their number."""
    images = len(history) * len(session.data.train)
    return round(images / float(np.median([epoch["images_per_s"] for epoch in history])), 1)


# --- over the seeds -------------------------------------------------------------------------------


def claims(report: Report, runs: list[Row], budgets: list[float]) -> None:
    """Print the table, and how far ours is ahead."""
    names = list(runs[0]["networks"])
    print(f"Means over {len(runs)} seeds; energies in uJ, {' / '.join(CONVENTIONS)}")
    for budget in map(str, budgets):
        for name in names:
            rows = [run["networks"][name].get(budget) for run in runs]
            if any(row is None for row in rows):
                continue
            energies = " / ".join(shown(np.array([row[key] for row in rows]), 3) for key in CONVENTIONS)
            tests = 100 * np.array([row["test"] for row in rows])
            report.claim(f"{name} at {budget} uJ: test accuracy, %", f"{shown(tests)} at {energies} uJ")
    if "searched" not in names:
        return
    for budget in map(str, budgets):
        for name in names:
            pairs = [(run["networks"]["searched"].get(budget), run["networks"][name].get(budget)) for run in runs]
            if name == "searched" or any(None in pair for pair in pairs):
                continue
            lead = 100 * np.array([own["test"] - other["test"] for own, other in pairs])
            target, met = "", None
            if len(lead) > 1:
                mean, half = interval(lead)
                target, met = "interval above 0", mean - half > 0
            report.claim(f"searched minus {name} at {budget} uJ, test points", shown(lead), target, met)


if __name__ == "__main__":
    main()
