"""Named streams of randomness, one construction with those of `topologies`: see :mod:`topologies.streams`."""

from topologies.streams import stream, stream_key

__all__ = ["stream", "stream_key"]
