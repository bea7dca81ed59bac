"""Text, vocabulary, windows and the order of batches."""

import collections

import pyarrow
import pytest
import torch
from pyarrow import parquet

import hrm_bench
from hrm_bench.data import corpora
from hrm_bench.data.text import PRINTABLE_ASCII, Text
from hrm_bench.data.windows import EvaluationBatches, Samples, TrainingBatches
from hrm_bench.errors import UsageError
from hrm_bench.training.build import load_windows

CHARACTERS = PRINTABLE_ASCII.characters
encode, decode = PRINTABLE_ASCII.encode, PRINTABLE_ASCII.decode


def data_config(*overrides):
    return hrm_bench.compose(*overrides).data


def samples_of(name, text, **settings):
    return Samples(name, Text.read([text]), **settings)


def test_the_vocabulary_is_printable_ascii_then_newline_and_tab():
    assert len(CHARACTERS) == 97
    assert (CHARACTERS[0], CHARACTERS[94], CHARACTERS[95:]) == (" ", "~", "\n\t")
    assert encode(CHARACTERS)[0].tolist() == list(range(97))
    assert decode(encode("a b\tc\n")[0]) == "a b\tc\n"


def test_any_other_character_is_read_as_a_space_and_counted():
    indices, unknown = encode("aé–\x00\U0001f600b\x7f")
    assert decode(indices) == "a    b "
    assert unknown == 5


def test_windows_are_consecutive_and_do_not_overlap():
    text = "".join(CHARACTERS[i % 97] for i in range(100))
    samples = samples_of("train", text, window=8, windows_per_sample=1)
    assert len(samples) == (100 - 1) // 8 == 12
    tokens, targets = samples[list(range(12))]
    assert tokens.dtype == targets.dtype == torch.long
    assert decode(tokens.flatten()) == text[:96]
    assert decode(targets.flatten()) == text[1:97]


def test_a_sample_is_consecutive_windows_and_scoring_keeps_the_last_shorter_one():
    samples = samples_of("test", "x" * 8 * 10 + "y", window=8, windows_per_sample=4)
    batches = list(EvaluationBatches(samples, batch_size=2))
    assert batches == [[0, 1], [2]]
    assert [samples[batch][0].shape for batch in batches] == [(2, 32), (1, 16)]
    assert sum(samples[batch][0].numel() for batch in batches) == samples.num_characters == 80
    assert len(EvaluationBatches(samples, batch_size=2)) == len(batches)


def test_words_are_counted_in_the_scored_text():
    assert samples_of("test", "one two three four", window=8, windows_per_sample=1).num_words == 4  # "ne two three fou"


def epochs(order, num=2, **settings):
    batches = TrainingBatches(38, **({"batch_size": 8, "order": order, "seed": 3} | settings))
    by_epoch = []
    for epoch in range(num):
        batches.set_epoch(epoch)
        by_epoch.append(list(batches))
        assert len(by_epoch[-1]) == len(batches)
    return by_epoch


def test_an_epoch_visits_each_sample_once_in_either_order():
    for order in ("shuffled", "contiguous"):
        for batches in epochs(order):
            assert sorted(index for batch in batches for index in batch) == list(range(38))


def test_shuffled_batches_are_a_function_of_seed_and_epoch():
    first, second = epochs("shuffled")
    assert first != second
    assert epochs("shuffled") == [first, second]
    assert epochs("shuffled", seed=4)[0] != first


def test_contiguous_lanes_are_streams_of_the_text():
    (batches,) = epochs("contiguous", num=1)
    streams = collections.defaultdict(list)
    for batch in batches:
        for lane, index in enumerate(batch):
            streams[lane].append(index)
    assert len(streams) == 8
    for stream in streams.values():
        assert stream == list(range(stream[0], stream[0] + len(stream)))
    assert max(map(len, streams.values())) - min(map(len, streams.values())) <= 1


