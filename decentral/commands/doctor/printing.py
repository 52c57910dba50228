"""Findings as lines, or as a table where a person reads them."""

from __future__ import annotations

from decentral.commands.doctor.finding import Finding


def print_lines(findings: list[Finding]) -> None:
    """A line each, and one for its remedy."""
    for finding in findings:
        print(f"{finding.state:8}{finding.topic}: {finding.text}")
        if finding.remedy:
            print(f"{'':8}-> {finding.remedy}")


def print_table(findings: list[Finding]) -> None:
    """A table in colours, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "note": "yellow", "missing": "yellow", "broken": "bold red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("state", "topic", "found"):
        table.add_column(name, overflow="fold", no_wrap=name != "found")
    for finding in findings:
        found = Text(finding.text)
        if finding.remedy:
            found.append(f"\n-> {finding.remedy}", "bold")
        table.add_row(Text(finding.state, colours[finding.state]), finding.topic, found)
    Console().print(table)
