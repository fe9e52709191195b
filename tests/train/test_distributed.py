"""Several processes train as one: real ones, connected by gloo, against gradients that one process computes."""

from __future__ import annotations

import copy
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spikesearch.config import TrainConfig
from spikesearch.data import load_data
from spikesearch.data.kinds.digits import DigitsData
from spikesearch.energy import EnergyModel
from spikesearch.errors import CheckpointError, ConfigError, TeamError
from spikesearch.nn import Supernet
from spikesearch.streams import TRAINING_ORDER
from spikesearch.train import SandwichStrategy, SingleStrategy, Trainer, UniformStrategy, train_supernet, weights_hash
from spikesearch.train.distributed import Team, TeamLostError, forget, gathered, own_device, shares, started
from spikesearch.train.energy_loss import EnergyLoss
from spikesearch.train.loop import recipe_identity
from spikesearch.train.strategies import ArchitectureDeck
from spikesearch.train.supernet import seeded_supernet
from tests.interruptions import interruption
from tests.train.conftest import RECIPE, SPACE

SEED = 3
# a constant learning rate, so that the oracle needs no schedule; 101 images make two shares of different sizes
STEPS = RECIPE.model_copy(
    update={"epochs": 1, "batch_size": 101, "lr": 1e-3, "min_lr": 1e-3, "warmup_epochs": 0, "ema_decay": None}
)

