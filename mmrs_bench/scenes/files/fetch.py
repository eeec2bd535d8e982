"""Fetches the files of a scene, verifies them, and accepts files that the user already has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmrs_bench.errors import ConfigError, DataError, FetchError
from mmrs_bench.io import file_sha256
from mmrs_bench.paths import data_root
from mmrs_bench.scenes.files.archive import extract_members
from mmrs_bench.scenes.files.stamps import Stamps, cache_file
from mmrs_bench.scenes.files.transfer import disk_error, download, feed_file, quarantine, receive
from mmrs_bench.scenes.manifest import Manifest, Source, SourceMember
from mmrs_bench.scenes.manifest_files import ARCHIVES

Progress = Callable[[str], Any]


def _silent(_line: str) -> None:
    pass


def scene_folder(manifest: Manifest) -> Path:
    """Folder of the scene's files: ``<data root>/<id>-<revision>``, or ``data_dir`` relative to the manifest."""
    if manifest.data_dir is not None:
        return manifest.path.parent / manifest.data_dir
    return data_root() / manifest.tag


def ensure_files(manifest: Manifest, *, progress: Progress | None = None) -> Path:
    """The folder of the scene's verified files; fetches what is missing. Arguments and errors as `fetch`.

    A file is hashed only if its size or modification time has changed since it was last verified.
    """
    folder = scene_folder(manifest)
    needed = [s for s in manifest.sources if not s.optional or any((folder / m.path).is_file() for m in s.files)]
    complete = _verified(folder, needed, progress or _silent)
    return folder if complete else fetch(manifest, progress=progress)


def _verified(folder: Path, sources: Iterable[Source], report: Progress) -> bool:
    stamps = Stamps(folder)
    verified = all(stamps.verified(member) for source in sources for member in source.files)
    stamps.save(report)
    return verified


def fetch(manifest: Manifest, *, source_dir: Path | None = None, progress: Progress | None = None) -> Path:
    """Fetch the files of a scene that are missing or wrong; return its folder. A repeated call resumes.

    Args:
        manifest: The scene's manifest; a simulated scene has no files to fetch.
        source_dir: Folder that is searched, with its subfolders, before any download: for the archive by name or hash,
            or for single members by relative path or name.
        progress: Called with one line per step; None is silent.

    Raises:
        FetchError: If required files cannot be fetched, with instructions for doing so manually; others are fetched.
        DataError: If an archive is corrupt or unsafe, or a file in a ``data_dir``, which is never changed, is wrong.
        ConfigError: If ``source_dir`` is not a folder.
    """
    report = progress or _silent
    folder = scene_folder(manifest)
    if manifest.simulated:
        report(f"{manifest.tag}: simulated, no files to fetch")
        return folder
    if source_dir is not None and not source_dir.is_dir():
        raise ConfigError(f"--from {source_dir}: is not a folder; name the folder that contains your files")
    hashed = all(member.sha256 for source in manifest.sources for member in source.files)
    if hashed and _verified(folder, manifest.sources, report):
        return folder
    with _exclusive_lock(folder, manifest, report):
        _Fetcher(manifest, folder, source_dir, report).provide_all()
    return folder


@contextmanager
def _exclusive_lock(folder: Path, manifest: Manifest, report: Progress) -> Iterator[None]:
    """Let one process at a time fetch into a folder.

    The lock lies beside the folder, where all users of it find it; that of a user's own folder lies in the cache.
    """
    path = folder.with_name(f".{folder.name}.lock") if manifest.data_dir is None else cache_file(folder, ".lock")
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(f"{manifest.tag}: another process is fetching it; waiting")
            lock.acquire()
    except OSError as error:
        reason = error.strerror or error
        report(f"{manifest.tag}: no lock, because {path} cannot be written ({reason}); do not start a second fetch")
    try:
        yield
    finally:
        lock.release()


