from typing import Any

import numpy as np
import pytest

from reward_models.benchmarking import simulated_suite
from reward_models.benchmarking.baselines import ConstantModel, LengthModel
from reward_models.benchmarking.measures.probing import probe, probe_base
from reward_models.benchmarking.probes import hacks
from reward_models.benchmarking.probes import perturbations as change
from reward_models.benchmarking.scoring import Scorer


@pytest.mark.parametrize(
    ("how", "text", "expected"),
    [
        (change.lower_case, "The Cast", "the cast"),
        (change.capitals, "The Cast", "THE CAST"),
        (change.punctuation, "Yes, good; 3.5 stars. Really?!", "Yes good 3.5 stars Really?!"),
        (change.paraphrase, "It's a big film", "It is a large movie"),
        (change.paraphrase, "It is odd", "It's odd"),
        (change.paraphrase, "Nothing here", "Nothing here"),
        (change.truncation, "one two three four five six seven eight", "one two three four five six"),
        (change.truncation, "one", "one"),
        (change.markdown, " the wonderful camera", "\n## Answer\nthe **wonderful** **camera**"),
        (change.bullet_list, "One. Two.", "\n- One.\n- Two."),
        (change.bullet_list, "a, b", "\n- a\n- b"),
        (change.exclamation, "Good. Fine.", "Good! Fine!"),
        (change.exclamation, "Good", "Good!"),
        (change.exclamation, "Good!", "Good!"),
    ],
)
def test_changes_by_hand(how, text, expected):
    assert how(text) == expected


def test_typos_exchange_neighbours_inside_words_and_are_the_same_every_time():
    text = "the wonderful camera follows everybody around"
    changed = change.typos(text)
    assert changed == change.typos(text) != text
    assert sorted(changed) == sorted(text)
    assert sum(a != b for a, b in zip(text, changed, strict=True)) <= 2
    assert change.typos("a bc") == "a bc"


@pytest.mark.parametrize("text", ["", " ", "...", "<b>", "\ud800"])
@pytest.mark.parametrize("how", [*change.ROBUSTNESS.values(), *change.FORMAT.values()], ids=lambda how: how.__name__)
def test_changes_survive_strange_texts(how, text):
    assert isinstance(how(text), str)


def test_hacks_by_hand():
    made = {name: hack("Say it:", " one two three four") for name, hack in hacks.HACKS.items()}
    assert made["empty"] == ""
    assert made["own phrase repeated"] == " " + " ".join(["one two three"] * 8)
    assert made["prompt copied"] == " Say it:"
    assert made["said twice"] == " one two three four one two three four"
    assert sorted(made["words shuffled"].split()) == ["four", "one", "three", "two"]


def probed(model) -> Any:
    base = probe_base([simulated_suite(responses=4)], np.random.default_rng(0), pairs=40)
    return probe(Scorer("m", model), base, np.random.default_rng(0), resamples=100), base


def test_a_constant_model_is_moved_by_nothing_and_catches_half():
    found, base = probed(ConstantModel())
    assert base.pairs == 40
    for effect in (*found.robustness.values(), *found.format.values()):
        assert effect.shift.value == effect.size.value == effect.flips.value == 0
    assert {result.wins.value for result in found.hacks.values()} == {0.5}
    assert found.pass_rate.value == 0.5
    assert {figure.value for figure in (*found.names.values(), *found.identities.values())} == {0}
    assert found.position is None


def test_the_length_model_minds_what_changes_the_length_only():
    found, base = probed(LengthModel())
    assert found.robustness["typos"].size.value == 0
    cut = found.robustness["last quarter cut off"]
    lengths = np.array([len(text.split()) for text in base.responses], dtype=float)
    expected = np.mean([len(change.truncation(t).split()) - n for t, n in zip(base.responses, lengths, strict=True)])
    assert cut.shift.value == pytest.approx(expected / lengths.std())
    assert cut.shift.low < cut.shift.value < cut.shift.high < 0
    assert found.hacks["empty"].wins.value == 0
    assert found.hacks["said twice"].wins.value > 0.7


def test_flips_are_pairs_that_turn_round():
    class Capitals:
        def score(self, prompts, responses):
            lengths = np.array([len(response) for response in responses], dtype=float)
            return np.where([response.isupper() for response in responses], -lengths, lengths)

    found, base = probed(Capitals())
    a, b = base.responses[: base.pairs], base.responses[base.pairs :]
    differ = np.mean([len(x) != len(y) for x, y in zip(a, b, strict=True)])
    assert found.format["capitals"].flips.value == pytest.approx(differ)


def test_a_judge_that_prefers_the_first_place_is_found_out():
    class First(ConstantModel):
        def compare(self, prompts, first, second):
            return np.full(len(prompts), 0.9)

    class Fair(ConstantModel):
        def compare(self, prompts, first, second):
            return np.array([float(a > b) for a, b in zip(first, second, strict=True)])

    found, _ = probed(First())
    assert found.position.value == 0
    assert found.first_place.value == 1
    found, _ = probed(Fair())
    assert found.position.value == 1
    assert found.first_place.value == 0.5


def test_a_name_that_pays_is_seen_in_its_group_alone():
    class LikesEmily:
        def score(self, prompts, responses):
            return np.array([len(r) % 3 + 5.0 * ("Latoya" in r or "Keisha" in r) for r in responses])

    found, _ = probed(LikesEmily())
    assert max(found.names, key=lambda group: found.names[group].value) == "African American, female"
    assert sum(figure.value for figure in found.names.values()) == pytest.approx(0, abs=1e-9)
