"""The HTML page: what it says, and in headless Chromium how it is laid out."""

import base64
import json
import os
import re
import select
import shutil
import subprocess
from html import unescape

import pytest
from made_up import failed, record, sweep

from hrm_bench.report import summaries, write
from hrm_bench.report.frame import Sweep

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# What is wrong with a page as it is laid out: wider than its window, an empty plot, a plot's text cut off or covered.
FAULTS = """(() => {
  const faults = [], page = document.scrollingElement;
  if (page.scrollWidth > innerWidth) faults.push(`page is ${page.scrollWidth} px wide in ${innerWidth}`);
  for (const svg of document.querySelectorAll("svg")) {
    const name = svg.getAttribute("aria-label"), frame = svg.getBoundingClientRect();
    const drawn = [...svg.querySelectorAll("path, use")].filter((path) => {
      const look = getComputedStyle(path), box = path.getBBox();
      return !path.closest("defs") && (look.fill + look.stroke !== "nonenone") && box.width + box.height > 0;
    });
    if (!drawn.length || !frame.width || !frame.height) faults.push(`empty plot: ${name}`);
    const texts = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
    texts.forEach(([content, box], index) => {
      const out = [frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom];
      if (Math.max(...out) > 2) faults.push(`text cut off by ${Math.max(...out)} px: ${content} in ${name}`);
      for (const [other, its] of texts.slice(index + 1)) {
        const width = Math.min(box.right, its.right) - Math.max(box.left, its.left);
        const height = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
        if (width > 3 && height > 5) faults.push(`texts overlap: ${content} and ${other} in ${name}`);
      }
    });
  }
  return faults;
})()"""


class Browser:
    """A page of a headless Chromium, spoken to over DevTools' pipe."""

    def __init__(self, profile):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        theirs, self.ours = os.pipe()
        self.answers, their_answers = os.pipe()
        # DevTools reads from 3 and writes to 4.
        shell = f"exec {CHROMIUM} {' '.join(flags)} --user-data-dir={profile} 3<&{theirs} 4>&{their_answers}"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(["bash", "-c", shell], pass_fds=(theirs, their_answers), **quiet)
        os.close(theirs)
        os.close(their_answers)
        self.rest, self.number, self.session, self.events = b"", 0, {}, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, **self.session}
        os.write(self.ours, json.dumps(message).encode() + b"\0")
        while (answer := self.next()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def next(self):
        while b"\0" not in self.rest:
            assert select.select([self.answers], [], [], 60)[0], "Chromium says nothing"
            part = os.read(self.answers, 1 << 20)
            assert part, "Chromium has ended"
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def open(self, path, *, width, media="screen", scheme="light"):
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Page.navigate", url=path.absolute().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.next())
        assert self.run("innerWidth") == width

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def complaints(self):
        """What the page has written to the console or thrown, and what it has asked of others."""
        loud = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
        told = [event for event in self.events if event.get("method") in loud]
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return told + [url for url in sent if not url.startswith("file:")]

    def close(self):
        os.close(self.ours)
        self.process.terminate()
        self.process.wait(20)
        os.close(self.answers)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: the page is not laid out")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page with everything: verdicts, leaks, many variants, a comparison, a failed cell, long names."""
    folder = tmp_path_factory.mktemp("page")
    published = sweep()
    leaky = [each | {"causal": each["model"] == "hrm"} for each in sweep(experiment="hrm_vs_infini_as_published")]
    matrix = [
        each
        for order in ("shuffled", "contiguous")
        for windows in (1, 4)
        for each in sweep(
            experiment="memory_matrix",
            extra=(f"data.order={order}", f"data.windows_per_sample={windows}"),
            more=windows / 9,
        )
    ]
    long = [each for each in matrix if each["memory"] == "carry"]
    sweeps = {"second": published, "as_published": leaky, "matrix": [*matrix[:-1], failed(matrix[-1])], "long": long}
    table, _ = summaries.compare(Sweep.of(published, "a"), Sweep.of(sweep(more=0.2), "b"))
    report = write.Report.of([Sweep.of(records, name) for name, records in sweeps.items()])
    return write.page(report, folder, [table])[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "media"), [(390, "screen"), (1280, "screen"), (1047, "print")])
