"""The order of the rooms, their wiring, and the worker around them."""
