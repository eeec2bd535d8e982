"""Pages of scenes, from their manifests."""

from __future__ import annotations

from mmrs_bench.scenes.catalogue import SIMULATED_PREFIX, load_manifest, shipped_names
from mmrs_bench.scenes.manifest import Manifest, Modality
from site_generator.markdown import block, code, details, table
from site_generator.repository import DOCS, ROOT

_NAMES = {"lidar": "LiDAR"}
#: Examples in ``docs`` that have committed results.
_EXAMPLES = ("docs/examples/trento-lite.yaml", "docs/examples/muufl-lite.yaml")


def scene_manifests() -> dict[str, tuple[str, Manifest]]:
    """Scenes that have a page, by name: the path of the manifest in the repository, and the manifest."""
    names = [name for name in shipped_names() if not name.startswith(SIMULATED_PREFIX)]
    names.sort(key=lambda name: name != "simulated")
    found = {name: (f"data_manifests/{name}.yaml", load_manifest(name)) for name in names}
    for path in _EXAMPLES:
        manifest = load_manifest(str(ROOT / path))
        found[manifest.id] = (path, manifest)
    return found


def scenes_index() -> str:
    """The Markdown of the list of scenes."""
    cards, manifests = [], scene_manifests()
    for name, (_, manifest) in manifests.items():
        picture, text = _picture(name)
        image = f"[![{text}](../images/scenes/{picture}.png){{ loading=lazy }}]({name}.md)\n\n    " if picture else ""
        cards.append(f"-   **[{manifest.title}]({name}.md)**\n\n    {image}{_facts(manifest)}")
    lead = (
        "The suite describes real scenes and simulates others. It ships no real data: `mmrs-bench data fetch NAME` "
        "downloads the files from their publishers and checks every hash. **Pictures of real scenes on these pages are "
        "simulated twins**, which have the size, sensors and classes of the real scene, but none of its measurements. "
        "Twins are scenes too: `sim-trento` can be used like `trento`."
    )
    rows = [
        (f"[{name}]({name}.md)", f"{m.height} × {m.width}", str(len(m.classes)), _modalities(m), _official(m))
        for name, (_, m) in manifests.items()
    ]
    columns = ("scene", "pixels (rows × columns)", "classes", "modalities (channels)", "official split")
    more = (
        "[Add a scene](../adding-a-scene.md) of your own: one YAML file with [these fields](../reference/manifest.md)."
    )
    grid = '<div class="grid cards" markdown>\n\n' + "\n\n".join(cards) + "\n\n</div>"
    return "\n\n".join(["# Scenes", lead, grid, "## Overview", table(columns, rows), more]) + "\n"


def scene_page(name: str, path: str, manifest: Manifest) -> str:
    """The Markdown of a scene's page."""
    picture, text = _picture(name)
    parts = [f"# {manifest.title}"]
    if name.endswith("-lite"):
        parts.append(
            "!!! warning\n\n    An example with a *reduced HSI* (three colour channels). It is not the benchmark "
            "scene, and results on it must be published with these words."
        )
    if picture:
        parts.append(f"![{text}](../images/scenes/{picture}.png)")
        parts.append(f"*{text}: pseudo-colours, second sensor, ground truth (white: no label).*")
    place = name if path.startswith("data_manifests") else path
    facts = [
        ("size", f"{manifest.height} rows × {manifest.width} columns"),
        ("pixel", f"{manifest.gsd_m:g} m" if manifest.gsd_m else "not known"),
        *((m.name, _modality(m)) for m in manifest.modalities),
        ("labels", _labels(manifest)),
        ("official split", _official(manifest)),
        ("tag", f"{code(manifest.tag)}, revision {manifest.revision}"),
        ("manifest", f"[{path}](../../{path})"),
    ]
    parts.append(table(("", ""), facts))
    parts += ["## Use it", block(_commands(place, manifest), "bash")]
    if files := _unpublished(manifest):
        names = " ".join(map(code, files))
        parts.append(
            f"These files are not published: {names}. `DIR` is the folder where you have them; [Files](#files) "
            "says what they contain."
        )
    parts += ["## Classes", table(("", "class", "labelled pixels"), _classes(manifest))]
    if manifest.notes:
        parts += ["## Notes", manifest.notes]
    if manifest.variants:
        known = "Other versions of the files are in circulation. Results on them are not comparable:"
        parts += ["## Known variants", known, "\n".join(f"- {' '.join(v.split())}" for v in manifest.variants)]
    parts += ["## Terms of use", manifest.terms]
    if manifest.sources:
        parts += ["## Files", _files(manifest)]
    parts += ["## Citation", block(manifest.citation, "bibtex")]
    return "\n\n".join(parts) + "\n"


