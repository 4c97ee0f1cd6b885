"""Dialogues from files to a corpus of sources and replies: what is read, what is refused, and that nothing leaks."""

import json
import warnings
from collections import Counter

import pytest
import torch

from seqforge import corpora, dialogues
from seqforge.data.config import DataConfig
from seqforge.data.readers import dialogue
from seqforge.data.readers.dialogue import Dialogues, read_dialogues
from seqforge.metrics import nll
from seqforge.pairs import Pair, normalised, pairs_of, source_ids, split_by_group, utterance

TALK = [["Hi!", "Hello.", "How are you?"], ["Bye", "See you"]]


def messages(turns):
    roles = ("user", "assistant")
    return json.dumps({"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)]})


def written(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "turns"),
    [
        ("a.jsonl", "\n".join(map(messages, TALK)), TALK),
        ("a.jsonl", '{"prompt": "Hi!", "completion": " Hello."}\n', [["Hi!", "Hello."]]),
        ("a.txt", "Hi! __eou__ Hello. __eou__ How are you? __eou__\nBye __eou__ See you\n", TALK),
        ("a.yaml", "- - Hi!\n  - Hello.\n  - How are you?\n- [Bye, See you]\n", TALK),
        ("a.yml", "categories: [x]\nconversations:\n- [Bye, See you]\n- [2, 4.5]\n", [TALK[1], ["2", "4.5"]]),
        (
            "a.yaml",
            "- [Well, Yes, no, 12:30, 1_000, 2020-01-01, null]",
            [["Well", "Yes", "no", "12:30", "1_000", "2020-01-01", "null"]],
        ),
    ],
)
def test_formats(name, text, turns, tmp_path):
    assert read_dialogues(written(tmp_path, name, text)).turns == turns


def test_parallel_files(tmp_path):
    path = written(tmp_path, "a.src", "Hi!\nBye\n")
    with pytest.raises(ValueError, match=r"a\.trg is not beside it"):
        read_dialogues(path)
    written(tmp_path, "a.trg", "Hello.\nSee you\n")
    assert read_dialogues(path).turns == [["Hi!", "Hello."], ["Bye", "See you"]]
    written(tmp_path, "a.trg", "Hello.\n")
    with pytest.raises(ValueError, match=r"a.src: 2 lines, but .*a.trg has 1"):
        read_dialogues(path)
    (tmp_path / "a.src").write_bytes(b"one\ntw\xffo\nthree\nfour\n")
    (tmp_path / "a.trg").write_bytes(b"1\n2\n3\n4\xff\n")
    with pytest.raises(ValueError, match=r"a.src:2: .*--data.on_error skip"):
        read_dialogues(path)
    found = read_dialogues(path, on_error="skip")  # on both sides, or all below would answer another line
    assert found.turns == [["one", "1"], ["three", "3"]]
    assert list(found.skipped.values()) == [2]


def test_what_is_not_said_by_anyone_and_how_much_is_read(tmp_path, monkeypatch):
    """A system message is no turn; .tgt is a name for replies too; `most` dialogues and no more; YAML of any size."""
    first = {"messages": [{"role": r, "content": c} for r, c in (("system", "Be kind."), ("user", "Hi"), ("a", "Yo"))]}
    path = written(tmp_path, "a.jsonl", "\n".join([json.dumps(first), *map(messages, TALK)]))
    assert read_dialogues(path).turns == [["Hi", "Yo"], *TALK]
    assert read_dialogues(path, most=2).turns == [["Hi", "Yo"], TALK[0]]
    path = written(tmp_path, "b.src", "Hi!\n")
    written(tmp_path, "b.tgt", "Hello.\n")
    assert read_dialogues(path).turns == [["Hi!", "Hello."]]
    monkeypatch.setattr(dialogue, "OVERLONG", 1)
    assert read_dialogues(written(tmp_path, "c.yaml", "- [Bye, See you]".ljust(64))).turns == TALK[1:]
    with pytest.raises(ValueError, match=r"c.yaml: 70 bytes of YAML; write it as JSON lines"):
        read_dialogues(written(tmp_path, "c.yaml", "- [Bye, See you]".ljust(70)))


def test_labels(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"label": "good", "text": "a b"}\n{"text": "c", "label": 3}\n')
    assert read_dialogues(path, labels=True).turns == [["good", "a b"], ["3", "c"]]


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        (
            "a.jsonl",
            '{"messages": [{"content": "x"}, {"role": "a", "content": "y"}]}',
            "`role` of message 1 is missing",
        ),
        ("a.jsonl", '{"messages": [{"role": "u", "content": 3}]}', "`content` of message 1 is 3, not text"),
        ("a.jsonl", '{"messages": "x"}', "`messages` must be a list"),
        ("a.jsonl", '{"messages"', "not a JSON object"),
        ("a.jsonl", messages(["Hi", "  "]), "turn 2 of the dialogue is empty"),
        ("a.txt", "Hi __eou__ __eou__ x __eou__", "turn 2 of the dialogue is empty"),
        ("a.yaml", "- {a: b}", "a dialogue must be a list of turns"),
    ],
)
def test_a_bad_dialogue_is_named_or_left_out_and_counted(name, line, told, tmp_path):
    good = {"a.jsonl": messages(TALK[1]), "a.txt": "Bye __eou__ See you", "a.yaml": "- [Bye, See you]"}[name]
    path = written(tmp_path, name, f"{good}\n{line}\n")
    with pytest.raises(ValueError, match=rf"{name}:.*2: .*{told}.*--data.on_error skip"):
        read_dialogues(path)
    found = read_dialogues(path, on_error="skip")
    assert found.turns == [TALK[1]]
    assert list(found.skipped.values()) == [1]
    assert told in next(iter(found.first_skipped.values()))


