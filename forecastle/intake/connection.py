"""How we reach Kafka: one place that turns settings into client options and client errors into ours."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator
from typing import Any

from forecastle.errors import BrokerUnavailable, ConfigError
from forecastle.settings import IntakeSettings

ABANDON_S = 5.0


def options(settings: IntakeSettings) -> dict[str, Any]:
    """Connection options shared by consumers, producers and admin clients. Raises ConfigError for plain text over a network."""
    servers = [server.strip() for server in settings.bootstrap.split(",") if server.strip()]
    if "PLAINTEXT" in settings.security_protocol:
        exposed = [server for server in servers if not loopback(server.rpartition(":")[0])]
        if exposed:
            raise ConfigError(
                f"intake.security_protocol: {settings.security_protocol} to {', '.join(exposed)} would cross a network in the "
                "clear; set it to SASL_SSL (or SSL) with intake.ssl_cafile, or use a broker on 127.0.0.1"
            )
    chosen: dict[str, Any] = {"bootstrap_servers": servers, "security_protocol": settings.security_protocol}
    if settings.ssl_cafile:
        chosen["ssl_cafile"] = settings.ssl_cafile
    if settings.security_protocol.startswith("SASL"):
        if not (settings.sasl_mechanism and settings.sasl_username and settings.sasl_password):
            raise ConfigError("intake: SASL needs sasl_mechanism, sasl_username and sasl_password (by environment)")
        chosen["sasl_mechanism"] = settings.sasl_mechanism
        chosen["sasl_plain_username"] = settings.sasl_username
        chosen["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return chosen


def loopback(host: str) -> bool:
    """True for an address that no network reaches."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


@contextlib.contextmanager
def speaking(what: str) -> Iterator[None]:
    """Every error of the client library inside the block becomes BrokerUnavailable that says ``what`` was being done."""
    from kafka.errors import KafkaError

    try:
        yield
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"{what}: {type(error).__name__}: {error}") from error


def abandon(producer: Any) -> None:
    """End a producer now: what it has not delivered has failed and does not arrive later, its thread and connection are gone.

    kafka-python 3.0.12's ``close(timeout=0)`` first waits for what is under way, raises because it does not wait, and leaves
    its thread to go on sending.
    """
    sender: Any = getattr(producer, "_sender", None)
    if sender is not None:
        sender.force_close()
        sender.join(ABANDON_S)
    producer.close(timeout=0)
