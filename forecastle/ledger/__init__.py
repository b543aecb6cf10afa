"""What was intended and what happened: append-only, hash-chained."""
