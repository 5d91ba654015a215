# The loop, the ECS worker and the Prefect server: everything that designs and decides, nothing that touches a frame.
# No torch, no codec, no compiler, no key. The stack says which of the three a container is.
#
#   docker build --platform linux/amd64 -f infra/loop.Dockerfile -t REPOSITORY:TAG .
#
# To pin the base for good, ask for its digest and build with it:
#   docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
#   docker build --build-arg BASE=python:3.11-slim-bookworm@sha256:... ...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /build
# The libraries first, from empty packages: a change of ours then moves megabytes to the registry, not gigabytes.
COPY pyproject.toml constraints.txt README.md ./
RUN mkdir codec flows tasks prompts \
    && pip install --constraint constraints.txt ".[openai]" \
    && pip uninstall --yes evocodec
COPY codec codec
COPY flows flows
COPY tasks tasks
COPY prompts prompts
RUN pip install --no-deps . \
    && python -c "import flows.loop, prefect_aws.workers.ecs_worker, prefect.workers.process" \
    && rm -rf /build/*

RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin evocodec
WORKDIR /tmp
# Nothing but /tmp is written to: the root may be read-only.
ENV HOME=/tmp \
    PREFECT_HOME=/tmp/prefect \
    MPLCONFIGDIR=/tmp/matplotlib \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/tmp/prefect/ui \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW=ignore \
    DO_NOT_TRACK=1 \
    NO_COLOR=1 \
    PYTHONUNBUFFERED=1
# Fargate gives a volume mounted here the owner and mode that the folder has in the image.
VOLUME ["/tmp"]
USER 10001:10001
CMD ["prefect", "version"]