def test_the_trainer_gets_another_order_each_epoch(monkeypatch):
    from conftest import SMALL, trainer

    cfg = hrm_bench.compose(*SMALL, "data.train_chars=400", "data.validation_chars=100")
    model, data = hrm_bench.build(cfg), load_windows(cfg)
    seen = []
    step = model.training_step

    def watched(batch, batch_idx):
        seen.append(batch[0])
        return step(batch, batch_idx)

    monkeypatch.setattr(model, "training_step", watched)
    trainer(max_epochs=2, num_sanity_val_steps=0).fit(model, datamodule=data)
    per_epoch = len(seen) // 2
    data.batches.set_epoch(1)
    expected = [data.train[batch][0] for batch in data.batches]
    assert all(torch.equal(batch, other) for batch, other in zip(seen[per_epoch:], expected, strict=True))
    assert not torch.equal(seen[0], seen[per_epoch])


def test_the_bundled_text_is_as_it_is_described():
    corpus = corpora.load(data_config("data=sample", "data.train_chars=null", "data.test_chars=null"))
    whole = corpora.load(
        data_config("data=sample", "data.train_chars=null", "data.validation_chars=null", "data.test_chars=null")
    )
    assert sum(map(len, whole.splits.values())) >= 35_000
    assert len(corpus.train) >= 20_000
    assert [split.unknown_characters for split in whole.splits.values()] == [0, 0, 0]
    texts = [decode(split.indices) for split in whole.splits.values()]
    for text in texts:
        assert len(text) >= 5_000
        assert text.startswith(" \n = ")
        assert all(line.startswith(" ") and line.endswith(" ") for line in text.splitlines())
    passages = collections.Counter()
    for text in texts:
        passages.update(text[i : i + 60] for i in range(len(text) - 60))
    assert passages.most_common(1)[0][1] == 1


def test_a_text_file_is_cut_in_order(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("".join(chr(97 + i % 26) for i in range(1000)), encoding="utf-8")
    corpus = corpora.load(data_config("data=text_file", f"data.path={path}"))
    assert {name: len(text) for name, text in corpus.splits.items()} == {"train": 800, "validation": 100, "test": 100}
    assert "".join(decode(text.indices) for text in corpus.splits.values()) == path.read_text()
    limited = corpora.load(data_config("data=text_file", f"data.path={path}", "data.train_chars=70"))
    assert torch.equal(limited.train.indices, corpus.train.indices[:70])
    assert torch.equal(limited.test.indices, corpus.test.indices)


def test_the_same_characters_have_the_same_fingerprint_wherever_they_were_read(tmp_path):
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("abc " * 100, encoding="utf-8")
    one, two = (
        corpora.load(data_config("data=text_file", f"data.path={tmp_path / n}")) for n in ("one.txt", "two.txt")
    )
    other = corpora.load(data_config("data=text_file", f"data.path={tmp_path / 'one.txt'}", "data.train_chars=100"))
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_a_text_too_short_for_one_window_is_refused():
    with pytest.raises(UsageError, match=r"data\.test_chars: the test text has 64 characters, too few for one window"):
        load_windows(hrm_bench.compose("data=sample", "data.test_chars=64"))
    assert load_windows(hrm_bench.compose("data=sample", "data.test_chars=65")).test.num_windows == 1


def test_a_folder_that_has_the_name_of_the_hubs_data_set_does_not_take_its_place(tmp_path, monkeypatch):
    folder = tmp_path / "Salesforce" / "wikitext" / "wikitext-2-v1"
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        parquet.write_table(pyarrow.table({"text": ["another text"]}), folder / f"{split}-0.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"data=wikitext2: the hub's Salesforce/wikitext cannot be reached; give "):
        corpora.load(data_config("data=wikitext2", "data.path=null"))


def test_a_folder_that_is_not_wikitext_is_refused(tmp_path):
    with pytest.raises(
        UsageError, match=r"not Salesforce/wikitext in the hub's layout .*HRM_BENCH_WIKITEXT.*data=sample"
    ):
        corpora.load(data_config("data=wikitext2", f"data.path={tmp_path}"))


def test_real_wikitext_is_that_of_the_reports(wikitext):
    data = load_windows(hrm_bench.compose("data=wikitext2"))
    splits = (data.train, data.validation, data.test)
    assert [split.num_windows for split in splits] == [312, 78, 78]
    assert [len(split.indices) for split in splits] == [20_000, 5_000, 5_000]
    assert [split.unknown_characters for split in splits[:2]] == [14, 10]
    assert data.validation.num_characters == 4_992
    assert decode(data.train.indices[:40]).startswith(" \n = Valkyria Chronicles III = ")
