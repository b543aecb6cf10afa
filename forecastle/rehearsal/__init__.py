"""Traces replayed in closed loop under our policy and under the peers."""
