"""Results reported in papers and by released codes, shown in tables of their own, apart from measured results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.tables import Column, Section, Table
from mmrs_bench.evaluation.results.metrics import METRICS
from mmrs_bench.paths import BENCHMARK_DIR
from mmrs_bench.reading import read_yaml, validated

REPORTED = BENCHMARK_DIR / "reported.yaml"

Percent = Annotated[float, Field(ge=-100, le=100)]


class ReportedResult(BaseModel):
    """One reported result on one scene, in percent.

    Attributes:
        claim: The reported result if it is not one of the metrics.
        source: Publication, with table or page.
        difference: How its protocol differs from every protocol of this suite.
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


def load_reported(path: Path = REPORTED) -> list[ReportedResult]:
    """All reported results of a file.

    Raises:
        ConfigError: If the file cannot be read or a field is wrong.
    """
    fields = read_yaml(path, error=ConfigError, advice="give a list of reported results (see benchmarks/reported.yaml)")
    return validated(TypeAdapter(list[ReportedResult]), fields, where=path, error=ConfigError)


def reported_tables(reported: Sequence[ReportedResult], scene: str) -> list[Table]:
    """A table of the results reported on a scene, if there are any."""
    results = [result for result in reported if result.scene == scene]
    if not results:
        return []
    sources = list(dict.fromkeys((result.source, result.difference) for result in results))
    rows = [
        {
            **result.model_dump(exclude={"scene", "difference"}),
            "source": f"({sources.index((result.source, result.difference)) + 1})",
        }
        for result in results
    ]
    columns = [
        Column("method", "Method", fixed=True),
        Column("inputs", "Inputs"),
        *(Column(m.name, f"{m.title} %", "number") for m in METRICS.values() if m.name in ReportedResult.model_fields),
        Column("claim", "Claim"),
        Column("source", "Source"),
    ]
    table = Table(
        title=f"{scene}: reported in papers, other protocols (not measured here, not comparable with the tables above)",
        columns=tuple(c for c in columns if c.key != "claim" or any(result.claim for result in results)),
        sections=(Section("", tuple(rows)),),
        notes=tuple(f"({n}) {source}. Differs: {difference}." for n, (source, difference) in enumerate(sources, 1)),
    )
    return [table]
