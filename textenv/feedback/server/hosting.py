"""The policies that are served: loaded, watched for newer versions, exchanged while requests go on.

A policy has a name (its folder's) and versions. The newest version that the store knows under the name is served; a
folder that changes in place, or gets a newer sub-folder with a model, becomes a new version by itself. Requests that
have begun end with the version that they began with: an older version ends when its last user is gone.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from textenv.errors import ConfigError, DataError, TextEnvError
from textenv.feedback.items import Prompt
from textenv.feedback.server.batching import AnswerRequest, Batcher, Chunk
from textenv.feedback.server.chat import encode_prompt
from textenv.feedback.store import Answer, FeedbackStore, PolicyVersion
from textenv.protocols import GenerativePolicy
from textenv.sampling.params import SamplingParams

_logger = logging.getLogger(__name__)

PolicyLoader = Callable[[str], GenerativePolicy]
"""Loads the policy in a folder."""


@dataclass(frozen=True)
class EngineLimits:
    """How much a policy's engine does at a time.

    Attributes:
        num_slots: Answers that are decoded side by side.
        max_length: Longest prompt and answer together, tokens.
        max_waiting: Answers that may wait for a slot.
    """

    num_slots: int = 16
    max_length: int = 1024
    max_waiting: int = 256


@dataclass(eq=False)
class Served:
    """A version of a policy that answers.

    Attributes:
        version: What is served.
        policy: Answers.
        batcher: Takes requests while the version is current or in use.
        users: Requests that have begun and may still ask the batcher.
    """

    version: PolicyVersion
    policy: GenerativePolicy
    batcher: Batcher
    users: int = 0

    @property
    def fingerprint(self) -> str:
        """``name@version``."""
        return f"{self.version.name}@{self.version.version}"


class PolicyHost:
    """One policy, in its newest version.

    Args:
        path: Folder of a model, or of sub-folders with one version of it each.
        loader: Loads a folder.
        store: Where versions are registered.
        name: What callers call it; the folder's name where empty.
        limits: Of the engine.

    Raises:
        ConfigError: If there is no model in the folder.
        CheckpointError: If it cannot be loaded.
    """

    def __init__(
        self,
        path: str | Path,
        loader: PolicyLoader,
        store: FeedbackStore,
        *,
        name: str = "",
        limits: EngineLimits | None = None,
    ) -> None:
        self.folder = Path(path).resolve()
        self.name = name or self.folder.name
        self._loader = loader
        self._store = store
        self._limits = limits or EngineLimits()
        self._seen = _fingerprint(model_folder(self.folder))
        self._register()
        self._exchange = threading.Lock()
        self.current = self._load(self._newest())

    def poll(self) -> bool:
        """Take up a newer version where there is one; whether there was.

        A folder in which files are still changing is left alone until the next call. What cannot be loaded is logged,
        and the version that is served stays.
        """
        try:
            found = _fingerprint(model_folder(self.folder))
            if found != self._seen:
                self._seen = found
                return False  # looked at again when it has come to rest
            self._register()
            newest = self._newest()
            if newest.version == self.current.version.version and self.current.batcher.alive:
                return False
            fresh = self._load(newest)
        except (TextEnvError, OSError) as error:
            _logger.warning("%s stays at version %s: %s", self.name, self.current.version.version, error)
            return False
        with self._exchange:
            before, self.current = self.current, fresh
            self._end_unused(before)
        return True

    @contextmanager
    def using(self) -> Iterator[Served]:
        """The present version; it takes requests as long as the block lasts, whatever version comes after it."""
        with self._exchange:
            served = self.current
            served.users += 1
        try:
            yield served
        finally:
            with self._exchange:
                served.users -= 1
                self._end_unused(served)

    def _end_unused(self, served: Served) -> None:
        """End a version that is neither current nor in use; the caller holds the lock."""
        if served is not self.current and not served.users:
            served.batcher.close(wait=False)

    def answers(
        self, prompts: Sequence[Prompt], params: SamplingParams, *, n: int = 1, seed: int = 0
    ) -> list[list[Answer]]:
        """Answers to prompts with their provenance, made beside the callers' requests; waits for them.

        Args:
            prompts: Texts, or chats where there are messages.
            params: Settings.
            n: Answers per prompt.
            seed: The prompt number i is answered with the seed ``seed + i``.

        Raises:
            ConfigError: If a prompt does not fit.
            DataError: If the chat template refuses messages, or decoding failed.
        """
        found: list[list[Answer]] = []
        arrived: queue.SimpleQueue[tuple[int, Chunk]] = queue.SimpleQueue()
        with self.using() as served:
            encoded = [encode_prompt(text, messages, served.policy) for text, messages in prompts]
            for begin in range(0, len(encoded), self._limits.num_slots):
                part = encoded[begin : begin + self._limits.num_slots]
                texts = [[""] * n for _ in part]
                for number, ids in enumerate(part):
                    request = AnswerRequest(ids, params, n=n, seed=seed + begin + number)
                    served.batcher.submit(request, lambda chunk, number=number: arrived.put((number, chunk)))
                for _ in range(len(part) * n):
                    number, chunk = arrived.get()
                    if chunk.finish_reason == "error":
                        raise DataError(f"{served.fingerprint} failed to answer prompt {begin + number}; see the log")
                    texts[number][chunk.number] = chunk.text
                for number, each in enumerate(texts):
                    provenance = (self.name, served.version.version, vars(params).copy(), seed + begin + number)
                    found.append([Answer(text, *provenance) for text in each])
        return found

    def close(self) -> None:
        """Answer what was asked, then end."""
        self.current.batcher.close()

    def _register(self) -> None:
        """Make the folder's present version known, where it is not."""
        folder = model_folder(self.folder)
        version = folder.name if folder != self.folder else _digest(folder)
        known = {policy.version for policy in self._store.policies(self.name)}
        if version not in known:
            self._store.register_policy(PolicyVersion(self.name, version, str(folder)))

    def _newest(self) -> PolicyVersion:
        for policy in reversed(self._store.policies(self.name)):
            if _is_model(Path(policy.path)):
                return policy
        raise ConfigError(f"no version of the policy {self.name} can be found in its folder any more")

    def _load(self, version: PolicyVersion) -> Served:
        policy = self._loader(version.path)
        limits = self._limits
        batcher = Batcher(
            policy, num_slots=limits.num_slots, max_length=limits.max_length, max_waiting=limits.max_waiting
        )
        return Served(version, policy, batcher)


