"""Study files: what is read, what is refused, and what the refusal says."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from spikesearch.config import StudyConfig, find_study_file, load_study_file, resolve_path, shipped_study_files
from spikesearch.config.study_file import storages_of_files
from spikesearch.errors import ConfigError, ConfigNotFoundError, SpikesearchError

MINIMAL: dict[str, Any] = {
    "name": "mine",
    "data": {"kind": "digits"},
    "space": {
        "embed_dims": [32, 64],
        "depths": [1],
        "num_heads": [2],
        "mlp_ratios": [2],
        "v_thresholds": [1.0],
        "taus": [2.0],
        "time_steps": [1, 2],
    },
    "train": {"epochs": 1},
    "search": {"n_trials": 3},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return MINIMAL with one (dotted) key set."""
    content = copy.deepcopy(MINIMAL)
    section: Any = content
    *parents, last = path.split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    return content


def test_defaults_are_resolved_and_the_dictionary_is_loss_free() -> None:
    config = StudyConfig.from_dict(MINIMAL)
    content = config.to_dict()
    assert content["train"]["batch_size"] == 128
    assert content["data"]["splits"] == {
        "train": 0.6, "search": 0.2, "test": 0.2, "max_train": None, "folds": None, "fold": 0, "seed": None,
    }  # fmt: skip
    assert content["schema_version"] == 1
    assert StudyConfig.from_dict(json.loads(json.dumps(content))) == config
    assert config.space.search_space().embed_dims == (32, 64)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.epoch", 3, "`train` has no key 'epoch'; did you mean 'epochs'?"),
        ("trian", {}, "there is no key 'trian'; did you mean 'train'?"),
        ("data.agument", {}, "`data` has no key 'agument'; did you mean 'augment'?"),
        ("data.augment.shft", 1, "`data.augment` has no key 'shft'; did you mean 'shift'?"),
        ("data.splits.xyzzy", 1, "`data.splits` has no key 'xyzzy'; known keys are train, search, test"),
        ("train.epochs", "ten", "`train.epochs` must be a valid integer, but got 'ten'."),
        ("train.epochs", 0, "`train.epochs` must be greater than or equal to 1, but got 0."),
        ("train.epochs", True, "`epochs` must be a number, but got True"),
        ("train.ema_decay", True, "`ema_decay` must be a number, but got True"),
        ("train.accumulate", 65, "`train.accumulate` must leave 2 images in every part of a batch of 128, but got 65."),
        ("train.lr", float("nan"), "`train.lr` must be a finite number, but got nan."),
        ("train.strategy", "sandwhich", "`train.strategy` must be 'sandwich' or 'uniform', but got 'sandwhich'."),
        ("data.kind", "digit", "but got 'digit'; did you mean 'digits'?"),
        ("data", {}, "`data.kind` is missing; it must be one of cifar10, cifar10-dvs, cifar100, digits,"),
        ("data", 3, "`data` must be a mapping of keys, but got 3."),
        ("data", {"kind": "idx"}, "`data.path` is missing."),
        ("data.augment.shift", -1, "`data.augment.shift` must be greater than or equal to 0, but got -1."),
        ("data.splits.train", 0.9, "`train` and `search` must add up to at most 1, but got 1.1."),
        ("data.splits.fold", 2, "`fold` must be below `folds`, but got fold 2 of no folds."),
        ("search", {}, "`search.n_trials` is missing."),
        ("search", None, "`search` must be a mapping of keys, but got None."),
        ("space.taus", [0.5], "`taus` must be above 1 (time steps), but got 0.5."),
        ("space.embed_dims", [33], "`embed_dims` must be a positive multiple of 8"),
        ("space.num_heads", [3], "`num_heads` must divide every embed_dim, but 3 does not divide 32."),
        ("space.depths", ["a"], "`space.depths[0]` must be a valid integer, but got 'a'."),
        ("space.depths", [], "`depths` must have at least one choice"),
        ("model.pool_stages", [3, 1], "`model.pool_stages` must be ascending without repetition, but got [3, 1]."),
        ("model.pool_stages", [4], "`model.pool_stages[0]` must be less than or equal to 3, but got 4."),
        ("model.residual", "sum", "`model.residual` must be 'add' or 'membrane' or 'normed', but got 'sum'."),
        ("constraints.energy", 3, "but got 'energy'; did you mean 'energy_uJ'?"),
        ("constraints.params", 0, "`constraints.params` must be greater than 0, but got 0."),
        ("name", "a/b", "`name` must be letters, digits, dots, dashes and underscores, but got 'a/b'."),
        (
            "schema_version",
            2,
            "`schema_version` 2 is newer than this spikesearch understands (1); upgrade spikesearch.",
        ),
        ("storage", 7, "`storage` must be a valid string, but got 7."),
        ("space.time_steps", [True, 2], "`time_steps[0]` must be a number, but got True."),
        ("space.time_steps", True, "`space.time_steps` must be a valid list, but got True."),
        ("model.pool_stages", [2, True], "`pool_stages[1]` must be a number, but got True."),
        ("constraints", {"energy_uJ": True}, "`constraints.energy_uJ` must be a number, but got True."),
        ("constraints", True, "`constraints` must be a mapping of keys, but got True."),
        ("space.depths", [1.5], "`space.depths[0]` must be a valid integer, but got 1.5."),
        ("name", "a" * 101, "`name` must have at most 100 characters, but got 'aaa"),
        ("data", {"kind": "idx", "path": ""}, "`data.path` must not be empty."),
    ],
)
def test_a_wrong_key_or_value_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StudyConfig.from_dict(changed(path, value), where="mine.yaml")
    text = str(caught.value)
    assert text.startswith("mine.yaml: ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"augment": {"auto_augment": "strong"}}, "must be a policy of timm such as 'rand-m9-n1-mstd0.4-inc1'"),
        (
            {"augment": {"crop_padding": 2, "crop_scale": [0.5, 1]}},
            "`crop_padding` and `crop_scale` exclude each other",
        ),
        ({"augment": {"crop_scale": [0.9, 0.5]}}, "`crop_scale` must be [smallest, largest], but got [0.9, 0.5]"),
        ({"augment": {"shift": 1}}, "`data.augment` has no key 'shift'"),
    ],
)
def test_every_kind_has_its_own_keys(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r".*") as caught:
        StudyConfig.from_dict({**MINIMAL, "data": {"kind": "image-folder", "path": "x", **data}})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: 2", "there is the key 1, but a key must be text"),
        ("on: 2", "there is the key True, but a key must be text"),
        ("null: 2", "there is the key None, but a key must be text"),
        ("train: {epochs: 1, 1.5: 2}", "`train` has the key 1.5, but a key must be text"),
        ("data: {kind: digits, augment: {1: 2}}", "`data.augment` has the key 1, but a key must be text"),
        ("constraints: {1: 2}", "`constraints` has the key 1, but a key must be text"),
    ],
)
def test_a_key_that_yaml_does_not_read_as_text_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StudyConfig.from_dict({**MINIMAL, **yaml.safe_load(text)})
    assert message in str(caught.value)


