"""Study files: YAML in, checked sections out, and errors that name the key.

A study file says which data, which search space, how the supernet is trained, how subnets are scored and how long is
searched. Every key but a few has a default; :meth:`StudyConfig.to_dict` shows all of them resolved.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from spikesearch.data_config import DataConfig, Section, kinds
from spikesearch.errors import ConfigError, ConfigNotFoundError, did_you_mean
from spikesearch.space import SearchSpace

SCHEMA_VERSION = 1
CONSTRAINED = ("energy_uJ", "params", "macs", "acs", "mean_firing_rate")

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class SpaceConfig(Section):
    """The choices of the search space; see :class:`spikesearch.SearchSpace`."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    v_thresholds: tuple[float, ...]
    taus: tuple[float, ...]
    time_steps: tuple[int, ...]

    @model_validator(mode="after")
    def _possible(self) -> SpaceConfig:
        self.search_space()
        return self

    def search_space(self) -> SearchSpace:
        """Return the search space with these choices."""
        return SearchSpace(**self.model_dump())


class ModelConfig(Section):
    """What every network of the study has in common.

    Args:
        pool_stages: Stages of the stem (0 to 3) followed by a 3x3 max pooling of stride 2; ``None``: by image size.
    """

    pool_stages: list[Annotated[int, Field(ge=0, le=3)]] | None = None

    @field_validator("pool_stages")
    @classmethod
    def _ascending(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and value != sorted(set(value)):
            raise ValueError(f"must be ascending without repetition, but got {value}.")
        return value


class TrainConfig(Section):
    """How the supernet is trained (AdamW, cosine with warm-up).

    Args:
        epochs: Passes over the training split.
        batch_size: Images per step.
        lr: Peak learning rate.
        min_lr: Final learning rate.
        weight_decay: AdamW's weight decay.
        warmup_epochs: Epochs of linear warm-up.
        label_smoothing: Share of the target spread over all classes.
        ema_decay: Decay of the averaged weights per step; ``None`` keeps the last weights.
        mixup: timm's mixup alpha; 0 is off.
        cutmix: timm's cutmix alpha; 0 is off; never applied to event frames.
        clip_grad: Largest gradient norm; ``None`` is off.
        strategy: ``sandwich`` (largest, smallest and random subnets per step) or ``uniform`` (one random subnet).
        random_subnets: Random subnets per sandwich step.
        distillation: Train the smaller subnets of a sandwich step on the outputs of the largest.
        amp: Mixed precision where the device has it (``auto``) or never (``off``).
        accumulate: Parts that a batch is computed in, one after another; saves memory. Batch-norm sees one part at a
            time.
        sync_batch_norm: Whether several processes that train together share their batch-norm statistics.
        checkpoint_every_epochs: How often training is made resumable.
    """

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Positive = 2e-3
    min_lr: NotNegative = 1e-5
    weight_decay: NotNegative = 0.05
    warmup_epochs: Annotated[int, Field(ge=0)] = 2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.99
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    clip_grad: Positive | None = 5.0
    strategy: Literal["sandwich", "uniform"] = "sandwich"
    random_subnets: Annotated[int, Field(ge=0)] = 2
    distillation: bool = False
    amp: Literal["auto", "off"] = "auto"
    accumulate: Count = 1
    sync_batch_norm: bool = False
    checkpoint_every_epochs: Count = 1

    @field_validator("accumulate")
    @classmethod
    def _two_images(cls, value: int, info: ValidationInfo) -> int:
        if "batch_size" in info.data and value > 1 and info.data["batch_size"] // value < 2:
            raise ValueError(
                f"must leave 2 images in every part of a batch of {info.data['batch_size']}, but got {value}."
            )
        return value


class ScoringConfig(Section):
    """How a subnet is scored.

    Args:
        batch_size: Images per forward pass.
        calibration_images: Training images that the batch-norm statistics are taken from.
        convention: ``spikformer`` (published) or ``strict``; see :class:`spikesearch.EnergyModel`.
        mac_pj: Energy of a multiply-accumulate in picojoules (45 nm: 4.6).
        ac_pj: Energy of an accumulate in picojoules (45 nm: 0.9).
        cache_mb: Memory, in MiB per worker, for what trials with the same first genes have in common; 0 is off. Scores
            do not depend on it.
    """

    batch_size: Count = 256
    calibration_images: Annotated[int, Field(ge=2)] = 256
    convention: Literal["spikformer", "strict"] = "spikformer"
    mac_pj: Positive = 4.6
    ac_pj: Positive = 0.9
    cache_mb: Annotated[int, Field(ge=0)] = 1024


class SearchConfig(Section):
    """The budget and the settings of the sampler.

    Args:
        n_trials: Finished trials that a study holds when it is done.
        population_size: Parents of the evolution.
        crossover_prob: Probability that a child has two parents.
        mutation_prob: Probability per gene; ``None`` leaves it to the sampler.
        surrogate: Whether a model of the finished trials ranks proposals; ``None`` leaves it to the sampler.
    """

    n_trials: Count
    population_size: Annotated[int, Field(ge=2)] = 20
    crossover_prob: Annotated[float, Field(ge=0, le=1)] = 0.9
    mutation_prob: Annotated[float, Field(ge=0, le=1)] | None = None
    surrogate: bool | None = None


class ReportConfig(Section):
    """How one trial is recommended.

    Args:
        beta: Exponent of F_AEB; 0.02 makes halving the energy worth 1.4 % of the accuracy.
        max_accuracy_drop: Largest loss of search accuracy against the reference (fraction).
    """

    beta: Positive = 0.02
    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)] = 0.01


