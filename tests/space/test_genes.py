"""The table of genes: each row reaches everything that is derived from the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from spikesearch.config.study_file import SpaceConfig
from spikesearch.errors import SpaceError
from spikesearch.extensions import MIXERS
from spikesearch.nn.mixers import register
from spikesearch.space import Architecture, SearchSpace
from spikesearch.space.genes import BLOCK, GENES, LISTS, MIXER, STAGE, STEM, Gene
from tests.mixers import Headless

LISTS_OF_0_1_0: dict[str, list[Any]] = {
    "embed_dims": [24, 48],
    "depths": [1, 2],
    "num_heads": [2, 3],
    "mlp_ratios": [1, 2],
    "v_thresholds": [0.6, 1.0],
    "taus": [1.5, 2.0],
    "time_steps": [1, 2],
}
# A list that came later: other values, or another one and the default.
LATER = {
    name: [6, 8] if gene.kind is int else [gene.default * 2, gene.default]
    for name, gene in LISTS.items()
    if gene.default is not None
}
EVERYTHING = {**LISTS_OF_0_1_0, **LATER}
SPACE = SearchSpace(**EVERYTHING)

rows = pytest.mark.parametrize(
    "gene", [gene for gene in GENES if gene not in STAGE], ids=lambda gene: f"{gene.owner}.{gene.name}"
)


class Curious(Headless):
    """A mixer that reads every gene; the first of the space, so that the reference has all of them."""

    name = MIXER * 2
    genes = tuple(gene.name for gene in BLOCK)


@pytest.fixture(scope="module", autouse=True)
def _curious() -> Iterator[None]:
    register(Curious())
    yield
    MIXERS.unregister(Curious.name)


def place_of(gene: Gene) -> str:
    return {"network": "", "stage": "", "stem": "stem.", "block": "block0."}[gene.owner] + gene.name


def value_in(arch: Architecture, gene: Gene) -> Any:
    owner = {"network": arch, "stage": arch, "stem": arch.stem, "block": arch.blocks[0]}[gene.owner]
    return getattr(owner, gene.name)


def test_the_lists_keep_their_order() -> None:
    assert list(LISTS)[: len(LISTS_OF_0_1_0)] == list(LISTS_OF_0_1_0)
    assert SearchSpace(*EVERYTHING.values()) == SPACE
    assert {gene.choices for gene in GENES} == set(LISTS)


@rows
def test_a_row_has_a_list_in_space_and_study_file(gene: Gene) -> None:
    choices = getattr(SPACE, gene.choices)
    assert set(choices) == set(EVERYTHING[gene.choices])
    assert SPACE.to_dict()[gene.choices] == list(choices)
    assert set(getattr(SpaceConfig(**EVERYTHING), gene.choices)) == set(choices)
    assert gene.about in (SearchSpace.__doc__ or "")


@rows
def test_a_row_is_a_parameter_and_part_of_an_architecture(gene: Gene) -> None:
    arch = SPACE.largest
    value = value_in(arch, gene)
    assert type(value) is gene.kind
    assert SPACE.params(arch)[place_of(gene)] == value
    assert SPACE.parameters[place_of(gene)].choices == getattr(SPACE, gene.choices)
    assert gene.name == "depth" or f"'{gene.name}': {value!r}" in str(arch.to_dict())
    moved = [other for other in SPACE.neighbours(arch) if value_in(other, gene) != value]
    assert moved
    assert all(other.key != arch.key for other in moved)


@rows
def test_a_row_is_shown(gene: Gene) -> None:
    assert gene.short in SPACE.largest.describe()
    header, lines = SPACE.largest.table()
    assert {len(line) for line in lines} == {len(header)}
    assert gene not in (*STEM, *BLOCK) or gene.title in header


@rows
def test_a_row_refuses_nonsense(gene: Gene) -> None:
    nonsense = {int: -3, float: -0.3, str: ""}[gene.kind]
    with pytest.raises(SpaceError, match=f"`{gene.choices}` must"):
        SearchSpace(**{**EVERYTHING, gene.choices: [nonsense]})
    with pytest.raises(SpaceError, match="`here` must"):
        gene.check("here", nonsense, 24)
    if gene.default is None and gene.active is not None:
        with pytest.raises(SpaceError):
            gene.check("here", gene.absent, 24)


def test_what_the_default_mixer_must_be_given_is_what_it_reads() -> None:
    """Spaces of the default mixer rely on it without asking."""
    depends = [gene.name for gene in BLOCK if gene.active is not None and gene.default is None]
    assert set(depends) <= set(MIXERS[MIXER].genes)


@pytest.mark.parametrize("mixers", [None, ["ssa"]])
def test_a_study_of_the_default_mixer_is_written_as_by_0_1_0(mixers: list[str] | None) -> None:
    config = SpaceConfig(**LISTS_OF_0_1_0, **({} if mixers is None else {"mixers": mixers}))
    assert config.model_dump(mode="json") == {
        name: [LISTS[name].kind(value) for value in choices] for name, choices in LISTS_OF_0_1_0.items()
    }
    assert config.search_space() == SearchSpace(**LISTS_OF_0_1_0)


def test_a_study_of_later_genes_is_written_with_them() -> None:
    config = SpaceConfig(**EVERYTHING)
    written = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert written.keys() == EVERYTHING.keys()
    assert SpaceConfig(**written) == config
    assert config.search_space() == SPACE
    assert replace(SPACE, mixers=SPACE.mixers[::-1]) != SPACE  # the first is the reference's
