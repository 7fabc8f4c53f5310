"""The README's pictures of the status page."""

import re

from tests.conftest import ROOT


def test_readme_shows_both_pictures_and_says_what_is_in_them() -> None:
    readme = (ROOT / "README.md").read_text()
    [picture] = re.findall(r"<picture>.*</picture>", readme)
    shown = re.findall(r'(?:src|srcset)="(.*?)"', picture)
    assert shown == ["docs/status-page-dark.png", "docs/status-page-light.png"]
    assert "2 pending" in picture
    for name in shown:
        content = (ROOT / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 120_000
