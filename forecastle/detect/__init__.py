"""Windows and forecasts to anomalies and incidents."""
