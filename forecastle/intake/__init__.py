"""Kafka bytes to samples: consumer, codecs and dead letters."""
