"""Build time: mkdocs' hook: pages that lie outside of docs/, and links that lead there.

README.md becomes the site's first page, the others are pages of their own. A link
from docs/ to any other file of the tree leads to the file where the sources are published, or is
none where they are not: `Source` of [project.urls] in pyproject.toml, which also has the address of
the site itself, `Documentation`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
URLS: dict[str, str] = PROJECT.get("urls", {})
PAGES = {
    "README.md": "index.md",
    **{f"{name.upper()}.md": f"{name}.md" for name in ("changelog", "contributing", "security")},
}

_LINK = re.compile(r"\[(?P<text>[^][]+)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)]*)?\)")


def on_config(config: Any) -> Any:
    """Tell where the site is published."""
    config.site_url = URLS.get("Documentation", "")
    return config


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
        target = (folder / link["path"]).resolve()
        if target.is_relative_to(ROOT / "docs") and not target.is_dir():
            return link[0]
        name = target.relative_to(ROOT).as_posix()
        return _lead(link, PAGES[name]) if name in PAGES else _publish(link, name)

    return _LINK.sub(mend, markdown)


def _from_root(link: re.Match[str]) -> str:
    path = link["path"]
    if path in PAGES:
        return _lead(link, PAGES[path])
    if path.startswith("docs/") and not (ROOT / path).is_dir():
        return _lead(link, path.removeprefix("docs/"))
    return _publish(link, path)


def _lead(link: re.Match[str], target: str) -> str:
    return f"[{link['text']}]({target}{link['anchor'] or ''})"


def _publish(link: re.Match[str], name: str) -> str:
    """Lead to a file among the published sources, or keep the text alone."""
    if not (ROOT / name).exists():
        raise PluginError(f"a link leads to {name}, which does not exist")
    source = URLS.get("Source", "").rstrip("/")
    return _lead(link, f"{source}/{name}") if source else link["text"]