@pytest.mark.parametrize("bad", [b'{"messages": [', b"\xff"])
def test_a_bad_first_line_is_named_like_any_other(bad, tmp_path):
    """It ended in a traceback, as the format is found by that line; a byte that is no UTF-8 stopped even `skip`."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(bad + b"\n" + messages(TALK[1]).encode() + b"\n")
    with pytest.raises(ValueError, match=r"a.jsonl:1: .*--data.on_error skip"):
        read_dialogues(str(path))
    found = read_dialogues(str(path), on_error="skip")
    assert (found.format, found.turns) == ("messages", [TALK[1]])
    assert sum(found.skipped.values()) == 1
    path.write_bytes(b'{"messages": [\n')
    with pytest.raises(ValueError, match="no dialogue of two turns in it, read as pairs; left out: 1 not JSON"):
        read_dialogues(str(path), on_error="skip")


def test_one_turn_is_left_out_and_counted(tmp_path):
    path = written(tmp_path, "a.jsonl", f"{messages(['Hi'])}\n{messages(TALK[0])}\n")
    found = read_dialogues(path)
    assert found.turns == [TALK[0]]
    assert found.skipped == {"dialogue with one turn": 1}
    with pytest.raises(ValueError, match=r"no dialogue of two turns in it.*1 dialogue with one turn"):
        read_dialogues(written(tmp_path, "b.jsonl", messages(["Hi"])))
    with pytest.raises(ValueError, match="'just a line' is no dialogue; give JSON lines"):
        read_dialogues(written(tmp_path, "c.txt", "just a line\n"))


def test_every_adjacent_pair_is_an_example_with_its_history():
    read = Dialogues("x", "messages", [["a", "b", "c"], ["a", "b"], ["c", "c"]], [1, 2, 3], {}, {})
    one = [(p.history, p.reply, p.place) for p in pairs_of(read, 1)]
    assert one == [(("a",), "b", "x:1"), (("b",), "c", "x:1"), (("c",), "c", "x:3")]  # the second a, b once
    assert [p.history for p in pairs_of(read, 2)] == [("a",), ("a", "b"), ("c",)]
    assert pairs_of(read, 1)[1].before == ("a", "b")


def many(n=300):
    """Sources repeat, with other marks and cases."""
    return [messages([f"{'What' if i % 2 else 'what'} is {i % 60}{'?' * (i % 3)}", f"answer {i}"]) for i in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_no_source_utterance_lies_in_two_splits(seed):
    read = Dialogues("x", "messages", [[f"Q {i % 60}{'?' * (i % 3)}", f"a{i}"] for i in range(300)], [0] * 300, {}, {})
    parts = split_by_group(pairs_of(read, 1), (30, 30), seed)
    groups = {name: {utterance(p) for p in part} for name, part in parts.items()}
    assert sum(map(len, parts.values())) == 300
    assert all(30 <= len(parts[name]) <= 35 for name in ("valid", "test"))
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert len(groups[a] & groups[b]) == 0
    loose = split_by_group(pairs_of(read, 1), (30, 30), seed, key=None)
    assert {utterance(p) for p in loose["train"]} & {utterance(p) for p in loose["test"]}


def config_of(tmp_path, lines, **more):
    path = written(tmp_path, "talk.jsonl", "\n".join(lines))
    sizes = {"condition": "turns", "tokenizer": "bpe", "vocab_size": 300, "valid_size": 30, "test_size": 30}
    return DataConfig(source=path, **{**sizes, **more})


def text_of(corpus, split):
    asked, given = split.source, corpus.decode(split.ids, split.lengths)
    return list(zip(map(" / ".join, corpus.turns(asked)), given, strict=True))


@pytest.mark.parametrize("history", [1, 2])
def test_a_corpus_of_pairs_holds_the_texts_and_the_overlap_is_0(history, tmp_path):
    lines = many() + [messages(["one", "two", "three"]) for _ in range(2)]
    config = config_of(tmp_path, lines, history=history)
    corpus = corpora.load(config)
    found = {name: text_of(corpus, getattr(corpus, name)) for name in ("train", "valid", "test")}
    assert sum(map(len, found.values())) == 302  # the doubled dialogue once
    if history == 1:
        sources = {name: {normalised(s) for s, _ in part} for name, part in found.items()}
        assert not sources["train"] & (sources["valid"] | sources["test"])
        assert not sources["valid"] & sources["test"]
        assert ("two", "three") in [pair for part in found.values() for pair in part]
    else:
        assert ("one / two", "three") in [pair for part in found.values() for pair in part]
    source = corpus.train.source
    assert (source.ids[torch.arange(len(source)), source.lengths - 1] == corpus.eos_id).all()
    assert corpora.load(corpora.effective(config, corpus)).digest == corpus.digest
    assert corpus.before is not None
    assert len(corpus.before["test"]) == len(corpus.test)


def test_files_of_ones_own_lose_what_the_held_out_ones_have(tmp_path):
    held = written(tmp_path, "held.jsonl", "\n".join(many()[:20]))
    config = config_of(tmp_path, many(), valid=held, test=written(tmp_path, "t.jsonl", messages(["WHAT is 7!", "x"])))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        corpus = corpora.load(config)
    assert any("train: left out 100 pairs whose source valid or test has too" in str(w.message) for w in told)
    assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (200, 19, 1)


def test_long_sources_lose_their_oldest_tokens(tmp_path):
    config = config_of(tmp_path, many(), max_source=5, overlong="truncate")
    with pytest.warns(UserWarning, match=r"sources are longer than 5 tokens and lose their oldest .*--data.max_source"):
        corpus = corpora.load(config)
    source, whole = corpus.train.source, corpora.load(config_of(tmp_path, many())).train.source
    assert source.ids.shape[1] == 5
    assert whole.ids.shape[1] > 5
    for row in range(len(source)):
        n, all_of = int(source.lengths[row]), int(whole.lengths[row])
        assert n == min(5, all_of)
        assert source.ids[row, :n].tolist() == whole.ids[row, all_of - n : all_of].tolist()
    with pytest.raises(ValueError, match=r"max_source is 5; raise --data.max_source"):
        corpora.load(config_of(tmp_path, many(), max_source=5, overlong="stop"))


def test_the_vocabulary_is_that_of_the_training_set_and_as_it_was_asked_for(tmp_path):
    held = written(tmp_path, "held.jsonl", messages(["Never seen", "elsewhere"]))
    words = {"tokenizer": "word", "vocab_size": None, "test": held}
    found = {}
    for more in ({}, {"lowercase": True}, {"min_frequency": 6}):
        found[str(more)] = corpora.load(config_of(tmp_path, many(), **words, **more)).tokenizer.get_vocab().keys()
    plain, lower, rare = found.values()
    assert {"What", "what", "is", "answer"} < plain
    assert not {"Never", "seen", "elsewhere"} & plain
    assert plain - lower == {"What"}
    assert "answer" in rare
    assert not any(word.isdigit() for word in rare)


def test_a_source_is_no_longer_than_256_tokens_by_itself(tmp_path):
    lines = [*many(), messages([f"{'so ' * 400}it is", "yes"])]
    with pytest.warns(UserWarning, match="longer than 256 tokens and lose their oldest"):
        corpus = corpora.load(config_of(tmp_path, lines, tokenizer="word", vocab_size=None, valid_size=1, test_size=1))
    assert corpus.train.source.ids.shape[1] == 256


def test_what_stops_at_long_sources_does_so_at_once_not_when_the_run_is_resumed(tmp_path):
    """A held-out source longer than any to train on was cut, though `stop` was asked for; the stored configuration,
    which names the length, then refused the same data.
    """
    held = written(tmp_path, "held.jsonl", "\n".join(messages([f"{'so ' * 40}{i}", "yes"]) for i in range(5)))
    config = config_of(tmp_path, many(), valid=held, overlong="truncate")
    corpus = corpora.load(config)
    assert corpora.load(corpora.effective(config, corpus)).digest == corpus.digest
    with pytest.raises(ValueError, match=r"held.jsonl:1: a source of \d+ tokens, but max_source is \d+; raise"):
        corpora.load(config_of(tmp_path, many(), valid=held, overlong="stop"))


def test_a_labelled_text_lies_in_one_split(tmp_path):
    """Under two labels it was drawn twice, and held-out files of one's own were not held against the training set."""
    rows = [json.dumps({"label": label, "text": f"Text {i % 60}."}) for i in range(120) for label in ("x", "y")]
    corpus = corpora.load(config_of(tmp_path, rows, condition="label"))
    parts = [
        {normalised(reply) for _, reply in text_of(corpus, getattr(corpus, n))} for n in ("train", "valid", "test")
    ]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 60
    held, other = (
        written(tmp_path, f"{name}.jsonl", json.dumps({"label": "x", "text": text}))
        for name, text in (("held", "text 3"), ("other", "new"))
    )
    with pytest.warns(UserWarning, match="train: left out 2 pairs whose text valid or test has too"):
        corpora.load(config_of(tmp_path, rows, condition="label", test=held, valid=other))


