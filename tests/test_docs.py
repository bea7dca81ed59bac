"""The documentation: every page has its place on the site, and what it names exists."""

import re
from pydoc import locate

import pytest
import yaml
from conftest import ROOT

PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
NAMED = re.findall(r"^::: ([\w.]+)$", PAGES["reference.md"], flags=re.MULTILINE)


def leaves(nav):
    for item in nav:
        for value in item.values():
            yield from [value] if isinstance(value, str) else leaves(value)


def test_every_page_is_on_the_site_once():
    places = [*leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])]
    assert sorted(places) == sorted(PAGES)


@pytest.mark.parametrize("name", NAMED)
def test_what_the_reference_names_exists_and_is_described(name):
    found = locate(name)
    assert found is not None
    assert found.__doc__


def anchors(text):
    """The anchors of a page's headings, as the site and other readers of Markdown make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_no_link_of_a_page_leads_nowhere(page):
    text = re.sub(r"`[^`\n]*`", "", PAGES[page])
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith(("http://", "https://")):
            file, _, anchor = link.partition("#")
            assert (ROOT / "docs" / (file or page)).exists(), link
            if anchor:
                assert anchor in anchors(PAGES[file or page]), link
