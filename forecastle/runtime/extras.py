"""Which extra brings a package that is not installed: an error should say what to type."""

from __future__ import annotations

EXTRAS = {
    "kafka": "stream",
    "cramjam": "stream",
    "opentelemetry": "stream",
    "prefect": "stream",
    "mlflow": "stream",
    "psycopg": "stream",
    "torch": "train",
    "onnx": "train",
    "onnxscript": "train",
    "pandas": "train",
    "statsmodels": "train",
    "kubernetes": "kubernetes",
    "boto3": "aws",
    "botocore": "aws",
    "googleapiclient": "gcp",
    "azure": "azure",
    "grpc": "keda",
    "holidays": "holidays",
}


def remedy(error: ImportError) -> str | None:
    """The command that installs what ``error`` misses; None for a module that no extra brings."""
    package = (error.name or "").partition(".")[0]
    return f"pip install 'forecastle[{EXTRAS[package]}]'" if package in EXTRAS else None
