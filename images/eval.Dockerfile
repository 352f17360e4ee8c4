# Evaluation steps: evaluate, benchmark, text_benchmark, alignment.
# What all roles share is kept alike by tests/images/test_dockerfiles.py.
ARG BASE_IMAGE=python:3.11-slim

# An empty place: `--build-context wheels=FOLDER` puts a folder of wheels here.
FROM scratch AS wheels

# What is needed, without the settings of tools: a change there would install everything anew.
FROM ${BASE_IMAGE} AS needs
COPY pyproject.toml /
RUN sed '/^\[project.scripts\]/,$d' /pyproject.toml > /needs.toml

FROM ${BASE_IMAGE} AS build
ARG PIP_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt images/install.py images/sbom.py ./
COPY --from=needs /needs.toml pyproject.toml
# Both secrets are optional and stay in no layer: pip's configuration and the CA that it trusts.
# The same step in train and eval, so that an engine with a cache does it once.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/secrets/ca_bundle \
    --mount=type=bind,from=wheels,target=/wheels \
    PIP_ARGS="$PIP_ARGS" python install.py --extras train
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/secrets/ca_bundle \
    --mount=type=bind,from=wheels,target=/wheels \
    PIP_ARGS="$PIP_ARGS" python install.py --extras train,eval,harness,web --no-deps kfp
COPY LICENSE NOTICE README.md constraints.txt pyproject.toml /opt/vila/
COPY vila_core /opt/vila/vila_core
COPY components /opt/vila/components
COPY pipelines /opt/vila/pipelines
COPY vila_ops /opt/vila/vila_ops
COPY configs /opt/vila/configs
COPY k8s /opt/vila/k8s
RUN /opt/venv/bin/python sbom.py --role eval --out /opt/vila/sbom.cdx.json && \
    chmod -R a+rX /opt/vila && /opt/venv/bin/python -m compileall -q /opt/vila

FROM ${BASE_IMAGE}
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/vila /opt/vila
RUN groupadd --gid 10001 vila && \
    useradd --uid 10001 --gid vila --no-create-home --home-dir /tmp --shell /usr/sbin/nologin vila && \
    install -d -m 1777 /var/cache/vila
# The root file system may be read-only: only /tmp and the cache are written.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp USER=vila VILA_CACHE=/var/cache/vila \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false \
    HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
WORKDIR /tmp
USER 10001:10001
CMD ["vila", "--help"]
ARG REVISION=unknown
ARG LOCK_DIGEST=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG VERSION=0
ARG BASE_IMAGE=python:3.11-slim
LABEL org.opencontainers.image.title="vila-platform/eval" \
    org.opencontainers.image.description="Steps that evaluate models" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.base.name="${BASE_IMAGE}" \
    dev.vila.role="eval" \
    dev.vila.lock.sha256="${LOCK_DIGEST}"
