"""Grammars against values by hand and brute force; the demo grammar's samples, entropy, agreement and rejections."""

import re
from collections import Counter
from functools import cache
from importlib.resources import files
from itertools import chain, product
from math import inf, log
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqforge.grammars import END, Grammar, demo_grammar, read_rules

# "a b c" has three derivations, "a" is a sentence and the beginning of others
AMBIGUOUS = """
S -> 2 A B | C c | a
A -> a | 3 a b      # weights 1 and 3
B -> c | b c
C -> a b
"""
ITS_SENTENCES = {"a b c": 0.5, "a c": 0.0625, "a b b c": 0.1875, "a": 0.25}
N = 60_000  # 4 standard errors of its mean NLL are 0.58 % of the entropy


@pytest.fixture(scope="module")
def demo():
    return demo_grammar()


@pytest.fixture(scope="module")
def drawn(demo):
    return demo.sample(N, seed=1)


def sentences(grammar, symbol="S"):
    """Every sentence of a small grammar and its probability, from the rules: brute force."""
    if symbol not in grammar.rules:
        return {(symbol,): 1.0}
    found = Counter()
    for p, right in grammar.rules[symbol]:
        for parts in product(*(sentences(grammar, item).items() for item in right)):
            found[tuple(chain.from_iterable(s for s, _ in parts))] += p * np.prod([q for _, q in parts])
    return found


def derivation_entropy(grammar):
    """Of derivations instead of sentences: more than the entropy where a sentence has two, the same where none has."""

    @cache
    def of(symbol):
        found = grammar.rules.get(symbol, [])
        return sum(p * (-log(p) + sum(map(of, right))) for p, right in found)

    return of("S")


def test_probabilities_are_those_by_hand():
    grammar = Grammar(AMBIGUOUS)
    for text, p in ITS_SENTENCES.items():
        assert grammar.log_prob(text.split()) == pytest.approx(log(p), abs=1e-12)
    for text in ("", "b", "a b", "a b c c", "c a b", "a z", "A B"):
        assert grammar.log_prob(text.split()) == -inf
        assert not grammar.is_grammatical(text.split())
    assert grammar.next_probs([]) == {"a": pytest.approx(1)}
    assert grammar.next_probs(["a"]) == pytest.approx({END: 0.25, "b": 0.6875, "c": 0.0625})
    assert grammar.next_probs(["a", "b"]) == pytest.approx({"c": 0.5 / 0.6875, "b": 0.1875 / 0.6875})
    assert grammar.next_probs(["a", "c"]) == {END: pytest.approx(1)}
    assert grammar.next_probs(["b"]) == grammar.next_probs(["a", END]) == {}


def test_entropy_and_lengths_are_those_by_hand():
    grammar = Grammar(AMBIGUOUS)
    entropy = -sum(p * log(p) for p in ITS_SENTENCES.values())
    assert grammar.entropy() == pytest.approx(entropy, abs=1e-12)
    assert derivation_entropy(grammar) > entropy + 0.4
    assert grammar.expected_length() == pytest.approx(0.25 + 2 * 0.0625 + 3 * 0.5 + 4 * 0.1875, abs=1e-12)
    assert grammar.longest == 4
    assert grammar.words == ["a", "b", "c"]


def test_states_of_nearly_the_same_weights_are_kept_apart():
    grammar = Grammar("S -> a X | b Y\nX -> c d | c e\nY -> 1000000 c d | 1000001 c e")
    assert grammar.log_prob(["a", "c", "d"]) == pytest.approx(log(1 / 4), abs=1e-12)
    assert grammar.log_prob(["b", "c", "d"]) == pytest.approx(log(1 / 2 * 1000000 / 2000001), abs=1e-12)


def test_samples_come_with_their_probabilities():
    n = 20_000
    counts = Counter(" ".join(s) for s in Grammar(AMBIGUOUS).sample(n, seed=3))
    assert counts.keys() == ITS_SENTENCES.keys()
    for text, p in ITS_SENTENCES.items():
        assert counts[text] / n == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)


ITEMS = st.lists(st.integers(0, 9), min_size=1, max_size=2)
LEVEL = st.lists(st.tuples(st.integers(1, 9), ITEMS), min_size=1, max_size=2)  # alternatives; < 1000 sentences in all


