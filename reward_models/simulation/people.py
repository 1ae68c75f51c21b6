"""Simulated people who label over HTTP, as a browser does: for tests, and for planning how many labels one needs.

A person is a :class:`~reward_models.simulation.raters.Rater` with a gold model; :class:`LabellingClient` speaks to
``textenv serve``. Judging is the same as for labels that are simulated without a server.
"""

from __future__ import annotations

import http.cookiejar
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urljoin

from reward_models.simulation.raters import LikertScale, Rater, SimulatedRaters
from textenv.errors import DataError, TextEnvError

Write = Callable[[str], str]
"""Writes an answer to a prompt."""


class LabellingError(TextEnvError, RuntimeError):
    """The server refused or could not be reached; says what it answered."""


class LabellingClient:
    """One rater's session with ``textenv serve``.

    Args:
        link: The rater's signed link, as the server gives it out.
        timeout: Seconds until an answer must have come.
        retries: How often a request that did not reach the server is sent again; labels carry their own id, so one
            that is sent twice counts once.

    Raises:
        LabellingError: If the link is refused or the server cannot be reached.
    """

    def __init__(self, link: str, *, timeout: float = 30.0, retries: int = 5) -> None:
        self.link = link
        self.timeout = timeout
        self.retries = retries
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
            urllib.request.ProxyHandler({}),
            _NoRedirect(),
        )
        self._csrf = ""
        self._request(link, None)  # sets the session's cookie
        session = self._request(urljoin(link, "/api/session"), None)
        self.rater, self._csrf = session["rater"], session["csrf"]

    def next_item(self, kinds: Sequence[str] = ()) -> dict[str, Any] | None:
        """The next item to label, leased to this rater; None where nothing is left.

        Args:
            kinds: Only items of these kinds; all for none.
        """
        query = "?" + urlencode({"kinds": ",".join(kinds)}) if kinds else ""
        return self._request(urljoin(self.link, "/api/next" + query), None)["assignment"]

    def save(
        self,
        item: str,
        payload: Mapping[str, Any],
        *,
        seconds: float = 0.0,
        order: Sequence[int] = (),
        skipped: str | None = None,
    ) -> str:
        """Save a label, or a skip with its reason; returns the label's id."""
        label = str(uuid.uuid4())
        body: dict[str, Any] = {"id": label, "item": item, "payload": dict(payload), "seconds": seconds}
        self._request(urljoin(self.link, "/api/labels"), body | {"order": list(order), "skipped": skipped})
        return label

    def _request(self, url: str, body: Mapping[str, Any] | None) -> Any:
        for attempt in range(self.retries + 1):
            headers = {"Content-Type": "application/json", "Accept": "application/json", "X-CSRF-Token": self._csrf}
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url, data, headers)
            try:
                with self._opener.open(request, timeout=self.timeout) as answer:
                    content = answer.read()
                    found = "json" in answer.headers.get("Content-Type", "")
                    return json.loads(content) if found else content.decode(errors="replace")
            except urllib.error.HTTPError as error:
                if error.code in (302, 303):  # a link that was accepted leads to the page, which is for browsers
                    return None
                if error.code not in (429, 502, 503) or attempt == self.retries:
                    told = error.read(500).decode(errors="replace")
                    raise LabellingError(f"the server answered {error.code} to {url}: {told}") from error
            except (OSError, ValueError) as error:
                if attempt == self.retries:
                    raise LabellingError(f"{url} cannot be reached: {error}") from error
            time.sleep(min(2.0, 0.1 * 2**attempt))
        raise AssertionError("not reached")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


class SimulatedPerson:
    """Somebody who labels what they are shown.

    Args:
        rater: Noise, bias and taste; all in units of the gold's score.
        gold: The true quality: a reward model or a function of prompts and responses.
        write: Writes demonstrations; None skips them.
        scale: The unit and middle of the person's Likert ratings, spread over the item's own scale.
        seed: Of everything random.
    """

    def __init__(
        self,
        rater: Rater,
        gold: Any,
        *,
        write: Write | None = None,
        scale: LikertScale | None = None,
        seed: int = 0,
    ) -> None:
        self.rater = rater
        self.write = write
        self.scale = scale or LikertScale()
        self._judge = SimulatedRaters(gold, [rater], seed=seed)

    def label(self, client: LabellingClient, *, most: int | None = None, kinds: Sequence[str] = ()) -> int:
        """Label until nothing is left, or `most` items; returns how many were labelled or skipped."""
        done = 0
        while most is None or done < most:
            item = client.next_item(kinds)
            if item is None:
                break
            payload = self.judge(item)
            skipped = None if payload is not None else "cannot write"
            client.save(item["id"], payload or {}, order=item.get("order", ()), skipped=skipped)
            done += 1
        return done

    def judge(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """The payload of a label for an item as the server sends it, or None for a skip.

        Args:
            item: ``kind``, ``prompt``, ``answers`` (in the order in which they are shown, each a text or an object
                with ``text``) and ``order`` (the item's own number of each).

        Raises:
            DataError: If the item's kind is unknown.
        """
        kind, prompt = item["kind"], item["prompt"]
        texts = [answer if isinstance(answer, str) else answer["text"] for answer in item.get("answers", ())]
        order = list(item.get("order") or range(len(texts)))
        if kind == "demonstrate":
            return None if self.write is None else {"text": self.write(prompt)}
        if kind == "rate":
            low, high = _ends(item)
            scale = LikertScale(low, high, self.scale.middle, self.scale.unit * 4 / (high - low))
            return {"score": int(self._judge.rate([prompt], texts, scale=scale)[0].score)}
        if kind == "rank":
            (ranking,) = self._judge.rank([prompt], [texts])
            ranks: list[int | None] = [None] * len(texts)
            for place, rank in zip(order, ranking.ranks, strict=True):
                ranks[place] = rank
            return {"ranks": ranks}
        if kind == "compare":
            return self._compare(prompt, texts, order)
        raise DataError(f"an item of the unknown kind {kind!r} cannot be labelled")

    def _compare(self, prompt: str, texts: Sequence[str], order: Sequence[int]) -> dict[str, Any]:
        if texts[0] == texts[1]:
            return {"preferred": None, "margin": 0, "both_bad": False}
        (said,) = self._judge.compare([prompt], [texts[0]], [texts[1]], raters=[self.rater])
        shown = 0 if said.chosen == texts[0] else 1
        return {"preferred": None if said.tie else order[shown], "margin": 0, "both_bad": False}


def _ends(item: Mapping[str, Any]) -> tuple[int, int]:
    scale = item.get("scale") or {}
    return int(scale.get("low", 1)), int(scale.get("high", 5))
