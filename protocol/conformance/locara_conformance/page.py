"""Results as one self-contained HTML page: a table by group, and the exchange behind each failure."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from html import escape
from typing import TYPE_CHECKING

from locara_conformance.outcomes import Outcome
from locara_conformance.report import summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from locara_conformance.checks import Result
    from locara_conformance.outcomes import Event

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #888;
  --sent: light-dark(#1f5fc4, #7fb0ff); --came: light-dark(#14743b, #6fd69a);
  --SUCCESS: #1a8f4a; --FAILURE: #d12f2f; --WARNING: #c77700; --SKIPPED: #888; --ERROR: #8a2be2; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
code, pre { font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
td, th { text-align: left; vertical-align: top; padding: .35rem .6rem;
  border-bottom: 1px solid var(--line); } td:first-child { width: 5.5rem; }
td.seconds { width: 3.5rem; text-align: right; white-space: nowrap; color: var(--dim); }
.badge { color: #fff; border-radius: 4px; padding: 0 .45em; font-size: .8rem; font-weight: 600; white-space: nowrap; }
.counts { display: flex; gap: .5rem; flex-wrap: wrap; margin: 1rem 0; }
.clause, .note { color: var(--dim); font-size: .9rem; }
.reason { overflow-wrap: anywhere; margin: .25rem 0; padding-left: .6rem; border-left: 3px solid var(--line); }
.SUCCESS-reason { color: var(--dim); } .FAILURE-reason { border-color: var(--FAILURE); }
.WARNING-reason { border-color: var(--WARNING); } .ERROR-reason { border-color: var(--ERROR); }
summary { cursor: pointer; } .group > summary { margin: 1.5rem 0 .5rem; }
.group h2 { display: inline; margin: 0; } .broken { padding-left: 1.2rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) { .exchange div { grid-template-columns: 2ch 2ch minmax(0, 1fr); } .time { display: none; } }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.exchange { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .3rem 0;
  content-visibility: auto; contain-intrinsic-size: auto 40rem; }
.exchange div { display: grid; grid-template-columns: 2ch 9ch 2ch minmax(0, 1fr); gap: 1ch; padding: .1rem .6rem;
  font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace; }
.exchange div > span:last-child { white-space: pre-wrap; overflow-wrap: anywhere; }
.exchange .note { font: inherit; font-style: italic; }
.time, .peer { color: var(--dim); text-align: right; } .sent { color: var(--sent); } .came { color: var(--came); }
""" + "".join(f".{name} {{ background: var(--{name}); }} " for name in Outcome)


def page(command: Sequence[str], results: Sequence[Result], stale: Sequence[str]) -> str:
    """Return the page."""
    count = Counter(result.outcome for result in results)
    badges = "".join(f'<span class="badge {one}">{count[one]} {one}</span>' for one in Outcome if count[one])
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    groups = "".join(
        _group(group, [one for one in results if one.check.group == group])
        for group in dict.fromkeys(one.check.group for one in results)
    )
    broken = [one for one in results if one.outcome in (Outcome.FAILURE, Outcome.ERROR) and not one.expected]
    links = "".join(
        f'<li><a href="#{one.check.id}"><code>{one.check.id}</code></a> {_cut(one.reason, 160)}</li>' for one in broken
    )
    gone = "".join(
        f"<p><b>Stale:</b> <code>{escape(one)}</code> is among the expected failures but did not fail.</p>"
        for one in stale
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Conformance of {escape(command[0])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Locara image-sidecar protocol: conformance</h1><p><code>{escape(' '.join(command))}</code></p>"
        f'<p class="note">{escape(summary(results))} · {now}</p><div class="counts">{badges}</div>{gone}'
        f'<ul class="broken">{links}</ul>{groups}'
        "</body></html>\n"
    )


def _group(name: str, results: Sequence[Result]) -> str:
    rows = "".join(_row(result) for result in results)
    held = sum(result.outcome is Outcome.SUCCESS for result in results)
    heading = f'{escape(name)} <span class="note">{held} of {len(results)}</span>'
    opened = "" if held == len(results) else " open"
    return (
        f'<details class="group"{opened}><summary><h2 id="{escape(name)}">{heading}</h2></summary>'
        f"<table>{rows}</table></details>"
    )


def _row(result: Result) -> str:
    outcome = result.outcome
    expected = ' <span class="note">expected</span>' if result.expected else ""
    body = f'<code>{escape(result.check.id)}</code> <span class="note">{result.check.level}</span>{expected}'
    clause = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(_plain(result.check.clause)))
    body += f'<div class="clause">{clause}</div>'
    if result.reason:
        body += f'<div class="reason {outcome}-reason">{_cut(result.reason, 3000)}</div>'
    if result.exchange or result.stderr:
        opened = " open" if outcome is not Outcome.WARNING and not result.expected else ""
        lines = "".join(_event(event) for event in _excerpt(result.exchange))
        body += f'<details{opened}><summary>the exchange</summary><div class="exchange">{lines}</div></details>'
    if result.stderr:
        body += f"<details><summary>the end of stderr</summary><pre>{escape(result.stderr)}</pre></details>"
    return (
        f'<tr id="{escape(result.check.id)}"><td><span class="badge {outcome}">{outcome}</span></td><td>{body}</td>'
        f'<td class="seconds">{result.seconds:.1f} s</td></tr>'
    )


def _cut(words: str, most: int) -> str:
    return escape(words if len(words) <= most else f"{words[:most]}…")


def _plain(clause: str) -> str:
    """Remove Markdown's links, which lead nowhere from here, and its table cells."""
    return re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", clause).replace(" | ", " – ")


def _excerpt(events: Sequence[Event]) -> list[Event]:
    """Return the first and the last lines if there are many."""
    if len(events) <= 60:
        return list(events)
    left = len(events) - 60
    gap = type(events[0])(events[0].peer, events[-41].seconds, "·", f"{left} lines are left out here", 0)
    return [*events[:20], gap, *events[-40:]]


def _event(event: Event) -> str:
    kind = {"→": "sent", "←": "came"}.get(event.way, "note")
    text = event.text[:600]
    cut = f" … ({event.size} bytes)" if event.size > len(text.encode()) else ""
    return (
        f'<div><span class="peer">{event.peer}</span><span class="time">{event.seconds:.3f} s</span>'
        f'<span class="{kind}">{event.way}</span><span class="{kind}">{escape(text)}{cut}</span></div>'
    )
