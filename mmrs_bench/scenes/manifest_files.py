"""Fields of a manifest that name files: arrays, sources, members of archives."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Axes = Literal["hwc", "chw", "whc", "cwh", "hw", "wh"]
#: Endings of archives that are unpacked, and of others, which users unpack by hand.
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
MANUAL_ARCHIVES = (".7z", ".rar")


def _sha256(value: Any) -> str:
    text = str(value).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(f"{value!r} is no SHA-256; give the 64 hexadecimal digits that sha256sum FILE prints")
    return text


#: Hash of a file in lower case.
Sha256 = Annotated[str, BeforeValidator(_sha256)]


def _check_relative(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path:
        raise ValueError(f"{path!r} must be a relative path without '..'")
    return path


#: Path of a file below the scene's folder, or of a member of an archive.
Member = Annotated[str, Field(min_length=1), AfterValidator(_check_relative)]


class Part(BaseModel):
    """Base of all parts of a manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ArrayRef(Part):
    """An array in a file.

    Attributes:
        file: Path below the scene's folder.
        key: Place of the array in the file (see `mmrs_bench.scenes.files.formats.read_array`); None for
            formats that contain one array.
        axes: Order of its axes (h rows, w columns, c channels). Lists of pixel positions, whose rows are (row,
            column), ignore it.
    """

    file: Member
    key: str | None = None
    axes: Axes = "hwc"


class SourceMember(Part):
    """A file in the scene's folder.

    Attributes:
        path: Its path below this folder, and in the archive.
        sha256: Its hash, if it is known.
    """

    path: Member
    sha256: Sha256 | None = None


class Source(Part):
    """One file to download: an archive with ``members`` to extract (see `ARCHIVES`), or a file that is used as it is.

    Attributes:
        file: Name of the file.
        urls: Its address, and mirrors.
        sha256: Its hash.
        bytes: Its size.
        members: Files of the archive that are extracted.
        manual: How to get the file without ``urls``.
        optional: Whether only ``official-v1`` needs it.
    """

    file: Member
    urls: tuple[str, ...] = ()
    sha256: Sha256 | None = None
    bytes: int | None = Field(default=None, gt=0)
    members: tuple[SourceMember, ...] = ()
    manual: str = ""
    optional: bool = False

    @model_validator(mode="after")
    def _check(self) -> Source:
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"address {url!r} must begin with https:// or http://")
        if self.members and not self.file.lower().endswith(ARCHIVES + MANUAL_ARCHIVES):
            known = " ".join(ARCHIVES + MANUAL_ARCHIVES)
            raise ValueError(f"{self.file!r} lists members but is no {known}; list the extracted files as sources")
        return self

    @property
    def checked_by_members(self) -> bool:
        """Whether each member has a hash, so that the archive's own need not be right: some are made on demand."""
        return bool(self.members) and all(member.sha256 for member in self.members)

    @property
    def unpacked(self) -> bool:
        """Whether it is an archive that is unpacked here, and not by the user."""
        return bool(self.members) and not self.file.lower().endswith(MANUAL_ARCHIVES)

    @property
    def only_in_archive(self) -> tuple[SourceMember, ...]:
        """Members that are taken from the archive only, because nothing but its hash checks them."""
        return tuple(m for m in self.members if m.sha256 is None) if self.unpacked and self.sha256 else ()

    @property
    def files(self) -> tuple[SourceMember, ...]:
        """The files that the source puts into the scene's folder."""
        return self.members or (SourceMember(path=self.file, sha256=self.sha256),)