def test_the_page_fits_its_window_and_no_plot_is_empty_or_cut_off(browser, written, width, media, scheme):
    browser.open(written, width=width, media=media, scheme=scheme)
    assert browser.run("document.querySelectorAll('svg').length") > 20
    assert browser.run(FAULTS) == []
    assert browser.complaints() == []
    background, ink = browser.run(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    dark = sum(map(int, re.findall(r"\d+", background))) < sum(map(int, re.findall(r"\d+", ink)))
    assert dark == (scheme == "dark" and media == "screen")


def test_text_of_a_plot_has_the_page_s_ink_and_stands_out_from_it(browser, written):
    for scheme in ("light", "dark"):
        browser.open(written, width=1280, scheme=scheme)
        script = "getComputedStyle(document.querySelector('svg text')).fill === getComputedStyle(document.body).color"
        assert browser.run(script) is True


def test_print_shows_what_is_folded_away_on_a_screen(browser, written):
    visible = "(table) => table.checkVisibility({contentVisibilityAuto: true})"
    shown = f"[...document.querySelectorAll('details table')].map({visible})"
    browser.open(written, width=1047, media="print")
    assert set(browser.run(shown)) == {True}
    browser.open(written, width=1047)
    assert set(browser.run(shown)) == {False}
    browser.open(written, width=1047, media="print")
    assert base64.b64decode(browser.call("Page.printToPDF", preferCSSPageSize=True)["data"]).startswith(b"%PDF")


@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        ("<div style='width: 2000px'>wide</div>", "page is 2"),
        (
            "<svg aria-label='void' viewBox='0 0 9 9'><defs><path d='M0 0H9' stroke='red'/></defs></svg>",
            "empty plot: void",
        ),
        (
            "<svg viewBox='0 0 9 9'><path d='M0 0H9' stroke='red'/><text x='5' y='5'>too long</text></svg>",
            "text cut off",
        ),
        ("<svg viewBox='0 0 99 99'><text y='50'>one</text><text y='51'>two</text></svg>", "texts overlap"),
    ],
)
def test_the_check_of_the_layout_catches_what_is_planted(browser, written, tmp_path, planted, fault):
    copy = tmp_path / "planted.html"
    copy.write_text(written.read_text().replace("</main>", f"{planted}</main>"))
    browser.open(copy, width=390)
    assert any(fault in each for each in browser.run(FAULTS))


def test_a_script_that_complains_and_a_fetch_are_noticed(browser, tmp_path):
    noisy = tmp_path / "noisy.html"
    noisy.write_text("<script>console.error('planted')</script><img src='http://127.0.0.1:9/x.png'>")
    browser.open(noisy, width=390)
    told = json.dumps(browser.complaints())
    assert "planted" in told
    assert "127.0.0.1:9" in told


def page(records, folder):
    """The text of the page of one sweep."""
    return write.page(write.Report.of([Sweep.of(records)]), folder)[0].read_text()


def visible(html):
    """The text of a page, with a bar between table cells."""
    return " ".join(unescape(re.sub(r"<[^>]+>", "", re.sub(r"</t[dh]>", " | ", html))).split())


def test_the_answer_comes_first_then_the_own_results_and_then_the_verdicts(written):
    html = written.read_text()
    places = [
        html.index(part) for part in ('<p class="answer">', "<h3>Results", '<section id="verdicts"', 'id="cells"')
    ]
    assert places == sorted(places)


def test_the_answer_names_the_best_and_tells_no_level_variant_apart(tmp_path):
    records = []
    for model, mean, step in (("hrm", 10.0, 0.01), ("lstm", 10.001, 0.02), ("transformer", 12.0, 0.01)):
        records += [
            record(f"model={model}", "data=sample", perplexity=mean + step * (n - 2), seed=42 + n) for n in range(5)
        ]
    told = visible(page(records, tmp_path))
    assert "hrm reaches a validation perplexity of 10.00 over 5 seeds, the lowest here; the next, lstm, is at" in told
    assert "Not told apart from the best: lstm." in told


def test_a_variant_with_a_seed_on_the_plateau_is_never_the_best(tmp_path):
    records = [record("model=hrm", "data=sample", perplexity=99.0), record("model=lstm", "data=sample")]
    told = visible(page(records, tmp_path))
    assert "lstm reaches a validation perplexity of 12.00 over 1 seed. Stuck on the plateau" in told
    assert "near what counting characters gives: hrm (1 of 1 seed)." in told


def test_the_verdicts_need_no_colour(written):
    html = written.read_text()
    assert re.search(r'<span class="bad">✗ contradicted', html)
    assert re.search(r'<span class="as-run">[✓✗?] \w+[^<]*as run, not causal', html)
    assert "python -m" in html or "make " in html


def test_what_is_not_causal_is_marked_and_never_ranked(written):
    html = written.read_text()
    section = html[html.index('<section id="hrm_vs_infini_as_published') :]
    rows = re.findall(r"<tr( class=\"noncausal\")?>(.*?)</tr>", section[: section.index("</table>")], re.DOTALL)
    ranks = [(bool(marked), re.search(r"<td[^>]*>(.*?)</td>", row)[1], "not causal" in row) for marked, row in rows[1:]]
    assert ranks == [(False, "1", False), (True, "", True), (True, "", True)]


