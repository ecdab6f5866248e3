"""The checkers of chapter 5: right functions pass, wrong ones are caught and named."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import lib
from lib import NGramIndex, check

INF = float("inf")


def by_hand(rule, value=-INF):
    """A ban from a rule (history, n) -> banned tokens, as readers write it."""

    def ban(input_ids, logits, n):
        out = logits.clone()
        for row, history in enumerate(input_ids.tolist()):
            if n > 0:
                for token in rule(history, n):
                    out[row, token] = value
        return out

    return ban


def right(x, n):
    grams = [x[i : i + n] for i in range(len(x) - n + 1)]
    return [g[-1] for g in grams if g[:-1] == x[len(x) - n + 1 :]]


# ── Right functions, in other styles ────────────────────────────────────────────────


def as_a_dictionary(input_ids, logits, n):
    out = logits.clone()
    for row, x in enumerate(input_ids.tolist()):
        seen = {}
        for *head, last in zip(*[x[i:] for i in range(n)], strict=False):
            seen.setdefault(tuple(head), []).append(last)
        suffix = tuple(x[len(x) + 1 - n :]) if len(x) >= n - 1 else None
        if n:
            out[row, seen.get(suffix, [])] = -INF
    return out


def as_an_index(input_ids, logits, n):
    out = logits.clone()
    for row, x in enumerate(input_ids.tolist() if n else []):
        out[row, list(NGramIndex(n, x).banned())] = -INF
    return out


def by_trying_each_token(input_ids, logits, n):
    """Append every token of the vocabulary and see whether its n-gram is old."""
    out = logits.clone()
    for row, x in enumerate(input_ids.tolist()):
        for v in range(logits.shape[1] if n and len(x) >= n else 0):
            text = " ".join(map(str, x))
            gram = " ".join(map(str, [*x, v][-n:]))
            if f" {gram} " in f" {text} ":
                out[row, v] = -INF
    return out


def with_comparisons_of_tensors(input_ids, logits, n):
    length = input_ids.shape[1]
    gone = torch.zeros_like(logits, dtype=torch.bool)
    for start in range(length - n + 1 if n else 0):
        same = torch.ones(len(logits), dtype=torch.bool)
        for offset in range(n - 1):
            same &= (
                input_ids[:, start + offset] == input_ids[:, length - n + 1 + offset]
            )
        rows = same.nonzero().flatten()
        gone[rows, input_ids[rows, start + n - 1]] = True
    return logits.masked_fill(gone, -INF)


@pytest.mark.parametrize(
    "function",
    [
        lib.apply_no_repeat_ngram,
        by_hand(right),
        as_a_dictionary,
        as_an_index,
        by_trying_each_token,
        with_comparisons_of_tensors,
    ],
)
def test_right_bans_pass_in_any_style(function):
    result = check.no_repeat_ngram(function)
    assert result, result


@pytest.mark.parametrize(
    "function",
    [
        lib.distinct_n,
        lambda x, n: 1 - lib.rep_n(x, n),
        lambda x, n: len(x.unfold(0, n, 1).unique(dim=0)) / (len(x) - n + 1),
        lambda x, n: (
            torch.tensor(
                len({str(x[i : i + n].tolist()) for i in range(len(x) + 1 - n)})
            )
            / (len(x) + 1 - n)
        ),
    ],
)
def test_right_measures_pass_in_any_style(function):
    result = check.distinct_n(function)
    assert result, result


# ── Wrong functions ─────────────────────────────────────────────────────────────────


def the_note(input_ids, logits, n):
    out = logits.clone()
    if n > 0:
        for row in range(len(input_ids)):
            sequence = input_ids[row].tolist()
            for ngram in zip(*[sequence[i:] for i in range(n)], strict=False):
                if len(set(ngram)) == 1:
                    out[row, ngram[0]] = -INF
    return out


def from_the_right(x, n):
    """The suffix counted from the right: everything, for n = 1."""
    grams = [x[i : i + n] for i in range(len(x) - n + 1)]
    return [g[-1] for g in grams if g[:-1] == x[-(n - 1) :]]


def one_follower(x, n):
    follower = {tuple(x[i : i + n - 1]): x[i + n - 1] for i in range(len(x) - n + 1)}
    suffix = tuple(x[len(x) - n + 1 :])
    return [follower[suffix]] if suffix in follower else []


def first_follower(x, n):
    return right(x, n)[:1]


def whole_gram(x, n):
    grams = [x[i : i + n] for i in range(len(x) - n + 1)]
    return [v for g in grams if g[:-1] == x[len(x) - n + 1 :] for v in g]


def set_of_tokens(x, n):
    grams = [x[i : i + n] for i in range(len(x) - n + 1)]
    return [g[-1] for g in grams if sorted(g[:-1]) == sorted(x[len(x) - n + 1 :])]


def windows(step=1, skip_first=0, skip_last=0):
    def rule(x, n):
        starts = range(skip_first, len(x) - n + 1 - skip_last, step or n)
        return [x[i + n - 1] for i in starts if x[i : i + n - 1] == x[len(x) - n + 1 :]]

    return rule


def whole_batch(input_ids, logits, n):
    out = logits.clone()
    for history in input_ids.tolist() if n else []:
        out[:, right(history, n)] = -INF
    return out


def first_row(input_ids, logits, n):
    return by_hand(right)(input_ids[:1].expand_as(input_ids), logits, n)


def last_of_every(x, n):
    return [x[i + n - 1] for i in range(len(x) - n + 1)]


def in_the_whole_text(input_ids, logits, n):
    """Ban what leaves any repeated n-gram in the text, an old one included."""

    def repeats(text):
        grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        return len(set(grams)) < len(grams)

    rule = by_hand(lambda x, n: [v for v in range(logits.shape[1]) if repeats([*x, v])])
    return rule(input_ids, logits, n)


def of_a_neighbour(step):
    def ban(input_ids, logits, n):
        out = logits.clone()
        histories = input_ids.tolist()
        for row in range(len(out)):
            if n > 0:
                out[row, right(histories[(row + step) % len(out)], n)] = -INF
        return out

    return ban


def in_place(input_ids, logits, n):
    logits[:] = lib.apply_no_repeat_ngram(input_ids, logits, n)
    return logits


def inverted(input_ids, logits, n):
    allowed = lib.apply_no_repeat_ngram(input_ids, torch.zeros_like(logits), n) > -INF
    return logits.masked_fill(allowed, -INF)


def never_off(input_ids, logits, n):
    return by_hand(right)(input_ids, logits, n or 1)


WRONG_BANS = [
    (the_note, "n equal tokens in a row"),
    (by_hand(from_the_right), "the suffix is the whole history"),
    (never_off, "n = 0 is not treated as off"),
    (by_hand(lambda x, n: right(x, n + 1)), "one token too long"),
    (by_hand(lambda x, n: right(x, max(1, n - 1))), "one token too short"),
    (by_hand(lambda x, n: set(x)), "every token of the history"),
    (
        by_hand(lambda x, n: [b for a, b in pairwise(x) if a == x[-1]]),
        "the last token's followers",
    ),
    (
        by_hand(
            lambda x, n: [
                x[i]
                for i in range(len(x) - n + 1)
                if x[i : i + n - 1] == x[len(x) - n + 1 :]
            ]
        ),
        "the first token of the repeated",
    ),
    (by_hand(whole_gram), "every token of the repeated"),
    (by_hand(one_follower), "only the latest follower"),
    (by_hand(first_follower), "only the first follower"),
    (by_hand(windows(skip_last=1)), "the latest n-gram of the history is left out"),
    (by_hand(windows(skip_first=1)), "the first n-gram of the history is left out"),
    (by_hand(windows(step=0)), "only every n-th window"),
    (by_hand(set_of_tokens), "order of the tokens is ignored"),
    (whole_batch, "one history for the whole batch"),
    (first_row, "the first row's history"),
    (by_hand(last_of_every), "the last token of every n-gram"),
    (in_the_whole_text, "already written bans every token"),
    (of_a_neighbour(1), "what its neighbour has said"),
    (of_a_neighbour(-1), "what its neighbour has said"),
    (inverted, "is kept, and the rest banned"),
    (by_hand(right, 0.0), "set to 0"),
    (by_hand(right, -1e9), "large negative number"),
    (by_hand(right, torch.finfo(torch.float32).min), "large negative number"),
    (
        lambda i, z, n: in_the_whole_text(i, z, n).clamp_min(-1e9),
        "large negative number",
    ),
    (
        lambda i, z, n: lib.softmax(by_hand(right)(i, z, n).nan_to_num(neginf=-1e9)),
        "probabilities returned",
    ),
    (lambda i, z, n: z.clone(), "nothing is banned"),
    (
        lambda i, z, n: lib.apply_no_repeat_ngram(i, z, n).half(),
        "less precise than the input",
    ),
    (in_place, "changes its argument in place"),
]


@pytest.mark.parametrize(
    ("function", "mistake"), WRONG_BANS, ids=[name for _, name in WRONG_BANS]
)
def test_wrong_bans_are_caught_and_named(function, mistake):
    result = check.no_repeat_ngram(function)
    assert not result
    assert mistake in f"{result.mistake} {result.advice}", result
    ids, logits, n = result.counterexample.values()
    assert torch.equal(lib.apply_no_repeat_ngram(ids, logits, n), result.expected)


def grams(x, n):
    x = x.tolist()
    return [tuple(x[i : i + n]) for i in range(len(x) - n + 1)]


WRONG_MEASURES = [
    (lambda x, n: len(set(x.tolist())) / len(x), "single tokens are counted"),
    (lambda x, n: len(set(grams(x, n))) / len(x), "by the number of tokens"),
    (
        lambda x, n: len(set(grams(x, n))) / (len(x) - n) if len(x) > n else 0.0,
        "divided by L - n",
    ),
    (
        lambda x, n: len(set(grams(x, n)[:-1])) / max(1, len(x) - n),
        "the last n-gram is left out",
    ),
    (lib.rep_n, "the share of repeated"),
    (
        lambda x, n: (
            sum(grams(x, n).count(g) == 1 for g in grams(x, n)) / (len(x) - n + 1)
        ),
        "only n-grams that occur once",
    ),
    (
        lambda x, n: len(set(grams(x, n)[::n])) / len(grams(x, n)[::n]),
        "only every n-th window",
    ),
    (lambda x, n: len(set(grams(x, n))), "not their share"),
    (lambda x, n: len(grams(x, n)) / len(set(grams(x, n))), "upside down"),
    (
        lambda x, n: len({frozenset(g) for g in grams(x, n)}) / len(grams(x, n)),
        "the order of the tokens is ignored",
    ),
    (
        lambda x, n: (
            len(set(pairwise(x.tolist()))) / (len(x) - 1) if len(x) > 1 else 1.0
        ),
        "bigrams are counted",
    ),
]


@pytest.mark.parametrize(
    ("function", "mistake"), WRONG_MEASURES, ids=[name for _, name in WRONG_MEASURES]
)
def test_wrong_measures_are_caught_and_named(function, mistake):
    result = check.distinct_n(function)
    assert not result
    assert mistake in f"{result.mistake} {result.advice}", result
    tokens, n = result.counterexample.values()
    assert result.expected.item() == pytest.approx(lib.distinct_n(tokens, n))


def test_the_change_in_place_shows_the_argument_that_changed():
    shown = repr(check.no_repeat_ngram(in_place))
    assert "the input has become" in shown
    assert "-inf" in shown.split("has become")[1]


@pytest.mark.parametrize("wrong", [WRONG_BANS, WRONG_MEASURES])
def test_results_fit_a_narrow_page(wrong):
    checker = check.no_repeat_ngram if wrong is WRONG_BANS else check.distinct_n
    for function, _ in wrong:
        lines = repr(checker(function)).splitlines()
        assert all(len(line) <= 76 for line in lines if not line.startswith("  "))


@pytest.mark.parametrize("value", [-1e9, -INF])
def test_only_a_finite_number_is_called_a_low_one(value):
    """A rule that is no known mistake: a long text's first token is banned, too."""
    odd = by_hand(lambda x, n: [*right(x, n), *([x[0]] if len(x) > 4 else [])], value)
    assert ("large negative" in check.no_repeat_ngram(odd).mistake) is (value > -INF)