class StudyConfig(Section):
    """A whole study file.

    Args:
        name: Name of the study and of its folder under ``runs/``.
        seed: Seed of everything random.
        data: Which images or recordings; the key ``kind`` tells which other keys there are.
        space: The search space.
        model: What every network has in common.
        train: How the supernet is trained.
        scoring: How a subnet is scored.
        search: Budget and sampler.
        constraints: Upper bounds of a trial's ``energy_uJ``, ``params``, ``macs``, ``acs`` or ``mean_firing_rate``.
        report: How one trial is recommended.
        storage: Optuna storage URL; ``None`` uses the default of the command line.
        schema_version: Version of this format.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: DataConfig
    space: SpaceConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig
    scoring: ScoringConfig = ScoringConfig()
    search: SearchConfig
    constraints: dict[str, Positive] = Field(default_factory=dict)
    report: ReportConfig = ReportConfig()
    storage: str | None = None
    schema_version: int = SCHEMA_VERSION

    @field_validator("constraints")
    @classmethod
    def _known_constraints(cls, value: dict[str, float]) -> dict[str, float]:
        for key in value:
            if key not in CONSTRAINED:
                raise ValueError(f"may name {', '.join(CONSTRAINED)}, but got {key!r}{did_you_mean(key, CONSTRAINED)}")
        return value

    @model_validator(mode="after")
    def _frames_cover_time_steps(self) -> StudyConfig:
        frames = getattr(self.data, "frames", None)
        if frames is not None and max(self.space.time_steps) > frames:
            raise ValueError(
                f"`space.time_steps` must not exceed `data.frames` ({frames}), but got {max(self.space.time_steps)}."
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types with every default filled in; the inverse of :meth:`from_dict`."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "study") -> StudyConfig:
        """Check a mapping and build the study from it.

        Args:
            data: What a study file holds.
            where: Named in error messages, such as the path of the file.

        Raises:
            ConfigError: If a key is unknown or missing, or a value impossible.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: a study file must be a mapping of keys, but got {_show(data)}.")
        version = data.get("schema_version", SCHEMA_VERSION)
        if type(version) is not int or version < 1:
            raise ConfigError(f"{where}: `schema_version` must be a whole number from 1, but got {_show(version)}.")
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{where}: `schema_version` {version} is newer than this spikesearch understands ({SCHEMA_VERSION}); "
                "upgrade spikesearch."
            )
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ConfigError(f"{where}: {explain(error, cls)}") from None


