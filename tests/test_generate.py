"""Continuing a text: the same as reading all of it again for each character, in any batch; and the command."""

import copy
import re
import shutil
import subprocess
import sys

import pytest
import torch
from commands import hrm_bench
from conftest import MODELS, quick, random_batch, small, train, trainer
from torch.utils.data import DataLoader

from hrm_bench import cli
from hrm_bench.cells.reopen import load_cell
from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.data.text import PRINTABLE_ASCII
from hrm_bench.errors import UsageError
from hrm_bench.evidence.generation import generate
from hrm_bench.generate import HELP, main

# In windows of 8: less than one, one less a character, one, one and a character, whole ones, and whole ones and a part
PROMPTS = ["a", "The qui", "Twelve, ", "Nine nine", "~" * 24, "it began {in 1871}, and then again"]
MEMORIES = [
    ["model=infini_hrm", "memory=carry"],
    ["model=infini_hrm", "memory=reset", "memory.rule=delta"],
    ["model=hrm_memory", "memory=carry"],
]
KINDS = [["model=hrm"], ["model=lstm"], ["model=infini_hrm", "memory=none"], *MEMORIES]
kinds = pytest.mark.parametrize("words", KINDS, ids=" ".join)


def lively(*words):
    """A small model whose characters differ enough for its texts to."""
    model = small(*words)
    with torch.no_grad():
        model.embedding.weight.mul_(50)
    return model


def greedy(model, *prompts, length=25):  # at least 3 ends of windows
    return generate(model, prompts, length=length, temperature=0, seed=1)


def drawn(model, *prompts, seed=1, temperature=1.0):
    return generate(model, prompts, length=25, temperature=temperature, seed=seed)


@torch.no_grad()
def naive(model, prompt, choose):
    """25 more characters, for each of which the whole text is read anew."""
    probe = copy.deepcopy(model).double().eval()
    text, _ = PRINTABLE_ASCII.encode(prompt)
    for _ in range(25):
        logits, _ = probe(text[None])
        text = torch.cat((text, choose(logits[0, -1]).reshape(1)))
    return PRINTABLE_ASCII.decode(text)[len(prompt) :]


@kinds
def test_greedy_text_is_the_same_in_any_batch(words):
    model = lively(*words)
    alone = [greedy(model, prompt)[0] for prompt in PROMPTS]
    assert len(set(alone)) == len(PROMPTS)  # if they all ended alike, they could change places
    assert greedy(model, *PROMPTS) == alone
    assert greedy(model, *PROMPTS[::-1]) == alone[::-1]
    assert greedy(model, *[PROMPTS[-1]] * 5) == [alone[-1]] * 5


@pytest.mark.parametrize("words", [*([f"model={name}"] for name in MODELS), *KINDS[2:]], ids=" ".join)
def test_greedy_text_is_that_of_reading_everything_anew_at_every_step(words):
    model = lively(*words)
    prompts = [PROMPTS[2], PROMPTS[-1]]
    assert greedy(model, *prompts) == [naive(model, prompt, torch.argmax) for prompt in prompts]


