# An experiment on a GPU worker: the codec, the sandbox, CUDA's torch. No key is in it, and none is given to it.
# The ECS worker overrides the command with its own, which is the one below.
#
#   docker build --platform linux/amd64 -f infra/gpu.Dockerfile -t REPOSITORY:TAG .
#
# To pin the base for good: see infra/loop.Dockerfile.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /build
# The libraries first, from empty packages: a change of ours then moves megabytes to the registry, not gigabytes.
COPY pyproject.toml constraints.txt README.md ./
RUN mkdir codec flows tasks prompts \
    && pip install --constraint constraints.txt ".[codec]" \
    && pip uninstall --yes evocodec \
    && python -c "import torch; assert torch.version.cuda, 'this index gave a torch without CUDA'"
COPY codec codec
COPY flows flows
COPY tasks tasks
COPY prompts prompts
RUN pip install --no-deps . \
    && python -c "import flows.experiment, flows.anchors, flows.verify" \
    && rm -rf /build/*

RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin evocodec
WORKDIR /tmp
# The root is read-only and /tmp a tmpfs of the task: Prefect's settings, VMAF's model and the anchors' pipes go there.
ENV HOME=/tmp \
    PREFECT_HOME=/tmp/prefect \
    MPLCONFIGDIR=/tmp/matplotlib \
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW=ignore \
    DO_NOT_TRACK=1 \
    NO_COLOR=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
CMD ["python", "-m", "prefect.engine"]
