"""Held-out articles: which texts they are, that no cell is chosen on them, and what a record keeps of them."""

import os

import numpy
import pytest
import torch
from conftest import QUICK, compose, quick, weights
from torch.nn import functional

import hrm_bench
from hrm_bench.cells.run import run_cell
from hrm_bench.data.corpora import Library, Request
from hrm_bench.data.text import Text
from hrm_bench.data.windows import Samples
from hrm_bench.evidence import articles
from hrm_bench.evidence.articles import LENGTH, NUMBER
from hrm_bench.records import store

WIKITEXT = """ \n = One = \n \n Its text , with 3 = 3 . \n \n = = A part = = \n \n More . \n = no heading = \n and text
 = Two ( of it ) = \n \n The second . \n \n = Three = \n \n The third . \n"""


def test_an_article_begins_at_its_own_heading_and_at_no_other():
    found = articles.articles(WIKITEXT.replace("text\n = Two", "text \n \n = Two"))
    assert [title for title, _ in found] == ["One", "Two ( of it )", "Three"]
    assert found[0].text.endswith("and text \n \n")
    assert found[2].text == " = Three = \n \n The third . \n"


@pytest.mark.skipif("HRM_BENCH_WIKITEXT" not in os.environ, reason="needs a copy of WikiText-2")
def test_the_articles_of_wikitext_that_choose_and_that_score_are_sixty_per_split_and_apart():
    data = compose("data=wikitext2").data
    _, validation, test = ("".join(split) for split in Request.of(data).splits())
    assert len(articles.articles(validation)) == len(articles.articles(test)) == 60
    scored = articles.pieces(data, window=64)
    assert [len(some) for some in scored.values()] == [NUMBER, NUMBER]
    assert {len(piece.text) for some in scored.values() for piece in some} == {LENGTH}
    for piece in scored["validation"]:
        place = validation.index(piece.text)
        assert place > 10_000  # what cells are scored and searched on
        assert all(place + LENGTH <= validation.index(other.text) for other in articles.choosing(validation))
    assert all(test.index(piece.text) > 5_000 for piece in scored["test"])


def test_articles_that_are_too_short_or_stand_before_the_first_are_left_out():
    text = "".join(f" \n = {n} = \n \n {'x' * length} \n" for n, length in enumerate([6000, 10, 6000, 4900, 7000]))
    assert [title for title, _ in articles.scoring(text, first=1)] == ["2", "4"]
    assert [title for title, _ in articles.choosing(text)] == ["0", "2", "4"]


@pytest.mark.parametrize(("left", "number", "length"), [(100, 0, 0), (258, 1, 258), (2100, 8, 262), (99_999, 8, 4993)])
def test_another_text_is_cut_behind_its_scored_characters_into_equal_pieces(left, number, length):
    text = "".join(chr(33 + place % 90) for place in range(1000 + left))
    found = articles.rest(text, 1000, window=64)
    assert [len(piece.text) for piece in found] == [length] * number
    assert "".join(piece.text for piece in found) == text[1000 : 1000 + number * length]
    if number:
        assert found[0].title == f"characters 1,001 to {1000 + length:,}"


def test_a_split_that_is_scored_to_its_end_has_no_held_out_piece():
    pieces = articles.pieces(
        compose("data=sample", "data.validation_chars=null", "data.test_chars=9999999").data, window=64
    )
    assert pieces == {"validation": [], "test": []}


def test_a_validation_text_that_begins_later_is_cut_behind_its_end():
    words = ["data=sample", "data.validation_start=1000", "data.validation_chars=2000"]
    _, validation, _ = ("".join(split) for split in Request.of(compose(*words).data).splits())
    first = articles.pieces(compose(*words).data, window=64)["validation"][0]
    assert validation.index(first.text) == 3000


