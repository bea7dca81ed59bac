"""Texts in any alphabet: refused or told under the reports' vocabulary, and read whole as bytes or as characters."""

import math
import re
import shutil
import sys
import zipfile
from collections import Counter

import pytest
import torch
from made_up import record as made_up_record
from writings import PASSAGES, writing

import hrm_bench
from hrm_bench import evaluate, floors, generate
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.reopen import load_cell, vocabulary_of
from hrm_bench.cells.run import run_cell
from hrm_bench.data import corpora
from hrm_bench.data.text import BYTES, PRINTABLE_ASCII, REPLACEMENT, Text, Vocabulary, encoded, packed
from hrm_bench.errors import UsageError
from hrm_bench.evidence.floors import floors as baselines_of
from hrm_bench.records import store
from hrm_bench.records.papers import PAPERS
from hrm_bench.report.write import write_all
from hrm_bench.sweeps.sweep import plan
from hrm_bench.training.build import load_windows

LENGTH = 4_000
MODEL = ["data.window=32", "model.width=32", "model.num_heads=2", "model.hidden_width=64", "logger=none"]
RECIPE = ["recipe.max_epochs=6", "recipe.learning_rate=0.01", "recipe.patience=null"]


def words(path, text, *more):
    """The words of a cell of a text, which is written into a file."""
    path.write_text(text, encoding="utf-8")
    return [*MODEL, *RECIPE, "data=text_file", f"data.path={path}", *more]


def corpus_of(path, text, *more):
    return corpora.load(hrm_bench.compose(*words(path, text, *more)).data)


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory):
    """A cell of bytes: its folder, record and text."""
    root = tmp_path_factory.mktemp("bytes")
    text = writing("emoji", LENGTH)
    cell = Cell.of(hrm_bench.compose(*words(root / "mine.txt", text, "data.vocabulary=bytes")), root / "sweep")
    return cell.folder, run_cell(cell), text


@pytest.fixture(scope="module")
def of_characters(tmp_path_factory):
    """A cell of the characters of a text: its folder, record and text."""
    root = tmp_path_factory.mktemp("characters")
    text = writing("greek", LENGTH)
    cell = Cell.of(hrm_bench.compose(*words(root / "mine.txt", text, "data.vocabulary=characters")), root / "sweep")
    return cell.folder, run_cell(cell), text