@settings(max_examples=60, deadline=None)
@given(st.tuples(LEVEL, LEVEL, LEVEL))
def test_any_small_grammar_agrees_with_enumeration(levels):
    below = {"S": ["A", "B", "a", "b"], "A": ["B", "a", "b", "c"], "B": ["a", "b", "c"]}
    rows = {"S": "A | B", "A": "B", "B": "a"}  # so that every symbol is used
    for name, level in zip(below, levels, strict=True):
        for weight, items in level:
            rows[name] += f" | {weight} " + " ".join(below[name][i % len(below[name])] for i in items)
    grammar = Grammar("\n".join(f"{name} -> {right}" for name, right in rows.items()))
    every = sentences(grammar)
    assert sum(every.values()) == pytest.approx(1, abs=1e-9)
    got = grammar.log_probs(list(every))
    np.testing.assert_allclose(got, np.log(list(every.values())), atol=1e-9)
    assert grammar.entropy() == pytest.approx(-sum(p * log(p) for p in every.values()), abs=1e-9)
    assert grammar.expected_length() == pytest.approx(sum(p * len(s) for s, p in every.items()), abs=1e-9)
    assert grammar.longest == max(map(len, every))
    for strange in product("abc", repeat=3):
        assert grammar.is_grammatical(strange) == (strange in every)