@pytest.mark.parametrize(
    "words",
    [
        ["model=hrm"],
        ["model=infini_hrm", "memory=carry"],
        ["model=hrm_memory", "memory=reset", "data.windows_per_sample=3"],
        ["model=lstm", "memory=carry"],
    ],
    ids=" ".join,
)
def test_articles_are_read_as_the_cells_own_text_is_from_an_empty_memory(words):
    cfg = compose(*(word for word in QUICK if not word.startswith("model.")), "logger=none", *words)
    model = hrm_bench.build(cfg).eval()
    torch.nn.init.normal_(model.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    held = articles.of_cell(cfg.data, Library().load(cfg.data), Library())["test"]
    read = articles.read(model, held)
    for (_, samples), nats in zip(held, read, strict=True):
        text, expected, memory = samples.indices.long(), [], None
        for start in range(0, samples.num_characters, 8):
            if cfg.memory.mode != "carry" and start % samples.length == 0:
                memory = None
            with torch.no_grad():
                logits, memory = model(text[None, start : start + 8], memory)
            expected += functional.cross_entropy(logits[0], text[start + 1 : start + 9], reduction="none").tolist()
        assert nats.tolist() == pytest.approx(expected, abs=2e-4)
    assert [nats.tolist() for nats in articles.read(model, held[::-1])[::-1]] == [
        pytest.approx(nats.tolist(), abs=2e-4) for nats in read
    ]


def test_a_record_has_the_nats_of_every_window_and_article_and_the_file_those_of_every_character(tmp_path):
    cfg = quick("model=infini_hrm", "memory=carry")
    record = run_cell(cfg, tmp_path)
    (folder,) = tmp_path.glob("infini*")
    assert store.read(folder)["articles"] == record["articles"]
    with numpy.load(folder / "nats.npz") as file:
        nats = {name: file[name] for name in file}
    for split in ("validation", "test"):
        score = record[split]
        assert sum(record["windows"][split]) == pytest.approx(score["nll"] * score["characters"], rel=1e-5)
        assert nats[split].sum() == pytest.approx(score["nll"] * score["characters"], rel=1e-5)
        assert len(record["articles"][split]) == NUMBER
        for number, article in enumerate(record["articles"][split]):
            characters = nats[f"{split}_article_{number}"]
            assert article["characters"] == len(characters) == 8 * len(article["windows"])
            assert sum(article["windows"]) == pytest.approx(article["nats"], abs=1e-3)
            assert characters.sum() == pytest.approx(article["nats"], rel=1e-5)
    model = hrm_bench.build(cfg)
    model.load_state_dict(weights(folder))
    held = articles.of_cell(cfg.data, Library().load(cfg.data), Library())["test"]
    again = articles.scores(held, articles.read(model, held))
    assert [article["nats"] for article in again] == pytest.approx([a["nats"] for a in record["articles"]["test"]])


def test_articles_of_bytes_count_characters_and_those_of_a_vocabulary_what_it_lacks(tmp_path):
    text = "Ärger über Öl. " * 800
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    limits = ["data.validation_chars=300", "data.test_chars=300", "data=text_file", f"data.path={path}"]
    of_bytes = compose(*QUICK, *limits, "data.vocabulary=bytes").data
    (title, samples), *_ = articles.of_cell(of_bytes, Library().load(of_bytes), Library())["test"]
    assert title == "characters 301 to 412"
    assert samples.num_characters == 8 * ((len(text[10_800 + 300 : 10_800 + 412].encode()) - 1) // 8)
    (article,) = articles.scores([articles.Held(title, samples)], [torch.ones(samples.num_characters)])
    assert 111 >= article["characters"] > 100
    plain = compose(*QUICK, *limits, "data.most_unknown=1").data
    (_, samples), *_ = articles.of_cell(plain, Library().load(plain), Library())["test"]
    (article,) = articles.scores([articles.Held("", samples)], [torch.ones(samples.num_characters)])
    assert article["unknown"] == sum(character in "ÄüÖ" for character in text[10_800 + 300 : 10_800 + 412])


def test_a_task_has_no_articles():
    assert articles.pieces(compose("data=recall").data, window=64) == {}


def test_texts_of_other_lengths_are_each_read_to_their_last_whole_window():
    corpus = Library().load(compose("data=sample").data)
    held = []
    for number in (20, 21, 22):
        text = Text.read(["word " * number], corpus.vocabulary)
        held.append(articles.Held(str(number), Samples("test", text, window=8, windows_per_sample=1)))
    for words in (["model=infini_hrm", "memory=carry"], ["model=hrm"]):
        read = articles.read(hrm_bench.build(quick(*words)), held)
        assert [len(nats) for nats in read] == [96, 104, 104]