def test_labels_are_sources(tmp_path):
    lines = [json.dumps({"label": "ab"[i % 2], "text": f"{'good' if i % 2 else 'bad'} {i}"}) for i in range(100)]
    corpus = corpora.load(config_of(tmp_path, lines, condition="label", tokenizer="word", vocab_size=None))
    assert len(corpus.train) == 80
    for name in ("train", "test"):
        assert all((s == "b") == g.startswith("good") for s, g in text_of(corpus, getattr(corpus, name)))


def test_a_label_is_never_cut(tmp_path):
    lines = [json.dumps({"label": f"of kind {'ab'[i % 2]}", "text": f"text {i}"}) for i in range(100)]
    config = config_of(tmp_path, lines, condition="label", tokenizer="word", vocab_size=None, max_source=2)
    with pytest.raises(ValueError, match=r"a label of 3 tokens and the end token, but max_source is 2; raise"):
        corpora.load(config)


def test_a_test_file_sorted_by_label_is_asked_all_over(tmp_path):
    """Where fewer samples are drawn than there are test pairs, the first are asked; the turns before go with them."""
    lines = [json.dumps({"label": "ab"[i % 2], "text": f"{'good' if i % 2 else 'bad'} {i}"}) for i in range(100)]
    held = [json.dumps({"label": "ab"[i > 39], "text": f"{'good' if i > 39 else 'bad'} {i}{i}"}) for i in range(80)]
    test = written(tmp_path, "test.jsonl", "\n".join(held))
    more = {"condition": "label", "tokenizer": "char", "vocab_size": None, "test": test, "max_length": 20}
    corpus = corpora.load(config_of(tmp_path, lines, **more))
    assert 3 <= [label for (label,) in corpus.turns(nll.asked(corpus, 20))].count("a") <= 17
    assert Counter(text for _, text in text_of(corpus, corpus.test)) == Counter(
        f"{'good' if i > 39 else 'bad'} {i}{i}" for i in range(80)
    )
    assert [list(turns) for turns in corpus.before["test"]] == corpus.turns(corpus.test.source)
    again = corpora.load(config_of(tmp_path, lines, **more))
    assert torch.equal(again.test.ids, corpus.test.ids)


