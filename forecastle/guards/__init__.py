"""The brakes: pure functions that run in decide and again in act."""
