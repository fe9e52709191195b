"""Training the supernet: reproducible, resumable, and worth something."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from spikesearch.errors import CheckpointError, StorageError, TrainingError
from spikesearch.nn import Supernet
from spikesearch.space import SearchSpace
from spikesearch.train import load_supernet, supernet_facts, train_supernet, weights_hash
from spikesearch.train.loop import Trainer
from tests.interruptions import interruption
from tests.train.conftest import RECIPE, SPACE


def train(fresh, digits, folder, recipe=RECIPE, seed=0):
    return train_supernet(fresh, digits, recipe, seed=seed, run_dir=folder, progress=False)


def test_interrupted_training_with_currents_in_the_stream_ends_equal(digits, tmp_path):
    fresh = Supernet(SPACE, in_channels=1, image_size=8, num_classes=10, residual="membrane")
    whole = train(fresh, digits, tmp_path / "whole")
    with interruption(2):
        train(fresh, digits, tmp_path / "cut")
    assert weights_hash(train(fresh, digits, tmp_path / "cut")) == weights_hash(whole)
    loaded = load_supernet(tmp_path / "cut")
    assert loaded.residual == "membrane"
    x = digits.search.images(range(8))
    with torch.no_grad(), loaded.subnet(SPACE.largest), whole.subnet(SPACE.largest):
        assert torch.equal(loaded(x), whole(x))


@pytest.mark.parametrize("before_save", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"mixup": 0.5, "distillation": True}, {"ema_decay": None, "strategy": "uniform"}]
)
def test_interrupted_training_ends_equal(fresh, digits, tmp_path, before_save, options):
    recipe = RECIPE.model_copy(update=options)
    whole = train(fresh, digits, tmp_path / "whole", recipe)
    with interruption(2, before_save=before_save):
        train(fresh, digits, tmp_path / "cut", recipe)
    assert not (tmp_path / "cut" / "supernet.json").exists()
    torch.manual_seed(123)
    np.random.seed(123)
    resumed = train(fresh, digits, tmp_path / "cut", recipe)
    assert weights_hash(resumed) == weights_hash(whole)
    histories = [supernet_facts(tmp_path / run)["history"] for run in ("whole", "cut")]
    whole_losses, cut_losses = ([epoch["loss"] for epoch in history] for history in histories)
    assert len(cut_losses) == 3
    assert cut_losses == whole_losses
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_finished_supernet_is_loaded_not_trained(fresh, digits, tmp_path, monkeypatch):
    first = train(fresh, digits, tmp_path)
    monkeypatch.setattr(Trainer, "run", lambda *args, **kwargs: pytest.fail("trained again"))
    assert weights_hash(train(fresh, digits, tmp_path)) == weights_hash(first) == weights_hash(load_supernet(tmp_path))
    assert supernet_facts(tmp_path)["weights_hash"] == weights_hash(first)


def test_seed_and_recipe_change_the_weights(fresh, digits, tmp_path):
    one = RECIPE.model_copy(update={"epochs": 1})
    hashes = {
        weights_hash(train(fresh, digits, tmp_path / str(i), recipe, seed))
        for i, (recipe, seed) in enumerate(
            [
                (one, 0),
                (one, 1),
                (one.model_copy(update={"distillation": True}), 0),
                (one.model_copy(update={"strategy": "uniform"}), 0),
                (one.model_copy(update={"mixup": 0.4}), 0),
                (one.model_copy(update={"ema_decay": None}), 0),
            ]
        )
    }
    assert len(hashes) == 6
    assert weights_hash(train(fresh, digits, tmp_path / "again", one)) in hashes


@pytest.mark.slow
def test_training_learns(fresh, digits, tmp_path):
    recipe = RECIPE.model_copy(update={"epochs": 16, "batch_size": 64, "lr": 1e-2, "ema_decay": None})
    supernet = train(fresh, digits, tmp_path, recipe)
    history = supernet_facts(tmp_path)["history"]
    assert history[-1]["loss"] < 0.75 * history[0]["loss"]
    assert not supernet.training


def test_mixup_leaves_event_frames_uncut(fresh, digits, tmp_path):
    recipe = RECIPE.model_copy(update={"cutmix": 1.0})
    trainer = _trainer(fresh, digits, tmp_path, recipe)
    labels = torch.arange(6) % 3
    events = torch.rand(6, 2, 1, 8, 8)
    images, targets = trainer._mix(events, labels, 0, 0)
    assert images is events
    assert targets is labels
    images, targets = trainer._mix(events[:, 0], labels, 0, 0)
    assert targets.shape == (6, 10)
    assert torch.allclose(targets.sum(1), torch.ones(6))


def _trainer(fresh, digits, folder, recipe):
    from spikesearch.train.strategies import SandwichStrategy

    return Trainer(
        fresh,
        SandwichStrategy(SPACE, seed=0),
        digits.train,
        recipe,
        num_classes=10,
        seed=0,
        identity={},
        folder=folder,
    )


def test_log_gains_are_not_decayed(fresh, digits, tmp_path):
    trainer = _trainer(fresh, digits, tmp_path, RECIPE)
    decayed = {id(p) for g in trainer.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    for name, parameter in fresh.named_parameters():
        assert (id(parameter) in decayed) == name.endswith(("conv.weight", "linear.weight", "head.weight")), name


# --- what cannot be used --------------------------------------------------------------------------


@pytest.fixture
def finished(fresh, digits, tmp_path):
    train(fresh, digits, tmp_path, RECIPE.model_copy(update={"epochs": 1}))
    return tmp_path


def test_another_space_data_recipe_or_seed_is_refused(finished, fresh, digits):
    one = RECIPE.model_copy(update={"epochs": 1})
    narrow = SearchSpace.from_dict({**SPACE.to_dict(), "taus": [2.0]})
    other = Supernet(narrow, in_channels=1, image_size=8, num_classes=10)
    membrane = Supernet(SPACE, in_channels=1, image_size=8, num_classes=10, residual="membrane")
    for supernet, recipe, seed, name in (
        (other, one, 0, "space"),
        (membrane, one, 0, "residual"),
        (fresh, RECIPE, 0, "recipe"),
        (fresh, one, 5, "seed"),
    ):
        with pytest.raises(CheckpointError, match=f"another training: its `{name}`"):
            train(supernet, digits, finished, recipe, seed)
    train(fresh, digits, finished, one.model_copy(update={"checkpoint_every_epochs": 7}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "supernet.safetensors").write_bytes(b"nonsense"), "is corrupt"),
        (lambda f: (f / "supernet.safetensors").unlink(), "is missing"),
        (lambda f: (f / "supernet.json").write_text("{"), "is corrupt"),
        (lambda f: (f / "supernet.json").write_text("[]"), "not a checkpoint of spikesearch"),
        (lambda f: _edit(f, format_version=99), "newer than this spikesearch"),
        (lambda f: _edit(f, weights_hash="0" * 64), "does not hold the weights"),
        (lambda f: _edit(f, identity={}), "does not describe its weights"),
        (
            lambda f: _edit(f, identity={**supernet_facts(f)["identity"], "residual": "membrane"}),
            "does not describe its weights",
        ),
    ],
)
def test_damaged_supernet_is_refused(finished, damage, message):
    damage(finished)
    with pytest.raises(CheckpointError, match=message):
        load_supernet(finished)


def _edit(folder, **changes):
    path = folder / "supernet.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_damaged_checkpoint_is_refused(fresh, digits, tmp_path):
    with interruption():
        train(fresh, digits, tmp_path)
    (state,) = (tmp_path / "checkpoints").glob("epoch-*/state.safetensors")
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="is corrupt"):
        train(fresh, digits, tmp_path)


def test_missing_supernet_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match="spikesearch supernet train"):
        load_supernet(tmp_path)


def test_diverging_training_names_the_learning_rate(fresh, digits, tmp_path):
    with torch.no_grad():
        fresh.head.weight.fill_(float("nan"))
    trainer = _trainer(fresh, digits, tmp_path, RECIPE)
    with pytest.raises(TrainingError, match=r"diverged in epoch 1; lower `train\.lr`"):
        trainer.run(title="", progress=False)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("clip_grad", [None, 1.0])
def test_divergence_of_any_subnet_is_noticed_before_it_reaches_the_weights(fresh, digits, tmp_path, clip_grad):
    trainer = _trainer(fresh, digits, tmp_path, RECIPE.model_copy(update={"clip_grad": clip_grad}))
    inner = trainer.strategy

    def poisoned(model, images, loss, **options):
        result = inner(model, images, loss, **options)
        fresh.head.weight.grad[0, 0] = float("nan")  # what one of the smaller subnets would leave
        return result

    trainer.strategy = poisoned
    with pytest.raises(TrainingError, match="diverged"):
        trainer.run(title="", progress=False)
    assert all(torch.isfinite(value).all() for value in fresh.state_dict().values())


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_odd_batches_are_mixed(fresh, digits, tmp_path, options):
    trainer = _trainer(fresh, digits, tmp_path, RECIPE.model_copy(update={"epochs": 1, "batch_size": 333, **options}))
    (epoch,) = trainer.run(title="", progress=False)
    assert 0 <= epoch["accuracy"] <= 1


def test_unwritable_folder_is_named(fresh, digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Choose a folder that is writable"):
        train(fresh, digits, tmp_path / "file" / "run", RECIPE.model_copy(update={"epochs": 1}))