def _picture(name: str) -> tuple[str, str]:
    """Name and description of the picture of a scene; empty texts if there is none."""
    if (DOCS / "images" / "scenes" / f"{name}.png").is_file():
        return name, "Simulated scene"
    twin = SIMULATED_PREFIX + name.partition("-")[0]
    if (DOCS / "images" / "scenes" / f"{twin}.png").is_file():
        return twin, f"Simulated twin {twin}, not the real scene"
    return "", ""


def _facts(manifest: Manifest) -> str:
    return f"{_modalities(manifest)} · {len(manifest.classes)} classes · {manifest.height} × {manifest.width} pixels"


def _modalities(manifest: Manifest) -> str:
    return ", ".join(f"{_NAMES.get(m.name, m.name.upper())} ({m.bands})" for m in manifest.modalities)


def _modality(modality: Modality) -> str:
    channels = f"{modality.bands} channels" if modality.bands > 1 else "1 channel"
    named = f" ({', '.join(modality.channel_names)})" if modality.channel_names else ""
    waves = modality.wavelengths_nm
    ranged = f", {min(waves):g} to {max(waves):g} nm" if waves else ""
    note = f" {' '.join(modality.wavelengths_note.split())}" if modality.wavelengths_note else ""
    return f"{modality.sensor}, {channels}{named}{ranged}.{note}"


def _labels(manifest: Manifest) -> str:
    counts = [entry.count for entry in manifest.classes]
    total = f", {sum(c for c in counts if c):,} labelled pixels" if all(counts) else ""
    return f"{len(counts)} classes{total}"


def _official(manifest: Manifest) -> str:
    split = manifest.official_split
    if split is None:
        return "no"
    train, test = split.train_counts, split.test_counts
    return f"yes: {sum(train):,} train, {sum(test):,} test" if train and test else "yes"


def _classes(manifest: Manifest) -> list[tuple[str, str, str]]:
    return [
        (
            f'<span class="swatch" style="background:{entry.color}" title="{entry.color}"></span>',
            f"{entry.id} {entry.name}",
            f"{entry.count:,}" if entry.count else "–",
        )
        for entry in manifest.classes
    ]


def _commands(place: str, manifest: Manifest) -> str:
    run = f'make bench DATASET={place} SHOTS="2 5" METHODS="rf-spatial cnn"'
    if manifest.simulated:
        return run
    given = " --from DIR" if _unpublished(manifest) else ""
    return f"mmrs-bench data fetch {place}{given}\nmmrs-bench data verify {place}\n{run}"


def _unpublished(manifest: Manifest) -> list[str]:
    """Files that every use of the scene needs, and that have no address."""
    return [source.file for source in manifest.sources if not source.urls and not source.optional]


def _files(manifest: Manifest) -> str:
    parts = []
    for source in manifest.sources:
        lines = [f"- {code(source.file)}" + (" (only for `official-v1`)" if source.optional else "")]
        lines += [f"    - <{url}>" for url in source.urls]
        lines += [f"    - SHA-256 {code(source.sha256)}"] if source.sha256 else []
        lines += [f"    - {' '.join(source.manual.split())}"] if source.manual else []
        parts += lines
    return details("Addresses and hashes", "\n".join(parts))
