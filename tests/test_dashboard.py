"""The dashboard: what is in it, built offline; what is saved, on a server of our own; what is told without one."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

import hrm_bench
from hrm_bench import dashboard
from hrm_bench.errors import UsageError
from hrm_bench.evidence.measures import Score
from hrm_bench.records.schema import Epoch, Record

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
KEY = "0123456789" * 4
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("wandb_workspaces")


def run(tmp_path, *words, program=(), **environment):
    """The command, as one without a login types it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_MODE": "offline"}
    return subprocess.run(
        [sys.executable, "-W", "default::DeprecationWarning", *(program or ["-m", "hrm_bench.dashboard"]), *words],
        cwd=tmp_path,
        env=clean | home | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def told(done):
    """The one line of a command that stopped."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    return line


def section(**settings):
    """What W&B would be sent."""
    view = dashboard.workspace(entity="me", project="hrm_bench", **settings)._to_model()
    return view.model_dump(by_alias=True, exclude_none=True)["spec"]["section"]


def panels(spec):
    return [panel for each in spec["panelBankConfig"]["sections"] for panel in each["panels"]]


def grouping(spec):
    return [f"{key['section']}:{key['name']}" for key in spec["runSets"][0]["grouping"]]


def test_the_sections_show_the_course_the_best_the_cost_and_each_seed(library):
    spec = section()
    shown = {
        each["name"]: [panel["viewType"] for panel in each["panels"]] for each in spec["panelBankConfig"]["sections"]
    }
    assert shown["Validation by epoch"] == ["Run History Line Plot"] * 3
    assert set(shown["Best epoch"]) == {"Bar Chart"}
    assert shown["Cost"] == ["Bar Chart", "Bar Chart", "Run History Line Plot"]
    assert shown["Seeds"] == ["Parallel Coordinates Plot", "Scatter Plot"]
    perplexity = next(panel["config"] for panel in panels(spec) if panel["viewType"] == "Run History Line Plot")
    assert (perplexity["metrics"], perplexity["yLogScale"]) == (["validation_perplexity"], True)
    assert (perplexity["groupAgg"], perplexity["groupArea"]) == ("mean", "minmax")


def test_every_figure_shown_is_one_that_a_run_has(library):
    spec = section()
    of_the_end = {f"{split}/{key}" for split in ("validation", "test") for key in Score.__annotations__}
    of_the_end |= set(Record.__annotations__)
    configs, summaries = set(), set()
    for panel in panels(spec):
        config = panel["config"]
        if panel["viewType"] == "Run History Line Plot":
            assert {*config["metrics"], config["xAxis"]} <= {*Epoch.__annotations__, "_step"}
        summaries |= set(config["metrics"]) if panel["viewType"] == "Bar Chart" else set()
        axes = [each["accessor"] for each in config.get("columns", [])]
        axes += [config["xAxis"], config["yAxis"]] if panel["viewType"] == "Scatter Plot" else []
        summaries |= {axis.removeprefix("summary:") for axis in axes if axis.startswith("summary:")}
        configs |= {axis for axis in axes if axis.startswith("config:")}
    columns = [*spec["runSets"][0]["runFeed"]["columnPinned"], *grouping(spec)]
    summaries |= {each.removeprefix("summary:") for each in columns if each.startswith("summary:")}
    configs |= {each for each in columns if each.startswith("config:")}
    assert {"validation/perplexity", "test/perplexity", "parameters", "characters_per_second"} < summaries <= of_the_end
    cell = hrm_bench.compose("data=sample")
    found = {key.removeprefix("config:").replace(".value", ""): key for key in configs}
    assert set(found) == {"model.name", "memory.mode", "seed"}
    assert all(OmegaConf.select(cell, key) is not None for key in found)


def test_a_run_that_is_not_causal_is_never_averaged_with_one_that_is(library):
    spec = section(experiment="hrm_vs_infini")
    assert grouping(spec) == ["config:model.value.name", "config:memory.value.mode", "summary:causal"]
    assert spec["settings"]["useRunsTableGroupingInPanels"]
    assert all("groupBy" not in panel["config"] for panel in panels(spec))
    assert spec["runSets"][0]["runFeed"]["columnPinned"]["summary:causal"]


GROUPS = {"model": "model.name", "memory": "memory.mode", "recipe": "recipe.name"}


def test_only_seeds_share_a_group_of_a_shipped_experiment(library):
    for name in EXPERIMENTS:
        sweep = OmegaConf.select(OmegaConf.load(ROOT / "conf" / "experiment" / f"{name}.yaml"), "hydra.sweeper.params")
        told_apart = [key.replace(".value", "").split(":")[1] for key in grouping(section(experiment=name))]
        missing = {GROUPS.get(key, key) for key in sweep or {}} - {*told_apart}
        assert missing <= {"seed"}, name
        assert all("." in key or key in {*GROUPS, "seed", "scale"} for key in sweep or {}), (
            name
        )  # no other whole groups


def test_trials_of_a_search_are_not_averaged_as_seeds(library):
    keys = grouping(section(experiment="tuning"))
    assert any("learning_rate" in key for key in keys)


def test_one_experiment_is_a_filter_and_all_are_groups(library):
    one, every = section(experiment="hrm_vs_lct"), section()
    (filtered,) = one["runSets"][0]["filters"]["filters"]
    assert (filtered["key"], filtered["op"], filtered["value"]) == (
        {"section": "run", "name": "group"},
        "=",
        "hrm_vs_lct",
    )
    assert every["runSets"][0]["filters"]["filters"] == []
    assert (grouping(every)[0], grouping(one)[0]) == ("run:group", "config:model.value.name")


def test_bad_words_are_a_line_each():
    with pytest.raises(UsageError) as error:
        dashboard.parse(["projct=x", "rubbish", "entity=", "experiment=it's", "project=mine"])
    assert error.value.faults == (
        "projct: no such key; allowed are project, entity, experiment; did you mean project=x?",
        "rubbish: not understood; write key=value, with a key of project, entity, experiment",
        "entity=: must not be empty; give entity=NAME, or leave it out",
        "experiment=it's: may have letters, digits, blanks and . _ - only",
    )


def test_words_override_the_defaults():
    assert dashboard.parse([]) == {"project": "hrm_bench", "entity": "", "experiment": ""}
    assert dashboard.parse(["experiment=demo"])["experiment"] == "demo"


def test_without_the_library_its_install_command_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    for command in (lambda: dashboard.main([]), lambda: dashboard.workspace(entity="me", project="mine")):
        with pytest.raises(UsageError, match=r"^wandb-workspaces is not installed .*'hrm_bench\[dashboard\]'$"):
            command()


def test_without_a_login_the_command_for_one_is_told(library, tmp_path):
    line = told(run(tmp_path, WANDB_BASE_URL=NOWHERE))
    assert line == f"hrm_bench: no login for W&B's server {NOWHERE}: run wandb login, or set WANDB_API_KEY"


def test_a_key_that_cannot_be_one_is_told(library, tmp_path):
    assert "WANDB_API_KEY invalid: " in told(run(tmp_path, WANDB_BASE_URL=NOWHERE, WANDB_API_KEY="short"))


def test_a_server_that_does_not_answer_is_told_quickly(library, tmp_path):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:9\n  login user\n  password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    began = time.monotonic()
    line = told(run(tmp_path, WANDB_BASE_URL=NOWHERE))
    assert line == f"hrm_bench: W&B's server {NOWHERE} does not answer; nothing is saved"
    assert time.monotonic() - began < 30


@pytest.fixture
def server():
    """A W&B server of our own: its URL, and the views that it was asked to save; ``refuses`` makes it say no."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(200, {})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path != "/graphql":
                self.answer(404, {})
                return
            asked = json.loads(body)
            if "upsertView" not in asked["query"]:
                self.answer(200, {"data": {"viewer": {"id": "1", "entity": "team", "username": "me", "flags": "{}"}}})
            elif ours.hangs:
                ours.released.wait(120)
            elif ours.refuses:
                self.answer(200, {"data": None, "errors": [{"message": ours.refuses}]})
            else:
                ours.views.append(asked["variables"])
                view = {"id": "1", "name": asked["variables"]["name"]}
                self.answer(200, {"data": {"upsertView": {"view": view, "inserted": True}}})

        def answer(self, status, value):
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    ours = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ours.views, ours.refuses, ours.hangs, ours.released = [], "", False, threading.Event()
    ours.login = {"WANDB_BASE_URL": f"http://127.0.0.1:{ours.server_port}", "WANDB_API_KEY": KEY}
    threading.Thread(target=ours.serve_forever, daemon=True).start()
    yield ours
    ours.released.set()
    ours.shutdown()
    ours.server_close()


def test_with_a_login_it_is_saved_in_the_default_entity_and_its_url_is_printed(library, server, tmp_path):
    done = run(tmp_path, "experiment=hrm_vs_lct", **server.login)
    assert (done.returncode, done.stderr) == (0, "")
    (view,) = server.views
    assert (view["entityName"], view["projectName"]) == ("team", "hrm_bench")
    assert view["displayName"] == "hrm_vs_lct: model, memory, seed"
    name = view["name"].removeprefix("nw-").removesuffix("-v")
    assert done.stdout == f"Saved: {server.login['WANDB_BASE_URL']}/team/hrm_bench?nw={name}\n"
    assert len(json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]) == 6


