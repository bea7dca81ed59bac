"""The W&B workspace: its panels, built offline; what is saved, on a stand-in server; its errors without one."""

import http.server
import json
import os
import subprocess
import sys
import threading
import warnings

import pytest
from conftest import ROOT, compose
from omegaconf import OmegaConf

from hrm_bench.evidence.measures import Score
from hrm_bench.records.schema import Epoch, Record

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
NOWHERE = "http://127.0.0.1:9"

pytest.importorskip("wandb_workspaces")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's use of pydantic
    from wandb_workspace import varying_keys, workspace


def run(tmp_path, *words, **environment):
    """Run the command without the login of whoever runs the tests."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "wandb_workspace.py"), *words],
        cwd=tmp_path,
        env=clean | home | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fault(done):
    """Return the one line of a command that stopped."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    return done.stderr.splitlines()[-1]


def section(**settings):
    """Return what W&B would be sent."""
    view = workspace(entity="me", project="hrm_bench", **settings)._to_model()
    return view.model_dump(by_alias=True, exclude_none=True)["spec"]["section"]


def panels(spec):
    return [panel for each in spec["panelBankConfig"]["sections"] for panel in each["panels"]]


def grouping(spec):
    return [f"{key['section']}:{key['name']}" for key in spec["runSets"][0]["grouping"]]


def test_the_sections_show_the_course_the_best_the_cost_and_each_seed():
    spec = section()
    shown = {
        each["name"]: [panel["viewType"] for panel in each["panels"]] for each in spec["panelBankConfig"]["sections"]
    }
    assert shown["Validation by epoch"] == ["Run History Line Plot"] * 3
    assert set(shown["Best epoch"]) == {"Bar Chart"}
    assert shown["Cost"] == ["Bar Chart", "Bar Chart", "Run History Line Plot"]
    assert shown["Seeds"] == ["Parallel Coordinates Plot", "Scatter Plot"]
    perplexity = next(panel["config"] for panel in panels(spec) if panel["viewType"] == "Run History Line Plot")
    assert (perplexity["metrics"], perplexity["yLogScale"]) == (["epoch/validation_perplexity"], True)
    assert (perplexity["groupAgg"], perplexity["groupArea"]) == ("mean", "minmax")


def test_every_figure_shown_is_one_that_a_run_has():
    spec = section()
    of_the_end = {f"{split}/{key}" for split in ("validation", "test") for key in Score.__annotations__}
    of_the_end |= set(Record.__annotations__)
    configs, summaries = set(), set()
    for panel in panels(spec):
        config = panel["config"]
        if panel["viewType"] == "Run History Line Plot":
            assert {*config["metrics"], config["xAxis"]} <= {
                *(f"epoch/{key}" for key in Epoch.__annotations__),
                "_step",
            }
        summaries |= set(config["metrics"]) if panel["viewType"] == "Bar Chart" else set()
        axes = [each["accessor"] for each in config.get("columns", [])]
        axes += [config["xAxis"], config["yAxis"]] if panel["viewType"] == "Scatter Plot" else []
        summaries |= {axis.removeprefix("summary:") for axis in axes if axis.startswith("summary:")}
        configs |= {axis for axis in axes if axis.startswith("config:")}
    columns = [*spec["runSets"][0]["runFeed"]["columnPinned"], *grouping(spec)]
    summaries |= {each.removeprefix("summary:") for each in columns if each.startswith("summary:")}
    configs |= {each for each in columns if each.startswith("config:")}
    assert {"validation/perplexity", "test/perplexity", "parameters", "characters_per_second"} < summaries <= of_the_end
    cell = compose("data=sample")
    keys = {key.removeprefix("config:").replace(".value", ""): key for key in configs}
    assert set(keys) == {"model.name", "memory.mode", "seed"}
    assert all(OmegaConf.select(cell, key) is not None for key in keys)


