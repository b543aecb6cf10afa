"""``python -m forecastle.runtime.pull``: models from the registry to the disk that workers serve from, once or for ever."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0, or 2 with one line on standard error; with ``--watch`` until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser("python -m forecastle.runtime.pull", description="Pull the serving models.")
    parser.add_argument("--config", "-c", type=Path, action="append", default=[], help="YAML file or folder; later ones win")
    parser.add_argument("--set", "-s", dest="flags", action="append", default=[], help="one setting, as section.field=value")
    parser.add_argument("--watch", action="store_true", help="keep following the alias, every predict.poll_s")
    given = parser.parse_args(arguments)

    import logging

    from forecastle.errors import ForecastleError
    from forecastle.predict.pull import pull_once, watch
    from forecastle.runtime.config import load
    from forecastle.runtime.worker import stopping

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        settings = load(given.config or [p for p in [Path("configs")] if (p / "base.yaml").exists()], flags=given.flags)
        if given.watch:
            with stopping() as stop:
                watch(settings, stop)
        else:
            sys.stdout.writelines(f"{name} {version}\n" for name, version in pull_once(settings).items())
    except ForecastleError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
