"""Cloud adapters, one file each, imported on use."""
