"""Signatures (the protocol of a number in one line), and reasons why a result is not ranked."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mmrs_bench.config import QUERY_LIMITS, DataConfig, ProtocolConfig

_BARE_FIELDS = frozenset({"scene", "split", "shots", "version"})
#: Fields that every protocol has. Others need their names wherever values stand without them.
COMMON_FIELDS = _BARE_FIELDS | {"win", "unlab", "sel", "budget"}
#: What the fields are called in words; those without a name are shown as they are.
_FIELD_NAMES = {
    "split": "",
    "win": "window",
    "unlab": "unlabelled pixels",
    "query": "query limit",
    "norm": "normalisation",
    "normfit": "normalisation fitted on",
    "mod": "modalities",
    "drop": "predicted without",
    "pca": "PCA",
    "version": "",
}


def signature_fields(protocol: ProtocolConfig) -> dict[str, str]:
    """Parts of the protocol that must be equal for numbers to be comparable, in the order of the signature.

    Always included: scene (tag and eight digits of the fingerprint, because a manifest can change without a new
    revision), split, shots, window, unlabelled scope, selection rule, budget, version. Included if they differ from
    the default: query limit, normalisation (``norm``, ``normfit``), modalities (``mod``), ``pca``, modalities that are
    missing in predictions (``drop``). Not included: draw and seed, which are averaged over, and the method, which is
    compared.
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
    if data.drop:
        fields["drop"] = "+".join(data.drop)
    fields["version"] = f"v{protocol.code_version}"
    return fields


def fields_in_words(fields: Mapping[str, str], *, without: Collection[str]) -> str:
    """Fields of a protocol but those in ``without``: ``window 11, unlabelled pixels scene, v0.1.0``."""
    shown = (f"{_FIELD_NAMES.get(name, name)} {value}".strip() for name, value in fields.items() if name not in without)
    return ", ".join(shown)


def signature_text(fields: Mapping[str, str], *, draws: str = "", metric: str = "OA") -> str:
    """Join `signature_fields` to a signature; ``draws`` follows the shots unless it is empty."""
    parts = [metric]
    for name, value in fields.items():
        parts.append(value if name in _BARE_FIELDS else f"{name}:{value}")
        if name == "shots" and draws:
            parts.append(f"draws:{draws}")
    return "|".join(parts)


def signature(protocol: ProtocolConfig, *, draws: int | None = None, metric: str = "OA") -> str:
    """The protocol in one line; numbers with equal signatures are comparable.

    The signature of a table row contains the number of draws, that of a record does not:
    ``OA|trento-r1@1a2b3c4d|random-v1|2shot|draws:10|win:11|unlab:scene|sel:last|budget:paper|v0.1.0``.
    """
    return signature_text(signature_fields(protocol), draws="" if draws is None else str(draws), metric=metric)


def unranked_reason(protocol: ProtocolConfig, *, labels_used: int, n_support: int, variant_reason: str = "") -> str:
    """Why a result is not ranked; empty if it is. ``variant_reason`` is ``unranked`` of the method's variant."""
    reasons = [variant_reason] if variant_reason else []
    if protocol.data.selection == "paper-val":
        reasons.append("selection on query labels (paper-val)")
    elif labels_used != n_support:
        reasons.append(f"used {labels_used} labels where the protocol grants {n_support}")
    return "; ".join(reasons)