@pytest.mark.parametrize("name", PASSAGES)
def test_a_text_of_another_alphabet_is_refused_with_its_share_its_commonest_characters_and_three_ways(name, tmp_path):
    text = writing(name, LENGTH)
    unknown = Counter(character for character in text if character not in PRINTABLE_ASCII.characters)
    share = sum(unknown[character] for character in set(text)) / LENGTH
    with pytest.raises(UsageError) as refused:
        plan(hrm_bench.compose(*words(tmp_path / "mine.txt", text)), [], tmp_path)
    (line,) = refused.value.faults
    train = sum(character in unknown for character in text[: LENGTH * 8 // 10]) / (LENGTH * 8 // 10)
    assert f"mine.txt: {100 * train:.1f} % of train, " in line
    assert "(" + " ".join(repr(character) for character, _ in unknown.most_common(5))[:3] in line
    most = float(re.search(r"give data\.vocabulary=bytes or data\.vocabulary=characters, or .*=(0\.\d+)$", line)[1])
    assert share - 0.02 < most < share + 0.05
    for way in ("data.vocabulary=bytes", "data.vocabulary=characters", f"data.most_unknown={most}"):
        plan(hrm_bench.compose(*words(tmp_path / "mine.txt", text, way)), [], tmp_path)


def assert_learns(record):
    """The model is better than the n-gram model that knows how frequent each symbol is, and nothing more."""
    for split in ("validation", "test"):
        assert record[split]["perplexity"] < 0.9 * record["floors"][split]["unigram"]["full"]
    assert sum(record["unknown_characters"].values()) == 0


def test_a_model_of_bytes_learns_a_text_of_emoji_and_a_model_of_characters_one_of_greek(of_bytes, of_characters):
    assert_learns(of_bytes[1])
    assert_learns(of_characters[1])


def test_figures_of_a_model_of_bytes_are_per_decoded_character_and_its_bits_per_byte_say_so(of_bytes):
    _, record, text = of_bytes
    train, validation = text[: LENGTH * 8 // 10].encode(), text[LENGTH * 8 // 10 : LENGTH * 9 // 10].encode()
    predicted = validation[1 : (len(validation) - 1) // 32 * 32 + 1]
    num_characters = sum((byte & 0xC0) != 0x80 for byte in predicted)
    figures, ratio = record["validation"], len(predicted) / num_characters
    assert ratio > 1.2
    assert figures["characters"] == num_characters
    assert figures["bits_per_character"] == pytest.approx(figures["bits_per_byte"] * ratio)
    assert figures["perplexity"] == pytest.approx(2 ** figures["bits_per_character"])
    assert figures["words"] == len(predicted.decode(errors="ignore").split())
    best = record["history"][record["best_epoch"] - 1]
    assert best["validation_perplexity"] == pytest.approx(figures["perplexity"], rel=1e-5)
    counts = Counter(train)
    bits = -sum(math.log2((counts[byte] + 1) / (len(train) + 256)) for byte in predicted)
    assert math.log2(record["floors"]["validation"]["unigram"]["full"]) == pytest.approx(bits / num_characters)
    assert sum(record["bits_by_position"]["validation"]) / 32 == pytest.approx(figures["bits_per_character"], rel=1e-4)


def test_the_uses_of_a_memory_are_per_decoded_character_too(tmp_path):
    more = ["data.vocabulary=bytes", "recipe.max_epochs=1", "model=infini_hrm", "memory=carry"]
    record = run_cell(hrm_bench.compose(*words(tmp_path / "mine.txt", writing("chinese", 1_000), *more)), tmp_path)
    for split, use in record["memory_use"].items():
        assert use["own"] == pytest.approx(record[split]["perplexity"], rel=1e-4)
        assert 0.5 < math.log(use["zeroed"]) / math.log(use["own"]) < 2


def test_the_table_shows_bits_per_byte_and_per_character_of_models_of_bytes_alone(of_bytes, of_characters, tmp_path):
    for folder, has_bytes in ((of_bytes[0], True), (of_characters[0], False)):
        write_all(store.read_all(folder.parent), tmp_path)
        shown = (tmp_path / "results.md").read_text(encoding="utf-8")
        assert "outside the vocabulary" not in shown
        figures = [f"{of_bytes[1][split]['bits_per_byte']:.3f}" for split in ("validation", "test")]
        shows = ["bits per byte" in shown, "bits per character" in shown, ", ".join(figures) in shown]
        assert shows == [has_bytes] * 3


def test_a_model_of_bytes_and_one_of_characters_are_never_ranked_against_each_other(of_bytes, tmp_path):
    _, record, text = of_bytes
    cfg = hrm_bench.compose(*words(tmp_path / "mine.txt", text, "data.vocabulary=characters", "recipe.max_epochs=1"))
    other = run_cell(cfg, tmp_path)
    write_all([record, other], tmp_path)
    shown = (tmp_path / "results.md").read_text(encoding="utf-8")
    for name in ("bytes", "characters"):
        assert f"| text_file, all characters, data.vocabulary={name} | unigram |" in shown
    rows = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()
    place = rows[0].split(",").index("rank")
    assert [row.split(",")[place] for row in rows[1:]] == ["1", "1"]


def test_no_other_vocabulary_speaks_about_the_reports():
    (paper,) = [paper for paper in PAPERS if paper.text["source"] == "wikitext2"]
    words = ["data=wikitext2", "experiment=hrm_vs_infini", "recipe=published", "model=hrm", "data.path=null"]
    own, other = (made_up_record(*words, f"data.vocabulary={name}") for name in ("ascii97", "bytes"))
    del own["config"]["data"]["vocabulary"]  # as older records lack it
    assert [paper.is_about(record) for record in (own, other)] == [True, False]
    assert paper.figure(own) is not None
    assert paper.figure(other) is None


@pytest.mark.parametrize("name", PASSAGES)
@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_every_character_of_a_text_is_read_and_written_as_itself(name, kind, tmp_path):
    text = writing(name, LENGTH)
    corpus = corpus_of(tmp_path / "mine.txt", text, f"data.vocabulary={kind}")
    splits = [corpus.vocabulary.decode(split.indices) for split in corpus.splits.values()]
    assert "".join(splits) == text
    assert [split.num_characters for split in corpus.splits.values()] == [len(split) for split in splits]
    assert corpus.vocabulary.decode(corpus.vocabulary.encode(PASSAGES[name])[0]) == PASSAGES[name]
    for split, string in zip(corpus.splits.values(), splits, strict=True):
        assert split.num_words(0, len(split)) == len(string.split())


def test_bytes_are_those_of_every_character_and_words_end_where_python_ends_them():
    characters = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    text = Text.read([characters[start : start + 1000] for start in range(0, len(characters), 1000)], BYTES)
    assert bytes(text.indices.tolist()) == characters.encode()
    assert BYTES.decode(text.indices) == characters
    assert text.num_characters == len(characters)
    assert text.num_words(0, len(text)) == len(characters.split())


@pytest.mark.parametrize("of", ["of_bytes", "of_characters"])
def test_a_trained_cell_continues_its_text_in_its_own_alphabet(of, request, capsys):
    folder, _, text = request.getfixturevalue(of)
    prompt = text[:60]
    assert generate.main([f"run={folder}", f"prompt={prompt}", "length=300", "temperature=0"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(prompt)
    continuation = shown.removeprefix(prompt).rstrip("\n")
    assert len(continuation) > 150
    assert set(continuation) <= set(text) | {REPLACEMENT}
    assert continuation.count(REPLACEMENT) < 10
    assert any(ord(character) > 0x7F and character != REPLACEMENT for character in continuation)


def test_bytes_that_end_inside_a_character_or_are_none_do_not_harm_the_others():
    whole = BYTES.encode("a😀b")[0]
    assert [BYTES.decode(whole[:length]) for length in range(1, 7)] == ["a", "a", "a", "a", "a😀", "a😀b"]
    assert BYTES.decode(torch.tensor([255, 97])) == "\ufffda"


def test_a_cell_has_its_own_vocabulary_after_its_text_is_gone(of_characters):
    folder, record, text = of_characters
    path = store.read(folder)["config"]["data"]["path"]
    hidden = f"{path}.hidden"
    shutil.move(path, hidden)
    try:
        assert load_cell(folder).vocabulary_size == len(record["vocabulary"]) == len(set(text)) + 1
        assert vocabulary_of(folder).decode(vocabulary_of(folder).encode(text)[0]) == text
    finally:
        shutil.move(hidden, path)


def test_a_sweep_of_a_text_under_a_relative_path_is_scored_from_any_folder(tmp_path, monkeypatch, capsys):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(project)
    text = writing("german", 2_000)
    given = [word.replace(f"{project}/", "") for word in words(project / "mine.txt", text, "data.vocabulary=bytes")]
    record = run_cell(hrm_bench.compose(*given, "recipe.max_epochs=1"), project / "sweep")
    assert record["config"]["data"]["path"] == "mine.txt"
    (elsewhere / "mine.txt").write_text(writing("greek", 2_000), encoding="utf-8")  # which is not the cell's
    monkeypatch.chdir(elsewhere)
    assert evaluate.main([str(project / "sweep")]) == 0
    (scores, _) = store.read_json(project / "sweep" / "evaluation.json")["answers"]
    assert scores["scored"][0] == pytest.approx(record["validation"]["perplexity"], rel=1e-5)
    assert scores["segments"]["2"][0] == pytest.approx(scores["scored"][0], rel=1e-5)
    latest = max(scores["halting"], key=lambda point: point["mean_segments"][0])
    nearby = [scores["segments"][str(number)][0] for number in (1, 2, 3, 4, 6, 8)]
    assert 0.99 * min(nearby) < latest["perplexity"][0] < 1.01 * max(nearby)
    (project / "mine.txt").write_text(text[1:], encoding="utf-8")
    with pytest.raises(UsageError, match=r"mine\.txt is not the text that its cells were trained on"):
        evaluate.main([str(project / "sweep")])


def test_a_vocabulary_has_the_commonest_characters_up_to_its_limit_and_one_for_all_others():
    vocabulary = Vocabulary.of_text(["ccbb", "ba", "b"], limit=2)
    assert vocabulary.characters == f"{REPLACEMENT}bc"
    assert vocabulary.decode(vocabulary.encode("abcd")[0]) == f"{REPLACEMENT}bc{REPLACEMENT}"
    assert vocabulary.encode("abcd")[1] == 2


def test_a_limit_is_part_of_the_cell_and_of_characters_only(tmp_path):
    text = writing("german", 2_000)
    names = [
        Cell.of(hrm_bench.compose(*words(tmp_path / "mine.txt", text, *more)), tmp_path).identity
        for more in ([], ["data.vocabulary=bytes"], ["data.vocabulary=characters"])
    ]
    limited = ["data.vocabulary=characters", "data.vocabulary_limit=30"]
    names.append(Cell.of(hrm_bench.compose(*words(tmp_path / "mine.txt", text, *limited)), tmp_path).identity)
    assert len(set(names)) == 4
    assert len(corpus_of(tmp_path / "mine.txt", text, *limited).vocabulary) == 31
    with pytest.raises(UsageError, match=r"data\.vocabulary_limit=30: limits data\.vocabulary=characters only"):
        hrm_bench.compose("data=sample", "data.vocabulary_limit=30")


def test_a_file_lists_the_vocabulary_and_the_cell_is_of_its_content_not_of_its_name(tmp_path):
    text, names = writing("german", 2_000), []
    for name, characters in (("a", "".join(set(text))), ("b", "".join(sorted(set(text)))), ("c", "abc def")):
        (tmp_path / name).write_text(characters, encoding="utf-8")
        more = [f"data.vocabulary={tmp_path / name}"]
        cell = Cell.of(hrm_bench.compose(*words(tmp_path / "mine.txt", text, *more)), tmp_path)
        assert cell.corpus.vocabulary.characters == f"{REPLACEMENT}" + "".join(sorted({*characters, "\n"})).replace(
            REPLACEMENT, ""
        )
        names.append(cell.identity)
    assert names[0] == names[1] != names[2]
    with pytest.raises(UsageError, match=r"data\.vocabulary=bites: allowed are ascii97, bytes, characters, or a UTF-8"):
        corpus_of(tmp_path / "mine.txt", text, "data.vocabulary=bites")


def test_the_older_name_of_the_reports_vocabulary_is_the_same_cell(tmp_path):
    names = {
        Cell.of(hrm_bench.compose("data=sample", *more), tmp_path).identity
        for more in ([], ["data.vocabulary=ascii97"], ["data.vocabulary=printable_ascii"])
    }
    assert len(names) == 1
    record = store.upgrade({"schema_version": 1, "config": {"data": {"vocabulary": "printable_ascii"}}})
    assert record["config"]["data"]["vocabulary"] == "ascii97"


def test_ngram_models_of_a_large_vocabulary_count_as_those_of_a_small_one():
    vocabulary = Vocabulary(" " + "".join(chr(code) for code in range(0x4E00, 0x4E00 + 300)))
    text = Text.read([writing("chinese", 1_500)], Vocabulary.of_text([writing("chinese", 1_500)], None)).indices
    assert text.dtype == torch.uint8
    train, scored = text[:1_200], text[1_200:]
    small, large = (
        baselines_of(*parts, window=8, vocabulary_size=len(vocabulary))
        for parts in ((train, scored), (train.short(), scored.short()))
    )
    assert isinstance(packed(train.short()), str)
    assert small == large


def test_a_text_of_more_than_256_characters_is_read_trained_on_and_rescored(tmp_path):
    drawn = "".join(chr(0x4E00 + (7 * place) % 400) for place in range(2_000))
    cell = Cell.of(
        hrm_bench.compose(*words(tmp_path / "m.txt", drawn, "data.vocabulary=characters", "recipe.max_epochs=1")),
        tmp_path / "sweep",
    )
    record = run_cell(cell)
    assert record["status"] == "finished", record.get("reason")
    assert (len(record["vocabulary"]), cell.corpus.train.indices.dtype) == (401, torch.int16)
    assert evaluate.main([str(tmp_path / "sweep")]) == 0
    (scores, _) = store.read_json(tmp_path / "sweep" / "evaluation.json")["answers"]
    assert scores["scored"][0] == pytest.approx(record["validation"]["perplexity"], rel=1e-5)
    assert 1 < scores["with_counts"][0] < scores["scored"][0]
    cell.config.recipe.distillation = 1.0
    with pytest.raises(UsageError, match=r"recipe\.distillation=1\.0: the vocabulary has 401 symbols, and at most 256"):
        load_windows(cell.config, cell.corpus)


def test_what_is_outside_the_vocabulary_is_told_wherever_the_figure_is(tmp_path, capsys):
    text = "plain words and more of them " * 60 + "é"
    text = "".join(text[:1739] + "é" if part == 4 else text[:1740] for part in range(10))  # in the training text
    given = words(tmp_path / "mine.txt", text, "recipe.max_epochs=1")
    record = run_cell(hrm_bench.compose(*given), tmp_path / "sweep")
    assert record["unknown_characters"] == {"train": 1, "validation": 0, "test": 0}
    fraction = 1 / (len(text) * 8 // 10)
    assert record["unknown_fractions"] == {"train": pytest.approx(fraction), "validation": 0, "test": 0}
    line = (
        f"Characters outside the vocabulary ascii97: {100 * fraction:.2g} % of train, 0 % of validation, 0 % of test."
    )
    write_all([record], tmp_path / "sweep")
    for name in ("results.md", "report.html"):
        assert line in (tmp_path / "sweep" / name).read_text(encoding="utf-8")
    assert hrm_bench.load(tmp_path / "sweep").cells.train_unknown[0] == pytest.approx(fraction)
    assert floors.main(given) == 0
    assert line in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["file", "folder", "zip"])
@pytest.mark.parametrize("source", ["enwik8", "text8"])
def test_enwik8_and_text8_are_cut_at_the_published_bytes(source, kind, tmp_path):
    text = writing("greek", 999) if source == "enwik8" else writing("emoji", 5_000).encode("ascii", "ignore").decode()
    content, path = encoded(text)[:1000], tmp_path / source
    path.write_bytes(content)
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / f"{source}.zip", "w") as archive:
            archive.write(path, source)
        path.unlink()
    given = {"file": path, "folder": tmp_path, "zip": tmp_path / f"{source}.zip"}[kind]
    corpus = corpora.load(hrm_bench.compose(f"data={source}", f"data.path={given}", "data.vocabulary=bytes").data)
    splits = [bytes(split.indices.tolist()) for split in corpus.splits.values()]
    assert splits == [content[:900], content[900:950], content[950:]]
    vocabulary = hrm_bench.compose(f"data={source}", f"data.path={given}").data.vocabulary
    assert vocabulary == {"enwik8": "bytes", "text8": "characters"}[source]
    if source == "enwik8":
        with pytest.raises(UnicodeDecodeError):  # a cut is inside a character
            [split.decode() for split in splits]
    with pytest.raises(UsageError, match=rf"data\.path=null: data={source} reads a file, from {source}\.zip of http"):
        hrm_bench.compose(f"data={source}", "data.path=null")


GERMAN = "Süße Grüße aus Köln. " * 200
FAULTY = {
    "UTF-16 with a mark": (GERMAN.encode("utf-16"), r"not UTF-8 at byte 0; convert it: iconv -f UTF-16 -t UTF-8"),
    "UTF-16, big end first": (b"\xfe\xff" + GERMAN.encode("utf-16-be"), r"not UTF-8 at byte 0; .* -f UTF-16 -t"),
    "UTF-16 without a mark": (GERMAN.encode("utf-16-le"), r"not UTF-8 at byte 1; convert it: iconv -f UTF-16LE -t"),
    "UTF-16 of plain words": (b"p\0l\0a\0i\0n\0 \0" * 500, r"not UTF-8 at byte 1; convert it: iconv -f UTF-16LE -t"),
    "Latin-1": (GERMAN.encode("latin-1"), r"not UTF-8 at byte 1; convert it: iconv -f ENCODING -t UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 20, r"not UTF-8 at byte 0"),
    "nothing": (b"", r"mine\.txt: is empty; give a file that has text"),
}


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("vocabulary", ["ascii97", "bytes"])
def test_a_file_that_is_no_text_is_refused_in_one_line_that_says_what_to_type(name, vocabulary, tmp_path):
    content, message = FAULTY[name]
    (tmp_path / "mine.txt").write_bytes(content)
    data = hrm_bench.compose(
        "data=text_file", f"data.path={tmp_path / 'mine.txt'}", f"data.vocabulary={vocabulary}"
    ).data
    with pytest.raises(UsageError, match=message) as refused:
        corpora.load(data)
    assert len(refused.value.faults) == 1
    assert "\n" not in refused.value.faults[0]


def test_a_folder_a_loop_or_nothing_in_the_place_of_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "loop", "symbolic links"), ("no", "No such file")):
        data = hrm_bench.compose("data=text_file", f"data.path={path}").data
        with pytest.raises(UsageError, match=rf"cannot be read \(.*{reason}.*\); give data\.path=FILE"):
            corpora.load(data)


def test_a_text_with_the_mark_of_an_editor_is_the_text_without_it(tmp_path):
    plain, marked = (
        corpus_of(tmp_path / "mine.txt", mark + writing("german", 1_000), "data.vocabulary=bytes")
        for mark in ("", "\ufeff")
    )
    assert marked.fingerprint == plain.fingerprint
    assert torch.equal(marked.train.indices, plain.train.indices)