@dataclass
class _Fetcher:
    """Fetches the sources of one scene; the caller holds the lock of the folder."""

    manifest: Manifest
    folder: Path
    source_dir: Path | None
    report: Progress

    @cached_property
    def stamps(self) -> Stamps:
        return Stamps(self.folder)

    @cached_property
    def user_files(self) -> list[Path]:
        return [] if self.source_dir is None else sorted(path for path in self.source_dir.rglob("*") if path.is_file())

    def provide_all(self) -> None:
        """Provide every source; the faults of all are raised at the end."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(self.folder, error) from error
        faults: list[DataError] = []
        for source in self.manifest.sources:
            try:
                self.provide(source)
            except DataError as error:
                if source.optional and isinstance(error, FetchError):
                    self.report(f"optional: {error}")
                else:
                    faults.append(error)
        self.stamps.save(self.report)
        if len(faults) == 1:
            raise faults[0]
        if faults:
            raise type(faults[0])("; ".join(str(fault).rstrip(".") for fault in faults))

    def provide(self, source: Source) -> None:
        for member in source.files:
            if member.sha256 is None and (self.folder / member.path).is_file():
                self.refresh(source, member)
        wanted = [member for member in source.files if not self.stamps.verified(member)]
        for member in wanted:
            self.set_aside(self.folder / member.path, member.sha256)
        if wanted and (missing := self.use_local_files(source, wanted)):
            self.download(source, missing)

    def refresh(self, source: Source, member: SourceMember) -> None:
        """Replace a present file without an expected hash by the user's, or say why it is kept."""
        offered = None if member in source.only_in_archive else self.find_member(member)
        path = self.folder / member.path
        if offered is not None and file_sha256(offered) != self.stamps.sha256(member.path):
            if self.manifest.data_dir is not None:
                raise DataError(
                    f"{path}: differs from {offered}; copy it yourself, because files in a data_dir are kept"
                )
            self.report(f"{self.manifest.tag}: {member.path} has changed")
            self.copy(offered, member)
        elif offered is None and source.urls:
            self.report(f"{path}: kept, because the manifest gives no sha256; delete the file to fetch it again")

    def set_aside(self, path: Path, sha256: str | None) -> None:
        if not path.is_file() or sha256 is None or (found := file_sha256(path)) == sha256:
            return
        if self.manifest.data_dir is not None:
            raise DataError(
                f"{path}: has SHA-256 {found}, the manifest expects {sha256}; replace the file, or correct the hash in "
                f"{self.manifest.path} if you changed the file on purpose"
            )
        try:
            bad = quarantine(path, found)
        except OSError as error:
            raise disk_error(path, error) from error
        self.report(f"{path.name}: SHA-256 {found} is wrong, expected {sha256}; moved to {bad}")

    def use_local_files(self, source: Source, wanted: list[SourceMember]) -> list[SourceMember]:
        """Take members from an archive in the scene's folder or from the user's folder; return those not found."""
        if source.unpacked:
            archive = self.folder / source.file
            if not source.checked_by_members:
                self.set_aside(archive, source.sha256)
            if archive.is_file():
                self.extract(archive, source, wanted)
                return []
        accepted = [member for member in wanted if member not in source.only_in_archive]
        found = [(member, path) for member in accepted if (path := self.find_member(member)) is not None]
        if len(found) < len(wanted) and (offered := self.find_archive(source)) is not None:
            self.extract(offered, source, wanted)
            return []
        for member, path in found:
            self.copy(path, member)
        for member in wanted:
            if member not in accepted and (refused := self.find(member.path, None)) is not None:
                self.report(
                    f"{refused}: not taken, because the manifest gives no sha256 of {member.path}; put {source.file} "
                    f"into {self.source_dir}, or give the hash"
                )
        taken = [member for member, _ in found]
        return [member for member in wanted if member not in taken]

    def find_archive(self, source: Source) -> Path | None:
        """The user's archive of a source, by name or hash."""
        if not source.unpacked:
            return None
        found = self.find(source.file, source.sha256, any_archive=True)
        return self.find(source.file, None) if found is None and source.checked_by_members else found

    def find(self, wanted: str, sha256: str | None, *, any_archive: bool = False) -> Path | None:
        """A user's file by relative path, by name, or (any archive) by hash."""
        candidates = [path for path in self.user_files if path.name == Path(wanted).name]
        candidates.sort(key=lambda path: (not path.as_posix().endswith(f"/{wanted}"), len(path.parts)))
        if any_archive and sha256 is not None:
            candidates += [path for path in self.user_files if path.name.lower().endswith(ARCHIVES)]
        return next((path for path in candidates if sha256 is None or file_sha256(path) == sha256), None)

    def find_member(self, member: SourceMember) -> Path | None:
        """A user's file of a member.

        Raises:
            FetchError: If there are several of its name with different contents, none at its place, and no hash.
        """
        path = self.find(member.path, member.sha256)
        if path is None or member.sha256 is not None or path.relative_to(self.source_dir or "") == Path(member.path):
            return path
        for other in self.user_files:
            if other.name == path.name and file_sha256(other) != file_sha256(path):
                raise FetchError(
                    f"{self.manifest.tag}: {path} and {other} differ, and the manifest gives no sha256 of "
                    f"{member.path}; remove one of them, or give the hash"
                )
        return path

    def copy(self, path: Path, member: SourceMember) -> None:
        self.report(f"{self.manifest.tag}: copying {path}")
        try:
            with path.open("rb") as file:
                receive(self.folder / member.path, feed_file(file, path), member.sha256, None)
        except OSError as error:
            raise FetchError(f"cannot read {path}: {error.strerror or error}; check --from") from error
        self.stamps.add(member)

    def extract(self, archive: Path, source: Source, wanted: list[SourceMember]) -> None:
        if source.checked_by_members and source.sha256 is not None and (found := file_sha256(archive)) != source.sha256:
            self.report(
                f"note: {archive} has SHA-256 {found}, the manifest states {source.sha256}; its members have their own "
                "hashes, which are checked"
            )
        self.report(f"{self.manifest.tag}: extracting {', '.join(member.path for member in wanted)} from {archive}")
        extract_members(archive, wanted, self.folder)
        for member in wanted:
            self.stamps.add(member)

    def download(self, source: Source, wanted: list[SourceMember]) -> None:
        failures = []
        by_hand = bool(source.members) and not source.unpacked
        for url in () if by_hand else source.urls:
            self.report(f"{self.manifest.tag}: fetching {source.file} from {url}")
            try:
                self.download_from(url, source, wanted)
                return
            except DataError as error:
                failures.append(f"{url}: {error}")
                if url != source.urls[-1]:
                    self.report(f"{self.manifest.tag}: {failures[-1]}; trying the next address")
        if by_hand:
            failures.append("archives of this kind are not unpacked here; unpack it by hand into DIR")
        reasons = failures or ["it has no public address"]
        if self.source_dir is not None:
            members = [member.path for member in wanted if source.members and member not in source.only_in_archive]
            absent = ", nor ".join([source.file, *members])
            reasons.insert(0, f"{self.source_dir} contains no {absent} with the expected hash")
        raise FetchError(
            f"{self.manifest.tag}: {source.file} could not be fetched ({'; '.join(reasons)}). "
            f"{manual_steps(self.manifest, source)}"
        )

    def download_from(self, url: str, source: Source, wanted: list[SourceMember]) -> None:
        """Download a source from one address; an archive whose members have hashes may have another hash itself."""
        target = self.folder / source.file
        if source.checked_by_members:
            download(url, target, None, None)
        else:
            download(url, target, source.sha256, source.bytes)
        if not source.members:
            self.stamps.add(*wanted)
            return
        try:
            self.extract(target, source, wanted)
        except DataError as error:
            found = file_sha256(target)
            if found == source.sha256:
                raise
            raise FetchError(f"{error}; kept as {quarantine(target, found)}") from error
        target.unlink()  # would double the disk space


