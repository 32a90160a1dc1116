"""The choice of tokens: as transformers' own processors make it, and the same again for the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from losparse_runtime import Session
from losparse_runtime.generation.sampling import Chooser, keep_top_k, keep_top_p, penalise, probabilities, thin_out
from losparse_runtime.generation.settings import GenerationSettings

from .decoder_models import Made, write_decoder

VOCABULARY = 300


def random_logits(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=VOCABULARY) * 4


def theirs(processors: list[LogitsProcessor], logits: NDArray[np.float64], seen: list[int]) -> NDArray[np.float64]:
    ids = torch.tensor([seen or [0]])
    scores = LogitsProcessorList(processors)(ids, torch.from_numpy(logits.copy())[None])
    return np.asarray(scores[0])


def processors(settings: GenerationSettings) -> list[LogitsProcessor]:
    """What transformers' `generate` makes of such settings, in its order."""
    found: list[LogitsProcessor] = []
    if settings.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.temperature != 1:
        found.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        found.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        found.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p > 0:
        found.append(MinPLogitsWarper(settings.min_p))
    return found


CASES: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.0, "top_k": 10_000},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 0.05},
    {"temperature": 1.0, "top_p": 0.0},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 2.5, "top_k": 40, "top_p": 0.8},
    {"temperature": 0.3, "top_k": 40, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 1.7, "top_k": 7, "top_p": 0.6, "min_p": 0.2, "repetition_penalty": 1.8},
    {"temperature": 1.0, "repetition_penalty": 0.5, "top_p": 0.9},
    {"temperature": 1.0, "repetition_penalty": 1.8},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_tokens_are_left_out_as_transformers_does(case: dict[str, Any], seed: int) -> None:
    settings, logits = GenerationSettings(**case), random_logits(seed)
    seen = [3, 77, 3, 290]
    expected = theirs(processors(settings), logits, seen)
    ours = thin_out(penalise(logits, seen, settings.repetition_penalty), settings)
    assert (np.isfinite(ours) == np.isfinite(expected)).all()
    # Double precision on both sides: a division may be rounded otherwise, nothing else.
    np.testing.assert_allclose(ours, expected, rtol=1e-14)


def test_the_order_matters() -> None:
    # So that the cases above could see another one: what top_p keeps after top_k is fewer than before it.
    logits = random_logits(0) / 4
    kept = [np.isfinite(each).sum() for each in (keep_top_p(keep_top_k(logits, 20), 0.8), keep_top_p(logits, 0.8))]
    assert kept[0] < 20 < kept[1]


def test_equally_likely_tokens_stay_together() -> None:
    logits = np.array([1.0, 3.0, 3.0, 2.0, 3.0])
    assert np.isfinite(keep_top_k(logits, 2)).tolist() == [False, True, True, False, True]
    assert np.isfinite(keep_top_p(logits, 0.3)).tolist() == [False, True, True, False, True]


def test_a_token_of_no_probability_is_out_at_the_edge_too() -> None:
    logits = np.array([-1000.0, 0.0])  # a share of 0 exactly
    assert np.isfinite(keep_top_p(logits, 1.0)).tolist() == [False, True]
    assert np.isfinite(theirs([TopPLogitsWarper(1.0)], logits, [])).tolist() == [False, True]


@pytest.mark.parametrize("keep", [keep_top_k, keep_top_p])
def test_tokens_that_are_out_stay_out(keep: Any) -> None:
    logits = np.array([-np.inf, 1.0, -np.inf, 0.0])
    assert np.isfinite(keep(logits, 3 if keep is keep_top_k else 0.999)).tolist() == [False, True, False, True]


def test_probabilities_of_large_logits_are_finite() -> None:
    assert probabilities(np.array([1000.0, 1000.0, -np.inf])).tolist() == [0.5, 0.5, 0.0]


def test_tokens_come_as_often_as_they_are_likely() -> None:
    shares = np.array([0.5, 0.25, 0.125, 0.125, 0.0])
    with np.errstate(divide="ignore"):
        logits = np.log(shares)
    chooser = Chooser(GenerationSettings(temperature=1.0, seed=0))
    counts = np.bincount([chooser.choose(logits) for _ in range(8000)], minlength=5)
    # A share of 8000 draws has a standard error of at most 0.0056; five of them are never reached by chance.
    np.testing.assert_allclose(counts / 8000, shares, rtol=0, atol=0.028)
    assert counts[4] == 0


def test_a_low_temperature_takes_the_most_likely_token() -> None:
    logits = random_logits(1)
    chooser = Chooser(GenerationSettings(temperature=1e-3, seed=0))
    assert {chooser.choose(logits) for _ in range(50)} == {int(logits.argmax())}


def test_greedy_ignores_what_is_for_draws() -> None:
    logits = random_logits(2)
    chooser = Chooser(GenerationSettings(top_k=3, top_p=0.5, min_p=0.3, seed=4))
    assert {chooser.choose(logits) for _ in range(10)} == {int(logits.argmax())}


def test_tokens_beyond_the_head_have_no_penalty() -> None:
    assert (penalise(np.ones(3), [1, 3, 99], 2.0) == [1, 0.5, 1]).all()


def test_logits_are_not_changed() -> None:
    logits = random_logits(3)
    before = logits.copy()
    chooser = Chooser(GenerationSettings(**CASES[-3]))
    chooser.see([1, 2])
    chooser.choose(logits)
    assert (logits == before).all()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(write_decoder(tmp_path_factory.mktemp("made") / "lm", Made(sharp=0.3)), threads=1)


PROMPTS = ["one", "a longer prompt", "x", "two"]


def test_a_seed_draws_the_same_again_and_another_one_does_not(session: Session) -> None:
    drawn = [session.generate(PROMPTS, max_new_tokens=12, temperature=1.0, seed=seed) for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]
    free = [session.generate("one", max_new_tokens=12, temperature=1.0) for _ in range(2)]
    assert free[0] != free[1]


def test_what_is_drawn_does_not_depend_on_batches(session: Session) -> None:
    choices: Any = {"max_new_tokens": 12, "temperature": 1.0, "seed": 5, "stop_tokens": range(40)}
    together = session.generate(PROMPTS, **choices)
    assert [session.generate(PROMPTS, size, **choices) for size in (1, 3)] == [together] * 2
    assert session.generate(PROMPTS[:1], **choices) == together[:1]
    assert len({len(each.tokens) for each in together}) > 1  # some ended before others


def test_equal_prompts_get_texts_of_their_own(session: Session) -> None:
    results = session.generate(["one"] * 4, max_new_tokens=12, temperature=1.0, seed=5)
    assert len({each.tokens for each in results}) == 4


def test_a_folder_is_sampled_as_its_logits_say(tmp_path: Path) -> None:
    # top_k=1 is greedy, whatever the seed and the temperature.
    sharp = Session(write_decoder(tmp_path / "made"), threads=1)
    greedy = sharp.generate(PROMPTS, max_new_tokens=8)
    assert sharp.generate(PROMPTS, max_new_tokens=8, temperature=3.0, top_k=1, seed=1) == greedy