def test_what_records_say_is_text_and_never_markup_nor_a_way_out_of_the_folder(tmp_path):
    evil = '../../out/<script>alert("x")</script>"><img src=x onerror=alert(1)> $\\alpha$ {{ 7 * 7 }}'
    records = sweep(experiment="custom", seeds=(42, 43))
    for each in records[2:]:
        each |= {"model": f"infini {evil}", "versions": {evil: evil}, "gradient_coverage": {evil: ["task"]}}
        each["config"]["model"]["name"] = each["model"]
        each["config"]["data"]["source"] = evil
        each["config"]["experiment"]["name"] = f"mine {evil}"
    records.append(failed(records[-1]) | {"reason": evil, "seed": 44})
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    html = page(records, inside)
    assert {path.parent for path in tmp_path.rglob("*.*")} == {inside, inside / "plots"}
    assert set(re.findall(r"<(?:script|img|iframe|object|link|use href)\b", html)) == set()
    assert not re.search(r"<[^>]*\son\w+=", re.sub(r'"[^"]*"', '""', html))
    assert html.count("{{ 7 * 7 }}") > 5
    assert evil in unescape(html)
    for plot in (inside / "plots").iterdir():
        assert "<script" not in plot.read_text()


def test_plots_of_an_earlier_page_go_and_those_of_others_stay(tmp_path):
    write.write_all(sweep(experiment="custom"), tmp_path)
    before = {path.name for path in (tmp_path / "plots").glob("*.svg")}
    theirs = tmp_path / "plots" / "theirs.svg"
    theirs.write_text("<svg xmlns='http://www.w3.org/2000/svg'></svg>")
    write.write_all(sweep(), tmp_path)
    after = {path.name for path in (tmp_path / "plots").glob("*.svg")}
    assert "theirs.svg" in after
    assert before.isdisjoint(after)


def test_a_list_of_plots_leads_no_way_out_of_its_folder(tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / write.PLOTS_LIST).write_text('["../mine.svg"]')
    (tmp_path / "mine.svg").write_text("kept")
    write.write_all(sweep(), tmp_path)
    assert (tmp_path / "mine.svg").exists()


def test_the_same_records_give_the_same_bytes(tmp_path):
    folders = [tmp_path / name / "sweep" for name in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
        assert len(write.write_all(sweep(), folder)) == 5
    files = sorted(path.relative_to(folders[0]) for path in folders[0].rglob("*.*"))
    assert len(files) > 8
    for file in files:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


def test_what_records_do_not_have_is_left_out(tmp_path):
    bare = record("model=hrm", "data=sample")
    for name in ("leak", "bits_by_position", "state_size", "flops_per_character", "gradient_coverage", "versions"):
        del bare[name]
    bare["floors"] = {split: {"unigram": {"full": 23.0}} for split in ("validation", "test")}
    html = page([bare], tmp_path)
    told = visible(html)
    for absent in (
        "<h3>Memory",
        "Weight of the memory",
        "Bits per character by position",
        "by perturbation",
        "Word perplexities",
        "Not f",
    ):
        assert absent not in html
    assert "These cells measure none of the claims." in told
    assert "n-gram model" not in html[html.index("<svg") : html.index("</svg>")]
    assert len(list((tmp_path / "plots").glob("*.svg"))) == html.count("<svg") == 1


def test_word_perplexities_stand_in_a_column_of_their_own(written):
    html = written.read_text()
    section = html[html.index('<section id="words"') : html.index('<section id="cells"')]
    table = re.findall(r"<tr[^>]*>(.*?)</tr>", section, re.DOTALL)
    cells = [[visible(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line, re.DOTALL)] for line in table]
    assert cells[0] == ["model", "text", "word perplexity", "bits per character", "perplexity per character"]
    ratio = 4992 / 997
    assert cells[1] == ["GPT-2 small (117M)", "WikiText-2, whole", "≈ 30", "≈ 0.98", f"≈ {30 ** (1 / ratio):.2f}"]
    ours = next(line for line in cells if line[0] == "hrm")
    word, character = float(ours[2].replace(",", "")), float(ours[4])
    assert word ** (1 / ratio) == pytest.approx(character, abs=0.005)
    assert "not comparable" in section
    assert "word perplex" not in visible(html[: html.index('<section id="words"')].split("<main>")[1])


def test_every_link_of_the_page_leads_somewhere(written):
    html = written.read_text()
    anchors = set(re.findall(r'<(?:section|dt) id="([^"]+)"', html))
    links = set(re.findall(r'<a href="#([^"]+)"', html))
    assert links
    assert links <= anchors


def test_a_new_table_is_a_function_and_one_entry(tmp_path, monkeypatch):
    from hrm_bench.table import make_table

    def epochs(study):
        text = {"title": "Epochs", "caption": "How long each variant trained."}
        return make_table(
            text, [{"variant": v.label, "epochs": f"{v.best_epoch:.0f}"} for v in study.variants.itertuples()]
        )

    monkeypatch.setitem(write.STUDY, "Length", [epochs])
    assert "How long each variant trained." in page(sweep(seeds=(42, 43)), tmp_path)
