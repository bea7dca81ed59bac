"""Reading texts: what is kept of them, against whole strings; how often they are read, and what memory that takes."""

import hashlib
import itertools
import os
import random
import re
import sys
import tracemalloc
from pathlib import Path

import pyarrow
import pytest
import torch
from conftest import ROOT
from pyarrow import parquet

import hrm_bench
from hrm_bench.config import identity as identities
from hrm_bench.data import corpora, sources
from hrm_bench.data.text import PRINTABLE_ASCII, VOCABULARIES, Text, Vocabulary
from hrm_bench.errors import UsageError
from hrm_bench.evidence.floors import of_corpus

# Unknown characters of two, three and four bytes, of which some are blanks; known blanks; ends of lines of each kind
MIXED = "a é\u00a0b\u2003c\u3000d \u200be\U0001f600 \U0001f600f\tg\r\nh\ri\n\r\n \x1cj\x85k\u2028 –l\x00\x7f"


def shuffled(seed, length):
    return "".join(random.Random(seed).choices(MIXED, k=length))


def load(*overrides):
    return corpora.load(hrm_bench.compose(*overrides).data)


def limits(*values):
    names = ("data.train_chars", "data.validation_chars", "data.test_chars")
    return [f"{name}={'null' if value is None else value}" for name, value in zip(names, values, strict=True)]


