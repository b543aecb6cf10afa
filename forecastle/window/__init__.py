"""Samples to windows: ring buffers by event time, gaps, watermark."""
