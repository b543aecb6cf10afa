"""Plans to outcomes: re-observe, re-guard, record the intent, apply, read back."""
