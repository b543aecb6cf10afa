"""Who else is lost: the share of a site's and of the fleet's workloads that went silent together.

One workload's silence is its own trouble, most of a zone's is the zone's, and everybody's is a broken sensor. Only the
tick that sees all series can tell, so it writes the shares into the evidence.
"""

from __future__ import annotations

import numpy as np

from forecastle.types import Floats32, Mask, Windows


def lost_shares(windows: Windows, lost: Mask) -> dict[str, Floats32]:
    """Per series: share of its site's workloads lost, of the fleet's, how many its site has, how many sites there are.

    A workload counts as lost at a site when any of its series there is in ``lost`` bool[n]. Empty when nothing is lost.
    """
    if not lost.any():
        return {}
    sites = [key.label("site") for key in windows.keys]
    pairs = {pair: i for i, pair in enumerate(dict.fromkeys((s, k.workload) for s, k in zip(sites, windows.keys, strict=True)))}
    pair_of = np.array([pairs[site, key.workload] for site, key in zip(sites, windows.keys, strict=True)])
    site_names = {site: i for i, site in enumerate(dict.fromkeys(site for site, _ in pairs))}
    site_of_pair = np.array([site_names[site] for site, _ in pairs])
    gone = np.bincount(pair_of, weights=lost, minlength=len(pairs)) > 0
    there = np.bincount(site_of_pair, minlength=len(site_names))
    share = np.bincount(site_of_pair, weights=gone, minlength=len(site_names)) / there
    site_of = site_of_pair[pair_of]
    n = len(windows)
    return {
        "lost": lost.astype(np.float32),
        "site_lost": share[site_of].astype(np.float32),
        "site_workloads": there[site_of].astype(np.float32),
        "fleet_lost": np.full(n, gone.mean(), np.float32),
        "sites": np.full(n, len(site_names), np.float32),
    }