def test_variables_and_word_lists_are_filled_in():
    text = """
    let k,n = m,sg f,sg h,pl
    let t = 1 2
    S -> 3 X[k] V[n] | X[h] Y[t]
    X[k] -> N[n]
    X[m] -> 2 he
    N[sg] N[pl] = dog,dogs cat,cats
    V[n] = is was are
    Y[t] -> V[n]
    """
    weights = read_rules(text).weights
    assert dict(weights["S"]) == {
        ("X[m]", "V[sg]"): 3,  # k and n go together
        ("X[f]", "V[sg]"): 3,
        ("X[h]", "V[pl]"): 3,
        ("X[h]", "Y[1]"): 1,
        ("X[h]", "Y[2]"): 1,
    }
    assert dict(weights["X[m]"]) == {("N[sg]",): 1, ("he",): 2}  # lines of one left side add up
    assert dict(weights["X[h]"]) == {("N[pl]",): 1}
    assert dict(weights["N[pl]"]) == {("dogs",): 1 / 2, ("cats",): 1 / 3}
    assert dict(weights["Y[2]"]) == {("V[sg]",): 1, ("V[pl]",): 1}  # once a value of n, not once a value of k
    assert Grammar(text).rules["V[sg]"][2] == (pytest.approx((1 / 4) / (1 / 2 + 1 / 3 + 1 / 4)), ("are",))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("S -> a\nb c", "g.txt:2: 'b c' is no rule; write `X -> 2 Y z | w`, `X = w w` or `let k = a b`"),
        ("S ->", "g.txt:1: 'S ->' is no rule; write"),
        ("S -> a |", "g.txt:1: alternative 'a |' has no words or a weight that is not above 0"),
        ("S -> 3", "g.txt:1: alternative '3' has no words"),
        ("# head\n\nS -> 0 a | b", "g.txt:3: alternative '0 a' has no words or a weight that is not above 0; write"),
        ("S -> a | -1 b", "g.txt:1: alternative '-1 b' has no words or a weight that is not above 0"),
        (f"S -> {'9' * 400} a", "has no words or a weight that is not above 0"),
        ("S -> NP[ a", "g.txt:1: 'NP[' is neither a symbol such as NP[k,0] nor a word"),
        ("S -> a[1]", "g.txt:1: 'a[1]' is neither a symbol"),
        ("S -> a\nx -> b", "g.txt:2: 'x' stands on the left, but is a word; begin a symbol with a capital"),
        ("S -> X\nX Y = a,b c", "g.txt:2: 'c' is not 2 words in small letters; give one for every symbol"),
        ("S = a B", "g.txt:1: 'B' is not 1 words in small letters"),
        ("S -> a\nS -> Noun", "g.txt:2: Noun has no rule; add one, or begin a word with a small letter"),
        ("X -> a", "g.txt:1: S has no rule"),
        ("", "g.txt:1: S has no rule"),
        ("S -> a\nX -> b", "g.txt:2: X is used in no rule; use it or remove it"),
        ("S -> A\nA -> b | a B\nB -> A", "g.txt:2: A leads back to itself; number the levels, as in X[2] -> X[1]"),
        ("let k,n = m,sg f\nS -> a", "g.txt:1: `let k,n = m,sg f` does not give every variable its values"),
        ("let k\nS -> a", "g.txt:1: `let k` does not give every variable its values"),
        ("let k = a b\nlet k = c\nS -> a", "g.txt:2: `let k = c` gives a name that is a value or a variable already"),
        ("let k = a b\nlet a = c\nS -> a", "g.txt:2: `let a = c` gives a name that is a value"),
    ],
)
def test_a_malformed_grammar_is_refused_by_its_line(text, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        Grammar(text, "g.txt")


def test_the_demo_grammar_is_as_large_as_stated(demo, drawn):
    assert demo is demo_grammar()
    assert len(demo.words) >= 250
    assert len({w for s in drawn[:10_000] for w in s}) >= 250
    assert {w for s in drawn for w in s} <= set(demo.words) == {w for w in demo.words if w == w.lower() and w.split()}
    lengths = np.array([len(s) for s in drawn])
    assert demo.longest == 30 >= lengths.max()
    assert 9 < demo.expected_length() < 12
    assert abs(lengths.mean() - demo.expected_length()) < 4 * lengths.std() / N**0.5
    assert 2.5 < demo.entropy() / demo.expected_length() < 3.5  # nats per token


def test_the_demo_grammar_sums_to_one_and_is_unambiguous(demo):
    assert demo.expect(lambda logp: 0.0, lambda logp: 1.0) == pytest.approx(1, abs=1e-9)
    assert demo.entropy() == pytest.approx(derivation_entropy(demo), abs=1e-9)


def test_a_demo_sentence_has_the_probability_by_hand(demo):
    clause = 5 / 14 * 15 / (5 * 56)  # a plain sentence in the present tense; a simple subject of kind f, a simple verb
    words = 2 / 12 * 4 / 26 * 9 / 10 * 5 / 6 * (1 / 2) / (2 * (1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 6))
    assert demo.log_prob(["she", "sleeps", "."]) == pytest.approx(log(clause * words), abs=1e-12)


def test_samples_have_the_probability_of_their_derivation(demo):
    rng = Random(5)
    for _ in range(3000):
        words, steps = demo.derive(rng)
        derived = sum(log(demo.rules[symbol][choice][0]) for symbol, choice in steps)
        assert demo.log_prob(words) == pytest.approx(derived, abs=1e-9)


def test_nll_of_own_samples_is_the_entropy_and_all_are_grammatical(demo, drawn):
    nll = -demo.log_probs(drawn)
    assert nll.shape == (N,)
    assert np.isfinite(nll).all()
    bound = 4 * nll.std(ddof=1) / N**0.5
    assert abs(nll.mean() - demo.entropy()) < bound
    for wrong in (0.99, 1.01):
        assert abs(nll.mean() - wrong * demo.entropy()) > bound


def test_next_words_multiply_to_the_sentence(demo, drawn):
    for sentence in drawn[:100]:
        total = 0.0
        for t, word in enumerate([*sentence, END]):
            coming = demo.next_probs(sentence[:t])
            assert sum(coming.values()) == pytest.approx(1, abs=1e-9)
            total += log(coming[word])
        assert demo.log_prob(sentence) == pytest.approx(total, abs=1e-9)
        assert coming == {END: pytest.approx(1)}


def test_a_seed_means_the_same_sentences(demo):
    again = Grammar((files("seqforge") / "data" / "demo_grammar.txt").read_text(encoding="utf-8"))
    assert demo.sample(200, seed=7) == again.sample(200, seed=7)
    assert demo.sample(300, seed=7)[:200] == demo.sample(200, seed=7)
    assert demo.sample(200, seed=8) != demo.sample(200, seed=7)
    assert demo.sample(0, seed=7) == []


BROKEN = """
the girl that my brothers often see sleeps . | the girl that my brothers often see sleep .
the girl that my brothers often see sleeps . | the girl that my brothers often sees sleeps .
the dog that the girl who knows these men likes sleeps . | the dog that the girl who know these men likes sleeps .
the dog that the girl who knows these men likes sleeps . | the dog that the girl who knows these men like sleeps .
the dog that the girl who knows these men likes sleeps . | the dog that the girl who knows these men likes sleep .
the dog that the girl who knows these men likes sleeps . | the dog that the girl who knows these men sleeps .
the dog that the girl who knows these men likes sleeps . | the dog that the girl that knows these men likes sleeps .
the girls near the dark river see themselves . | the girls near the dark river sees themselves .
the girls near the dark river see themselves . | the girls near the dark river see herself .
the girls near the dark river see themselves . | the girls near the dark river see .
the girls near the dark river see themselves . | the girls the near dark river see themselves .
the girls near the dark river see themselves . | the girls near the dark river see themselves
the girls near the dark river see themselves . | the girls near the dark river see themselves . .
the girls near the dark river see themselves . | The girls near the dark river see themselves .
the girl wants to help herself . | the girl wants to helps herself .
the girl wants to help herself . | the girl wants to help himself .
the girl wants to help herself . | the girl wants to help herselv .
a horse is not tired . | a horses is not tired .
a horse is not tired . | these horse is not tired .
these horses do not sleep . | these horses does not sleep .
mary thinks that they are young . | mary thinks that they is young .
mary thinks that they are young . | mary thinks they are young .
yesterday the king who helped anna was happy . | yesterday the king who helped anna is happy .
yesterday the king who helped anna was happy . | now the king who helped anna was happy .
every week the nun opens two doors . | every week the nun opens two door .
she sees him . | she sees he .
"""


def test_broken_sentences_are_not_grammatical(demo):
    for line in BROKEN.strip().splitlines():
        good, broken = line.split(" | ")
        assert demo.is_grammatical(good.split()), good
        assert not demo.is_grammatical(broken.split()), broken
    assert not demo.is_grammatical([])


def tree(grammar, steps):
    symbol, choice = next(steps)
    return symbol, [
        tree(grammar, steps) if item in grammar.rules else item for item in grammar.rules[symbol][choice][1]
    ]


def leaves(node):
    return [node] if isinstance(node, str) else [word for child in node[1] for word in leaves(child)]


def agreements(node, at=0):
    """(position of a subject's head, position of its inflected verb) of every clause in a tree."""
    if isinstance(node, str):
        return
    symbol, children = node
    if symbol.split("[")[0] in ("Clause", "Inner", "Gap"):
        subject, verb = children[:2]
        adverbs = ("often", "never", "always", "rarely", "quickly", "gladly")
        yield at + len(leaves(subject[1][0])) - 1, at + len(leaves(subject)) + (leaves(verb)[0] in adverbs)
    for child in children:
        yield from agreements(child, at)
        at += len(leaves(child))


def test_agreement_reaches_over_five_words_and_more(demo):
    other = {}
    for form in [f"V[{v}," for v in "ITHMWS"] + ["Be[sg,pres", "Be[sg,past", "Do[sg,pres"]:
        one, many = (form + "sg]", form + "pl]") if form[0] == "V" else (form + "]", form.replace("sg", "pl") + "]")
        for (_, (a,)), (_, (b,)) in zip(demo.rules[one], demo.rules[many], strict=True):
            other |= {a: b, b: a}
    n, far, flipped, nested, rng = 5000, 0, 0, 0, Random(2)
    for _ in range(n):
        words, steps = demo.derive(rng)
        pairs = list(agreements(tree(demo, iter(steps))))
        far += max(verb - head - 1 for head, verb in pairs) >= 5
        nested += any(a < c and d < b for (a, b), (c, d) in product(pairs, pairs))
        for head, verb in pairs:
            if words[verb] in other:
                flipped += verb - head - 1 >= 5
                assert not demo.is_grammatical([*words[:verb], other[words[verb]], *words[verb + 1 :]])
    print(f"{far / n:.3f} of sentences agree over 5 words and more, {nested / n:.3f} have a clause inside a clause")
    assert far / n > 0.2
    assert nested / n > 0.15
    assert flipped > 300


def test_unigram_text_is_not_grammatical(demo, drawn):
    words, counts = np.unique([w for s in drawn[:10_000] for w in s[:-1]], return_counts=True)
    rng = np.random.default_rng(0)
    lengths = rng.choice([len(s) for s in drawn[:10_000]], 20_000)
    text = [[*rng.choice(words, n - 1, p=counts / counts.sum()), "."] for n in lengths]
    passed = np.isfinite(demo.log_probs(text)).mean()
    print(f"{passed:.5f} of unigram text is grammatical")
    assert passed < 0.005
