"""How others listen: events, reports, metrics."""