def test_a_run_that_is_not_causal_is_never_averaged_with_one_that_is():
    spec = section(experiment="hrm_vs_infini")
    assert grouping(spec) == ["config:model.value.name", "config:memory.value.mode", "summary:causal"]
    assert spec["settings"]["useRunsTableGroupingInPanels"]
    assert all("groupBy" not in panel["config"] for panel in panels(spec))
    assert spec["runSets"][0]["runFeed"]["columnPinned"]["summary:causal"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_only_seeds_share_a_group_of_a_shipped_experiment(name):
    experiment = OmegaConf.load(ROOT / "conf" / "experiment" / f"{name}.yaml")
    sweeper = OmegaConf.select(experiment, "hydra.sweeper", default={})
    swept = {*sweeper.get("params", ()), *(word.split("=")[0] for case in sweeper.get("cases", ()) for word in case)}
    grouped = {key.replace(".value", "").split(":")[1].split(".name")[0] for key in grouping(section(experiment=name))}
    seeds = {key.removesuffix(".name") for key in swept} - grouped
    assert seeds <= {"seed", "memory"}  # memory.mode is a key of every workspace


def test_trials_of_a_search_are_not_averaged_as_seeds():
    keys = grouping(section(experiment="tuning"))
    assert any("learning_rate" in key for key in keys)


def test_one_experiment_is_a_filter_and_all_are_groups():
    one, every = section(experiment="hrm_vs_lct"), section()
    (filtered,) = one["runSets"][0]["filters"]["filters"]
    assert (filtered["key"], filtered["op"], filtered["value"]) == (
        {"section": "run", "name": "group"},
        "=",
        "hrm_vs_lct",
    )
    assert every["runSets"][0]["filters"]["filters"] == []
    assert (grouping(every)[0], grouping(one)[0]) == ("run:group", "config:model.value.name")


def test_a_case_of_a_sweep_varies_what_it_overrides(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    cases = [[], ["recipe.name=x", "recipe.warmup=0"], ["recipe.name=y", "model.update=simultaneous"]]
    OmegaConf.save({"hydra": {"sweeper": {"cases": cases}}}, tmp_path / "experiment" / "mine.yaml")
    monkeypatch.setattr("wandb_workspace.conf_folder", lambda: tmp_path)
    assert varying_keys("mine") == ["recipe.name", "recipe.warmup", "model.update"]


def test_a_wrong_word_is_one_line(tmp_path):
    assert "did you mean project?" in fault(run(tmp_path, "projct=x"))
    assert "may contain letters" in fault(run(tmp_path, "experiment=it's"))


def test_without_a_login_the_command_for_one_is_shown(tmp_path):
    line = fault(run(tmp_path, WANDB_BASE_URL=NOWHERE))
    assert line == f"hrm_bench: no login for W&B's server {NOWHERE}: run wandb login, or set WANDB_API_KEY"


@pytest.fixture
def server():
    """A stand-in for W&B's server, with the views that it was request to save; ``refuses`` makes it say no."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(200, {})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path != "/graphql":
                self.answer(404, {})
                return
            request = json.loads(body)
            if "upsertView" not in request["query"]:
                self.answer(200, {"data": {"viewer": {"id": "1", "entity": "team", "username": "me", "flags": "{}"}}})
            elif stand_in.refuses:
                self.answer(200, {"data": None, "errors": [{"message": stand_in.refuses}]})
            else:
                stand_in.views.append(request["variables"])
                view = {"id": "1", "name": request["variables"]["name"]}
                self.answer(200, {"data": {"upsertView": {"view": view, "inserted": True}}})

        def answer(self, status, value):
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    stand_in = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand_in.views, stand_in.refuses = [], ""
    stand_in.login = {"WANDB_BASE_URL": f"http://127.0.0.1:{stand_in.server_port}", "WANDB_API_KEY": "0123456789" * 4}
    threading.Thread(target=stand_in.serve_forever, daemon=True).start()
    yield stand_in
    stand_in.shutdown()
    stand_in.server_close()


def test_with_a_login_it_is_saved_in_the_default_entity_and_its_url_is_printed(server, tmp_path):
    done = run(tmp_path, "experiment=hrm_vs_lct", **server.login)
    assert (done.returncode, done.stderr) == (0, "")
    (view,) = server.views
    assert (view["entityName"], view["projectName"]) == ("team", "hrm_bench")
    assert view["displayName"] == "hrm_vs_lct: model, memory, seed"
    name = view["name"].removeprefix("nw-").removesuffix("-v")
    assert done.stdout == f"Saved: {server.login['WANDB_BASE_URL']}/team/hrm_bench?nw={name}\n"
    assert len(json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]) == 6


def test_a_refusal_is_one_line(server, tmp_path):
    server.refuses = "project\n not found"
    line = fault(run(tmp_path, "project=mine", "entity=else", **server.login))
    assert line.startswith("hrm_bench: project=mine: W&B did not save the workspace: ")
