"""What the cards of a lab have sent, as the kernel counts it; to be asked inside of it."""

from __future__ import annotations

import json
import subprocess

from decentral.network.lab.layout import Layout


def sent(layout: Layout) -> dict[str, int]:
    """Bytes that each node's cards have sent, with all headers; by its name."""
    shown = subprocess.run(
        ["ip", "-json", "-stats", "link", "show", "type", "veth"], capture_output=True, text=True, check=True
    )
    # this end of a pair receives what the node's sends
    came = {card["ifname"]: card["stats64"]["rx"]["bytes"] for card in json.loads(shown.stdout)}
    return {node.name: sum(came[f"card{i}"] for i in node.workers) for node in layout.nodes}