def test_a_refusal_is_one_line(library, server, tmp_path):
    server.refuses = "project\n not found"
    line = told(run(tmp_path, "project=mine", "entity=else", **server.login))
    assert re.fullmatch("hrm_bench: mine: W&B did not save the workspace: .*project not found", line)


def test_a_server_that_hangs_is_not_waited_for(library, server, tmp_path):
    server.hangs = True
    began = time.monotonic()
    line = told(run(tmp_path, "entity=me", WANDB_HTTP_TIMEOUT="2", **server.login))
    assert line.startswith("hrm_bench: hrm_bench: W&B did not save the workspace: ")
    assert time.monotonic() - began < 60


DEADLOCK = """
import runpy
from wandb.sdk.lib.service.service_client import ServiceClient
publish = ServiceClient.publish
async def lose(self, request):
    if not request.HasField("inform_teardown"):
        await publish(self, request)
ServiceClient.publish = lose
runpy.run_module("hrm_bench.dashboard", run_name="__main__", alter_sys=True)
"""


def test_a_service_of_wandb_that_never_ends_is_not_waited_for(library, tmp_path):
    """As when its connection breaks before it is told to end, and wandb's exit hook goes on to wait for it."""
    began = time.monotonic()
    line = told(run(tmp_path, program=["-c", DEADLOCK], WANDB_BASE_URL=NOWHERE, WANDB_API_KEY=KEY))
    assert line.endswith("does not answer; nothing is saved")
    assert time.monotonic() - began < 60
