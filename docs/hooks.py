"""Bring files from outside ``docs/`` into the site, so that the same links work on GitHub and in the site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ROOT_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "SECURITY.md")
_BENCHMARKS = re.compile(r"\]\((?:\.\./)+(benchmarks/[^)#\s]+)")
_OUTSIDE = re.compile(r"\]\((?:\.\./)+(?=(?:benchmarks/|CONTRIBUTING\.md))")
_ROLE = re.compile(r":(?:func|class|meth|data|mod|attr):(?=<code>)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root pages, and each recorded file that a page links to."""
    texts = [file.content_string for file in files.documentation_pages()]
    recorded = {target for text in texts for target in _BENCHMARKS.findall(text)}
    for name in [*ROOT_PAGES, *sorted(recorded)]:
        if (ROOT / name).is_file():  # a missing one stays a broken link, on which the build fails
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links from a page to files outside ``docs/``, and from the root pages into ``docs/``, at the site."""
    if page.file.src_uri in ROOT_PAGES:
        return markdown.replace("](docs/", "](")
    return _OUTSIDE.sub("](" + "../" * page.file.src_uri.count("/"), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Drop the roles of docstrings (``:func:``), which Markdown does not know."""
    return _ROLE.sub("", html)
