"""The published corpora that `seqforge data get` knows: where their files lie, their checksums, their licences.

A file whose checksum nobody published has sha256 None: the one of the first download is recorded beside it.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SCRATCHGAN = "https://storage.googleapis.com/deepmind-scratchgan-data"
_TEXYGEN = "https://raw.githubusercontent.com/geek-ai/Texygen/master/data"


@dataclass(frozen=True)
class PublishedFile:
    """One file: its address, its name in the corpus folder, its checksum where known, whether it is a zip to unpack.

    A zip is kept, and unpacked into a folder beside it that has its name without the suffix.
    """

    url: str
    name: str
    sha256: str | None = None
    unpack: bool = False


@dataclass(frozen=True)
class PublishedCorpus:
    """main: what to hand to `flag`, relative to the corpus folder ("." is the folder itself)."""

    about: str
    licence: str
    publisher: str
    files: tuple[PublishedFile, ...]
    main: str = "."
    flag: str = "--data"

    def use(self, path: Path) -> str:
        """The option that trains on it, with the path that `fetch.get` returned."""
        return f"{self.flag} {shlex.quote(str(path))}"


CORPORA: Mapping[str, PublishedCorpus] = {
    "emnlp2017-news": PublishedCorpus(
        about="EMNLP2017 News sentences in ScratchGAN's split, with the GloVe vectors of its words",
        licence="research use",
        publisher=_SCRATCHGAN,
        files=tuple(
            PublishedFile(f"{_SCRATCHGAN}/{name}", name)
            for name in ("train.json", "valid.json", "test.json", "glove_emnlp2017.txt")
        ),
    ),
    "image-coco": PublishedCorpus(
        about="10,000 + 10,000 COCO image captions, one a line, as in Texygen",
        licence="CC BY 4.0 (COCO)",
        publisher="https://github.com/geek-ai/Texygen",
        files=(
            PublishedFile(
                f"{_TEXYGEN}/image_coco.txt",
                "train.txt",
                "2c0fd1f0f43aac6a9dc3926a535516ccf395de535e15ac1fd17cd569420736f5",
            ),
            PublishedFile(
                f"{_TEXYGEN}/testdata/test_coco.txt",
                "test.txt",
                "72e25c9fb4d2cd43182ac602c92f6ffc377762147f9709572943b0b09174bcae",
            ),
        ),
    ),
    "tang-poems": PublishedCorpus(
        about="16,394 Tang quatrains, 24 characters a line",
        licence="public domain",
        publisher="https://github.com/geek-ai/Texygen",
        files=(
            PublishedFile(
                f"{_TEXYGEN}/shi.txt", "shi.txt", "ac03c5fbb07776f0e43cb1ccfc74732f5313ab3d832df81c8e0db327df35e666"
            ),
        ),
        main="shi.txt",
    ),
    "obama-speeches": PublishedCorpus(
        about="paragraphs of public speeches, blank lines between",
        licence="public domain (public speeches)",
        publisher="https://github.com/samim23/obama-rnn",
        files=(PublishedFile("https://raw.githubusercontent.com/samim23/obama-rnn/master/input.txt", "input.txt"),),
        main="input.txt",
    ),
    "nottingham": PublishedCorpus(
        about="1,034 folk tunes as MIDI, melody and chords",
        licence="GPL-3",
        publisher="https://github.com/jukedeck/nottingham-dataset",
        files=(
            PublishedFile(
                "https://github.com/jukedeck/nottingham-dataset/archive/refs/heads/master.zip",
                "nottingham.zip",
                unpack=True,
            ),
        ),
        main="nottingham/nottingham-dataset-master/MIDI",
    ),
    "dailydialog": PublishedCorpus(
        about="13,118 everyday dialogues, one a line, `__eou__` after each utterance",
        licence="CC BY-NC-SA 4.0 (not for commercial use)",
        publisher="http://yanran.li",
        files=(PublishedFile("http://yanran.li/files/ijcnlp_dailydialog.zip", "ijcnlp_dailydialog.zip", unpack=True),),
        main="ijcnlp_dailydialog/ijcnlp_dailydialog/dialogues_text.txt",
    ),
    "seqgan-oracle": PublishedCorpus(
        about="the parameters of the SeqGAN authors' oracle LSTM",
        licence="none stated",
        publisher="https://github.com/LantaoYu/SeqGAN",
        files=(
            PublishedFile(
                "https://raw.githubusercontent.com/LantaoYu/SeqGAN/master/save/target_params_py3.pkl",
                "target_params_py3.pkl",
                "5ac794a695dd6e0eb2bb689f3dfda55e4e0053e8c0399e6242630a95f1e60e8a",
            ),
        ),
        main="target_params_py3.pkl",
        flag="--data.oracle_file",
    ),
}
