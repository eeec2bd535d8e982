"""A scene's files: fetched once, verified always, placed by hand where there is no address."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmrs_bench.errors import ConfigError, DataError, FetchError
from mmrs_bench.io import file_sha256
from mmrs_bench.paths import data_root
from mmrs_bench.scenes.files.archive import extract_members
from mmrs_bench.scenes.files.stamps import Stamps
from mmrs_bench.scenes.files.transfer import disk_error, download, feed_file, quarantine, receive
from mmrs_bench.scenes.manifest import Manifest, Source, SourceMember

Progress = Callable[[str], Any]


def scene_folder(manifest: Manifest) -> Path:
    """Folder of the scene's files: ``<data root>/<id>-<revision>``, or ``data_dir`` relative to the manifest."""
    if manifest.data_dir is not None:
        return manifest.path.parent / manifest.data_dir
    return data_root() / manifest.tag


def ensure_files(manifest: Manifest, *, progress: Progress | None = None) -> Path:
    """The folder with the scene's verified files; what is missing is fetched.

    Hashes are computed once per file version: a stamp in the cache remembers size, time and hash.

    Args:
        manifest: A manifest with sources.
        progress: Called with one line per step; None is silent.

    Raises:
        FetchError: If a required file is missing or wrong and cannot be fetched; one line gives address, hash, size
            and where to put the file by hand.
        DataError: If a file in a ``data_dir`` has the wrong hash (it is the user's own and not touched).
    """
    folder = scene_folder(manifest)
    stamps = Stamps(folder)
    needed = [source for source in manifest.sources if not source.optional or _any_there(source, folder)]
    complete = all(stamps.verified(member) for source in needed for member in source.files)
    stamps.save(progress)
    return folder if complete else fetch(manifest, progress=progress)


def fetch(manifest: Manifest, *, source_dir: Path | None = None, progress: Progress | None = None) -> Path:
    """Fetch whatever of a scene is missing or wrong; running it again goes on where it stopped.

    Two processes may fetch one scene at once: the second waits and then finds the files.

    Args:
        manifest: The scene's manifest; for a simulated scene there is nothing to do.
        source_dir: Folder with files the user already has, searched (with its subfolders) before any address: the
            archive by name or hash, or single members by relative path or name.
        progress: Called with one line per step; None is silent.

    Returns:
        The scene's folder, as `ensure_files`.

    Raises:
        FetchError: If a required file cannot be had, or the folder cannot be written.
        DataError: If an archive is corrupt or unsafe.
        ConfigError: If ``source_dir`` is no folder.
    """
    say = progress or (lambda line: None)
    folder = scene_folder(manifest)
    if manifest.simulated:
        say(f"{manifest.tag}: simulated, no files to fetch")
        return folder
    if source_dir is not None and not source_dir.is_dir():
        raise ConfigError(f"--from {source_dir}: is not a folder; give the folder that holds the files you have")
    with _locked(folder, manifest, say):
        job = _Job(manifest, folder, source_dir, say)
        for source in manifest.sources:
            try:
                job.provide(source)
            except FetchError as error:
                if not source.optional:
                    raise
                say(f"optional: {error}")
        job.stamps.save(say)
    return folder


@contextmanager
def _locked(folder: Path, manifest: Manifest, say: Progress) -> Iterator[None]:
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{manifest.tag}: another process is fetching it; waiting")
            lock.acquire()
    except OSError as error:
        raise disk_error(folder, error) from error
    try:
        yield
    finally:
        lock.release()


