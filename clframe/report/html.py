"""The report as one page that needs nothing else: no network, no folder beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from clframe.report.views import View

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; color: #1F2937;
  background: #fff; margin: 0 auto; padding: 24px 28px 80px; max-width: 1500px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 21px; margin: 44px 0 8px; padding-top: 14px; border-top: 2px solid #E5E7EB; }
h3 { font-size: 16px; margin: 26px 0 6px; }
p { margin: 6px 0; max-width: 110ch; }
.note { color: #4B5563; font-size: 13px; }
nav a { margin-right: 16px; white-space: nowrap; }
a { color: #0B5CAD; }
.box { background: #FFF7ED; border-left: 4px solid #D55E00; padding: 8px 14px; margin: 14px 0; }
.box ul { margin: 4px 0; padding-left: 20px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; border-bottom: 1px solid #E5E7EB; text-align: right;
  white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; background: #F9FAFB; font-weight: 600;
  border-bottom: 2px solid #9CA3AF; min-width: 58px; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
th:first-child { background: #F9FAFB; }
tr:hover td { background: #F3F4F6; }
td.word, th.word { text-align: left; }
.text td:last-child, .text th:last-child { text-align: left; white-space: normal; }
td.bad { color: #B45309; font-weight: 600; }
abbr { text-decoration: underline dotted #9CA3AF; cursor: help; }
"""
CONFIG = {"displaylogo": False, "responsive": True}


@dataclass(frozen=True)
class Plot:
    """An interactive figure with what it shows."""

    id: str
    title: str
    figure: go.Figure
    note: str


@dataclass(frozen=True)
class Section:
    """A part of the page: figures and tables, in this order or, `tables_first`, the other."""

    id: str
    title: str
    plots: Sequence[Plot] = ()
    views: Sequence[View] = ()
    prose: bool = False  # tables of words, which may wrap


def page(
    title: str,
    status: Sequence[str],
    alarms: Sequence[str],
    links: Mapping[str, str],
    sections: Sequence[Section],
) -> str:
    """The whole document; the plotting library is inlined once, with the first figure."""
    nav = " ".join(f'<a href="#{s.id}">{escape(s.title)}</a>' for s in sections)
    first = next((p for s in sections for p in s.plots), None)
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in status),
        _alarms(alarms),
        _links(links),
        f"<nav>{nav}</nav>",
        *(_section(s, first) for s in sections),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        "<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _section(section: Section, first: Plot | None) -> str:
    parts = [f'<h2 id="{section.id}">{escape(section.title)}</h2>']
    parts += [_table(view, section) for view in section.views]
    parts += [_plot(plot, with_library=plot is first) for plot in section.plots]
    return "\n".join(parts)


def _plot(plot: Plot, *, with_library: bool) -> str:
    drawn = plot.figure.to_html(
        full_html=False,
        include_plotlyjs=with_library,
        include_mathjax=False,
        div_id=plot.id,
        config=CONFIG,
    )
    note = f'<p class="note">{escape(plot.note)}</p>'
    return f"<h3>{escape(plot.title)}</h3>\n{note}\n{drawn}"


def _table(view: View, section: Section) -> str:
    tips = view.tips or [""] * len(view.head)
    words = [_is_word(text) for text in view.rows[0]]
    head = "".join(map(_head, view.head, tips, words))
    rows = "\n".join("<tr>" + "".join(_cell(text) for text in row) + "</tr>" for row in view.rows)
    kind = ' class="text"' if section.prose else ""
    title = view.title.removeprefix(section.title).lstrip(":, ")
    heading = f"<h3>{escape(title[:1].upper() + title[1:])}</h3>\n" if title else ""
    note = f'<p class="note">{escape(view.note)}</p>' if view.note else ""
    return (
        f"{heading}<div class=scroll><table{kind}><thead><tr>{head}</tr>"
        f"</thead><tbody>\n{rows}\n</tbody></table></div>\n{note}"
    )


def _head(text: str, tip: str, word: bool) -> str:
    told = f'<abbr title="{escape(tip)}">{escape(text)}</abbr>' if tip else escape(text)
    return f'<th class="word">{told}</th>' if word else f"<th>{told}</th>"


def _cell(text: str) -> str:
    if text in ("failed", "broken", "missing", "interrupted"):
        return f'<td class="word bad">{text}</td>'
    return f'<td class="word">{escape(text)}</td>' if _is_word(text) else f"<td>{escape(text)}</td>"


def _is_word(text: str) -> bool:
    """Names go to the left of their column, numbers to the right."""
    return text[:1].isalpha() or not text


def _alarms(alarms: Sequence[str]) -> str:
    if not alarms:
        return ""
    items = "".join(f"<li>{escape(a)}</li>" for a in alarms)
    return f'<div class="box"><b>Mind</b><ul>{items}</ul></div>'


def _links(links: Mapping[str, str]) -> str:
    if not links:
        return ""
    items = ", ".join(f'<a href="{escape(url)}">{escape(name)}</a>' for name, url in links.items())
    return f"<p>In MLflow: {items}</p>"