pytestmark = pytest.mark.slow
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def together() -> Iterator[Callable[..., list[Any]]]:
    """Call a function in two connected processes; return what they return."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:

        def call(function: Callable[..., Any], *arguments: Any) -> list[Any]:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            calls = [pool.submit(as_rank, rank, port, function, arguments) for rank in range(2)]
            return [each.result(300) for each in calls]

        yield call


def as_rank(rank: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    with gathered("cpu") as (team, _):
        return function(team, *arguments)


def digits_data() -> Any:
    return load_data(DigitsData(kind="digits"), seed=0)


def new_supernet() -> Supernet:
    return seeded_supernet(Supernet(SPACE, in_channels=1, image_size=8, num_classes=10), SEED)


def new_trainer(team: Team, recipe: TrainConfig = STEPS, folder: Path = Path("unused"), **changes: Any) -> Trainer:
    strategy = SandwichStrategy(SPACE, seed=SEED, random_subnets=1, distillation=recipe.distillation)
    arguments = {"model": new_supernet(), "strategy": strategy, "split": digits_data().train, **changes}
    return Trainer(**arguments, config=recipe, num_classes=10, seed=SEED, identity={}, folder=folder, team=team)


def batch(step: int, size: int = STEPS.batch_size) -> np.ndarray:
    count = len(digits_data().train)
    return TRAINING_ORDER.generator(SEED, 0).permutation(count)[step * size : (step + 1) * size]


def gradients(module: nn.Module) -> State:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_close(got: State, expected: State, **tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        rtol, atol = tolerance.get("rtol", 0), tolerance.get("atol", 1e-5)
        torch.testing.assert_close(got[name], value, rtol=rtol, atol=atol, msg=partial(add, name))


# --- the oracle: one process, both halves ---------------------------------------------------------


def sandwich_gradients(supernet: Supernet, images: Tensor, labels: Tensor, step: int, recipe: TrainConfig) -> None:
    """Leave the mean over the sandwich's networks of the gradient of the mean over the images."""
    networks = [SPACE.largest, SPACE.smallest, ArchitectureDeck(SPACE, SEED).draw(0, step)]
    teacher = None
    energy = EnergyLoss(supernet, recipe.energy_weight, EnergyModel())
    energy.progress = step / (recipe.epochs * (len(digits_data().train) // recipe.batch_size))
    for arch in networks:
        with supernet.subnet(arch), energy.attached():
            logits = supernet(images)
        if teacher is not None and recipe.distillation:
            loss = F.cross_entropy(logits, teacher)
        else:
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            teacher = logits.detach().softmax(-1) if teacher is None else teacher
        if recipe.energy_weight:
            loss = loss + energy()
        (loss / len(networks)).backward()


def mean_of(states: list[State], weights: list[float]) -> State:
    zero = torch.zeros(())
    return {name: sum((w * s[name] for w, s in zip(weights, states, strict=True)), zero) for name in states[0]}


def oracle_weights(recipe: TrainConfig, steps: int) -> list[State]:
    """Return all weights and statistics after every step, made from the mean of the gradients of both halves."""
    split = digits_data().train
    supernet = new_supernet().train()
    optimizer = create_optimizer_v2(supernet, opt="adamw", lr=recipe.lr, weight_decay=recipe.weight_decay)
    after = []
    for step in range(steps):
        halves = np.split(batch(step), [50])
        twins = [copy.deepcopy(supernet) for _ in halves]
        for twin, half in zip(twins, halves, strict=True):
            images = split.augmented(half, (SEED, 0, step))
            sandwich_gradients(twin, images, split.labels[torch.from_numpy(half)], step, recipe)
        weights = [len(half) / STEPS.batch_size for half in halves]
        mean = mean_of([gradients(twin) for twin in twins], weights)
        for name, parameter in supernet.named_parameters():
            parameter.grad = mean.get(name)
        if recipe.clip_grad is not None:
            nn.utils.clip_grad_norm_(supernet.parameters(), recipe.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        statistics = mean_of([dict(twin.named_buffers()) for twin in twins], weights)
        for name, buffer in supernet.named_buffers():
            buffer.copy_(statistics[name])
        after.append({name: value.clone() for name, value in supernet.state_dict().items()})
    return after


def trained_weights(team: Team, recipe: TrainConfig, folder: Path) -> tuple[list[State], list[dict[str, float]]]:
    trainer = new_trainer(team, recipe, folder / str(team.rank))
    after: list[State] = []
    trainer.optimizer.register_step_post_hook(
        lambda *_: after.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
    )
    history = trainer.run(title="", progress=False)
    return after, history


@pytest.mark.parametrize("options", [{}, {"distillation": True, "clip_grad": 0.5, "energy_weight": 0.2}])
def test_every_update_is_made_from_the_mean_of_the_gradients_of_both_halves(together, tmp_path, options):
    recipe = STEPS.model_copy(update=options)
    (first, history), (second, same_history) = together(trained_weights, recipe, tmp_path)
    assert len(first) == len(digits_data().train) // 101
    for ours, oracle in zip(first[:4], oracle_weights(recipe, 4), strict=True):
        assert_close(ours, oracle)
    for ours, theirs in zip(first, second, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [(r["loss"], r["accuracy"]) for r in history] == [(r["loss"], r["accuracy"]) for r in same_history]
    assert history[0]["processes"] == 2
    assert (tmp_path / "0").exists()
    assert not (tmp_path / "1").exists()


def gradients_of_both_ways(team: Team) -> tuple[State, State]:
    """Ours, and those of DistributedDataParallel."""
    indices = batch(0, 100)
    trainer = new_trainer(team, strategy=UniformStrategy(SPACE, seed=SEED))
    trainer.model.train()
    trainer._backward(indices, 0, 0)

    supernet = new_supernet().train()
    wrapped = DistributedDataParallel(supernet, find_unused_parameters=True, broadcast_buffers=False)
    mine = indices[team.rank * 50 : (team.rank + 1) * 50]
    images, labels = trainer.split.augmented(mine, (SEED, 0, 0)), trainer.split.labels[torch.from_numpy(mine)]
    with supernet.subnet(ArchitectureDeck(SPACE, SEED).draw(0, 0)):
        F.cross_entropy(wrapped(images), labels, label_smoothing=STEPS.label_smoothing).backward()
    return gradients(trainer.model), gradients(supernet)


def test_gradients_are_those_of_distributed_data_parallel(together):
    for ours, theirs in together(gradients_of_both_ways):
        assert_close(ours, theirs, atol=1e-6)


# --- batch-norm statistics of all processes -------------------------------------------------------


def one_step(team: Team, recipe: TrainConfig) -> tuple[State, State, float]:
    trainer = new_trainer(team, recipe)
    trainer.model.train()
    with trainer._shared_statistics():
        done = trainer._backward(batch(0), 0, 0)
    assert all(module.add_up is None for module in trainer.model.modules() if hasattr(module, "add_up"))
    return gradients(trainer.model), dict(trainer.model.named_buffers()), done.loss


@pytest.mark.parametrize("options", [{}, {"mixup": 0.5, "distillation": True}])
def test_shared_batch_norm_statistics_make_processes_equal_to_one(together, options):
    recipe = STEPS.model_copy(update={**options, "sync_batch_norm": True})
    alone = one_step(Team(), recipe)
    for got in together(one_step, recipe):
        # products of another shape are rounded otherwise, and a neuron at its threshold may decide otherwise
        assert distance(got[0], alone[0]) < 0.01
        assert distance(got[1], alone[1]) < 0.01
        assert got[2] == pytest.approx(alone[2], rel=1e-3)
    for got in together(one_step, STEPS.model_copy(update=options)):
        assert distance(got[0], alone[0]) > 0.1


def distance(ours: State, theirs: State) -> float:
    assert ours.keys() == theirs.keys()
    mine, whole = (torch.cat([state[name].flatten() for name in theirs]) for state in (ours, theirs))
    return float((mine - whole).norm() / whole.norm())


# --- the same images ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"mixup": 0.5}, {"mixup": 0.3, "cutmix": 1.0}])
def test_shares_put_together_are_the_batch_of_one_process(size, options):
    recipe = STEPS.model_copy(update=options)
    whole = new_trainer(Team(), recipe)._share(batch(2), 0, 2)
    parts = [new_trainer(Team(rank, size), recipe)._share(batch(2), 0, 2) for rank in range(size)]
    assert len(whole.images) == whole.total == (100 if options else 101)
    assert {part.total for part in parts} == {whole.total}
    for name in ("images", "targets", "labels"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


@pytest.mark.parametrize(("count", "parts"), [(10, 1), (10, 3), (7, 7), (101, 4)])
def test_shares_are_contiguous_and_as_equal_as_possible(count, parts):
    cut = shares(count, parts)
    assert [i for part in cut for i in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in cut]
    assert max(sizes) - min(sizes) <= 1


# --- resume ---------------------------------------------------------------------------------------


def whole_and_cut(team: Team, folder: Path) -> tuple[str, str, list[str]]:
    """Train undisturbed, and with an interruption behind the second epoch; only the first process has the files."""
    data = digits_data()
    recipe = RECIPE.model_copy(update={"mixup": 0.5, "accumulate": 2})
    mine = folder / str(team.rank)

    def train(name: str) -> Supernet:
        return train_supernet(new_supernet(), data, recipe, seed=0, run_dir=mine / name, progress=False)

    whole = train("whole")
    with interruption(2):
        train("cut")
    resumed = train("cut")
    again = train("cut")  # is loaded, in both
    assert weights_hash(again) == weights_hash(resumed)
    assert not resumed.training
    return weights_hash(whole), weights_hash(resumed), sorted(path.name for path in mine.glob("*/*"))


def test_interrupted_training_ends_equal_and_only_the_first_process_writes(together, tmp_path):
    first, second = together(whole_and_cut, tmp_path)
    assert first[0] == first[1] == second[0] == second[1]
    assert first[2] == sorted(["supernet.json", "supernet.safetensors"] * 2)
    assert second[2] == []


def cut(team: Team, folder: Path) -> None:
    with interruption(1):
        train_supernet(new_supernet(), digits_data(), RECIPE, seed=0, run_dir=folder, progress=False)


def resumed(team: Team, folder: Path) -> None:
    train_supernet(new_supernet(), digits_data(), RECIPE, seed=0, run_dir=folder, progress=False)


def test_another_number_of_processes_does_not_go_on(together, tmp_path):
    together(cut, tmp_path / "two")
    before = sorted((tmp_path / "two").rglob("*"))
    with pytest.raises(CheckpointError, match=r"of 2 processes, but this is one of 1 process, .*--nproc-per-node 2 -m"):
        resumed(Team(), tmp_path / "two")
    assert sorted((tmp_path / "two").rglob("*")) == before
    together(resumed, tmp_path / "two")
    assert (tmp_path / "two/supernet.json").exists()
    resumed(Team(), tmp_path / "two")  # what is finished serves any number

    cut(Team(), tmp_path / "one")
    first, second = together(caught, resumed, tmp_path / "one")
    assert "of 1 process, but this is one of 2 processes" in str(first)
    assert "Go on without a launcher" in str(first)
    assert isinstance(second, TeamLostError)
    resumed(Team(), tmp_path / "one")
    assert (tmp_path / "one/supernet.json").exists()


# --- what goes wrong ------------------------------------------------------------------------------


def other_seed(team: Team, folder: Path) -> None:
    train_supernet(new_supernet(), digits_data(), RECIPE, seed=team.rank, run_dir=folder, progress=False)


def failing(team: Team, folder: Path) -> None:
    def strategy(model: nn.Module, images: Tensor, loss: Any, *, epoch: int, step: int, weight: float) -> Any:
        if team.rank == 1 and step == 1:
            raise MemoryError("too large")
        return SandwichStrategy(SPACE, seed=0)(model, images, loss, epoch=epoch, step=step, weight=weight)

    new_trainer(team, folder=folder, strategy=strategy).run(title="", progress=False)


def caught(team: Team, function: Callable[..., None], folder: Path) -> Exception | None:
    try:
        function(team, folder)
    except Exception as error:
        import torch.distributed as dist

        dist.destroy_process_group()  # what the end of a process does
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        return error
    return None


def test_processes_that_train_something_else_are_refused(together, tmp_path):
    first, second = together(caught, other_seed, tmp_path)
    assert isinstance(first, TeamLostError)
    assert isinstance(second, TeamError)
    assert "Process 1 was given other data or another recipe" in str(second)
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_one_process_ends_the_others(together, tmp_path):
    first, second = together(caught, failing, tmp_path)
    assert isinstance(first, TeamLostError)
    assert "goes on from the last checkpoint" in str(first)
    assert isinstance(second, MemoryError)


def test_batches_that_cannot_be_divided_are_refused():
    with pytest.raises(ConfigError, match=r"at least 8 images.*2 processes, `train.accumulate` 2.*got 7 and"):
        new_trainer(Team(0, 2), STEPS.model_copy(update={"batch_size": 7, "accumulate": 2}))


def test_launcher_is_recognised_by_all_of_its_variables(monkeypatch):
    for name, value in {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.delenv(name, raising=False)
        assert started() == Team()
        monkeypatch.setenv(name, value)
    assert started() == Team(2, 4)
    assert own_device("cpu") == torch.device("cpu")
    with pytest.raises(TeamError, match="without a number"):
        own_device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(TeamError, match="More processes were started on this machine than it has GPUs"):
        own_device("cuda")
    forget()
    assert started() == Team()
    assert own_device("cuda:1") == torch.device("cuda:1")


# --- a batch in parts -----------------------------------------------------------------------------


def test_accumulated_gradient_is_that_of_the_whole_batch_where_there_is_no_batch_norm():
    results = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        recipe = STEPS.model_copy(update={"accumulate": accumulate})
        trainer = new_trainer(Team(), recipe, model=net, strategy=SingleStrategy())
        results.append((trainer._backward(batch(0), 0, 0), gradients(net)))
    (whole, expected), (parts, got) = results
    assert_close(got, expected, atol=1e-7)
    assert parts.loss == pytest.approx(whole.loss)
    assert (parts.correct, parts.images) == (whole.correct, whole.images)


def test_accumulated_gradient_of_a_supernet_is_the_mean_over_the_parts():
    trainer = new_trainer(Team(), STEPS.model_copy(update={"accumulate": 2}))
    trainer.model.train()
    trainer._backward(batch(0), 0, 0)
    twins, halves = [new_supernet().train() for _ in range(2)], np.split(batch(0), [50])
    for twin, half in zip(twins, halves, strict=True):
        images = trainer.split.augmented(half, (SEED, 0, 0))
        sandwich_gradients(twin, images, trainer.split.labels[torch.from_numpy(half)], 0, STEPS)
    assert_close(
        gradients(trainer.model), mean_of([gradients(twin) for twin in twins], [50 / 101, 51 / 101]), atol=1e-6
    )


def test_new_keys_leave_older_trainings_what_they_are():
    newer = {"accumulate": 2, "sync_batch_norm": True, "drop_path": 0.1, "surrogate_slope": 2.0}
    model = EnergyModel("strict")
    before = recipe_identity(RECIPE, model)
    assert before == recipe_identity(RECIPE, EnergyModel())
    assert newer.keys().isdisjoint(before)
    assert recipe_identity(RECIPE.model_copy(update=newer), model) == {**before, **newer}
    assert recipe_identity(RECIPE.model_copy(update={"compile": True}), model) == before
    saving = recipe_identity(RECIPE.model_copy(update={"energy_weight": 0.1}), model)
    assert saving == {
        **before,
        "energy_weight": 0.1,
        "energy_model": {"convention": "strict", "mac_pj": 4.6, "ac_pj": 0.9},
    }
