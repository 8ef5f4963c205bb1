"""Build time: hatchling's hook for the package's page: README.md, with links that lead somewhere.

README's links are relative. On the page of the package they lead to the website and to the
published sources, by `Documentation` and `Source` of [project.urls] in pyproject.toml. Without
these instar has no published home, and a link becomes the path that it names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"\[([^][]+)\]\(([\w./-]+)(#[\w-]+)?\)")


class PageHook(MetadataHookInterface):
    """Writes the page."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the field `readme` to the project's table."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        page = write_page(text, metadata.get("urls", {}))
        metadata["readme"] = {"content-type": "text/markdown", "text": page}


def write_page(readme: str, urls: dict[str, str]) -> str:
    """Return README as the page of a package that has these addresses."""

    def mend(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        if target := _find_published(path, urls):
            return f"[{text}]({target}{anchor})"
        return text if text == path else f"{text} (`{path}`)"

    return _LINK.sub(mend, readme)


def _find_published(path: str, urls: dict[str, str]) -> str:
    """Where a file of the tree is published: as a page of the website, or else as it is."""
    site, sources = (urls.get(key, "").rstrip("/") for key in ("Documentation", "Source"))
    if path.endswith(".md") and site:
        name = path.removeprefix("docs/").removesuffix(".md")
        return f"{site}/{name if name != path.removesuffix('.md') else name.lower()}/"
    return f"{sources}/{path}" if sources else ""
