import hashlib
import json
import math
import re
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.textenv.report_runs import HOSTILE, make_metrics, make_run, make_samples, make_summary, write_lines
from textenv.errors import CheckpointError
from textenv.report import GLOSSARY, write_report
from textenv.report.run_folder import RunRecord, read_run
from textenv.report.samples import SHOWN, chosen

VOID = {"meta", "input", "br", "img", "link"}


class Page(HTMLParser):
    """A page taken apart: tags with attributes, visible text, scripts; refuses unbalanced tags."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data

    def count(self, tag: str, css_class: str = "") -> int:
        return sum(t == tag and (not css_class or css_class in (a.get("class") or "").split()) for t, a in self.tags)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(make_run(tmp_path_factory.mktemp("report") / "first")))


def page_of(folder: Path, **files: Any) -> Page:
    """The page of a run folder with only the given files; lists become JSON lines, objects JSON, strings text."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if isinstance(content, list):
            write_lines(folder / f"{name}.jsonl", content)
        elif isinstance(content, dict):
            (folder / f"{name}.json").write_text(json.dumps(content))
        else:
            (folder / f"{name}.yaml").write_text(content)
    return Page(write_report(folder))


def test_report_of_a_complete_run_holds_every_section_in_order(complete: Page) -> None:
    titles = re.findall(r'<h2 id="([^"]+)">', complete.source)
    expected = "samples learning reward-kl judges rewards ppo time checks configuration glossary"
    assert titles == expected.split()
    assert complete.count("p", "missing") == 0
    assert complete.count("div", "notice") == 0
    assert complete.count("svg", "chart") == 6 + 1 + 1 + 1 + 9


def test_report_links_lead_to_sections(complete: Page) -> None:
    targets = {attributes["id"] for _, attributes in complete.tags if "id" in attributes}
    links = [str(attributes["href"]) for tag, attributes in complete.tags if tag == "a"]
    assert links
    assert all(link.startswith("#") and link[1:] in targets for link in links)


def test_report_headline_and_tiles_hold_the_gain(complete: Page) -> None:
    headline = re.search(r"<h1>(.*?)</h1>", complete.source)
    assert headline is not None
    assert re.sub("<.*?>", "", headline[1]) == (
        "PPO raised the mean reward of a language model of 3.41 M parameters trained on human sentiment ratings of "
        "real texts by 1.54 SFT standard deviations at 7.6 nats of KL per answer; VADER finds 83% of its answers "
        "positive, before it was 42%."
    )
    assert complete.count("div", "tile") == 5
    for figure in ("+1.54", "7.6", "83%", "86.1%", "7 min 58 s"):
        assert f"<b>{figure}" in complete.source


def test_report_loads_nothing_from_elsewhere(complete: Page) -> None:
    assert "://" not in complete.source.replace("http://www.w3.org/2000/svg", "")
    assert not any({"src", "srcset", "data"} & set(attributes) for _, attributes in complete.tags)
    assert complete.count("link") == 0
    assert "@import" not in complete.source
    assert "url(" not in complete.source