def assert_is(text, string):
    """The text is what the whole string says of it."""
    assert len(text) == len(string)
    assert text.indices.dtype == torch.uint8
    assert text.indices.tolist() == [max(PRINTABLE_ASCII.characters.find(character), 0) for character in string]
    assert text.unknown_characters == sum(character not in PRINTABLE_ASCII.characters for character in string)
    for stop in range(0, len(string) + 1, max(1, len(string) // 50)):
        assert text.num_words(1, stop) == len(string[1:stop].split())


def assert_splits_are(corpus, strings):
    for text, string in zip(corpus.splits.values(), strings, strict=True):
        assert_is(text, string)
    assert corpus.fingerprint == hashlib.sha256("\0".join(strings).encode()).hexdigest()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_text_is_the_same_in_pieces_of_any_size(size):
    string = shuffled(size, 300)
    assert_is(Text.read(string[start : start + size] for start in range(0, len(string), size)), string)


def test_every_character_there_is_parts_words_where_python_says_so():
    string = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    text = Text.read([string])
    assert text.blanks.tolist() == [character.isspace() for character in string]
    assert text.unknown_characters == len(string) - 97


def test_no_characters_are_a_text_too():
    assert_is(Text.read([]), "")
    assert_is(Text.read(["", ""]), "")


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 16])
def test_a_text_file_is_read_as_its_whole_string_whatever_the_size_of_pieces(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE", piece)
    path = tmp_path / "mine.txt"
    for length, ends in ((10, limits(None, 1, None)), (997, limits(700, None, 3)), (2000, limits(None, None, None))):
        path.write_bytes(shuffled(length + piece, length).encode())
        string = path.read_text(encoding="utf-8")  # with newlines for all ends of lines
        first, second = len(string) * 8 // 10, len(string) * 9 // 10
        stops = [None if (end := word.split("=")[1]) == "null" else int(end) for word in ends]
        whole = (string[:first], string[first:second], string[second:])
        assert_splits_are(
            load("data=text_file", f"data.path={path}", *ends),
            [split[:stop] for split, stop in zip(whole, stops, strict=True)],
        )


def test_the_first_byte_that_is_not_utf_8_is_named_by_its_offset_in_the_file(tmp_path):
    path = tmp_path / "mine.txt"
    data = hrm_bench.compose("data=text_file", f"data.path={path}").data
    faults = (b"\xef", b"\xc3", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xff")
    for length, fault, rest in itertools.product(range(20), faults, (b"", b"abc", b"\r" * 30)):
        before = ("aé–\U0001f600\r\n" * 5).encode()[:length].decode(errors="ignore").encode()
        path.write_bytes(before + fault + rest)
        with pytest.raises(UnicodeDecodeError) as naive:
            path.read_bytes().decode()
        with pytest.raises(UsageError, match=f"mine.txt: not UTF-8 at byte {naive.value.start}; convert it: iconv -f "):
            corpora.load(data)


def test_a_file_is_read_once():
    reader, writer = os.pipe()  # what has been read of it is gone
    os.write(writer, b"abcd efgh\n" * 2000)
    os.close(writer)
    corpus = load("data=text_file", f"data.path=/dev/fd/{reader}")
    os.close(reader)
    assert [len(text) for text in corpus.splits.values()] == [16_000, 2_000, 2_000]


def published(tmp_path, rows, source="wikitext2"):
    """A folder in the hub's layout with the same rows in all three splits."""
    folder = tmp_path / sources.HUB_CONFIGS[source]
    folder.mkdir(parents=True, exist_ok=True)
    for split in sources.SPLITS:
        parquet.write_table(pyarrow.table({"text": rows}), folder / f"{split}-00000-of-00001.parquet")
    return [f"data={source}", f"data.path={tmp_path}"]


@pytest.mark.parametrize("source", sources.HUB_CONFIGS)
def test_blank_rows_of_the_hub_are_read_as_blank_lines(source, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROWS", 3)
    words = published(tmp_path, ["", " = Title = \n", "", " Text – é . \n", ""], source)
    string = " \n = Title = \n \n Text – é . \n \n"
    assert_splits_are(load(*words, *limits(None, None, None)), [string] * 3)
    assert_splits_are(load(*words, *limits(16, 1, len(string))), [string[:16], string[:1], string])


def test_a_folder_is_read_as_it_stands_and_not_as_one_of_the_same_name_was(tmp_path):
    first, other = tmp_path / "first" / "wikitext", tmp_path / "other" / "wikitext"
    assert_splits_are(load(*published(first, ["a"]), *limits(None, None, None)), ["a"] * 3)
    assert_splits_are(load(*published(other, ["b"]), *limits(None, None, None)), ["b"] * 3)
    assert_splits_are(load(*published(first, ["c"]), *limits(None, None, None)), ["c"] * 3)


def test_rows_of_the_hub_are_read_once_and_none_beyond_the_limit(tmp_path, monkeypatch):
    words = published(tmp_path, [" 16 characters \n"] * 1000)
    monkeypatch.setattr(sources, "ROWS", 10)
    batches = []
    iterate = parquet.ParquetFile.iter_batches

    def counted(self, **arguments):
        for batch in iterate(self, **arguments):
            batches.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counted)
    load(*words, *limits(None, 160, 161))
    assert batches == [10] * (100 + 1 + 2)  # train, validation, test


def test_a_long_text_of_the_hub_takes_two_bytes_per_character_and_little_more_while_it_is_read(tmp_path):
    row = " The text – of one row , which is read with others of its kind . \n"
    words = published(tmp_path, [row] * 20_000)
    load(*words, *limits(100, 100, 100))  # so that what is imported on the way is not counted
    tracemalloc.start()
    try:
        corpus = load(*words, *limits(None, None, None))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    num_characters = sum(map(len, corpus.splits.values()))
    assert num_characters == 60_000 * len(row)
    assert sum(text.indices.nbytes + text.blanks.nbytes for text in corpus.splits.values()) == 2 * num_characters
    assert held < 2.5 * num_characters
    assert peak < 3.5 * num_characters


def test_a_folder_whose_name_looks_like_a_pattern_is_read_itself(tmp_path):
    pattern, sibling = tmp_path / "br[1]", tmp_path / "br1"
    published(sibling, ["another text"])
    published(pattern, ["the text"])
    data = hrm_bench.compose("data=wikitext2", *limits(None, None, None)).data
    data.path = str(pattern)
    assert_splits_are(corpora.load(data), ["the text"] * 3)


def test_a_folder_that_lacks_a_split_is_refused(tmp_path):
    words = published(tmp_path, ["a"])
    (tmp_path / sources.HUB_CONFIGS["wikitext2"] / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(UsageError, match=r"not Salesforce/wikitext in the hub's layout \(no wikitext-2-v1/SPLIT-"):
        load(*words)


def reads(monkeypatch):
    """A list that grows by the name of each file that is read."""
    names = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (names.append(path.name), read(path))[1])
    return names


def test_a_library_reads_each_text_once_and_computes_once_what_follows_from_it(monkeypatch):
    names = reads(monkeypatch)
    library = corpora.Library()
    first, second = (hrm_bench.compose("data=sample", *limits(number, 100, 100)).data for number in (300, 300))
    other = hrm_bench.compose("data=sample", *limits(200, 100, 100)).data
    corpus = library.load(first)
    assert library.load(second) is corpus
    assert sorted(names) == ["test.txt", "train.txt", "validation.txt"]
    assert library.load(other).fingerprint != corpus.fingerprint
    assert len(names) == 6
    computed = []
    for asked in (corpus, corpus, library.load(other)):
        library.derive(asked, "length", lambda: computed.append(1))
    assert len(computed) == 2
    corpora.load(first)
    assert len(names) == 9


def test_a_vocabulary_of_other_symbols_reads_all_else_as_its_first():
    greek = Vocabulary("_αβγ")
    text = Text.read(["αxβ\nδ", "γ"], greek)
    assert greek.decode(text.indices) == "α_β__γ"
    assert (len(greek), text.unknown_characters) == (4, 3)
    assert text.num_words(0, 6) == 2
    with pytest.raises(ValueError, match="each once"):
        Vocabulary("aa")


def test_characters_before_the_start_of_validation_are_left_out():
    whole = load("data=sample", *limits(500, 900, 100))
    later = load("data=sample", *limits(500, 300, 100), "data.validation_start=600")
    assert torch.equal(later.validation.indices, whole.validation.indices[600:900])
    assert torch.equal(later.train.indices, whole.train.indices)
    assert later.fingerprint != load("data=sample", *limits(500, 300, 100)).fingerprint


def test_a_class_of_the_users_own_reads_a_text_as_the_documents_show(tmp_path, monkeypatch):
    documents = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", documents, re.DOTALL) if "(Source)" in code)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for number in range(12):
        (tmp_path / f"{number:02}.txt").write_text(f"note {number:02}.")
    words = [*limits(None, None, None), "data=text_file", f"data.path={tmp_path}"]
    corpus = load(*words, "data.source=mine.Notes")
    assert len(corpus.train) == 8 * len("note 00.")
    assert PRINTABLE_ASCII.decode(corpus.validation.indices) == "note 01.note 11."
    assert PRINTABLE_ASCII.decode(corpus.test.indices) == "note 00.note 10."
    with pytest.raises(UsageError, match=r"data\.source=mine\.Path: must be a subclass of hrm_bench\."):
        load(*words, "data.source=mine.Path")
    with pytest.raises(UsageError, match=r"data\.source=mine\.Nope: cannot be imported"):
        load(*words, "data.source=mine.Nope")


def test_a_config_chooses_its_vocabulary_for_the_text_the_model_the_baselines_and_the_identity(monkeypatch):
    monkeypatch.setitem(VOCABULARIES, "letters", Vocabulary(" abcdefghijklmnopqrstuvwxyz"))
    cfg = hrm_bench.compose("data=sample", *limits(500, 100, 100))
    monkeypatch.setattr(identities, "typed", dict)  # which takes only the words of the schema
    plain = identities.identity(cfg, "f")
    cfg.data.vocabulary = "letters"
    corpus = corpora.load(cfg.data)
    assert (
        corpus.train.unknown_characters > corpora.load(hrm_bench.compose("data=sample").data).train.unknown_characters
    )
    assert hrm_bench.build(cfg).vocabulary_size == 27
    assert of_corpus(corpus, window=8)["test"]["uniform"]["full"] == 27
    assert identities.identity(cfg, "f") != plain