def test_a_longer_label_of_the_test_file_sets_the_length_of_sources(tmp_path):
    lines = [json.dumps({"label": f"of {'ab'[i % 2]}", "text": f"text {i}"}) for i in range(100)]
    held = [json.dumps({"label": "of a or b", "text": f"text {i}{i}"}) for i in range(20)]
    more = {"condition": "label", "tokenizer": "word", "vocab_size": None}
    config = config_of(tmp_path, lines, **more, test=written(tmp_path, "test.jsonl", "\n".join(held)))
    corpus = corpora.load(config)
    found = corpora.effective(config, corpus)
    assert found.max_source == 5
    assert torch.equal(corpora.load(found).test.source.ids, corpus.test.source.ids)


@pytest.mark.parametrize(
    ("lines", "more", "told"),
    [
        (many(5), {}, "5 distinct pairs; at least 10"),
        ([messages(["same", f"r{i}"]) for i in range(50)], {}, "no train pair is left"),
        (
            [*many(200), messages(["Q", "what now"])],
            {"eos_token": "what", "tokenizer": "word", "vocab_size": None},
            r"talk.jsonl:\d+: a turn holds the end token what itself; name another by --data.eos_token",
        ),
        (many(), {"tokenizer": "nix"}, "data.tokenizer is 'nix'"),
    ],
)
def test_what_makes_no_corpus_is_refused(lines, more, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        corpora.load(config_of(tmp_path, lines, **more))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"source": "oracle", "condition": "turns"}, "oracle has no dialogues"),
        ({"source": "dialogues"}, "`seqforge train dialogue` reads it"),
        ({"source": "dialogues", "condition": "label"}, "has no labels"),
    ],
)
def test_a_world_without_pairs_says_so(options, told):
    with pytest.raises(ValueError, match=told):
        corpora.load(DataConfig(**options))


