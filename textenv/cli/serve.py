"""``textenv serve``: people and programs ask a policy, and people say what they think of its answers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Interval
from rich.console import Console

from textenv.cli.base import ModelCommand
from textenv.errors import ConfigError, DataError, MissingDependencyError
from textenv.pretrained import find_folder
from textenv.prompts import Prompt, read_prompts
from textenv.sampling.params import SamplingParams
from textenv.settings import (
    Dtype,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    UnitFloat,
    refuse_unused,
)

if TYPE_CHECKING:
    from textenv.feedback.server.hosting import PolicyHost
    from textenv.feedback.server.security import Security
    from textenv.feedback.store import FeedbackStore, Selector


@dataclass(frozen=True)
class MakeOptions(Settings):
    """What people are asked about the prompts at hand.

    Attributes:
        kind: ``demonstrate``, ``rate``, ``rank`` or ``compare``; ``none`` makes nothing.
        prompts: A file of prompts (.txt, .jsonl or .parquet); empty takes those that callers of the API left.
        limit: Use only so many prompts; 0 uses all.
        answers: Answers to rank.
        raters: People that are to label an item.
        overlap: Share of the items that so many people label; the others are labelled by one.
        instructions: A Markdown file shown with every item; empty takes the usual one of its kind.
        chat: Treat prompts as a user's message, for policies with a chat template.
        seed: Of the draws.
        sampling: How answers are drawn.
    """

    kind: Literal["none", "demonstrate", "rate", "rank", "compare"] = "none"
    prompts: str = ""
    limit: NonNegativeInt = 0
    answers: Annotated[int, Interval(ge=2, le=26)] = 4
    raters: PositiveInt = 1
    overlap: UnitFloat = 1.0
    instructions: str = ""
    chat: bool = False
    seed: NonNegativeInt = 0
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.8, max_new_tokens=64))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "none":
            how = ("answers", "raters", "overlap", "instructions", "chat", "seed", "sampling")
            refuse_unused(self, "where `make.kind` is none: say what people are asked", *how)
            if not self.prompts:
                refuse_unused(self, "where nothing is made of no prompts: give `make.prompts`", "limit")
        elif self.kind != "rank":
            refuse_unused(self, f"where people {self.kind}: only rankings have as many answers as one likes", "answers")
        if self.raters == 1:
            refuse_unused(self, "with one rater of each item: give more `make.raters`", "overlap")


@dataclass(frozen=True)
class ServeConfig(ModelCommand):
    """What ``textenv serve`` does.

    Attributes:
        policy: Folder of a policy that answers, or ``name=folder``; may come several times.
        reward: A reward model that serves others under ``/v1/score``: what ``--reward_model`` takes elsewhere, or
            ``name=`` and that; may come several times.
        reward_model: Folder of a member, for ``--select ensemble``; several times.
        db: SQLite file of items and labels, or an SQLAlchemy URL; the key that signs links stands beside it.
        key_file: Where the key stands instead.
        host: Address to listen on; any but loopback needs a token.
        port: Port to listen on; 0 takes a free one.
        token: Opens API, dashboard and administration; empty takes the environment variable TEXTENV_TOKEN.
        raters: Names to print signed links for, separated by commas.
        link_days: How long those links work.
        allowed_hosts: Names that the server may be called by, separated by commas; empty: this machine's own names on
            loopback, any name elsewhere.
        public_url: What links begin with, where a proxy stands before the server.
        lease_seconds: How long an item stays with the rater who got it.
        gold_share: Share of gold questions among what a rater gets.
        durability: ``process``: a label survives the death of the server; ``power``: also that of the machine.
        num_slots: Answers that are decoded side by side, per policy.
        context: Longest prompt and answer together, tokens.
        max_new_tokens: Longest answer that a caller may ask for; 0: as long as the context.
        max_waiting: Answers that may wait for a slot.
        max_body_bytes: Largest request.
        api_rate: Requests per minute and address to API and administration.
        labelling_rate: Requests per minute and rater.
        poll_seconds: Between two looks for newer policy versions; 0 never looks.
        dtype: ``bfloat16`` and ``float16`` compute with such a copy of the weights; ``auto`` takes bfloat16 where that
            is fast.
        device: Where to compute; ``auto`` takes a GPU where there is one.
        select: ``random``, or ``ensemble``: first what the reward models of ``--reward_model`` disagree about, or else
            those of the last round of ``textenv improve --members``.
        select_seconds: Between two looks for new items to put in order.
        select_most: Items that the ensemble scores in one go at most.
        explore: Share of the items that stay in random order with ``ensemble``.
        make: What people are asked about the prompts at hand.
    """

    policy: list[str] = field(default_factory=list, metadata={"action": "append"})
    reward: list[str] = field(default_factory=list, metadata={"action": "append"})
    reward_model: list[str] = field(default_factory=list, metadata={"action": "append"})
    db: str = "feedback.db"
    key_file: str = ""
    host: str = "127.0.0.1"
    port: Annotated[int, Interval(ge=0, le=65535)] = 8000
    token: str = ""
    raters: str = ""
    link_days: PositiveFloat = 30.0
    allowed_hosts: str = ""
    public_url: str = ""
    lease_seconds: PositiveFloat = 900.0
    gold_share: UnitFloat = 0.1
    durability: Literal["process", "power"] = "process"
    num_slots: PositiveInt = 16
    context: Annotated[int, Ge(2)] = 1024
    max_new_tokens: NonNegativeInt = 0
    max_waiting: PositiveInt = 256
    max_body_bytes: PositiveInt = 1_000_000
    api_rate: PositiveInt = 1200
    labelling_rate: PositiveInt = 600
    poll_seconds: NonNegativeFloat = 2.0
    dtype: Dtype = "auto"
    device: str = "auto"
    select: Literal["random", "ensemble"] = "random"
    select_seconds: PositiveFloat = 10.0
    select_most: PositiveInt = 2000
    explore: UnitFloat = 0.1
    make: MakeOptions = field(default_factory=MakeOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.select == "random":
            how = ("reward_model", "select_seconds", "select_most", "explore")
            refuse_unused(self, "at random: give `--select ensemble`", *how)
        if not self.policy:
            hosting = ("num_slots", "max_waiting", "poll_seconds", "dtype", *([] if self.reward else ["device"]))
            refuse_unused(self, "without a policy that answers: give `--policy`", *hosting)


def serve(config: ServeConfig, console: Console) -> None:
    """Serve until interrupted; without a policy labelling alone.

    Args:
        config: What to do.
        console: Shows addresses and links.

    Raises:
        ConfigError: If the address needs a token, or a policy or file is unusable.
        MissingDependencyError: If the extra is not installed.
        DataError: If the database cannot be opened.
    """
    uvicorn = _uvicorn()
    from textenv.feedback.app import build_app
    from textenv.feedback.server.security import Security, check_address, load_key
    from textenv.feedback.server.selecting import Selection
    from textenv.feedback.store import FeedbackStore

    token = config.token or os.environ.get("TEXTENV_TOKEN", "")
    check_address(config.host, token)
    key_file = _key_file(config)
    find = _find_selector(config)
    rewards = _rewards(config)
    with FeedbackStore(
        config.db, lease_seconds=config.lease_seconds, gold_share=config.gold_share, durability=config.durability
    ) as store:
        security = Security(load_key(key_file), token)
        with _hosts(config, store) as hosts:
            _make(config.make, store, list(hosts.values()), console)
            selection = None if find is None else Selection(store, lambda: find(store), config.select_seconds)
            server = uvicorn.Server(
                uvicorn.Config(
                    build_app(store, hosts, security, _app_config(config), selection, rewards),
                    host=config.host,
                    port=config.port,
                    log_level="warning",
                    access_log=False,
                    server_header=False,
                    timeout_keep_alive=75,
                    limit_concurrency=1000,
                    timeout_graceful_shutdown=10,
                )
            )
            _announce_when_up(server, config, security, hosts, rewards, console)
            server.run()


def _uvicorn() -> Any:
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingDependencyError('`textenv serve` needs a server: pip install "textenv[serve]"') from error
    return uvicorn


def _key_file(config: ServeConfig) -> Path:
    if config.key_file:
        return Path(config.key_file)
    if "://" in config.db:
        raise ConfigError("a database by URL has no folder for the signing key; name a file: --key_file links.key")
    return Path(config.db + ".key")


def _app_config(config: ServeConfig) -> Any:
    from textenv.feedback.app import AppConfig
    from textenv.feedback.server.guard import RateLimits
    from textenv.feedback.server.openai_requests import ApiLimits
    from textenv.feedback.server.security import is_loopback

    names = tuple(name.strip() for name in config.allowed_hosts.split(",") if name.strip())
    if not names and is_loopback(config.host):
        names = ("localhost", "127.0.0.1", "[::1]", config.host)
    return AppConfig(
        api=ApiLimits(max_new_tokens=config.max_new_tokens or None),
        rates=RateLimits(api=config.api_rate, labelling=config.labelling_rate),
        max_body_bytes=config.max_body_bytes,
        allowed_hosts=names,
        poll_seconds=config.poll_seconds,
    )


@contextmanager
def _hosts(config: ServeConfig, store: FeedbackStore) -> Iterator[dict[str, PolicyHost]]:
    """The policies, loaded; they end with the block."""
    if not config.policy:
        yield {}
        return
    from agents import CausalLMPolicy
    from textenv.feedback.server.hosting import EngineLimits, PolicyHost

    device = _device(config)
    limits = EngineLimits(config.num_slots, config.context, config.max_waiting)

    def load(folder: str) -> CausalLMPolicy:
        return CausalLMPolicy.from_pretrained(folder, dtype=config.dtype, device=device)

    hosts: dict[str, PolicyHost] = {}
    try:
        for each in config.policy:
            name, _, folder = each.rpartition("=")
            folder = folder if Path(folder).is_dir() else str(find_folder(folder))
            host = PolicyHost(folder, load, store, name=name, limits=limits)
            if host.name in hosts:
                raise ConfigError(f"two policies are called {host.name}; name them: --policy NAME=FOLDER")
            hosts[host.name] = host
        yield hosts
    finally:
        for host in hosts.values():
            host.close()


def _rewards(config: ServeConfig) -> dict[str, Any]:
    """The reward models that serve others, by name.

    Raises:
        ConfigError: If one stands for nothing, or two have one name.
    """
    if not config.reward:
        return {}
    from reward_models import load_reward_model

    device = _device(config)
    loaded: dict[str, Any] = {}
    for each in config.reward:
        given = re.fullmatch(r"([\w.@-]+)=(.+)", each)
        name, spec = given.groups() if given else (Path(each).name or each, each)
        if name in loaded:
            raise ConfigError(f"two reward models are called {name}; name them: --reward NAME={spec}")
        loaded[name] = load_reward_model(spec)
        if hasattr(loaded[name], "to"):
            loaded[name].to(device)
    return loaded


def _reading(model: Any) -> str:
    return getattr(model, "reading", type(model).__name__)


def _device(config: ServeConfig) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


def _find_selector(config: ServeConfig) -> Callable[[FeedbackStore], Selector | None] | None:
    """What finds the selector of the moment; None where items are asked at random.

    Raises:
        ConfigError: If too few reward models are given, or one cannot be read.
    """
    if config.select == "random":
        return None
    from reward_models import load_reward_model
    from reward_models.active import EnsembleDisagreement

    def loaded(folders: Sequence[str]) -> Selector:
        members = [load_reward_model(folder) for folder in folders]
        return EnsembleDisagreement(members, explore=config.explore, most=config.select_most)

    if config.reward_model:
        given = loaded(config.reward_model)
        return lambda store: given
    known: dict[tuple[str, ...], Selector] = {}

    def newest(store: FeedbackStore) -> Selector | None:
        for round_ in reversed(store.rounds()):
            folders = tuple(round_.figures.get("members", ()))
            if len(folders) > 1 and all(Path(folder).is_dir() for folder in folders):
                if folders not in known:
                    known.clear()
                    known[folders] = loaded(folders)
                return known[folders]
        return None

    return newest


def _make(options: MakeOptions, store: FeedbackStore, hosts: list[PolicyHost], console: Console) -> None:
    """Turn the prompts at hand into items before the server starts."""
    if options.prompts:
        _collect(Path(options.prompts), options.limit or None, store)
    if options.kind == "none":
        return
    from textenv.feedback.items import MakeConfig, make_from_store

    made = make_from_store(
        store,
        hosts,
        MakeConfig(
            kind=options.kind,
            answers=options.answers,
            raters=options.raters,
            overlap=options.overlap,
            sampling=options.sampling,
            seed=options.seed,
            instructions=Path(options.instructions).read_text("utf-8") if options.instructions else "",
            chat=options.chat,
            source=Path(options.prompts).name or "api",
        ),
        limit=options.limit or None,
    )
    console.print(f"{made} new items to {options.kind}")


def _collect(path: Path, limit: int | None, store: FeedbackStore) -> None:
    """Put the prompts of a file into the store; in a text file every line that is not empty is one.

    Raises:
        DataError: If the file cannot be read, or a prompt has no text.
    """
    from textenv.answers import chat_text

    if path.suffix == ".txt":
        prompts = [Prompt(text=line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    else:
        prompts = read_prompts(path)
    for number, prompt in enumerate(prompts[:limit]):
        messages = [{key: str(message[key]) for key in ("role", "content")} for message in prompt.messages or ()]
        text = chat_text(messages) if messages else prompt.text
        if not text:
            raise DataError(f"{path}: prompt {number} has no text that people could read")
        store.collect_prompt(text, messages=messages, source=path.name)


def _announce_when_up(
    server: Any,
    config: ServeConfig,
    security: Security,
    hosts: dict[str, PolicyHost],
    rewards: dict[str, Any],
    console: Console,
) -> None:
    """Let the server say where it is as soon as it listens: the port may be one that the system chose."""
    startup = server.startup

    async def started(sockets: Any = None) -> None:
        await startup(sockets=sockets)
        if not server.started:
            return
        port = server.servers[0].sockets[0].getsockname()[1]
        name = f"[{config.host}]" if ":" in config.host else config.host
        base = config.public_url.rstrip("/") or f"http://{name}:{port}"
        console.print(f"serving on {base}", soft_wrap=True)
        for host in hosts.values():
            console.print(f"  policy {host.current.fingerprint}", soft_wrap=True)
        for name, model in rewards.items():
            console.print(f"  reward {name}: {_reading(model)}", soft_wrap=True, markup=False, highlight=False)
        for rater in filter(None, (each.strip() for each in config.raters.split(","))):
            link = security.rater_link(rater, seconds=config.link_days * 86400)
            console.print(f"  {rater}: {base}{link}", soft_wrap=True, markup=False, highlight=False)
        console.print(f"  dashboard: {base}/dashboard", soft_wrap=True)
        if not security.token:
            console.print(f"  to label: {base}/label/enter?rater=YOUR_NAME", soft_wrap=True, markup=False)

    server.startup = started