def test_more_time_steps_than_frames_are_refused() -> None:
    content = {**MINIMAL, "data": {"kind": "events", "path": "x", "frames": 1}}
    with pytest.raises(ConfigError, match=r"`space.time_steps` must not exceed `data.frames` \(1\), but got 2"):
        StudyConfig.from_dict(content)


def test_a_study_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"study: a study file must be a mapping of keys, but got \[1, 2\]"):
        StudyConfig.from_dict([1, 2])  # type: ignore[arg-type]


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    assert load_study_file(path) == StudyConfig.from_dict(MINIMAL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not valid YAML"),
        ("name: a\nname: b\n", "the key 'name' is repeated"),
        (
            "name: a\n'name': b\nseed: 1\ndata: {kind: a, kind: b}\n",
            "'name' is repeated (line 2), the key 'kind' is repeated (line 4)",
        ),
        ("train: &a {lr: 1}\nsearch: {<<: *a, <<: *a}\n", "the key '<<' is repeated (line 2)"),
        ("- 1\n- 2\n", "must be a mapping of keys, but got [1, 2]"),
        ("", "`name` is missing"),
        ("name: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_study_file(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="must be UTF-8 text"):
        load_study_file(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigNotFoundError, match=r"There is no study file .*nowhere.yaml"):
        load_study_file(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_study_file(tmp_path)
    assert issubclass(ConfigNotFoundError, FileNotFoundError)
    assert issubclass(ConfigNotFoundError, SpikesearchError)


def test_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    """PyYAML reads 1e-3 as text; a person means a number."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINIMAL).replace("epochs: 1", "epochs: 1\n  lr: 1e-3"))
    assert load_study_file(path).train.lr == 0.001


def read(folder: Path, text: str, **sections: str) -> StudyConfig:
    """Read MINIMAL with some of its sections, and other text, as a person types them."""
    kept = {key: value for key, value in MINIMAL.items() if key not in sections}
    path = folder / "mine.yaml"
    path.write_text(
        text
        + "".join(f"\n{key}: {value}" for key, value in sections.items())
        + "\n"
        + (yaml.safe_dump(kept) if kept else "")
    )
    return load_study_file(path)


def test_merge_keys_are_read(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "",
        train="\n  <<: &common {epochs: 3, lr: 0.5}\n  lr: 0.25\n",
        search="{n_trials: 3, crossover_prob: 0.5}",
        space="\n  <<: [&a {embed_dims: [8], depths: [1]}, {depths: [2], num_heads: [1], mlp_ratios: [1]}]\n"
        "  v_thresholds: [1]\n  taus: &taus [2]\n  time_steps: *taus\n",
    )
    assert (config.train.epochs, config.train.lr) == (3, 0.25)
    assert config.space.search_space().depths == (1,), "of several, the first wins"
    assert config.space.search_space().time_steps == (2,)


def test_a_merged_mapping_may_merge_another(tmp_path: Path) -> None:
    inner = "{<<: &a {train: 0.5}, search: 0.1}"
    splits = read(tmp_path, "", data=f"{{kind: digits, splits: {{<<: {inner}, search: 0.2, test: 0.3}}}}").data.splits
    assert (splits.train, splits.search, splits.test) == (0.5, 0.2, 0.3)


@pytest.mark.parametrize("name", ["on", "off", "yes", "No", "y", "2024-01-01", "2024-13-45", "007", "08", "1e3", "0b1"])
def test_names_that_yaml_1_1_reads_as_something_else_are_names(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, "", name=name).name == name


@pytest.mark.parametrize("path", ["on", "12:30", "12:30:45", "2024-01-01", "2024-01-01 10:00:00", "010", "=", "1e5"])
def test_paths_that_yaml_1_1_reads_as_something_else_are_paths(tmp_path: Path, path: str) -> None:
    config = read(tmp_path, "", data=f"{{kind: image-folder, path: {path}, image_size: 8}}")
    assert config.to_dict()["data"]["path"] == path


@pytest.mark.parametrize(
    ("text", "value"),
    [("on", True), ("off", False), ("yes", True), ("No", False), ("y", True), ("true", True), ("FALSE", False)],
)
def test_truth_values_are_read_where_a_key_wants_them(tmp_path: Path, text: str, value: bool) -> None:
    config = read(tmp_path, "", search=f"{{n_trials: 3, surrogate: {text}}}", train=f"{{epochs: 1, compile: {text}}}")
    assert (config.search.surrogate, config.train.compile) == (value, value)


def test_off_is_a_word_where_a_key_wants_a_word(tmp_path: Path) -> None:
    assert read(tmp_path, "", train="{epochs: 1, amp: off}").train.amp == "off"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E+2", 100), ("1.e2", 100), (".5", 0.5), ("5.", 5), ("+3", 3), ("1_000", 1000), ("0x10", 16),
        ("08", 8), ("007", 7), ("'2'", 2), ("1e0", 1),
    ],
)  # fmt: skip
def test_numbers_however_they_are_written(tmp_path: Path, text: str, value: float) -> None:
    config = read(
        tmp_path, "", train=f"{{epochs: 1, lr: {text}, weight_decay: {text}}}", constraints=f"{{macs: {text}}}"
    )
    assert (config.train.lr, config.train.weight_decay, config.constraints["macs"]) == (value, value, value)
    if value == int(value):
        assert read(tmp_path, "", search=f"{{n_trials: {text}}}").search.n_trials == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("010", "must be one number, but got 010, which is 8 in YAML 1.1 and 10 in YAML 1.2; write 10 or 8."),
        ("1:30", "must be one number, but got 1:30; write 90 if it counts in sixties."),
        ("1:00:00", "must be one number, but got 1:00:00; write 3600 if it counts in sixties."),
    ],
)
def test_numbers_that_could_be_two_are_refused(tmp_path: Path, text: str, message: str) -> None:
    for sections, where in (
        ({"train": f"{{epochs: {text}}}"}, "train: `epochs`"),
        ({"train": f"{{epochs: 1, lr: {text}}}"}, "train: `lr`"),
        ({"model": f"{{pool_stages: [1, {text}]}}"}, "model: `pool_stages[1]`"),
        ({"constraints": f"{{params: {text}}}"}, "`constraints.params`"),
    ):
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, "", **sections)
        assert f"{where} {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": "{epochs: on}"}, "`train.epochs` must be a valid integer, but got 'on'."),
        ({"train": "{epochs: 2024-01-01}"}, "`train.epochs` must be a valid integer, but got '2024-01-01'."),
        ({"train": "{epochs: 1, ema_decay: None}"}, "but got 'None'. Write null for nothing."),
        ({"data": "{kind: digits, augment: none}"}, "but got 'none'. Write null for nothing."),
        ({"name": "123"}, "`name` must be a valid string, but got 123. Put it in quotes to make it text."),
        ({"name": "1.0"}, "`name` must be a valid string, but got 1.0. Put it in quotes to make it text."),
        ({"name": "true"}, "`name` must be a valid string, but got True. Put it in quotes to make it text."),
    ],
)
def test_what_yaml_reads_otherwise_is_refused_with_what_to_write(
    tmp_path: Path, sections: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "", **sections)
    assert message in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(
            tmp_path,
            "colour: red",
            name="a/b",
            data="{kind: digits, splits: {train: 2, tset: 0.1}}",
            train="{epoch: 3, lr: true, strategy: sandwhich}",
            space="{embed_dims: [33], depths: [1], num_heads: [2], mlp_ratios: [2], v_thresholds: [1], taus: [2], "
            "time_steps: [1]}",
            constraints="{energy: 3}",
            search="{n_trials: 010, population_size: 1}",
        )
    text = str(caught.value)
    assert "11 mistakes. (1) " in text
    for mistake in (
        "there is no key 'colour'; known keys are",
        "`data.splits` has no key 'tset'; did you mean 'test'?",
        "`train` has no key 'epoch'; did you mean 'epochs'?",
        "`name` must be letters",
        "`data.splits.train` must be less than 1",
        "train: `lr` must be a number, but got True.",
        "`train.strategy` must be 'sandwich' or 'uniform', but got 'sandwhich'.",
        "`embed_dims` must be a positive multiple of 8",
        "but got 'energy'; did you mean 'energy_uJ'?",
        "search: `n_trials` must be one number, but got 010",
        "`search.population_size` must be greater than or equal to 2, but got 1.",
    ):
        assert text.count(mistake) == 1, (mistake, text)
    assert "`train.epochs` is missing" not in text, "it is there, with a slip"
    with pytest.raises(ConfigError) as caught:
        StudyConfig.from_dict({})
    for key in ("name", "data", "space", "train", "search"):
        assert f"`{key}` is missing." in str(caught.value)


def test_a_data_path_is_looked_for_beside_the_file_then_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "images").mkdir(parents=True)
    (tmp_path / "there" / "others").mkdir(parents=True)
    (tmp_path / "there" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "there")
    path = tmp_path / "here" / "mine.yaml"

    def read(data_path: str) -> str:
        content = {**MINIMAL, "data": {"kind": "image-folder", "path": data_path}}
        path.write_text(yaml.safe_dump(content))
        return str(getattr(load_study_file(path).data, "path"))  # noqa: B009 - not every kind of data has one

    assert read("images") == str(tmp_path / "here" / "images")
    assert read("others") == str(tmp_path / "there" / "others")
    assert read("nowhere") == "nowhere"
    monkeypatch.setenv("MY_IMAGES", str(tmp_path / "here"))
    assert resolve_path("$MY_IMAGES/images", tmp_path) == tmp_path / "here" / "images"
    assert resolve_path(None, tmp_path) is None


@pytest.mark.parametrize("path", ["a" * 300, "a\0b", "~nosuchuser/mine.yaml"])
def test_a_path_that_the_system_refuses_is_named(path: str) -> None:
    for read in (load_study_file, find_study_file, lambda path: resolve_path(path, Path())):
        with pytest.raises(ConfigError, match="cannot be used as a path"):
            read(path)


# --- shipped study files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", sorted(shipped_study_files()))
def test_shipped_study_files_are_valid_and_named_by_their_id(study: str) -> None:
    config = load_study_file(find_study_file(study))
    assert config.name == study
    assert config.space.search_space().size >= 5_000
    assert StudyConfig.from_dict(config.to_dict()) == config


def test_a_space_as_published_for_spikformer_is_a_variant() -> None:
    names = set(shipped_study_files())
    variants = {name for name in names if name.endswith("-spikformer")}
    assert {"digits-spikformer", "fashion-mnist-small-spikformer"} <= variants
    for name in variants:
        ours, published = (load_study_file(find_study_file(each)) for each in (name.removesuffix("-spikformer"), name))
        assert ours.space.stages
        assert not published.space.stages
        assert {**ours.data.model_dump(), "augment": None} == {**published.data.model_dump(), "augment": None}


def test_every_full_study_has_a_small_one() -> None:
    names = {name for name in shipped_study_files() if not name.endswith("-spikformer")} - {"digits"}
    full = {name for name in names if not name.endswith("-small")}
    assert {f"{name}-small" for name in full} == names - full
    assert {
        "fashion-mnist",
        "cifar10",
        "cifar100",
        "nmnist",
        "cifar10-dvs",
        "dvs128-gesture",
        "imagenet-folder",
    } == full


def test_an_unknown_study_suggests_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigNotFoundError, match=r"'digitz', neither as a path .*did you mean 'digits'\?"):
        find_study_file("digitz")
    (tmp_path / "digits").write_text("")
    assert find_study_file("digits") == Path("digits")  # a path comes first


@pytest.mark.parametrize("text", ["name: [\n", "[" * 3000, "a: 0x_\n"])
def test_yaml_that_python_cannot_read_is_a_users_mistake(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_study_file(path)


@pytest.mark.parametrize("version", ["2", 2.0, 0, True])
def test_only_whole_schema_versions_are_accepted(version: object) -> None:
    with pytest.raises(ConfigError, match="`schema_version` must be a whole number"):
        StudyConfig.from_dict({"schema_version": version})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("!!bool x", "'x' is not what its tag says (line 2)"),
        ('!!int ""', "'' is not what its tag says (line 2)"),
        ("!!timestamp x", "'x' is not what its tag says (line 2)"),
        ("&a [*a]", "Circular reference detected"),
    ],
)
def test_tags_and_aliases_that_mean_nothing_are_mistakes(tmp_path: Path, value: str, reason: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"name: x\nseed: {value}\n")
    with pytest.raises(ConfigError, match=f"bad.yaml is not valid YAML: {re.escape(reason)}"):
        load_study_file(path)
    assert storages_of_files(tmp_path, "x") == {}
