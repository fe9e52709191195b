"""Study files: YAML in, checked sections out, and errors that name the key.

A study file says which data, which search space, how the supernet is trained, how subnets are scored and how long is
searched. Every key but a few has a default; :meth:`StudyConfig.to_dict` shows all of them resolved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from spikesearch.config.data import DataConfig, Section
from spikesearch.config.hardware import (
    DEFAULT_HARDWARE,
    PROFILES,
    Hardware,
    hardware,
    is_hardware_file,
    no_memory_prices,
    unknown_hardware,
)
from spikesearch.config.messages import explain, show
from spikesearch.config.reader import read_yaml
from spikesearch.errors import ConfigError, ConfigNotFoundError, did_you_mean
from spikesearch.extensions import CONVENTIONS, TARGETS
from spikesearch.io import user_path
from spikesearch.space import SearchSpace
from spikesearch.space.genes import LISTS
from spikesearch.space.residual import RESIDUALS
from spikesearch.space.space import StageChoices, says

SCHEMA_VERSION = 1
CONSTRAINED = ("energy_uJ", "params", "macs", "acs", "mean_firing_rate", "flash_kB", "ram_kB")

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


if TYPE_CHECKING:

    class _Lists(Section):
        """What type checkers see of the keys that the table of genes gives the section."""

        def __getattr__(self, name: str) -> tuple[Any, ...]: ...

else:
    _Lists = create_model(
        "_Lists",
        __base__=Section,
        **{
            name: (tuple[gene.kind, ...], () if gene.default is None else (gene.default,))
            for name, gene in LISTS.items()
        },
        stages=(tuple[dict[str, Any], ...], ()),
    )


class SpaceConfig(_Lists):
    """The choices of the search space; see :class:`spikesearch.SearchSpace`."""

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _said(cls, choices: Any, info: ValidationInfo) -> Any:
        gene = LISTS[str(info.field_name)]
        if isinstance(choices, str) and gene.words:
            if gene.said(choices) == choices:
                words = " or ".join(repr(word) for word, _ in gene.words)
                raise ValueError(f"must be a list of choices or {words}, but got {choices!r}.")
            return [gene.said(choices)]
        return [gene.said(value) for value in choices] if isinstance(choices, list | tuple) else choices

    @field_validator("stages")
    @classmethod
    def _alike(cls, stages: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        return tuple(StageChoices.from_dict(stage).to_dict() for stage in stages)  # a width of 1/4 is one of 0.25

    @model_validator(mode="after")
    def _possible(self) -> SpaceConfig:
        self.search_space()
        return self

    def search_space(self) -> SearchSpace:
        """Return the search space with these choices."""
        return SearchSpace.from_dict({name: getattr(self, name) for name in self.model_fields_set})

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A study that was made before a gene existed says nothing of it.
        lists = {name: choices for name, choices in dump(self).items() if name in LISTS and says(LISTS[name], choices)}
        return lists | ({"stages": list(self.stages)} if self.stages else {})


class ModelConfig(Section):
    """What every network of the study has in common.

    Args:
        pool_stages: Stages of the stem (0 to 3) followed by a 3x3 max pooling of stride 2; ``None``: by image size.
        residual: What residual connections carry: ``add`` for sums of spikes, as published, or ``membrane`` for
            currents, so that every layer but the first is fed by spikes; ``normed`` for currents that are read by
            neurons with a batch-norm of their own.
        stem: ``sps`` for spiking patch splitting, four convolutions, as published; ``conv`` for one strided
            convolution.
        stem_stride: Of that convolution; ``None``: the smallest that leaves 20 x 20 positions or fewer.
    """

    pool_stages: list[Annotated[int, Field(ge=0, le=3)]] | None = None
    residual: str = "add"
    stem: Literal["sps", "conv"] = "sps"
    stem_stride: Count | None = None

    @model_serializer(mode="wrap")
    def _without_new_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A study that was made before there was another stem says nothing of it.
        new = {"stem": "sps", "stem_stride": None}
        return {name: value for name, value in dump(self).items() if name not in new or value != new[name]}

    @field_validator("residual")
    @classmethod
    def _known_residual(cls, value: str) -> str:
        if value not in RESIDUALS:
            raise ValueError(f"must be {' or '.join(map(repr, RESIDUALS))}, but got {value!r}.")
        return value

    @field_validator("pool_stages")
    @classmethod
    def _ascending(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and value != sorted(set(value)):
            raise ValueError(f"must be ascending without repetition, but got {value}.")
        return value


class TrainConfig(Section):
    """How the supernet, or one network by itself, is trained (AdamW, cosine with warm-up).

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
        drop_path: Probability that a training image skips a residual branch of the last block; it grows linearly from 0
            in the first block (stochastic depth, timm's drop path).
        surrogate_slope: Slope of the sigmoid that stands for the derivative of a spike while training (``alpha`` of
            SpikingJelly's ``surrogate.Sigmoid``).
        energy_weight: Weight of the logarithm of the energy in the loss, which lowers firing rates; 0 is off. It plays
            the part of F_AEB's beta, and grows from 0 over the first half of the training.
        clip_grad: Largest gradient norm; ``None`` is off.
        strategy: ``sandwich`` (largest, smallest and random subnets per step) or ``uniform`` (one random subnet).
        random_subnets: Random subnets per sandwich step.
        distillation: Train the smaller subnets of a sandwich step on the outputs of the largest.
        amp: Mixed precision where the device has it (``auto``) or never (``off``).
        accumulate: Parts that a batch is computed in, one after another; saves memory. Batch-norm sees one part at a
            time.
        sync_batch_norm: Whether several processes that train together share their batch-norm statistics.
        compile: Whether ``torch.compile`` compiles a network that is trained by itself: minutes first, then faster
            steps. A supernet is never compiled, because every architecture would be compiled anew, nor is a network
            with ``energy_weight``.
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
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    surrogate_slope: Positive = 4.0
    energy_weight: NotNegative = 0.0
    clip_grad: Positive | None = 5.0
    strategy: Literal["sandwich", "uniform"] = "sandwich"
    random_subnets: Annotated[int, Field(ge=0)] = 2
    distillation: bool = False
    amp: Literal["auto", "off"] = "auto"
    accumulate: Count = 1
    sync_batch_norm: bool = False
    compile: bool = False
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
        convention: ``spikformer`` (published), ``strict`` or ``memory``; see :class:`spikesearch.EnergyModel`.
        hardware: A profile of :data:`spikesearch.config.hardware.PROFILES`, or the path of a YAML file with one.
        mac_pj: Energy of a multiply-accumulate in picojoules; by default, and ``None``, that of the hardware.
        ac_pj: Energy of an accumulate in picojoules; likewise.
        precision: Of convolutions and products while trials are scored. ``bfloat16`` holds spikes exactly but rounds
            weights and currents, so that scores differ a little; it is faster on GPUs and on CPUs with AMX or AVX-512
            BF16. The test split, and every network that is handed out, is always computed in ``float32``.
        cache_mb: Memory, in MiB per worker, for what trials with the same first genes have in common; 0 is off. Scores
            do not depend on it.
        racing: Stop a proposal that cannot reach the Pareto front any more, with 99 % confidence, before it has seen
            all images; see :mod:`spikesearch.racing`. It pays where the search split has many batches (``batch_size``).
            Whatever is scored to the end has the same score as without it, but which proposals are depends on what was
            finished when they began: on the number of workers, and on interruptions.
    """

    batch_size: Count = 256
    calibration_images: Annotated[int, Field(ge=2)] = 256
    convention: str = "spikformer"
    hardware: str | Hardware = DEFAULT_HARDWARE
    mac_pj: Positive | None = Field(default=None, validate_default=True)
    ac_pj: Positive | None = Field(default=None, validate_default=True)
    precision: Literal["float32", "bfloat16"] = "float32"
    cache_mb: Annotated[int, Field(ge=0)] = 1024
    racing: bool = False

    @field_validator("convention")
    @classmethod
    def _known_convention(cls, value: str) -> str:
        if value not in CONVENTIONS:
            raise ValueError(CONVENTIONS.expected(value))
        return value

    @field_validator("hardware")
    @classmethod
    def _known_hardware(cls, value: str | Hardware) -> str | Hardware:
        if isinstance(value, str) and value not in PROFILES:
            if not is_hardware_file(value):
                raise ValueError(unknown_hardware(value).removeprefix("`hardware` "))
            return hardware(value)  # the numbers are part of a study, the file is not
        return value

    @field_validator("mac_pj", "ac_pj")
    @classmethod
    def _price_of_hardware(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None or "hardware" not in info.data:
            return value
        price: float | None = getattr(hardware(info.data["hardware"]), str(info.field_name))
        return price

    @model_validator(mode="after")
    def _memory_has_prices(self) -> ScoringConfig:
        profile = hardware(self.hardware)
        if self.convention == "memory" and profile.memory is None:
            raise ValueError(no_memory_prices(profile))
        return self

    @model_serializer(mode="wrap")
    def _without_usual_hardware(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A study that was made before there were profiles says nothing of them.
        return {name: value for name, value in dump(self).items() if (name, value) != ("hardware", DEFAULT_HARDWARE)}


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
        constraints: Upper bounds of a trial's ``energy_uJ``, ``params``, ``macs``, ``acs`` or ``mean_firing_rate``, and
            of what its C code needs of a device: ``flash_kB`` and ``ram_kB``, 1000 bytes each. These are known before
            a trial is spent, and nothing beyond them is proposed.
        target: Kind of device that the network is for, such as ``mcu``: what it cannot run is refused, and its own
            limits hold where ``constraints`` do not say otherwise. See :mod:`spikesearch.device.targets`.
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
    target: str | None = None
    report: ReportConfig = ReportConfig()
    storage: str | None = None
    schema_version: int = SCHEMA_VERSION

    @model_serializer(mode="wrap")
    def _without_target(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A study that was made before there were targets says nothing of them.
        return {name: value for name, value in dump(self).items() if name != "target" or value is not None}

    def meant_for(self, target: str) -> StudyConfig:
        """Return the same study, meant for a kind of device.

        Raises:
            ConfigError: If there is no such target.
        """
        if target not in TARGETS:
            raise ConfigError(f"`target` {TARGETS.expected(target)}")
        return self.model_copy(update={"target": target})

    @field_validator("target")
    @classmethod
    def _known_target(cls, value: str | None) -> str | None:
        if value is not None and value not in TARGETS:
            raise ValueError(TARGETS.expected(value))
        return value

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
            raise ConfigError(f"{where}: a study file must be a mapping of keys, but got {show(data)}.")
        version = data.get("schema_version", SCHEMA_VERSION)
        if type(version) is not int or version < 1:
            raise ConfigError(f"{where}: `schema_version` must be a whole number from 1, but got {show(version)}.")
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{where}: `schema_version` {version} is newer than this spikesearch understands ({SCHEMA_VERSION}); "
                "upgrade spikesearch."
            )
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ConfigError(f"{where}: {explain(error, cls, data)}") from None


def load_study_file(path: str | os.PathLike[str]) -> StudyConfig:
    """Read and check a study file.

    A relative ``data.path`` is looked for beside the study file, then in the working directory; what exists is stored
    as an absolute path, so that the study can be resumed from anywhere. So is the file of ``scoring.hardware``, but its
    numbers are stored.

    Args:
        path: A YAML file.

    Raises:
        ConfigNotFoundError: If there is no such file.
        ConfigError: If it is not YAML, or a key or value is wrong.
    """
    path = user_path(path, "The study file", ConfigError)
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder, but a study file was expected; `spikesearch study init` writes one for your data."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigNotFoundError(f"There is no study file {path}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: a study file must be UTF-8 text.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from None
    try:
        content = read_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if isinstance(content, dict) and isinstance(scoring := content.get("scoring"), dict):
        profile = resolve_path(scoring["hardware"], path.parent) if is_hardware_file(scoring.get("hardware")) else None
        if profile is not None:
            content = content | {"scoring": scoring | {"hardware": str(profile)}}
    config = StudyConfig.from_dict(content if content is not None else {}, where=str(path))
    data_path = resolve_path(getattr(config.data, "path", None), path.parent)
    if data_path is None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(data_path)})})


def storages_of_files(folder: Path, name: str) -> dict[str, Path]:
    """Return the storages that study files of a folder name, as URLs, and which file does.

    Args:
        folder: Where to look for YAML files; what is no study file is passed over.
        name: Name of a study. A database that is no file is only taken from the study file of this name.
    """
    storages: dict[str, Path] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            content = read_yaml(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, ValueError, RecursionError):
            continue
        url = content.get("storage") if isinstance(content, dict) else None
        if isinstance(url, str) and (url.startswith("sqlite") or content.get("name") == name):
            storages.setdefault(url, path)
    return storages


def resolve_path(path: str | None, base_dir: Path) -> Path | None:
    """Return the existing file or folder that ``path`` means, absolute, or ``None``.

    Args:
        path: As written in a study file; ``~`` and environment variables are expanded.
        base_dir: Looked in first, before the working directory.

    Raises:
        ConfigError: If the operating system refuses the path.
    """
    if not path:
        return None
    expanded = expand_path(path)
    for candidate in (base_dir / expanded, Path.cwd() / expanded):
        if candidate.exists():
            return candidate.resolve()
    return None


def expand_path(path: str, key: str = "data.path") -> Path:
    """Return the path that a key of a study file means; ``~`` and environment variables are expanded.

    Raises:
        ConfigError: If the operating system refuses the path.
    """
    return user_path(os.path.expandvars(path), f"`{key}`", ConfigError)


def shipped_study_files() -> dict[str, Path]:
    """Return the study files that come with spikesearch, by id (the file's name without ``.yaml``)."""
    package = Path(__file__).resolve().parent.parent
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
        ConfigError: If the operating system refuses the path.
    """
    path = user_path(name_or_path, "The study file", ConfigError)
    if path.is_file():
        return path
    shipped = shipped_study_files()
    name = os.fspath(name_or_path)
    if name in shipped:
        return shipped[name]
    if path.is_dir() and name:
        return path  # to be refused as what it is
    known = ", ".join(shipped) or "none"
    raise ConfigNotFoundError(
        f"There is no study file {name!r}, neither as a path nor as a shipped one ({known})"
        f"{did_you_mean(name, shipped)}"
    )