def load_study_file(path: str | os.PathLike[str]) -> StudyConfig:
    """Read and check a study file.

    A relative ``data.path`` is looked for beside the study file, then in the working directory; what exists is stored
    as an absolute path, so that the study can be resumed from anywhere.

    Args:
        path: A YAML file.

    Raises:
        ConfigNotFoundError: If there is no such file.
        ConfigError: If it is not YAML, or a key or value is wrong.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, but a study file was expected.")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigNotFoundError(f"There is no study file {path}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: a study file must be UTF-8 text.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from None
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader that also refuses repeated keys
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that no calendar has, endless nesting
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    config = StudyConfig.from_dict(content if content is not None else {}, where=str(path))
    found = resolve_path(getattr(config.data, "path", None), path.parent)
    if found is None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(found)})})


def resolve_path(path: str | None, base_dir: Path) -> Path | None:
    """Return the existing file or folder that ``path`` means, absolute, or ``None``.

    Args:
        path: As written in a study file; ``~`` and environment variables are expanded.
        base_dir: Looked in first, before the working directory.
    """
    if not path:
        return None
    expanded = Path(os.path.expandvars(path)).expanduser()
    for candidate in (base_dir / expanded, Path.cwd() / expanded):
        if candidate.exists():
            return candidate.resolve()
    return None


def shipped_study_files() -> dict[str, Path]:
    """Return the study files that come with spikesearch, by id (the file's name without ``.yaml``)."""
    package = Path(__file__).resolve().parent
    for folder in (package / "studies", package.parent / "studies"):  # installed wheel, source checkout
        files = sorted(folder.glob("*.yaml"))
        if files:
            return {file.stem: file for file in files}
    return {}


def find_study_file(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the study file that is meant: an existing path, else the id of a shipped one.

    Args:
        name_or_path: Such as ``mine.yaml`` or ``digits``.

    Raises:
        ConfigNotFoundError: If there is neither; the message names the nearest id.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_study_files()
    name = os.fspath(name_or_path)
    if name in shipped:
        return shipped[name]
    known = ", ".join(shipped) or "none"
    raise ConfigNotFoundError(
        f"There is no study file {name!r}, neither as a path nor as a shipped one ({known})"
        f"{did_you_mean(name, shipped)}"
    )


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in one line what the first error of a validation is: the key, what was expected and what was got.

    Args:
        error: What pydantic raised.
        model: The model that was validated.
    """
    errors = error.errors(include_url=False)
    # An unknown key is most often the misspelling of the key that is then missing: say the former.
    first = min(errors, key=lambda item: item["type"] != "extra_forbidden")
    loc = _without_tags(first["loc"])
    key = _dotted(loc)
    kind, got = first["type"], first["input"]
    if kind == "extra_forbidden":
        known = _known_keys(model, first["loc"][:-1])
        where = f"`{_dotted(loc[:-1])}` has" if len(loc) > 1 else "there is"
        message = f"{where} no key {str(loc[-1])!r}{did_you_mean(str(loc[-1]), known)}"
        return message if "did you mean" in message else f"{message}; known keys are {', '.join(known)}"
    if kind == "missing":
        return f"`{key}` is missing."
    if kind == "union_tag_not_found":
        return f"`{key}.kind` is missing; it must be one of {', '.join(kinds())}."
    if kind == "union_tag_invalid":
        wrong = str(first["ctx"]["tag"])
        return f"`{key}.kind` must be one of {', '.join(kinds())}, but got {wrong!r}{did_you_mean(wrong, kinds())}"
    if kind == "value_error":
        message = str(first["ctx"]["error"])
        return f"`{key}` {message}" if message.startswith(("must", "may")) else f"{key}: {message}" if key else message
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return f"`{key}` must be a mapping of keys, but got {_show(got)}."
    if kind == "string_pattern_mismatch":
        return f"`{key}` must be letters, digits, dots, dashes and underscores, but got {_show(got)}."
    expected = first["msg"].removeprefix("Input should ").removeprefix("be ").partition(", unable to parse")[0]
    return f"`{key}` must be {expected[0].lower()}{expected[1:]}, but got {_show(got)}."


def _without_tags(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    # pydantic inserts the discriminator's value after `data`
    return (*loc[:1], *loc[2:]) if len(loc) > 1 and loc[0] == "data" and loc[1] in kinds() else loc


def _dotted(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _known_keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in loc:
        if isinstance(part, str) and part in kinds() and not _is_model(current):
            current = kinds()[part]
        elif _is_model(current) and part in current.model_fields:
            current = _model_of(current.model_fields[part].annotation)
    return list(current.model_fields) if _is_model(current) else []


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _model_of(annotation: Any) -> Any:
    # `Model | None` stands for Model; the union of data kinds stays as it is until its tag is known
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        models = [part for part in typing.get_args(annotation) if _is_model(part)]
        return models[0] if len(models) == 1 else annotation
    return annotation


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class _Loader(yaml.SafeLoader):
    """yaml.SafeLoader that refuses a repeated key instead of keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is repeated", key_node.start_mark)
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep=deep)
