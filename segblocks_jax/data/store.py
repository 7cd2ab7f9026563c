"""A data set on disk: one view of what lies unpacked in a folder and of the zip archives beside it."""

import dataclasses
import pathlib
import re
import zipfile
import zlib

from segblocks_jax.errors import InputError, MissingFileError


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a data set, unpacked or within an archive."""

    key: str  # The path within the data set, the same whether it is unpacked or not.
    where: str  # In error messages: its path, behind that of its archive if it is in one.
    size: int  # In bytes, unpacked.
    stamp: tuple[int, int] | None  # (mtime, ctime) in ns of an unpacked file, None in an archive.
    _path: pathlib.Path
    _archive: zipfile.ZipFile | None = None

    def crc32(self) -> int:
        """The checksum of the content: an archive knows it, another file is read.

        Raises ValueError, naming the file, where it can't be read.
        """
        if self._archive is not None:
            return self._archive.getinfo(self._path.as_posix()).CRC
        return zlib.crc32(self.read())

    def read(self) -> bytes:
        """The content; raises ValueError, naming the file, where it can't be read."""
        try:
            if self._archive is None:
                return self._path.read_bytes()
            return self._archive.read(self._path.as_posix())
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{self.where}: can't be read ({error}); copy it again") from error


class Store:
    """The files of a data set in `root`: in its folders, else in any zip archive directly in `root`.

    An archive may hold the data set below folders of its own (a repository's name), or without
    the folder that the archive is named after, as the published ones do.
    """

    def __init__(self, root: pathlib.Path):
        """Opens the archives; raises FileNotFoundError without a folder, ValueError for a file or broken archive."""
        if zipfile.is_zipfile(root):
            raise InputError(
                f"{root}: is a zip archive where a folder is expected; pass the folder that it lies in"
            )
        if not root.exists():
            raise MissingFileError(f"{root}: no such folder")
        if not root.is_dir():
            raise InputError(f"{root}: is a file where a folder is expected")
        self.root = root
        self._members: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        self._listed: dict[str, dict[str, File]] = {}
        for path in sorted(root.glob("*.zip")):
            try:
                archive = zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile) as error:
                raise InputError(
                    f"{path}: can't be read as a zip archive ({error}); download it again"
                ) from error
            for member in archive.infolist():
                if not member.is_dir():
                    self._members[f"/{path.stem}/{member.filename}"] = archive, member

    def describe(self, path: str) -> str:
        """What messages call a folder of the data set, and where it was looked for."""
        archives = sorted({str(archive.filename) for archive, _ in self._members.values()})
        return str(self.root / path) + (f" (nor in {', '.join(archives)})" if archives else "")

    def has(self, path: str) -> bool:
        """Whether there is such a folder or file."""
        return (self.root / path).exists() or any(
            f"/{path}/" in name or name.endswith(f"/{path}") for name in self._members
        )

    def find(self, name: str) -> File | None:
        """A file directly in the data set's folder, or anywhere in an archive; None without one."""
        found = self.files("", name)
        return found[0] if found else None

    def file(self, path: str) -> File | None:
        """The file of a path; every folder is read once."""
        folder, _, name = path.rpartition("/")
        if folder not in self._listed:
            found = self.files(folder, "*")
            self._listed[folder] = {file.key.rpartition("/")[2]: file for file in found}
        return self._listed[folder].get(name)

    def files(self, path: str, pattern: str) -> list[File]:
        """The files `pattern` below the folder `path`, sorted; a `*` stays within one folder."""
        folder = self.root / path
        unpacked = sorted(folder.glob(pattern)) if folder.is_dir() else []
        if unpacked or (path and folder.is_dir()):
            return [self._unpacked(p) for p in unpacked if p.is_file()]
        below = re.escape(pattern).replace(r"\*", "[^/]*")
        top = f"{re.escape(path)}/" if path else ""
        matches = re.compile(f".*/({top}{below})")
        found = []
        for name, (archive, member) in sorted(self._members.items()):
            if match := matches.fullmatch(name):
                where = f"{archive.filename}/{member.filename}"
                inside = pathlib.Path(member.filename)
                found.append(File(match[1], where, member.file_size, None, inside, archive))
        return found

    def _unpacked(self, path: pathlib.Path) -> File:
        status = path.stat()
        stamp = status.st_mtime_ns, status.st_ctime_ns
        inside = path.is_relative_to(self.root)
        key = (path.relative_to(self.root) if inside else path).as_posix()
        return File(key, str(path), status.st_size, stamp, path)
