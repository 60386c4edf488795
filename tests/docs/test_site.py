"""ci/docs_site.py: links of the repository as the site needs them. `make docs` shows whether the site can be built."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site() -> Any:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "ci" / "docs_site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("folder", "text", "expected"),
    [
        ("docs", "[limits](limits.md#known-defects)", "[limits](limits.md#known-defects)"),
        ("docs", "[here](../README.md#variables)", "[here](index.md#variables)"),
        ("docs", "[here](../CONTRIBUTING.md)", "[here](contributing.md)"),
        ("", "[`limits`](docs/limits.md)", "[`limits`](limits.md)"),
        ("", "[the hook](mxnet_trt_property/_autoload.py) and more", "the hook and more"),
        ("", "[a site](https://semver.org/) [below](#limits)", "[a site](https://semver.org/) [below](#limits)"),
        ("docs", "```text\n[x](../setup.py)\n```\n[x](../setup.py)", "```text\n[x](../setup.py)\n```\nx"),
        # Sphinx says of it that it is broken.
        ("docs", "[gone](no-such-page.md)", "[gone](no-such-page.md)"),
    ],
)
def test_links(site: Any, folder: str, text: str, expected: str) -> None:
    assert site.with_links(text, folder) == expected


def test_images_are_copied(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(site, "PAGES", tmp_path)
    picture = '[<img src="docs/images/wavenet.svg" alt="a net" width="600">](docs/images/wavenet.svg)'
    assert site.with_links(picture, "") == "![a net](images/wavenet.svg){width=600px}"
    assert site.with_links("![speed](benchmarks/h100/bench-host-arrays.svg)", "") == (
        "![speed](images/bench-host-arrays.svg)"
    )
    assert (tmp_path / "images" / "bench-host-arrays.svg").is_file()


def test_the_navigation_has_every_page(site: Any) -> None:
    listed = " ".join(site.NAVIGATION.values()).split()
    assert len(listed) == len(set(listed))
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= set(listed)
