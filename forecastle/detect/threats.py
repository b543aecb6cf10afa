"""Signals of an attack: what fails logins, meets new principals or sends data out is no matter for a restart.

Restarting destroys the traces and lets the attacker back in, so an anomaly of such a metric is marked, and its incident stays
a threat for as long as it is open, however many harmless anomalies follow. What remains is to tell people, or to quarantine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from forecastle.types import Anomaly


def marked(anomaly: Anomaly, globs: Sequence[str]) -> Anomaly:
    """With the first of ``globs`` that its metric matches (in any case) as evidence ``threat``; itself when none does."""
    metric = anomaly.key.metric.lower()
    glob = next((glob for glob in globs if fnmatchcase(metric, glob.lower())), "")
    return replace(anomaly, evidence={**anomaly.evidence, "threat": glob}) if glob else anomaly


def threatening(anomaly: Anomaly) -> bool:
    """Whether it was marked."""
    return bool(anomaly.evidence.get("threat"))
