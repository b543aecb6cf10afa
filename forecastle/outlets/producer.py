"""How a producer ends whose broker does not answer: outlets drop the connection and send again over another."""

from __future__ import annotations

from typing import Any

ABANDON_S = 5.0


def abandon(producer: Any) -> None:
    """End a producer now: what it has not delivered has failed and does not arrive later, its thread and connection are gone.

    kafka-python 3.0.12's ``close(timeout=0)`` first waits for what is under way, raises because it does not wait, and leaves
    its thread to go on sending.
    """
    sender: Any = getattr(producer, "_sender", None)
    if sender is not None:
        sender.force_close()
        sender.join(ABANDON_S)
    producer.close(timeout=0)