class Watcher:
    """Polls hosts for newer versions, in a thread of its own.

    Args:
        hosts: The hosts.
        seconds: Between two looks.
    """

    def __init__(self, hosts: Sequence[PolicyHost], seconds: float) -> None:
        self._hosts = hosts
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="textenv-watcher", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._ended.wait(self._seconds):
            for host in self._hosts:
                if host.poll():
                    _logger.info("now serving %s", host.current.fingerprint)

    def close(self) -> None:
        """End."""
        self._ended.set()
        self._thread.join()


def model_folder(folder: Path) -> Path:
    """The folder itself where it holds a model, else its newest sub-folder that does (numbers in names count).

    Raises:
        ConfigError: If there is none.
    """
    if _is_model(folder):
        return folder
    versions = [each for each in folder.iterdir() if _is_model(each)] if folder.is_dir() else []
    if not versions:
        raise ConfigError(f"there is no model in `{folder}`: config.json and *.safetensors are missing")
    return max(versions, key=lambda each: [(int(n) if n else -1, text) for text, n in _PARTS.findall(each.name)])


_PARTS = re.compile(r"(\D*)(\d*)")
_CONFIGS = ("config.json", "adapter_config.json")


def _is_model(folder: Path) -> bool:
    described = any((folder / name).is_file() for name in _CONFIGS)
    return described and any(folder.glob("*.safetensors"))


def _files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])


def _fingerprint(folder: Path) -> tuple[object, ...]:
    """Changes when a file of the model does; cheap."""
    return (folder, *((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _files(folder)))


def _digest(folder: Path) -> str:
    """A version's name made of its configuration and weights: the same wherever the files stand."""
    total = hashlib.blake2b(digest_size=5)
    configs = [folder / name for name in _CONFIGS if (folder / name).is_file()]
    for path in sorted([*configs, *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "blake2b").digest())
    return total.hexdigest()
