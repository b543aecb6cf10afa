# syntax=docker/dockerfile:1
# Two images from one file: `serving` (no torch) runs workers and services, `training` adds the workshop's libraries.
# Both run as user 10001 and write to /var/lib/forecastle and /tmp only, so the root may be read-only.

FROM python:3.11-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY forecastle forecastle
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.11-slim-bookworm AS packages
RUN python -m venv /opt/venv
COPY constraints.txt /opt/constraints.txt
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    /opt/venv/bin/pip install --no-cache-dir --constraint /opt/constraints.txt "$(echo /dist/forecastle-*.whl)[stream,keda]"

FROM packages AS training-packages
# CPU builds of torch; for CUDA give --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    /opt/venv/bin/pip install --no-cache-dir --constraint /opt/constraints.txt --extra-index-url "$TORCH_INDEX" \
    "$(echo /dist/forecastle-*.whl)[train]"

FROM python:3.11-slim-bookworm AS home
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/forecastle \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/forecastle \
    PREFECT_HOME=/var/lib/forecastle/prefect
WORKDIR /opt/forecastle
COPY configs configs
COPY flows flows
# every relative path of the configuration (.forecastle/...) thereby lies in the volume
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/forecastle --shell /usr/sbin/nologin forecastle \
    && install -d -o 10001 -g 10001 /var/lib/forecastle \
    && ln -s /var/lib/forecastle .forecastle
VOLUME /var/lib/forecastle
STOPSIGNAL SIGTERM
ENTRYPOINT ["forecastle"]

FROM home AS training
COPY --from=training-packages /opt/venv /opt/venv
COPY models models
COPY features features
COPY prefect.yaml prefect.yaml
USER 10001:10001
HEALTHCHECK NONE
CMD ["--help"]

FROM home AS serving
COPY --from=packages /opt/venv /opt/venv
USER 10001:10001
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=3 CMD ["forecastle", "check", "--health"]
CMD ["run", "--config", "configs", "--config", "configs/prod.yaml"]
