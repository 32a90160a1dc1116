"""The page of a build: what came of it, to be looked at; the same as Markdown and as JSON. Reads JSON files alone.

numbers      every number that is shown, rounded once
facts        what a build found out, read from its folder
tables       tables of cells, which the page, Markdown and JSON share
content      all that a report says of one build, as data
pictures     SVG pictures of it, light and dark: bars, curves, and their style
compared     two builds side by side
page         the page; its template is page.html
markdown     the same for a comment on a pull request
write        all three, written
"""

from .write import collect_report, write_report

__all__ = ["collect_report", "write_report"]
