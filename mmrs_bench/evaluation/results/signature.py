"""Signatures: the protocol behind a number in one line, and whether the number may be ranked."""

from __future__ import annotations

from collections.abc import Mapping

from mmrs_bench.config import QUERY_LIMITS, DataConfig, ProtocolConfig

_BARE_FIELDS = frozenset({"scene", "split", "shots", "version"})


def signature_fields(protocol: ProtocolConfig) -> dict[str, str]:
    """What a number's comparability depends on, by name, in the order of the signature.

    Always there: scene (tag and eight digits of its fingerprint, because a manifest can change without a new
    revision), split, shots, window, unlabelled scope, selection rule, budget, version. Only where they differ from
    the default: query limit (``query``), normalisation (``norm``, ``normfit``), modalities (``mod``), ``pca``. Draw
    and seed are what is averaged over, method, variant and their settings what is compared: none is in here.
    """
    data, default = protocol.data, DataConfig()
    fields = {
        "scene": f"{protocol.scene}@{protocol.scene_fingerprint[:8]}",
        "split": data.split,
        "shots": f"{data.shots}shot",
        "win": str(data.window),
        "unlab": data.unlabelled,
        "sel": data.selection,
        "budget": protocol.budget,
    }
    if data.query_limit != QUERY_LIMITS[protocol.budget]:
        fields["query"] = str(data.query_limit or "all")
    if data.normalisation != default.normalisation:
        fields["norm"] = data.normalisation
    if data.normalisation_scope != default.normalisation_scope:
        fields["normfit"] = data.normalisation_scope
    if data.modalities:
        fields["mod"] = "+".join(data.modalities)
    if data.pca is not None:
        fields["pca"] = str(data.pca)
    fields["version"] = f"v{protocol.code_version}"
    return fields


def signature_text(fields: Mapping[str, str], *, draws: str = "", metric: str = "OA") -> str:
    """The signature made of `signature_fields`; ``draws`` (``10``) comes after the shots where it is given."""
    parts = [metric]
    for name, value in fields.items():
        parts.append(value if name in _BARE_FIELDS else f"{name}:{value}")
        if name == "shots" and draws:
            parts.append(f"draws:{draws}")
    return "|".join(parts)


def signature(protocol: ProtocolConfig, *, draws: int | None = None, metric: str = "OA") -> str:
    """One line that says under which protocol a number was made; numbers may be compared where it is equal.

    A record's signature has no ``draws``; a table row's has the number it averages over, as in
    ``OA|trento-r1@1a2b3c4d|random-v1|2shot|draws:10|win:11|unlab:scene|sel:last|budget:paper|v0.1.0``.
    """
    return signature_text(signature_fields(protocol), draws="" if draws is None else str(draws), metric=metric)


def unranked_reason(protocol: ProtocolConfig, *, labels_used: int, n_support: int, variant_reason: str = "") -> str:
    """Why a result must be shown without a rank, in words; empty if it may be ranked.

    Args:
        protocol: The cell's protocol.
        labels_used: All labels used for anything.
        n_support: Shots x K, the labels that the protocol grants.
        variant_reason: ``unranked`` of the method's variant.
    """
    reasons = [variant_reason] if variant_reason else []
    if protocol.data.selection == "paper-val":
        reasons.append("selection on query labels (paper-val)")
    elif labels_used != n_support:
        reasons.append(f"used {labels_used} labels where the protocol grants {n_support}")
    return "; ".join(reasons)
