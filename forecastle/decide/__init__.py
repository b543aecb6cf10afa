"""Forecasts, incidents and the fleet to plans; pure."""
