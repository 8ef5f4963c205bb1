"""Build time: mkdocs' hook: pages that lie outside of docs/, and links that lead there.

README.md becomes the site's first page, the others are pages of their own. A link
from docs/ to any other file of the tree leads to the file where the sources are published.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "https://instar.example/source/"
PAGES = {
    "README.md": "index.md",
    **{f"{name.upper()}.md": f"{name}.md" for name in ("changelog", "contributing", "security")},
}

_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for source, name in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, name, content=_LINK.sub(_from_root, text)))
    return files


def on_page_markdown(markdown: str, page: Any, **_others: Any) -> str:
    """Mend the links of a page that leave docs/."""
    if page.file.src_uri in PAGES.values():
        return markdown
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def mend(link: re.Match[str]) -> str:
        target = (folder / link[0]).resolve()
        if target.is_relative_to(ROOT / "docs") and not target.is_dir():
            return link[0]
        name = target.relative_to(ROOT).as_posix()
        return PAGES.get(name) or _published(target, name)

    return _LINK.sub(mend, markdown)


def _from_root(link: re.Match[str]) -> str:
    path = link[0]
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/") and not (ROOT / path).is_dir():
        return path.removeprefix("docs/")
    return _published(ROOT / path, path)


def _published(target: Path, name: str) -> str:
    if not target.exists():
        raise PluginError(f"a link leads to {name}, which does not exist")
    return SOURCE + name