@dataclass
class _Job:
    """One run of `fetch` under its lock."""

    manifest: Manifest
    folder: Path
    source_dir: Path | None
    say: Progress

    def __post_init__(self) -> None:
        self.stamps = Stamps(self.folder)
        self._have: dict[str, list[Path]] | None = None

    def provide(self, source: Source) -> None:
        """See that a source's files are in the folder and right."""
        wanted = [member for member in source.files if not self.stamps.verified(member)]
        for member in wanted:
            self._set_aside(self.folder / member.path, member.sha256)
        if not wanted:
            return
        archive = self.folder / source.file
        if source.is_archive and archive.is_file() and self._right(archive, source.sha256):
            self._unpack(archive, wanted)
            return
        looked = self._from_folder(source, wanted) if self.source_dir is not None else ""
        if looked is None:
            return
        self._download(source, archive, looked)
        if source.is_archive:
            self._unpack(archive, wanted)
            archive.unlink()  # its members are there and verified; it would double the space
        self._remember(wanted)

    def _right(self, path: Path, sha256: str | None) -> bool:
        self._set_aside(path, sha256)
        return path.is_file()

    def _set_aside(self, path: Path, sha256: str | None) -> None:
        if not path.is_file() or sha256 is None or (found := file_sha256(path)) == sha256:
            return
        if self.manifest.data_dir is not None:
            raise DataError(
                f"{path}: has SHA-256 {found}, the manifest expects {sha256}; put the right file there, or correct "
                f"the hash in {self.manifest.path} if you changed the file on purpose"
            )
        try:
            bad = quarantine(path, found)
        except OSError as error:
            raise disk_error(path, error) from error
        self.say(f"{path.name}: SHA-256 {found} is wrong, expected {sha256}; moved to {bad}")

    def _unpack(self, archive: Path, wanted: list[SourceMember]) -> None:
        self.say(f"{self.manifest.tag}: unpacking {', '.join(m.path for m in wanted)} from {archive}")
        extract_members(archive, wanted, self.folder)
        self._remember(wanted)

    def _remember(self, members: list[SourceMember]) -> None:
        for member in members:
            self.stamps.add(member)

    def _from_folder(self, source: Source, wanted: list[SourceMember]) -> str | None:
        """Take a source from the user's folder; None if it was there, else what was looked at, in words."""
        found = [(member, self._match(member.path, member.sha256)) for member in wanted]
        if all(path is not None for _, path in found):
            for member, path in found:
                if path is not None:
                    self._copy(path, member)
            self._remember(wanted)
            return None
        if source.is_archive and (archive := self._match(source.file, source.sha256, any_name=True)) is not None:
            self._unpack(archive, wanted)
            return None
        names = [source.file] * source.is_archive + [member.path for member, path in found if path is None]
        return f"{self.source_dir} holds no {' or '.join(names)} with the expected hash; "

    def _copy(self, path: Path, member: SourceMember) -> None:
        self.say(f"{self.manifest.tag}: copying {path}")
        try:
            with path.open("rb") as file:
                receive(self.folder / member.path, feed_file(file, path), member.sha256, None)
        except OSError as error:
            raise FetchError(f"cannot read {path}: {error.strerror or error}; check --from") from error

    def _match(self, wanted: str, sha256: str | None, *, any_name: bool = False) -> Path | None:
        """A file below the user's folder by relative path, else by name, else (archives) by hash alone."""
        if self._have is None:
            self._have = {}
            for top, _, names in os.walk(self.source_dir or Path()):
                for name in names:
                    self._have.setdefault(name, []).append(Path(top, name))
        named = self._have.get(Path(wanted).name, [])
        candidates = sorted(named, key=lambda path: (not path.as_posix().endswith(f"/{wanted}"), path))
        if any_name and sha256 is not None:
            candidates += [p for ps in self._have.values() for p in ps if p.suffix == ".zip" and p not in candidates]
        for path in candidates:
            if sha256 is None or file_sha256(path) == sha256:
                return path
        return None

    def _download(self, source: Source, target: Path, looked: str) -> None:
        failures = []
        for url in source.urls:
            self.say(f"{self.manifest.tag}: fetching {source.file} from {url}")
            try:
                download(url, target, source.sha256, source.bytes)
                return
            except FetchError as error:
                failures.append(f"{url}: {error}")
                if url != source.urls[-1]:
                    self.say(f"{self.manifest.tag}: {failures[-1]}; trying the next address")
        reason = looked + ("; ".join(failures) if failures else "it has no public address")
        raise FetchError(
            f"{self.manifest.tag}: {source.file} could not be fetched ({reason}). {by_hand(self.manifest, source)}"
        )


def by_hand(manifest: Manifest, source: Source) -> str:
    """How to get a source without the suite: hash, size, where to put it, and the command that takes it from there."""
    folder = scene_folder(manifest)
    size = f"{source.bytes:,} bytes" if source.bytes else "size not published"
    address = f"{source.urls[0]} " if source.urls else ""
    return (
        f"To place it by hand: {address}(SHA-256 {source.sha256 or 'unknown'}, {size}) goes to {folder / source.file}, "
        f"or run: mmrs-bench data fetch {manifest.dataset_name} --from DIR, where DIR holds it"
        f"{' or its unpacked files' if source.is_archive else ''}." + (f" {source.manual}" if source.manual else "")
    )


def missing_official(manifest: Manifest) -> str:
    """What ``official-v1`` lacks on this scene, in one sentence; empty if nothing is missing."""
    if manifest.official_split is None:
        return f"{manifest.tag} has no official split"
    folder = scene_folder(manifest)
    absent = {ref.file for ref in manifest.official_refs if not (folder / ref.file).is_file()}
    sources = [source for source in manifest.sources if any(member.path in absent for member in source.files)]
    return " ".join(f"{source.file} is missing. {by_hand(manifest, source)}" for source in sources)


def _any_there(source: Source, folder: Path) -> bool:
    return any((folder / member.path).is_file() for member in source.files)
