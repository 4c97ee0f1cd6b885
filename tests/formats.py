"""The same small sentences in every format that a file of a user's may have."""

import gzip
import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def sentences(n: int = 40, marks: str = " .", seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    nouns, verbs = ["cat", "dog", "bird", "fish"], ["sees", "eats", "likes"]
    parts = lambda: (draw.choice(("the", "a")), draw.choice(nouns))  # noqa: E731
    return [
        " ".join((*parts(), draw.choice(verbs), *(w for _ in range(draw.choice((1, 2))) for w in parts()))) + marks
        for _ in range(n)
    ]


def lines(texts):
    return "\n".join(texts) + "\n"


def paragraphs(texts):
    return "\n\n".join(text.replace(" ", "\n", 1) for text in texts) + "\n"


def scratchgan(texts):
    return json.dumps([{"s": text, "id": i} for i, text in enumerate(texts)])


def json_texts(texts):
    return json.dumps([{"text": text} for text in texts], ensure_ascii=False)


def jsonl(texts):
    return lines(json.dumps({"text": text, "n": 1}) for text in texts)


def completions(texts):
    return lines(json.dumps({"prompt": f"say {i}", "completion": text}) for i, text in enumerate(texts))


def messages(texts):
    pairs = zip(texts[::2], texts[1::2], strict=True)
    turns = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in pairs]
    return lines(json.dumps({"messages": turn}) for turn in turns)


def csv_table(texts):
    return lines(["id,text", *(f'{i},"{text}"' for i, text in enumerate(texts))])


def tsv_table(texts):
    return lines(["id\ttext", *(f"{i}\t{text}" for i, text in enumerate(texts))])


FORMATS = {
    "lines.txt": lines,
    "no-ending": lines,
    "paragraphs.txt": paragraphs,
    "scratchgan.json": scratchgan,
    "texts.json": json_texts,
    "texts.jsonl": jsonl,
    "completions.jsonl": completions,
    "messages.jsonl": messages,
    "table.csv": csv_table,
    "table.tsv": tsv_table,
    "lines.txt.gz": lines,
    "texts.jsonl.gz": jsonl,
    "table.csv.gz": csv_table,
    "table.parquet": None,
}


def write(name: str, texts: list[str]) -> str:
    make = FORMATS[name]
    if make is None:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"n": list(range(len(texts))), "text": texts}), name)
    else:
        raw = make(texts).encode()
        Path(name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return name


def own_tokenizer(types: dict[str, int], unk: str) -> str:
    tokenizer = Tokenizer(models.WordLevel(types, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save("own.json")
    return "own.json"