def test_report_policy_allows_exactly_its_own_script(complete: Page) -> None:
    policy = next(a["content"] for tag, a in complete.tags if tag == "meta" and "http-equiv" in a)
    assert len(complete.scripts) == 1
    digest = b64encode(hashlib.sha256(complete.scripts[0].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_report_is_reproducible_and_replaces_the_old_page(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "report.html").write_text("old")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert sorted(path.name for path in run.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "report.html",
        "samples.jsonl",
        "summary.json",
    ]


def test_report_of_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        write_report(tmp_path / "nowhere")


def test_report_escapes_hostile_texts_everywhere(tmp_path: Path) -> None:
    bad = '</script><img src=x onerror="boom()">'
    summary = make_summary(name=bad)
    summary["data"] = bad
    summary["checks"] = {bad: True, "other": bad, "third": {"passed": False, bad: bad}}
    summary["versions"] = {bad: bad}
    summary["reward_model"]["trunk"] = bad
    summary["seconds"][bad] = 3.0
    summary["pretrain"]["perplexity"] = {bad: 3.0}
    lines = [
        {"stage": "pretrain", "step": i, f"eval/loss/{bad}": 3.0 - i, f"eval/perplexity/{bad}": 2.0} for i in range(3)
    ]
    samples = make_samples(14, texts=(*HOSTILE, bad))
    page = page_of(tmp_path, summary=summary, metrics=lines, samples=samples, config=f"a: {bad}\n")
    assert page.count("img") == 0
    assert len(page.scripts) == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.source.count("</script") == 1
    assert page.text.count(bad) >= 8


def test_report_shows_empty_and_unprintable_answers(tmp_path: Path) -> None:
    page = page_of(tmp_path, samples=make_samples(7, texts=HOSTILE))
    assert "(empty answer)" in page.text
    assert "👩‍👩‍👧‍👦" in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page.source)
    assert "\ufffd\ufffd control ? surrogate" in page.text


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_report_of_a_single_stage_shows_it_and_says_what_is_missing(tmp_path: Path, stage: str) -> None:
    page = page_of(tmp_path, metrics=make_metrics([stage]))
    charts = {"pretrain": 1, "sft": 1, "reward": 2, "ppo": 2 + 1 + 9}
    assert page.count("svg", "chart") == charts[stage]
    assert page.count("div", "notice") == 1
    assert "summary.json is missing" in page.text
    assert "No metrics of:" in page.text


def test_report_of_a_run_without_lines_yet(tmp_path: Path) -> None:
    page = page_of(tmp_path, metrics=[], config="seed: 0\n")
    assert page.count("svg", "chart") == 0
    assert "nothing on record yet" in page.text
    assert "seed: 0" in page.text


def test_report_of_ppo_in_progress_says_how_far_it_came(tmp_path: Path) -> None:
    page = page_of(tmp_path, metrics=make_metrics(["ppo"]))
    assert re.search(
        r"So far PPO has taken the reward of a language model from −?0\.\d\d to 1\.\d\d at 7\.3 nats", page.text
    )


def test_report_without_samples_still_has_the_table_of_policies(tmp_path: Path) -> None:
    page = page_of(tmp_path, summary=make_summary(), metrics=make_metrics())
    assert "samples.jsonl holds no rewards yet" in page.text
    assert "−0.41" in page.text


def test_report_without_summary_measures_the_gain_on_the_samples(tmp_path: Path) -> None:
    samples = make_samples(4)
    for i, sample in enumerate(samples):
        sample["sft"]["reward"], sample["ppo"]["reward"], sample["ppo"]["kl"] = float(i % 2), 2.0, 3.0
    page = page_of(tmp_path, samples=samples)
    assert "raised the mean reward of a language model by 3.00 SFT standard deviations at 3.0 nats" in page.text


@pytest.mark.parametrize(
    "damage",
    [
        {"policy": None},
        {"policy": {"sft": 3, "ppo": []}},
        {"policy": {"sft": {"reward_mean": math.nan, "reward_std": 0.0}, "ppo": {"reward_mean": 1.0}}},
        {"policy": {"sft": {"reward_mean": 0.0, "reward_std": 0}, "ppo": {"reward_mean": -1}}},
        {"reward_model": {"accuracy": "high", "intervals": [1], "pairs": 4}},
        {"seconds": {"data": 0.0}, "checks": [], "versions": 7, "pretrain": [1]},
        {"seconds": "long", "checks": {"ratio": 1.0, "kl": None, "x": {"ok": True, "value": 1e-9}}},
        {"name": 3, "seed": "zero", "data": 5},
    ],
    ids=["null", "wrong-types", "nan", "zero-std", "judges", "empty", "values", "names"],
)
def test_report_survives_odd_summaries(tmp_path: Path, damage: dict[str, Any]) -> None:
    page = page_of(tmp_path, summary=make_summary() | damage, metrics=make_metrics(["ppo"]))
    charts = "".join(re.findall(r"<svg.*?</svg>", page.source))
    assert charts
    assert not re.search(r'="[^"]*\b(nan|inf)\b', charts)


def test_report_names_failed_checks(tmp_path: Path) -> None:
    page = page_of(tmp_path, summary=make_summary() | {"checks": {"good_one": True, "bad_one": False}})
    assert page.count("li", "bad") == 1
    assert "1 of 2 did not pass." in page.text


def test_report_survives_odd_samples(tmp_path: Path) -> None:
    odd = [
        {},
        {"prompt": 3, "sft": "text", "ppo": {"response": None, "reward": "high", "tokens": "many"}},
        {"prompt": "p", "base": {"response": "r", "reward": math.inf, "finish": "", "tokens": 1}},
    ]
    page = page_of(tmp_path, samples=odd)
    assert "no reward" in page.text
    assert "not recorded" in page.text
    assert "1 token" in page.text


def test_report_of_builtin_data_claims_no_humans(tmp_path: Path, complete: Page) -> None:
    page = page_of(tmp_path, summary=make_summary() | {"data": "builtin"}, samples=make_samples(3))
    assert "<b>Human</b>" not in page.source
    assert page.source.count("<b>Generated</b>") == 3
    assert "one simulated rater 90.1%" in page.text
    assert "the human rater is simulated" in page.text
    assert "simulated" not in complete.text
    assert complete.source.count("<b>Human</b>") == SHOWN


def test_report_table_has_one_row_per_sample_with_sortable_rewards(complete: Page) -> None:
    table = complete.source[complete.source.index('<table class="all sortable">') :].split("</table>")[0]
    assert table.count("<tr>") == 1 + 40
    rewards = re.findall(r'data-head="PPO" data-v="(-?[\d.]+)"', table)
    assert len(rewards) == 40


def test_chosen_samples_depend_on_prompts_alone() -> None:
    samples = [{"prompt": f"prompt {i}"} for i in range(100)]
    indices = chosen(samples)
    assert len(indices) == SHOWN
    assert indices == sorted(indices)
    digests = sorted(range(100), key=lambda i: hashlib.sha256(f"prompt {i}".encode()).hexdigest())
    assert set(indices) == set(digests[:SHOWN])
    backwards = chosen(samples[::-1])
    assert {samples[::-1][i]["prompt"] for i in backwards} == {samples[i]["prompt"] for i in indices}


def test_chosen_samples_count_equal_prompts_once() -> None:
    assert chosen([{"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"}]) == [0, 2]
    assert chosen([]) == []


def test_glossary_explains_each_diagnostic_on_the_page(complete: Page) -> None:
    keys = " ".join(term.key for term in GLOSSARY)
    for name in ("objective/entropy", "policy/clip_fraction", "val/explained_variance", "time/tokens_per_second"):
        assert name in keys
    assert all(term.meaning.endswith(".") and term.title in complete.text for term in GLOSSARY)


def test_read_run_record_is_what_the_page_shows(tmp_path: Path) -> None:
    run: RunRecord = read_run(make_run(tmp_path / "second", seed=3))
    page = Page(write_report(tmp_path / "second"))
    assert f"run {run.name} · seed 3" in page.text
