from __future__ import annotations

import random
import shutil

import pytest

from vila_core.errors import UserError
from vila_core.eval.scorers import tokens
from vila_core.eval.scorers.captions import bleu4, cider, rouge_l

ANSWERS = ["a man riding a wave on a surfboard", "two dogs on the grass", "a red bus"]
REFERENCES = [
    ["A man rides a wave on a surfboard.", "A surfer riding a large wave"],
    ["Two dogs play on the grass.", "two dogs in a field of grass", "dogs"],
    ["A double-decker bus, parked", "a red bus on a street"],
]
VOCABULARY = "a the cat dog sits on in red mat big is and with two man rides bike"


def test_scores_of_a_fixed_set() -> None:
    """To the last digit that pycocoevalcap 1.2 prints for the same tokens."""
    assert f"{cider(ANSWERS, REFERENCES, 'python').score:.10f}" == "2.9777644605"
    assert f"{bleu4(ANSWERS, REFERENCES, 'python').score:.10f}" == "0.5203565348"
    assert f"{rouge_l(ANSWERS, REFERENCES, 'python').score:.10f}" == "0.8346219931"


def test_scores_are_those_of_pycocoevalcap() -> None:
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    words = VOCABULARY.split()
    rng = random.Random(5)

    def caption() -> str:
        return " ".join(rng.choices(words[: rng.randint(3, len(words))], k=rng.randint(0, 12)))

    for size in (1, 2, 7, 30):
        answers = [caption() for _ in range(size)]
        references = [[caption() for _ in range(rng.randint(1, 5))] for _ in range(size)]
        references[0][0] = answers[0]
        given = dict(enumerate(references)), {n: [each] for n, each in enumerate(answers)}
        total, each = Cider().compute_score(*given)
        ours = cider(answers, references, "python")
        assert ours.score == pytest.approx(total, abs=1e-12)
        assert ours.per_sample == pytest.approx(list(each), abs=1e-12)
        totals, lists = Bleu(4).compute_score(*given, verbose=0)
        ours = bleu4(answers, references, "python")
        assert ours.score == pytest.approx(totals[3], abs=1e-15)
        assert ours.per_sample == pytest.approx(lists[3], abs=1e-15)
        total, each = Rouge().compute_score(*given)
        ours = rouge_l(answers, references, "python")
        assert ours.score == pytest.approx(total, abs=1e-12)
        assert ours.per_sample == pytest.approx(list(each), abs=1e-12)


def test_perfect_and_hopeless_captions() -> None:
    same = [[answer] for answer in ANSWERS]
    assert rouge_l(ANSWERS, same, "python").score == 1.0
    assert bleu4(ANSWERS[:2], same[:2], "python").score == pytest.approx(1.0)
    assert cider(["", "zebra"], REFERENCES[:2], "python").per_sample == [0.0, 0.0]
    assert bleu4([""], REFERENCES[:1], "python").score == 0.0


def test_a_score_names_its_tokeniser(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cider(ANSWERS, REFERENCES, "python").tokeniser == tokens.PYTHON
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert cider(ANSWERS, REFERENCES).tokeniser == tokens.PYTHON
    with pytest.raises(UserError, match="ptb needs Java"):
        cider(ANSWERS, REFERENCES, "ptb")


def test_inputs_that_can_not_be_scored() -> None:
    with pytest.raises(ValueError, match="3 captions for 2"):
        cider(ANSWERS, REFERENCES[:2])
    with pytest.raises(ValueError, match="without references"):
        bleu4(["a"], [[]])


CAPTIONS = {
    "A man can't ride the boys' bike (red), isn't it?": (
        "a man ca n't ride the boys bike -lrb- red -rrb- is n't it"
    ),
    "black-and-white cat; dog's tail": "black-and-white cat dog 's tail",
    "1,000 dogs and 3.5 cats at $5.00, 10% off": "1,000 dogs and 3.5 cats at $ 5.00 10 % off",
    "The U.S. flag at 5 a.m. on St. Mark's, Mr. Smith.": (
        "the u.s. flag at 5 a.m. on st. mark 's mr. smith"
    ),
    'He said "hello" to his mom\u2019s \u201cfriend\u201d \u2013 really!': (
        "he said hello to his mom 's friend really"
    ),
    "a t-shirt & jeans @ home on the sidewalk,people pass": (
        "a t-shirt & jeans @ home on the sidewalk people pass"
    ),
    "I cannot: they'll... gonna go at 12:30 -- o'clock": (
        "i can not they 'll gon na go at 12:30 o'clock"
    ),
    "c. 1990's bus, No. 5 ($20)!!": "c. 1990 's bus no. 5 -lrb- $ 20 -rrb- !!",
    "": "",
    " . ": "",
}


def test_tokens_of_our_rules() -> None:
    words, name = tokens.tokenise(list(CAPTIONS), "python")
    assert [" ".join(each) for each in words] == list(CAPTIONS.values())
    assert name == tokens.PYTHON


def test_tokens_of_ptb() -> None:
    """Ours are Stanford's on these captions, and both are what pycocoevalcap makes of them."""
    pytest.importorskip("pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    words, name = tokens.tokenise(list(CAPTIONS), "ptb")
    assert [" ".join(each) for each in words] == list(CAPTIONS.values())
    assert name == tokens.PTB
