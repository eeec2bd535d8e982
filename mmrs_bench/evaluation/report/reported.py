"""Numbers that papers and released codes claim, for the scenes of the leaderboard; never mixed with measured ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.tables import Column, Section, Table
from mmrs_bench.paths import BENCHMARK_DIR
from mmrs_bench.reading import read_yaml, validated

REPORTED = BENCHMARK_DIR / "reported.yaml"

Percent = Annotated[float, Field(ge=-100, le=100)]


class Reported(BaseModel):
    """One claim about one scene.

    Attributes:
        scene: Manifest id, e.g. ``trento``.
        method: The method's name in its source.
        inputs: Modalities it saw, in words.
        oa: Percent, as printed, as are ``aa`` and ``kappa``; None where the source has none.
        claim: What is claimed where it is not a number of these kinds.
        source: Who says so and where.
        difference: How its protocol differs from every protocol of this suite, in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scene: str
    method: str
    inputs: str
    oa: Percent | None = None
    aa: Percent | None = None
    kappa: Percent | None = None
    claim: str = ""
    source: str = Field(min_length=1)
    difference: str = Field(min_length=1)


def load_reported(path: Path = REPORTED) -> list[Reported]:
    """All claims of a file, in its order.

    Raises:
        ConfigError: If the file cannot be read or a field is wrong; file and field are named.
    """
    claims = read_yaml(path, error=ConfigError, advice="give a list of claims (see benchmarks/reported.yaml)")
    return validated(TypeAdapter(list[Reported]), claims, where=path, error=ConfigError)


def reported_table(claims: list[Reported], scene: str) -> Table | None:
    """The claims about a scene as a table of their own; None if there is none."""
    of_scene = [claim for claim in claims if claim.scene == scene]
    if not of_scene:
        return None
    pairs = dict.fromkeys((claim.source, claim.difference) for claim in of_scene)
    numbers = {pair: number for number, pair in enumerate(pairs, start=1)}
    rows = [
        {
            "method": claim.method,
            "inputs": claim.inputs,
            "oa": claim.oa,
            "aa": claim.aa,
            "kappa": claim.kappa,
            "claim": claim.claim,
            "source": f"({numbers[claim.source, claim.difference]})",
        }
        for claim in of_scene
    ]
    columns = [
        Column("method", "Method", fixed=True),
        Column("inputs", "Inputs"),
        Column("oa", "OA %", "number"),
        Column("aa", "AA %", "number"),
        Column("kappa", "κ %", "number"),
        Column("claim", "Claim"),
        Column("source", "Source"),
    ]
    if not any(claim.claim for claim in of_scene):
        columns = [column for column in columns if column.key != "claim"]
    return Table(
        title=f"{scene}: reported in papers, other protocols (not measured here, not comparable with the tables above)",
        columns=tuple(columns),
        sections=(Section("", tuple(rows)),),
        notes=tuple(f"({n}) {source}. Differs: {difference}." for (source, difference), n in numbers.items()),
    )
