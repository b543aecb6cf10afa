"""Forecastle: proactive autoscaling and anomaly detection for fleets that span clouds.

Importing this package loads numpy at most; every heavy library is imported where it is used.
"""

__version__ = "0.1.0"