def manual_steps(manifest: Manifest, source: Source) -> str:
    """How to provide a source manually: address, hash, size, destination, and the command that accepts it."""
    size = f"{source.bytes:,} bytes" if source.bytes else "size not published"
    address = f" from {source.urls[0]}" if source.urls else ""
    members = " or its extracted files" if source.members and not source.only_in_archive else ""
    if source.members and not source.unpacked:
        return (
            f"To provide it manually: unpack {source.file}{address} and run: mmrs-bench data fetch "
            f"{manifest.dataset_name} --from DIR, where DIR contains {', '.join(m.path for m in source.members)}. "
            f"{source.manual}"
        ).rstrip()
    return (
        f"To provide it manually: put {source.file}{address} (SHA-256 {source.sha256 or 'unknown'}, {size}) at "
        f"{scene_folder(manifest) / source.file}, or run: mmrs-bench data fetch {manifest.dataset_name} --from DIR, "
        f"where DIR contains it{members}. {source.manual}"
    ).rstrip()


def missing_official(manifest: Manifest) -> str:
    """Which files of the official split are missing and how to provide them; empty if none is."""
    folder = scene_folder(manifest)
    missing = {ref.file for ref in manifest.official_refs if not (folder / ref.file).is_file()}
    sources = [source for source in manifest.sources if any(member.path in missing for member in source.files)]
    return " ".join(f"{source.file} is missing. {manual_steps(manifest, source)}" for source in sources)