# --- the world that ships -----------------------------------------------------------------------------------------

BEFORE = ("i have a red cat .", "i like a red cat .", "we call it tom .", "hello tom !", "what colour is it ?")


def test_the_judge_knows_right_answers_from_wrong_ones():
    world = dialogues.shipped()
    assert world.right(BEFORE, "it is red .")
    for wrong in ("it is blue .", "it is", "it is a cat .", "", "it is red . /", "it is red . it is red .", "x"):
        assert not world.right(BEFORE, wrong)
    assert world.right(BEFORE[:3], "tom is a good name .")
    assert not world.right(BEFORE[:3], "lucy is a good name .")
    assert world.right([*BEFORE, "it is red .", "what is its name ?"], "its name is tom .")
    assert world.probability(BEFORE, "it is red .") == pytest.approx(1)
    assert world.probability(BEFORE[:3], "hello tom !") == pytest.approx(1 / 3)
    assert world.probability(BEFORE[:3], "hello lucy !") == 0


def test_what_the_world_says_is_right_by_its_own_judge():
    world = dialogues.shipped()
    for turns in world.sample(50, seed=1):
        assert len(turns) == 8
        for t in range(1, 8):
            assert world.right(turns[:t], turns[t])
            assert world.probability(turns[:t], turns[t]) > 0
            assert not world.right(turns[:t], turns[(t + 1) % 8])


def test_answers_depend_on_earlier_turns_that_a_short_history_does_not_hold():
    """With one turn as the source, the same question has as many right answers as there are colours."""
    found = {}
    for history in (1, 4):
        config = DataConfig(
            source="dialogues", condition="turns", history=history, train_size=4000, valid_size=50, test_size=60
        )
        corpus = corpora.load(config)
        assert (len(corpus.train), len(corpus.valid), len(corpus.test)) == (4000, 50, 60)
        answers = {}
        for before, (source, reply) in zip(corpus.before["train"], text_of(corpus, corpus.train), strict=True):
            assert corpus.judge.right(before, reply)
            if len(before) == 5 and before[-1] == "what colour is it ?":
                answers.setdefault(source, Counter())[reply] += 1
        found[history] = max(map(len, answers.values()))
    assert found == {1: 5, 4: 1}


def test_the_worlds_three_sets_are_drawn_apart():
    sizes = {"train_size": 60, "valid_size": 60, "test_size": 60}
    said = []
    for seed in (0, 1):
        corpus = corpora.load(DataConfig(source="dialogues", condition="turns", seed=seed, **sizes))
        said += [corpus.before[name] for name in ("train", "valid", "test")]
    assert not any(a == b for i, a in enumerate(said) for b in said[:i])


def test_source_ids_end_every_turn():
    corpus = corpora.load(DataConfig(source="dialogues", condition="turns", train_size=40, valid_size=20, test_size=20))
    ids = source_ids(corpus.tokenizer, corpus.eos_id, ["hello tom !", "it is red ."])
    assert [i for i, x in enumerate(ids) if x == corpus.eos_id] == [3, 8]
    assert utterance(Pair(("What, now?",), "x", (), "")) == "what now"