def test_drawn_characters_have_the_probabilities_of_reading_everything_anew(monkeypatch):
    model = lively(*MEMORIES[0])
    levels = torch.rand(25, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()

    def at_levels():
        left = iter(levels)
        return lambda probabilities, *_, **__: (probabilities.cumsum(-1) < next(left)).sum().reshape(1)

    choose = at_levels()
    expected = naive(model, PROMPTS[-1], lambda logits: choose((logits / 0.7).softmax(-1)))
    monkeypatch.setattr(torch, "multinomial", at_levels())
    assert drawn(model, PROMPTS[-1], temperature=0.7) == [expected]


def test_a_drawn_text_is_decided_by_its_seed_and_lane_alone():
    model = lively(*MEMORIES[0])
    lanes = drawn(model, *["The "] * 3)
    assert drawn(model, *["The "] * 3) == lanes
    assert len({*lanes, *drawn(model, *["The "] * 3, seed=2)}) == 6
    assert drawn(model, "The ") == lanes[:1]
    assert drawn(model, PROMPTS[-1], "The ", PROMPTS[0])[1] == lanes[1]


def test_a_low_temperature_is_greedy_and_a_high_one_draws_every_character():
    model = lively("model=lstm")
    assert drawn(model, "The ", temperature=1e-320) == greedy(model, "The ")
    assert len(set("".join(drawn(model, *["The "] * 40, temperature=1e308)))) == 97


def test_a_drawn_character_follows_the_models_own_distribution():
    model = lively("model=hrm")
    texts = generate(model, ["The "] * 4000, length=1, temperature=1, seed=1)
    counts = torch.bincount(PRINTABLE_ASCII.encode("".join(texts))[0], minlength=97)
    with torch.no_grad():
        expected = model(PRINTABLE_ASCII.encode("The ")[0][None])[0][0, -1].softmax(-1) * 4000
    likely = expected > 5
    assert likely.sum() > 10
    chi_squared = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert chi_squared < 2 * likely.sum()  # its mean is their number


@pytest.mark.parametrize("words", MEMORIES, ids=" ".join)
def test_what_was_read_windows_ago_matters_where_there_is_a_memory(words, monkeypatch):
    model = lively(*words)
    prompts = ["x" * 16 + " ago", "?" * 16 + " ago"]  # alike in the window that they end in
    first, second = greedy(model, *prompts)
    assert first != second
    monkeypatch.setattr("hrm_bench.layers.carried.where", lambda mask, new, old: old)  # planted: nothing is ever kept
    forgetful = greedy(model, *prompts)
    assert forgetful[0] == forgetful[1]
    assert forgetful[0] not in (first, second)


def test_it_goes_on_as_it_was_trained():
    text, _ = PRINTABLE_ASCII.encode("abcdefgh" * 2 + "a")
    model = train(small("model=lstm"), [(text[None, :-1], text[None, 1:])] * 300)
    assert greedy(model, "abc", "h") == [("defghabc" * 4)[:25], ("abcdefgh" * 4)[:25]]


@pytest.mark.parametrize("words", [["model=lct_2layer"], *MEMORIES[:1]], ids=" ".join)
def test_the_model_stays_as_it_was(words):
    model = small(*words)
    trainer().validate(model, DataLoader([random_batch(2, 16)], batch_size=None), verbose=False)
    for mode in (True, False):
        model.train(mode)
        before = copy.deepcopy(model.state_dict())
        assert greedy(model, *PROMPTS) == greedy(model, *PROMPTS)  # in training mode LCT would draw its states
        assert [module.training for module in model.modules()] == [mode] * len(list(model.modules()))
        after = model.state_dict()
        assert all(after[name].equal(value) and after[name].dtype == value.dtype for name, value in before.items())
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_prompts_are_no_texts():
    assert drawn(small("model=hrm")) == []


def test_what_cannot_be_generated_is_told_together():
    with pytest.raises(UsageError) as refused_call:
        generate(small("model=hrm"), ["", "na\xefve"], length=0, temperature=float("nan"), seed=1)
    assert refused_call.value.faults == (
        "length=0: must be at least 1; try length=200",
        "temperature=nan: must be at least 0 and finite; try temperature=0.8",
        'prompt: must not be empty, because a model predicts what follows a character; try prompt="The "',
        "prompt: 'ï' is not in the vocabulary; allowed are printable ASCII, newline and tab",
    )


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """The folder of a finished cell."""
    root = tmp_path_factory.mktemp("multirun")
    cfg = quick("model=infini_hrm", "memory=carry", "recipe.max_epochs=1")
    assert run_cell(cfg, root)["status"] == "finished"
    return cell_folder(cfg, root)


@pytest.fixture
def copied(cell, tmp_path):
    """A copy of it, to be spoilt."""
    return shutil.copytree(cell, tmp_path / "cell")


def test_the_command_prints_the_prompt_and_what_follows(cell, tmp_path):
    done = hrm_bench(f"run={cell}", "length=20", cwd=tmp_path, module="hrm_bench.generate")
    assert (done.returncode, done.stderr) == (0, "")
    (text,) = generate(load_cell(cell), ["The "], length=20, temperature=0.8, seed=1)
    assert done.stdout == f"The {text}\n"


def test_the_command_numbers_samples_and_takes_all_its_words(cell, capsys):
    words = ["prompt= a=b ", "length=9", "temperature=2", "seed=-3", "samples=2"]
    assert main([f"run={cell}", *words]) == 0
    first, second = generate(load_cell(cell), [" a=b "] * 2, length=9, temperature=2, seed=-3)
    assert capsys.readouterr().out == f"--- 1 of 2 ---\n a=b {first}\n--- 2 of 2 ---\n a=b {second}\n"


def test_the_command_reads_the_best_weights_and_the_memory_mode_of_the_cell(cell):
    model = load_cell(cell)
    best = torch.load(cell / "best.ckpt", weights_only=True)["state_dict"]
    assert all(value.equal(best[name]) for name, value in model.state_dict().items())
    assert model.memory_policy.mode == "carry"


def test_a_cell_that_was_trained_on_a_gpu_is_read_on_the_cpu(copied):
    replace(copied / "config.yaml", "accelerator: cpu", "accelerator: gpu")
    assert load_cell(copied).device == torch.device("cpu")


def test_help_names_every_word(capsys):
    for words in (["run=nowhere", "--help"], ["-h"]):
        with pytest.raises(SystemExit) as ended:
            cli.run(main, HELP, words)
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert all(f"\n  {key}=" in shown for key in ("run", "prompt", "length", "temperature", "seed", "samples"))


def test_a_reader_that_has_seen_enough_gets_no_traceback(cell):
    program = f"{sys.executable} -m hrm_bench.generate run={cell} length=9 samples=2"
    done = subprocess.run(f"{program} | true", shell=True, capture_output=True, text=True, check=True, timeout=240)
    assert done.stderr == ""


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def refused(capsys, *words):
    """Return the lines on stderr of a command that exits with 2 and prints nothing else."""
    with pytest.raises(SystemExit) as ended:
        cli.run(main, HELP, words)
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    return printed.err.splitlines()


BAD = {
    "no cell": ([], "run: must be given; run=FOLDER"),
    "a misspelt key": (["run=.", "lenght=3"], "lenght: no such key; allowed are run, prompt, .*; did you mean length?"),
    "a key of a config": (["run=.", "model.width=3"], "model.width: no such key; allowed are run, .*, samples"),
    "no whole number": (["run=.", "length=x"], "length=x: must be a whole number"),
    "no number": (["run=.", "temperature=hot"], "temperature=hot: must be a number"),
    "a prompt without quotes": (["run=.", "prompt=The", "cat"], "cat: not understood; write key=value, .* in quotes"),
    "no samples": (["run=.", "samples=0"], "samples=0: must be at least 1; try samples=1"),
    "no length": (["run=.", "length=-1"], "length=-1: must be at least 1; try length=200"),
    "a negative temperature": (["run=.", "temperature=-1"], "temperature=-1.0: must be at least 0 and finite; .*"),
    "an empty prompt": (["run=.", "prompt="], "prompt: must not be empty, .*"),
    "an unknown character": (["run=.", "prompt=\u2018"], "prompt: '\u2018' is not in the vocabulary; allowed are .*"),
    "bytes that are not text": (["run=.", "prompt=\udce9"], r"prompt: '\\udce9' is not in the vocabulary; .*"),
    "no such folder": (["run=nowhere"], "run=nowhere: no such folder; give the folder of a finished cell"),
    "a folder without a cell": (["run=."], r"run=.: no record.json here; give the folder of a finished cell"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line_and_status_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (line,) = refused(capsys, *words)
    assert re.fullmatch(f"hrm_bench: {message.replace('?', '[?]')}", line), line


SPOILT = {
    "not finished": (
        lambda cell: replace(cell / "record.json", '"finished"', '"interrupted"'),
        r"run=\S+: not a finished cell of this version \(status interrupted, record version \d+\); run it again, .*",
    ),
    "not causal": (
        lambda cell: replace(cell / "record.json", '"causal": true', '"causal": false'),
        r"run=\S+: not causal: a model that sees later characters cannot write; give another",
    ),
    "half a record": (lambda cell: (cell / "record.json").write_text("{"), r"\S+record.json: not a record .*"),
    "no record": (lambda cell: (cell / "record.json").unlink(), r"run=\S+: no record.json here; .*"),
    "no config": (lambda cell: (cell / "config.yaml").unlink(), r"\S+config.yaml: cannot be read, .*No such file.*"),
    "no YAML": (lambda cell: (cell / "config.yaml").write_text("a: [1,"), r"\S+config.yaml: cannot be read, .*"),
    "no config's keys": (
        lambda cell: (cell / "config.yaml").write_text("seed: 1"),
        r"\S+: .*model: missing; give .*",
    ),
    "a model that is gone": (
        lambda cell: replace(cell / "config.yaml", "infini_hrm.InfiniHRM", "gone.Gone"),
        r"\S+config.yaml: cannot be read, or not by this version \(model._target_=\S+: cannot be imported .*",
    ),
    "a setting that is gone": (
        lambda cell: replace(cell / "config.yaml", "  rule: ", "  ruler: "),
        r"\S+config.yaml: cannot be read, or not by this version \(memory\.rule: missing.*\); give another cell",
    ),
    "weights of another model": (
        lambda cell: replace(cell / "config.yaml", "width: 16", "width: 32"),
        r"\S+best.ckpt: cannot be read, or not by this version \(.* loading state_dict for InfiniHRM\); .*",
    ),
    "no weights": (
        lambda cell: (cell / "best.ckpt").unlink(),
        r"\S+: has no best.ckpt; an archive keeps no weights, and .*",
    ),
    "half the weights": (lambda cell: truncate(cell / "best.ckpt", 3000), r"\S+best.ckpt: cannot be read, .*"),
    "empty weights": (lambda cell: truncate(cell / "best.ckpt", 0), r"\S+best.ckpt: cannot be read, .*"),
    "weights that are text": (
        lambda cell: (cell / "best.ckpt").write_text("half a checkpoint"),
        r"\S+best.ckpt: cannot be read, .*",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_cell_is_one_clear_line_and_status_2(spoil, message, copied, capsys):
    spoil(copied)
    (line,) = refused(capsys, f"run={copied}")
    assert re.fullmatch(f"hrm_bench: {message}", line), line


def test_a_cell_that_reads_ahead_is_refused(tmp_path):
    cfg = quick("model=hrm", "model.causal=false", "recipe.max_epochs=1")
    assert run_cell(cfg, tmp_path)["status"] == "finished"
    done = hrm_bench(f"run={cell_folder(cfg, tmp_path)}", cwd=tmp_path, module="hrm_bench.generate")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert ": not causal: " in done.stderr


def test_the_folder_of_a_sweep_names_a_cell_in_it(cell, capsys):
    (line,) = refused(capsys, f"run={cell.parent}")
    assert line.endswith(f"no record.json here; did you mean a cell in it, run={cell}?")


def test_all_faults_of_the_words_are_printed_together(capsys):
    assert len(refused(capsys, "length=0", "seed=one", "top_k=3", "prompt=\u2018")) == 5
