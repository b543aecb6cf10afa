"""Forecasting a whole file at once: members fitted on a training span, blended and calibrated on its last part."""
