"""Tokenizers: which ids a text gets, in what order types are numbered, and that text comes back readable."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from seqforge.data import tokens
from seqforge.data.tokens import choose_kind, encode, name_of, open_tokenizer, train_tokenizer


def back(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids)


def types(tokenizer: Tokenizer) -> list[str]:
    return [w for w, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]


# --- the vocabulary ------------------------------------------------------------------------------------------------

COUNTED = ["b b b a a c", "a c d b é"]  # b 4, a 3, c 2, then d and é once each


def test_types_are_ordered_by_frequency_then_alphabet_after_end_and_unknown():
    assert types(train_tokenizer("word", COUNTED)) == ["<eos>", "<unk>", "b", "a", "c", "d", "é"]
    assert types(train_tokenizer("word", ["z y x", "y z"])) == ["<eos>", "<unk>", "y", "z", "x"]


@pytest.mark.parametrize(("size", "kept"), [(3, "b"), (4, "b a"), (6, "b a c d"), (7, "b a c d é"), (99, "b a c d é")])
def test_vocab_size_counts_end_and_unknown(size, kept):
    tokenizer = train_tokenizer("word", COUNTED, vocab_size=size)
    assert types(tokenizer) == ["<eos>", "<unk>", *kept.split()]
    assert tokenizer.encode("é zzz").ids == [tokenizer.get_vocab().get("é", 1), 1]


@pytest.mark.parametrize(("least", "kept"), [(1, "b a c d é"), (2, "b a c"), (3, "b a"), (4, "b")])
def test_types_rarer_than_min_frequency_are_unknown(least, kept):
    assert types(train_tokenizer("word", COUNTED, min_frequency=least)) == ["<eos>", "<unk>", *kept.split()]


def test_no_type_frequent_enough():
    with pytest.raises(ValueError, match=r"data\.min_frequency is 5.*lower it"):
        train_tokenizer("word", COUNTED, min_frequency=5)


def test_ids_of_a_text_with_an_unknown_word():
    found = encode(train_tokenizer("word", COUNTED), ["b zzz é", "a"])
    assert (found.ids.tolist(), found.lengths.tolist()) == ([2, 1, 6, 3], [3, 1])


@pytest.mark.parametrize("kind", ["word", "punct", "char", "bpe"])
def test_lower_case(kind):
    tokenizer = train_tokenizer(kind, ["The CAT the É"], lowercase=True, vocab_size=300)
    assert back(tokenizer, "THE cat é") == "the cat é"
    assert tokenizer.encode("THE").ids == tokenizer.encode("the").ids
    kept = train_tokenizer(kind, ["The CAT the É"], vocab_size=300)
    assert kept.encode("THE").ids != kept.encode("the").ids


@pytest.mark.parametrize("kind", ["word", "punct", "char", "bpe"])
def test_names_of_end_and_unknown(kind):
    tokenizer = train_tokenizer(kind, ["a b", "a"], vocab_size=300, eos="[END]", unk="[UNK]")
    assert tokenizer.token_to_id("[END]") == 0
    assert tokenizer.token_to_id("[UNK]") == (None if kind == "bpe" else 1)
    assert tokenizer.encode("a[END]").ids[-1] == 0
    assert tokenizer.decode([tokenizer.encode("a").ids[0], 0]) == "a"  # the end token is not written


@pytest.mark.parametrize(
    ("kind", "size", "least"), [("word", 1, 3), ("char", 2, 3), ("punct", 2, 3), ("bpe", 256, 257)]
)
def test_a_vocabulary_without_room(kind, size, least):
    with pytest.raises(ValueError, match=rf"data\.vocab_size is {size}, but .*{least}"):
        train_tokenizer(kind, COUNTED, vocab_size=size)
    assert train_tokenizer(kind, COUNTED, vocab_size=least).get_vocab_size() == least


def test_byte_pairs_are_as_many_as_asked_for():
    texts = ["the cat sat on the mat", "the cats sat on the mats"] * 20
    tokenizer = train_tokenizer("bpe", texts, vocab_size=270)
    assert tokenizer.get_vocab_size() == 270
    assert tokenizer.token_to_id("<eos>") == 0
    assert len(tokenizer.encode("the cat").ids) < len("the cat")


# --- text comes back -----------------------------------------------------------------------------------------------

ORDINARY = [
    "Hello, world!",
    "I don't know (really), do you?",
    "He said: “Yes, it is!” and left.",
    'He said "yes," then "no".',
    '"Wait", she said, "or (better) go!"',
    "It costs $5, £6.50, or 10% more; that's 3-2.",
    "The U.S. team won at 3:45, e.g. by 1,000.50 points.",
    "wait... what?! No -- never…",
    "AT&T and/or the well-known mother-in-law [see #3].",
    "C'est l'heure, n'est-ce pas?",
    "Émile Zola, «J’accuse», déjà vu.",
    "¿Qué tal? ¡Muy bien!",
    "مرحبا، كيف حالك؟",
    "قال: «نعم»؛ ثم ذهبَ الولدُ.",
    "आप कैसे हैं? मैं ठीक हूँ।",
    "Привет, как дела? Хорошо!",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_sentences_come_back_from_words_and_punctuation(text):
    assert back(train_tokenizer("punct", ORDINARY), text) == text


def test_words_and_punctuation_are_apart():
    found = train_tokenizer("punct", ORDINARY).encode('He said "don\'t" (U.S., 1,000)...').tokens
    expected = ["He", "said", '"', "don't", '"', "(", "U.S.", ",", "<unk>", ")", "..."]
    assert found == expected  # 1,000 is one token, but none of these sentences has it
    assert train_tokenizer("punct", ["1,000 men"]).encode("1,000 men").tokens == ["1,000", "men"]


WORDS = st.text("abcéßøжصद", min_size=1, max_size=5)


@given(st.lists(st.tuples(WORDS, st.sampled_from(["", "", "", ",", ".", "!", "?", ";", ":", "…", "،"])), min_size=1))
@settings(deadline=None, max_examples=60)
def test_words_with_marks_after_them_come_back(parts):
    text = " ".join(w + mark for w, mark in parts)
    assert back(train_tokenizer("punct", [text]), text) == text


def test_no_blank_is_lost_or_added_where_marks_stand_alone():
    tokenizer = train_tokenizer("punct", ["a < b = c - d * e ^ f"])
    assert back(tokenizer, "a < b = c - d * e ^ f") == "a < b = c - d * e ^ f"


def test_a_mark_before_any_word_has_no_blank_before_it():
    tokenizer = train_tokenizer("punct", [", a"])
    assert [tokenizer.decode([]), tokenizer.decode([2]), tokenizer.decode([3, 2])] == ["", ",", "a,"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool))
@settings(deadline=None, max_examples=100)
def test_byte_pairs_give_back_any_text(text):
    if "<eos>" not in text:
        assert back(BYTES, text) == text


BYTES = train_tokenizer("bpe", ["some text, some more text", "und noch mehr"] * 3, vocab_size=280)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
@settings(deadline=None, max_examples=60)
def test_characters_give_back_what_they_were_trained_on(text):
    if "<eos>" not in text:
        assert back(train_tokenizer("char", [text]), text) == text


def test_a_character_is_what_a_reader_takes_for_one():
    family, flag, accented, thai = "👨‍👩‍👧", "🇫🇷", "e\u0301", "ที่"
    text = family + flag + accented + thai
    tokenizer = train_tokenizer("char", [text])
    assert tokenizer.encode(text).tokens == [family, flag, accented, thai]
    assert back(tokenizer, text) == text


def test_characters_between_blanks():
    tokenizer = train_tokenizer("char", ["床 前 明 月 光"], blanks=False)
    assert tokenizer.encode("明 月").tokens == ["明", "月"]
    assert back(tokenizer, "明 月 光") == "明月光"
    assert back(train_tokenizer("char", ["a b c"]), "a b") == "a b"


@pytest.mark.parametrize("kind", ["word", "punct", "char"])
def test_the_unknown_token_in_a_text_is_one_token(kind):
    """Samples hold it. It was taken apart into its signs when they were read again to be scored or as a prompt."""
    tokenizer = train_tokenizer(kind, ["a b <unk> c", "a [?] d"])
    ids = tokenizer.encode("a zz <unk>" if kind != "char" else "az<unk>").ids
    assert ids.count(1) == 2
    assert types(tokenizer).count("<unk>") == 1
    assert not {"<", "unk", "u", ">"} & set(types(tokenizer))
    assert back(train_tokenizer(kind, ["a [?] b"], unk="[?]"), "a b".replace(" ", " [?] ")) == "a [?] b"


# --- which kind suits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["the cat sat .", "a dog ran , and ran ."], ("word", True)),
        (["the cat sat", "a dog ran"], ("word", True)),
        (["The cat sat.", "A dog ran, and ran."], ("punct", True)),
        (["مرحبا، كيف حالك؟", "نعم، شكرا."], ("punct", True)),
        (["床前明月光，疑是地上霜。"], ("char", True)),
        (["床 前 明 月 光 ，", "疑 是 地 上 霜 。"], ("char", False)),
        (["สวัสดีครับ ผมชื่อ สมชาย"], ("char", True)),
        (["a b c d e f", "x y z a b c"], ("word", True)),  # notes or letters that someone set apart
        (["ACGTTGCA", "GGATTACA"], ("char", True)),
        (["👨‍👩‍👧👍", "🎉🎉😀"], ("char", True)),
        (["👨‍👩‍👧 👍 😀", "🎉 🎉 👨‍👩‍👧"], ("word", True)),
        ([" "], ("word", True)),
    ],
)
def test_the_kind_that_suits(texts, kind):
    assert choose_kind(texts * 3) == kind


# --- a tokenizer of one's own --------------------------------------------------------------------------------------


def own(tmp_path, types: dict[str, int], unk="[UNK]", special=()):
    tokenizer = Tokenizer(models.WordLevel(types, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.add_special_tokens(list(special))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_a_given_tokenizer_with_an_end_token_of_its_own(tmp_path):
    path = own(tmp_path, {"[UNK]": 0, "a": 1, "b": 2, "</s>": 3})
    tokenizer, end = open_tokenizer(path, "<eos>")
    assert (end, tokenizer.get_vocab_size()) == (3, 4)
    assert tokenizer.encode("a b a zzz").ids == [1, 2, 1, 0]  # its padding and truncation do not count
    assert tokenizer.decode([1, 2, 3]) == "a b"


def test_a_given_tokenizer_without_an_end_token_gets_one(tmp_path):
    tokenizer, end = open_tokenizer(own(tmp_path, {"[UNK]": 0, "a": 1, "b": 2}), "<eos>")
    assert (end, tokenizer.get_vocab_size(), tokenizer.decode([1, 3, 2])) == (3, 4, "a b")


def test_the_end_token_named_wins_over_the_usual_ones(tmp_path):
    path = own(tmp_path, {"[UNK]": 0, "a": 1, "</s>": 2, "STOP": 3})
    assert open_tokenizer(path, "STOP")[1] == 3


def test_ids_that_are_left_out_count(tmp_path):
    tokenizer, end = open_tokenizer(own(tmp_path, {"[UNK]": 0, "a": 1, "b": 9}), "<eos>")
    assert tokens.size_of(tokenizer) == 10
    assert end == 3


def test_the_unknown_token_goes_by_the_tokenizers_own_name(tmp_path):
    path = own(tmp_path, {"a": 0, "[UNK]": 1})
    assert tokens.unknown_id(open_tokenizer(path, "<eos>")[0], "<unk>") == 1
    assert tokens.unknown_id(train_tokenizer("word", ["a"], unk="?"), "?") == 1
    assert tokens.unknown_id(BYTES, "<unk>") is None


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe", b'{"model": 3}'])
def test_what_is_no_tokenizer(tmp_path, content):
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + r": not a tokenizer\.json .*give a file"):
        open_tokenizer(path, "<eos>")


def test_names_tell_tokenizers_apart(tmp_path):
    one, other = train_tokenizer("word", ["a b"]), train_tokenizer("word", ["a c"])
    assert name_of("word", one) == name_of("word", train_tokenizer("word", ["b a"]))
    assert len({name_of("word", one), name_of("word", other), name_of("char", one)}) == 3
    assert re.fullmatch(r"own\.json-[0-9a-f]{8}", name_of("/somewhere/own.json", one))


# --- ids and vocabularies ------------------------------------------------------------------------------------------


def test_ids_are_read_as_they_are():
    found = tokens.read_ids(["3 0 2", "5"], "ids.txt:{}".format, 6)
    assert (found.ids.tolist(), found.lengths.tolist()) == ([3, 0, 2, 5], [3, 1])
    assert found.ids.dtype == np.int32


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1 x", r"ids\.txt:1: 'x' is not a token id"),
        ("1 -2", r"ids\.txt:1: '-2' is not a token id"),
        ("1 ٣", r"ids\.txt:1: '٣' is not"),
        ("6 1", r"ids\.txt:1: id 6 is beyond the vocabulary of 6; raise --data\.vocab_size"),
        ("1 9999999999", r"ids\.txt:1: '9999999999' is not"),
    ],
)
def test_ids_that_are_none(line, told):
    with pytest.raises(ValueError, match=told):
        tokens.read_ids(["1 2", line], "ids.txt:{}".format, 6)


def test_a_vocabulary_decodes():
    assert tokens.vocabulary(["the", "cat", "sat"], "v.txt").decode([1, 0, 2]) == "cat the sat"


@pytest.mark.parametrize(
    ("words", "told"), [(["a", "b", "a"], "v.txt:3: .*'a', as id 0"), (["a", ""], "v.txt:2: .*empty"), ([], "no word")]
)
def test_vocabularies_that_are_none(words, told):
    with pytest.raises(ValueError, match=told):
        tokens.vocabulary(words, "v.txt")


def test_encoding_in_chunks_changes_nothing(monkeypatch):
    texts = [" ".join("abc"[: 1 + i % 3]) for i in range(50)]
    tokenizer = train_tokenizer("word", texts)
    whole = encode(tokenizer, texts)
    monkeypatch.setattr(tokens, "CHUNK", 7)
    parts = encode(tokenizer, texts)
    assert (parts.ids == whole.ids).all()
    assert (parts.lengths == whole.lengths).all()
    assert whole.lengths.tolist() == [1 + i % 3 for i in range(50)]
    assert len(encode(tokenizer, []).ids) == 0
