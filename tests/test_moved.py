"""Import paths of 0.1.0 work, warn, and cost nothing to whoever does not use them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib import import_module

import pytest

from spikesearch._moved import MODULES, NAMES

# Every module of 0.1.0 but those of the command line, by folder.
OF_0_1_0 = {
    "": "activity architecture cli config config_messages data data_config energy errors export fitness io nn racing "
    "report sampler scoring space study train",
    "data": "augment bundle check cifar digits events frames idx images init keyed registry splits",
    "export": "card folder formats nir_graph onnx_model portable timm_hook timm_model timm_net torch_program",
    "nn": "elastic elastic_blocks fast functional kernel lif spikformer supernet",
    "report": "dashboard fidelity figures markdown",
    "sampler": "acquisition archive crossover design domain duplicates errors esnn features forecast genes known model "
    "mutation ranking selection surrogate",
    "scoring": "cache calibration packing plain scorer",
    "study": "assist doctor export fast_storage fidelity fidelity_networks fidelity_stats identity interrupts ledger "
    "locks owner prepare progress provenance recipe recipe_run resolve results retrain runner search storage store "
    "trained trials verify workers",
    "train": "checkpoint distributed drop_path energy_loss loop progress retrain strategies supernet",
}
PATHS = [
    ".".join(["spikesearch", *([folder] if folder else []), name])
    for folder, names in OF_0_1_0.items()
    for name in names.split()
]
# Names that its README and docstrings gave to users.
USED = {
    "spikesearch": "Architecture BlockSpec ESNNSampler EnergyModel EnergyReport SearchSpace Spikformer Supernet "
    "create_study f_aeb load_study run_study",
    "spikesearch.architecture": "Architecture BlockSpec StemSpec",
    "spikesearch.config": "ScoringConfig StudyConfig TrainConfig load_study_file",
    "spikesearch.data": "DataBundle Split check_data init_study_file list_kinds load_data",
    "spikesearch.data.bundle": "Augmenter Store",
    "spikesearch.data.frames": "integrate",
    "spikesearch.data_config": "EventAugment ImageAugment ImageFolderData",
    "spikesearch.energy": "EnergyModel EnergyReport LayerEnergy",
    "spikesearch.export": "FORMATS export_network load_network read_facts save_network",
    "spikesearch.export.card": "model_card",
    "spikesearch.export.formats": "FORMATS ExportFormat check_format export_network",
    "spikesearch.export.portable": "agreement",
    "spikesearch.export.timm_net": "TimmSpikformer",
    "spikesearch.fitness": "dead_below f_aeb recommend",
    "spikesearch.nn": "ChannelStats Spikformer Stage SubnetStats Supernet count_parameters fuse",
    "spikesearch.nn.spikformer": "Block ConvUnit LinearUnit Spikformer Stem count_parameters",
    "spikesearch.sampler": "ArchitectureMutation BlockCrossover CrowdingSelection ESNNSampler FAEBSelection "
    "GaussianProcessSurrogate SamplerError Situation SpaceExhaustedError SpaceFillingDesign UniformCrossover "
    "UnseenOnly",
    "spikesearch.sampler.surrogate": "GaussianProcessSurrogate Situation Surrogate",
    "spikesearch.scoring": "Score",
    "spikesearch.space": "SearchSpace",
    "spikesearch.study": "create_study load_study run_study",
    "spikesearch.study.fidelity_networks": "NetworkList",
    "spikesearch.study.fidelity_stats": "Retest",
    "spikesearch.study.search": "Budget Finished Search",
    "spikesearch.study.trained": "Evaluation Trained evaluate_subnet extract_subnet open_trained",
    "spikesearch.train": "SandwichStrategy Trainer load_supernet supernet_facts train_supernet weights_hash",
    "spikesearch.train.distributed": "own_device",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.filterwarnings("ignore:.* has moved:DeprecationWarning")
def test_every_module_of_0_1_0_can_be_imported(path: str) -> None:
    assert import_module(path).__name__ == path


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in USED.items() for name in names.split()])
@pytest.mark.filterwarnings("ignore:.* has moved:DeprecationWarning")
def test_every_name_that_was_documented_is_there(path: str, name: str) -> None:
    assert getattr(import_module(path), name)


def test_the_tables_lead_to_what_exists() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # and not to another old path
        for homes in MODULES.values():
            assert all(import_module(home) for home in homes)
        for names in NAMES.values():
            for target in names.values():
                home, _, name = target.partition(":")
                assert hasattr(import_module(home), name)


def test_an_old_path_names_the_new_one_where_it_is_used() -> None:
    code = (
        "import spikesearch.study.trials as old\n"
        "import spikesearch.study.search.trials as new\n"
        "from spikesearch.architecture import Architecture\n"
        "from spikesearch import Architecture as same\n"
        "assert Architecture is same\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = (line for line in run.stderr.splitlines() if "DeprecationWarning" in line)
    assert first.startswith("<string>:1: ")
    assert "`spikesearch.study.trials` has moved to `spikesearch.study.search.trials`" in first
    assert second.startswith("<string>:3: ")
    assert "`spikesearch.architecture` has moved to `spikesearch.space.architecture`" in second


def test_names_that_were_nowhere_are_attribute_errors() -> None:
    sys.modules.pop("spikesearch.report.dashboard", None)
    with pytest.warns(DeprecationWarning, match=r"has moved to `spikesearch\.dashboard`"):
        old = import_module("spikesearch.report.dashboard")
    with pytest.raises(AttributeError, match=r"module 'spikesearch\.report\.dashboard' has no attribute 'nothing'"):
        old.nothing  # noqa: B018
    with pytest.raises(AttributeError):
        import_module("spikesearch.study.search").nothing  # noqa: B018


def test_modules_that_never_were_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module("spikesearch.study.nothing")
